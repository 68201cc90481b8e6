"""The set-up agrees with itself: locks, conda, commands, documents, and nothing of our machines in them."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.authoring import lock

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()

# One letter of each word stands in brackets: this file, too, is searched for them.
NOT_OURS = {
    "the address of a package index": r"https?://[^\s\"')]*(?:/[s]imple\b|pyth[o]nhosted)",
    "an option that names one": r"(?<!no-emit)-(?:[i]ndex-url\b|[f]ind-links[= ])",
    "a path of one machine": r"(?<![\w.<>-])/(?:[w]ork|[r]oot|[h]ome/\w+|[U]sers/\w+)/",
}


class Entry(NamedTuple):
    """One package of a lock."""

    name: str
    version: str
    requirement: Requirement
    hashes: list[str]


def read_lock(name: str) -> list[Entry]:
    """Read a lock, strictly: a line that is no entry, hash or comment fails."""
    entries: list[Entry] = []
    for number, line in enumerate((ROOT / name).read_text().splitlines(), start=1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        hashed = re.fullmatch(r"    --hash=sha256:([0-9a-f]{64})(?: \\)?", line)
        if hashed:
            entries[-1].hashes.append(hashed[1])
            continue
        pinned = re.fullmatch(r"([a-z0-9][a-z0-9.-]*)==(\S+)( ; .+?)? \\", line)
        assert pinned, f"{name}:{number} is neither an entry nor a hash: {line}"
        entries.append(Entry(pinned[1], pinned[2], Requirement(line.rstrip("\\ ")), hashes=[]))
    return entries


LOCKS = {name: read_lock(name) for name in (lock.LOCK, lock.DEV_LOCK)}


# Locks


@pytest.mark.parametrize(("name", "at_least"), [(lock.LOCK, 130), (lock.DEV_LOCK, 15)])
def test_a_lock_is_exact_and_hashed(name, at_least):
    """Every entry has one version and at least one hash, and no address is named."""
    entries = LOCKS[name]
    assert len(entries) >= at_least
    assert [entry.name for entry in entries if not entry.hashes] == []
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "file:" not in text


@pytest.mark.parametrize(
    ("name", "declared"),
    [
        (lock.LOCK, PYPROJECT["project"]["dependencies"]),
        (lock.DEV_LOCK, PYPROJECT["dependency-groups"]["dev"]),
    ],
)
def test_a_lock_satisfies_what_is_declared(name, declared):
    """Each dependency of pyproject.toml is in its lock, in a version that it allows."""
    looked_at = 0
    for text in declared:
        wanted = Requirement(text)
        found = [entry for entry in LOCKS[name] if entry.name == canonicalize_name(wanted.name)]
        assert found, f"{name} lacks {wanted.name}. Run: make lock"
        for entry in found:
            assert wanted.specifier.contains(entry.version), (
                f"{name} holds {entry.name} {entry.version}, and pyproject.toml asks for "
                f"{wanted.specifier}. Run: make lock"
            )
        looked_at += 1
    assert looked_at == len(declared) >= 6


def test_learners_do_not_install_the_tools_of_authors():
    """What only tests and authors need is in the other lock."""
    learners = {entry.name for entry in LOCKS[lock.LOCK]}
    tools = {
        canonicalize_name(Requirement(text).name) for text in PYPROJECT["dependency-groups"]["dev"]
    }
    assert {"coverage", "mypy", "playwright", "pytest-timeout", "pytest-xdist", "ruff"} <= tools
    assert learners & tools == {"coverage"}  # nbval brings it


def test_what_both_locks_hold_has_one_version():
    """The tools are installed on top of the learners' set-up and must not change it."""
    learners: dict[str, set[str]] = {}
    for entry in LOCKS[lock.LOCK]:
        learners.setdefault(entry.name, set()).add(entry.version)
    shared = [entry for entry in LOCKS[lock.DEV_LOCK] if entry.name in learners]
    assert len(shared) >= 5
    assert [e for e in shared if e.version not in learners[e.name]] == []


def test_conda_gets_the_same():
    """environment.yml: Python's range, Node, pip, the lock, and where JupyterLab is configured."""
    lines = [
        line.strip()
        for line in (ROOT / "environment.yml").read_text().splitlines()
        if not line.startswith("#")
    ]
    oldest, newest = lock.PYTHONS[0], lock.PYTHONS[-1]
    beyond = f"3.{int(newest.partition('.')[2]) + 1}"
    assert lines == [
        "name: realtime-web",
        "channels:",
        "- conda-forge",
        "dependencies:",
        f"- python>={oldest},<{beyond}",
        "- nodejs",
        "- pip",
        "- pip:",
        f"- -r {lock.LOCK}",
        "variables:",
        "JUPYTER_CONFIG_PATH: helpers/jupyter",
    ]
    assert PYPROJECT["project"]["requires-python"] == f">={oldest}"
    assert (ROOT / "helpers/jupyter/jupyter_server_config.py").exists()


# Commands


def test_make_lists_every_command():
    """`make` alone says what there is, and there is nothing that it does not say."""
    declared = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert declared
    commands = declared[1].split()
    result = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stderr) == (0, "")
    listed = re.findall(r"^  make (\w+) +\S.*$", result.stdout, re.MULTILINE)
    assert listed == commands
    assert {"lab", "test", "refresh", "lint", "lock"} <= set(listed)
    assert len(listed) == len(re.findall(r"^[a-z]+:.*## ", MAKEFILE, re.MULTILINE))


@pytest.fixture
def clone(tmp_path):
    """A clone with as much in it as `make lab` needs to find out what Python it has."""
    for name in (
        "Makefile",
        "pyproject.toml",
        lock.LOCK,
        lock.DEV_LOCK,
        "helpers/authoring/setup.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make_lab(clone: Path, python: str) -> list[str]:
    """Run `make lab` with a Python that will not do, and return what it says, less make's own line."""
    result = subprocess.run(
        ["make", "lab", f"PYTHON={python}"],
        cwd=clone,
        capture_output=True,
        text=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
    )
    assert result.returncode == 2, result.stdout
    assert not (clone / ".venv").exists()
    said = (result.stdout + result.stderr).splitlines()
    return [line for line in said if not re.match(r"make(\[\d+\])?:", line)]


def fake_python(path: Path, code: str) -> str:
    """Write a program that runs what it is given in this Python, after some code of ours."""
    runner = path.with_suffix(".py")
    runner.write_text(
        "import runpy, sys\n"
        f"{code}\n"
        "arguments = sys.argv[1:]\n"
        "if arguments[0] == '-c':\n"
        "    exec(arguments[1])\n"
        "else:  # -I FILE ...\n"
        "    sys.argv = arguments[1:]\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{runner}" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 13)])
def test_an_old_python_gets_one_line(clone, tmp_path, version):
    """It says which version this is, which one is needed, and how to name another."""
    python = fake_python(tmp_path / "python", f"sys.version_info = {version}")
    assert make_lab(clone, python) == [
        f"{python} is Python {version[0]}.{version[1]}: install Python 3.11 or newer, or name one, "
        "as in: make PYTHON=python3.12 lab"
    ]


def test_no_python_gets_one_line(clone):
    """A machine without Python is told the same."""
    assert make_lab(clone, "no-such-python") == [
        "There is no no-such-python here: install Python 3.11 or newer, or name one, "
        "as in: make PYTHON=python3.12 lab"
    ]


def test_a_python_without_venv_gets_one_line(clone, tmp_path):
    """As on Debian without python3-venv."""
    python = fake_python(tmp_path / "python", "sys.modules['ensurepip'] = None")
    first, *rest = make_lab(clone, python)
    assert first.startswith("Setting up .venv")
    assert len(rest) == 1
    assert "cannot make virtual environments" in rest[0]
    assert "apt install python3-venv" in rest[0]


def test_continuous_integration_calls_make_test(tmp_path):
    """.ci/run installs Chromium and npm where they are missing, and only there, then calls `make test` with CI=true."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    log = tmp_path / "log"
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("apt-get", "make"):
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $* CI=$CI" >> "{log}"\n')
        (tools / name).chmod(0o755)
    (tools / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (tools / "sudo").chmod(0o755)
    for name in ("bash", "dirname", "id", "sh"):
        (tools / name).symlink_to(str(shutil.which(name)))
    env = {"PATH": str(tools), "CI": ""}

    subprocess.run([script], env=env, check=True, timeout=30)
    assert log.read_text().splitlines() == [
        "apt-get update --quiet CI=",
        "apt-get install --quiet --yes --no-install-recommends chromium npm CI=",
        "make test CI=true",
    ]
    log.unlink()
    for name in ("chromium", "npm"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    subprocess.run([script], env=env, check=True, timeout=30)
    assert log.read_text().splitlines() == ["make test CI=true"]


# Documents


def test_the_map_of_the_readme_is_the_notebooks():
    """Seventeen rows in order; a notebook that exists is linked, one that does not is "to come"."""
    rows = re.findall(r"^\| (\d\d) \| (.+?) \| (\d+) \|$", README, re.MULTILINE)
    assert [number for number, _, _ in rows] == [f"{i:02}" for i in range(17)]
    linked = []
    for number, cell, minutes in rows:
        link = re.fullmatch(r"\[.+\]\((notebooks/(\d\d)_\w+\.ipynb)\)", cell)
        assert bool(link) != cell.endswith(" (to come)"), cell
        if link:
            assert link[2] == number
            first = json.loads((ROOT / link[1]).read_text(encoding="utf-8"))["cells"][0]
            said = re.search(r"\*\*Time:\*\* about (\d+) minutes", "".join(first["source"]))
            assert said, f"{link[1]} does not say how long it takes"
            assert minutes == said[1], f"{link[1]} says {said[1]} minutes"
            linked.append(link[1])
    present = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("notebooks/*.ipynb"))
    assert linked == present
    assert len(present) >= 4


def test_the_links_of_the_readme_lead_somewhere():
    """Every relative link is a file."""
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) >= 7
    assert [link for link in links if not (ROOT / link).exists()] == []


def table_of_modules() -> list[str]:
    """Return the modules of CONTRIBUTING's table, in its order."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


def test_every_helper_has_its_row():
    """The table of CONTRIBUTING.md is the package."""
    modules = {
        path.stem if path.is_file() else path.name
        for path in (ROOT / "helpers").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"__init__"}
    assert len(modules) >= 10
    assert modules == set(table_of_modules())


def test_imports_point_down_only():
    """No helper imports one that stands above it in the table."""
    order = table_of_modules()
    looked_at, up = 0, []
    for path in sorted((ROOT / "helpers").rglob("*.py")):
        module = path.relative_to(ROOT / "helpers").parts[0].removesuffix(".py")
        if module not in order:  # the package itself, and JupyterLab's configuration
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            for imported in imported_helpers(node, depth=len(path.relative_to(ROOT).parts) - 1):
                looked_at += 1
                if order.index(imported) < order.index(module):
                    up.append(f"{module} imports {imported}")
    assert looked_at >= 15
    assert up == []


def imported_helpers(node: ast.AST, depth: int) -> list[str]:
    """Return which modules of the package an import names, from a file so many folders deep."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        module = node.module or ""
        if node.level == depth:
            module = f"helpers.{module}".rstrip(".")
        names = (
            [module] if module.count(".") else [f"{module}.{alias.name}" for alias in node.names]
        )
    else:
        return []
    parts = [name.split(".") for name in names]
    return [part[1] for part in parts if part[0] == "helpers" and part[1] in table_of_modules()]


# Nothing of our machines


def committed() -> list[Path]:
    """Return the files that git knows."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a clone: git cannot say which files are committed")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_committed_file_names_an_index_or_a_machine():
    """Not in code, not in a document, not in the output of a notebook."""
    looked_at, found = 0, []
    for path in committed():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        looked_at += 1
        for what, pattern in NOT_OURS.items():
            hit = re.search(pattern, text)
            if hit:
                found.append(f"{path.relative_to(ROOT)} holds {what}: {hit[0]}")
    assert looked_at > 20
    assert found == []


def test_that_search_finds_what_it_is_for():
    """Each pattern matches what it must, and leaves alone what looks like it."""
    simple, index, work, home = "simple", "index-url", "work", "home"
    ours = (
        f"https://pypi.example/{simple}",
        f"uv --{index} x",
        f"/{work}/clone",
        f"'/{home}/ada/x'",
    )
    fine = (
        "https://example.org/simplest",
        f"--no-emit-{index}",
        f"net/{work}/x",
        f"http://127.0.0.1:8000/{home}",
    )
    anything = "|".join(NOT_OURS.values())
    assert [text for text in ours if not re.search(anything, text)] == []
    assert [text for text in fine if re.search(anything, text)] == []


# JupyterLab


def test_jupyterlab_is_told_to_be_quiet(monkeypatch, tmp_path):
    """The overrides name a plugin and settings that this JupyterLab has, and its configuration loads."""
    from jupyterlab.commands import get_app_dir
    from traitlets.config.loader import PyFileConfigLoader

    folder = ROOT / "helpers" / "jupyter"
    overrides = json.loads((folder / "labconfig" / "default_setting_overrides.json").read_text())
    (plugin,) = overrides
    extension, _, name = plugin.partition(":")
    schema = json.loads((Path(get_app_dir()) / "schemas" / extension / f"{name}.json").read_text())
    assert set(overrides[plugin]) <= set(schema["properties"])
    assert overrides[plugin]["checkForUpdates"] is False
    assert overrides[plugin]["fetchNews"] == "false"

    monkeypatch.setenv("PYTHONPATH", "before")
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))  # nothing is signed for real
    config = PyFileConfigLoader("jupyter_server_config.py", path=str(folder)).load_config()
    assert os.environ["PYTHONPATH"] == f"{ROOT}{os.pathsep}before"
    assert config.LabApp.extension_manager == "readonly"
    assert config.ServerApp.ip == "127.0.0.1"
    assert config.ServerApp.root_dir == str(ROOT)
    assert config.LabApp.default_url.removeprefix("/lab/tree/") == "notebooks/00_start_here.ipynb"
