"""The set-up of `.venv`: a stamp means finished, and whatever interrupts it, the next call mends it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from helpers.authoring import setup

fcntl = pytest.importorskip("fcntl", reason="two set-ups at once are not told apart here")

ROOT = Path(__file__).resolve().parents[2]
LAB_STEPS = ["making .venv", "installing uv", "installing requirements.lock"]
TEST_STEPS = ["installing requirements-dev.lock"]


class Recorded(setup.Environment):
    """An environment that really makes a `.venv`, and only records what it would install."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.steps: list[str] = []
        self.commands: list[list[str]] = []
        self.interrupt_at: int | None = None

    def _run(self, command, doing):
        assert not self.ready("lab")  # nothing counts as finished while something is under way
        assert not self.ready("test")
        if len(self.steps) == self.interrupt_at:
            raise KeyboardInterrupt
        self.steps.append(doing)
        self.commands.append(list(command))
        if doing == "making .venv":
            assert command[-1] == str(self.path)
            assert "--clear" in command
            venv.create(self.path, clear=True, symlinks=True)


@pytest.fixture
def clone(tmp_path):
    """A clone with locks and a package, and nothing set up."""
    root = tmp_path / "clone"
    (root / "helpers").mkdir(parents=True)
    (root / "helpers" / "__init__.py").write_text("")
    (root / "requirements.lock").write_text("uv==1.0 \\\n    --hash=sha256:aa\n    # via me\n")
    (root / "requirements-dev.lock").write_text("ruff==1.0 \\\n    --hash=sha256:bb\n")
    (root / "pyproject.toml").write_text("")
    return root


@pytest.mark.parametrize(("kind", "steps"), [("lab", LAB_STEPS), ("test", LAB_STEPS + TEST_STEPS)])
def test_a_fresh_clone_gets_everything_once(clone, kind, steps):
    """From nothing to ready; a second look finds it ready."""
    environment = Recorded(clone)
    assert not environment.ready(kind)
    environment.make(kind)
    assert environment.steps == steps
    assert environment.ready(kind)
    assert environment.ready("lab")
    assert environment.ready("test") == (kind == "test")


def test_what_is_installed_is_what_the_locks_pin(clone):
    """uv comes from the lock, by hash; then uv installs the locks, by hash, into this .venv."""
    environment = Recorded(clone)
    environment.make("test")
    _, uv, *locks = environment.commands
    assert uv[1:5] == ["-I", "-m", "pip", "install"]
    assert [command[-1] for command in locks] == [str(path) for path in environment.locks.values()]
    assert all("--require-hashes" in command for command in [uv, *locks])
    assert all(command[0] == str(environment.python) for command in [uv, *locks])
    assert all(command[command.index("--python") + 1] == command[0] for command in locks)


def test_the_tools_of_authors_are_added_on_top(clone):
    """`make test` after `make lab` installs only what is missing."""
    Recorded(clone).make("lab")
    environment = Recorded(clone)
    environment.make("test")
    assert environment.steps == TEST_STEPS
    assert environment.ready("lab")
    assert environment.ready("test")


@pytest.mark.parametrize("at", range(len(LAB_STEPS + TEST_STEPS)))
def test_an_interrupted_set_up_begins_anew(clone, at):
    """Wherever it is interrupted, nothing counts as finished, and the next call makes all of it."""
    environment = Recorded(clone)
    environment.interrupt_at = at
    with pytest.raises(KeyboardInterrupt):
        environment.make("test")
    again = Recorded(clone)
    assert not again.ready("lab")
    assert not again.ready("test")
    again.make("lab")
    assert again.steps == LAB_STEPS


def test_an_interrupt_while_tools_are_added_begins_anew(clone):
    """The learner's set-up under it may have been touched."""
    Recorded(clone).make("lab")
    environment = Recorded(clone)
    environment.interrupt_at = 0
    with pytest.raises(KeyboardInterrupt):
        environment.make("test")
    again = Recorded(clone)
    assert not again.ready("lab")
    again.make("test")
    assert again.steps == LAB_STEPS + TEST_STEPS


@pytest.mark.parametrize(
    ("lock", "lab_is_ready"), [("requirements.lock", False), ("requirements-dev.lock", True)]
)
def test_a_changed_lock_rebuilds(clone, lock, lab_is_ready):
    """Packages that the new lock no longer holds are gone afterwards, too."""
    Recorded(clone).make("test")
    with open(clone / lock, "a") as file:
        file.write("# changed\n")
    environment = Recorded(clone)
    assert environment.ready("lab") == lab_is_ready
    assert not environment.ready("test")
    environment.make("test")
    assert environment.steps == LAB_STEPS + TEST_STEPS
    assert environment.ready("test")


def test_another_python_rebuilds(clone):
    """After an upgrade of the system's Python, .venv is an empty shell."""
    environment = Recorded(clone)
    environment.make("lab")
    stamp = environment.stamp("lab")
    current = f"python {sys.version_info[0]}.{sys.version_info[1]}\n"
    assert stamp.read_text().startswith(current)
    stamp.write_text(stamp.read_text().replace(current, "python 3.7\n"))
    assert not environment.ready("lab")


def test_helpers_can_be_imported_from_anywhere_also_after_a_move(clone, tmp_path):
    """The link to the clone is relative to .venv."""
    Recorded(clone).make("lab")
    moved = tmp_path / "moved"
    for place in (clone, moved):
        if place is moved:
            shutil.move(clone, moved)
        environment = setup.Environment(place)
        found = subprocess.run(
            [environment.python, "-I", "-c", "import helpers; print(helpers.__file__)"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert Path(found.stdout.strip()) == place / "helpers" / "__init__.py"
        assert environment.ready("lab")


def test_one_entry_of_a_lock_with_its_hashes():
    """What pip gets is an excerpt, not a list of our own."""
    lock = "uv-build==2.0 \\\n    --hash=sha256:aa\n"
    lock += (
        "uv==1.0 ; marker \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n    # via x\nz==1 \\\n"
    )
    assert setup.pinned(lock, "uv") == (
        "uv==1.0 ; marker \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n"
    )
    assert setup.pinned((ROOT / "requirements.lock").read_text(), "uv").startswith("uv==")
    with pytest.raises(setup.SetupError, match="does not hold uvicorn"):
        setup.pinned(lock, "uvicorn")


def test_a_clone_with_wheels_asks_no_network_for_what_learners_need(clone):
    (clone / "wheels").mkdir()
    environment = Recorded(clone)
    assert environment.wheels is None  # an empty folder holds nothing
    (clone / "wheels" / "uv-1.0-py3-none-any.whl").write_text("")
    environment.make("test")
    from_there = [
        "--no-index" in command
        and command[command.index("--find-links") + 1] == str(clone / "wheels")
        for command in environment.commands
    ]
    assert dict(zip(environment.steps, from_there, strict=True)) == {
        "making .venv": False,
        "installing uv": True,
        "installing requirements.lock": True,
        "installing requirements-dev.lock": False,
    }


def test_a_failing_step_says_which_and_what_to_do(clone):
    """The step's own lines stand above it."""
    with pytest.raises(setup.SetupError) as caught:
        setup.Environment(clone)._run([sys.executable, "-c", "raise SystemExit(3)"], "installing x")
    assert str(caught.value) == (
        "installing x failed with status 3; the lines above say why. "
        "The first set-up needs the network. Run make again: it begins anew."
    )


@pytest.fixture
def here(clone, monkeypatch):
    """Let the script work in that clone."""
    environment = Recorded(clone)
    monkeypatch.setattr(setup, "Environment", lambda: environment)
    monkeypatch.setattr(setup, "npm", lambda: None)
    return environment


def test_the_script_is_silent_when_there_is_nothing_to_do(here, capsys):
    """The second `make lab` shows JupyterLab, and no word about the set-up."""
    assert setup.main(["--ready", "lab"]) == 1
    assert setup.main(["lab"]) == 0
    assert setup.main(["--ready", "lab"]) == 0
    first = capsys.readouterr()
    assert first.out.splitlines()[-1].startswith("Ready after ")
    assert setup.main(["lab"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_script_ends_in_one_line_when_it_cannot_go_on(here, capsys, monkeypatch):
    """No traceback for an interrupt, none for a failure."""
    here.interrupt_at = 1
    assert setup.main(["lab"]) == 130
    assert capsys.readouterr().err == "\nInterrupted. Run make again: it begins anew.\n"

    def fail(kind: str) -> None:
        raise setup.SetupError("no network.")

    monkeypatch.setattr(here, "make", fail)
    assert setup.main(["lab"]) == 1
    assert capsys.readouterr().err == "Set-up: no network.\n"


def test_two_set_ups_do_not_work_in_one_clone_at_once(clone):
    """The second waits, says so, and goes on when the first is gone, in whatever way."""
    code = (
        "import sys, pathlib; from helpers.authoring import setup\n"
        "with setup.alone(pathlib.Path(sys.argv[1])): print('alone')"
    )
    with open(clone / "pyproject.toml", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with subprocess.Popen(
            [sys.executable, "-c", code, clone], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as second:
            assert second.stdout.readline() == (
                "Another set-up is at work in this clone: waiting for its end.\n"
            )
            fcntl.flock(held, fcntl.LOCK_UN)
            assert second.stdout.readline() == "alone\n"
            assert second.wait(30) == 0


def test_an_installer_that_outlives_its_parent_is_waited_for(clone):
    """kill -9 of the script leaves uv running: it must be done before .venv is cleared."""
    code = (
        "import os, sys, pathlib, subprocess; from helpers.authoring import setup\n"
        "class One(setup.Environment):\n"
        "    def make(self, kind):\n"
        "        self._run([sys.executable, '-c', \"print('child', flush=True); input()\"], 'x')\n"
        "with setup.alone(pathlib.Path(sys.argv[1])): One(pathlib.Path(sys.argv[1])).make('lab')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, clone],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout.readline() == "child\n"
        parent.kill()
        parent.wait(30)
        with open(clone / "pyproject.toml", "rb") as file:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            parent.stdin.close()  # the child reads the end of its input, and ends
            parent.stdin = None
            fcntl.flock(file, fcntl.LOCK_EX)  # the timeout of the test is the deadline


# The JavaScript client of Socket.IO


@pytest.fixture
def fake_npm(here, tmp_path, monkeypatch):
    """An npm that does what npm does with the folder, or fails, and notes each call."""
    chat = here.root / "helpers/apps/socketio_chat"
    chat.mkdir(parents=True)
    (chat / "package-lock.json").write_text("{}")
    program = tmp_path / "npm"
    program.write_text(
        '#!/bin/sh\necho "$@" >> calls\n[ -e offline ] && echo "no network" >&2 && exit 3\n'
        "mkdir -p node_modules/socket.io-client/dist\n"
        "echo > node_modules/socket.io-client/dist/socket.io.min.js\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(setup, "npm", lambda: str(program))
    return chat


def calls(chat: Path) -> list[str]:
    return (chat / "calls").read_text().splitlines() if (chat / "calls").exists() else []


def test_npm_gets_the_client_once(fake_npm, capfd):
    """By the lock file, without running anything of the packages; then all is quiet."""
    assert setup.main(["--ready", "lab"]) == 1
    assert setup.main(["lab"]) == 0
    assert setup.main(["--ready", "lab"]) == 0
    assert capfd.readouterr().out.splitlines()[-1].startswith("Ready after ")
    assert setup.main(["lab"]) == 0
    assert capfd.readouterr() == ("", "")
    assert calls(fake_npm) == ["ci --ignore-scripts --no-audit --no-fund --fetch-retries=1"]


@pytest.mark.parametrize("change", ["another lock", "no file"])
def test_a_client_that_is_not_what_the_lock_says_is_got_again(fake_npm, change):
    assert setup.main(["lab"]) == 0
    if change == "another lock":
        (fake_npm / "package-lock.json").write_text("{ }")
    else:
        shutil.rmtree(fake_npm / "node_modules")
    assert setup.main(["--ready", "lab"]) == 1
    assert setup.main(["lab"]) == 0
    assert len(calls(fake_npm)) == 2


def test_a_set_up_goes_on_without_the_client(fake_npm, capfd):
    """It is for one page: npm's failure is told once, and the next `make lab` does not wait for it again."""
    (fake_npm / "offline").write_text("")
    assert setup.main(["lab"]) == 0
    out, err = capfd.readouterr()
    assert err == "no network\n"
    assert "npm could not get Socket.IO's JavaScript client (status 3)" in out
    assert setup.main(["--ready", "lab"]) == 0
    assert setup.main(["lab"]) == 0
    assert len(calls(fake_npm)) == 1


def test_npm_takes_the_client_from_the_folder_of_wheels(fake_npm, here):
    (here.root / "wheels" / "npm").mkdir(parents=True)
    assert setup.main(["lab"]) == 0
    assert calls(fake_npm)[0].endswith(f" --offline --cache {here.root / 'wheels' / 'npm'}")


def test_where_there_is_no_npm_nothing_is_missed(here, monkeypatch):
    monkeypatch.setattr(setup, "npm", lambda: None)
    assert setup.main(["lab"]) == 0
    assert setup.main(["--ready", "lab"]) == 0


def test_an_interrupt_of_npm_is_not_the_end_of_it(fake_npm, monkeypatch):
    def interrupt(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(setup.subprocess, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            setup.Client(fake_npm.parents[2]).make()
    assert not setup.Client(fake_npm.parents[2]).ready()


def test_the_lock_of_npm_is_exact_and_names_no_address():
    """Each package has one version and a digest, and comes from wherever npm is told to look."""
    text = (ROOT / "helpers/apps/socketio_chat/package-lock.json").read_text()
    assert "resolved" not in text
    assert "://" not in text
    project, *packages = json.loads(text)["packages"].values()
    assert [package for package in packages if not package["integrity"].startswith("sha512-")] == []
    assert len(packages) >= 5
    (wanted,) = project["dependencies"].items()
    declared = json.loads((ROOT / "helpers/apps/socketio_chat/package.json").read_text())
    assert dict([wanted]) == declared["dependencies"]
    assert re.fullmatch(r"4\.\d+\.\d+", wanted[1])
