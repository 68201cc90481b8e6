"""What every notebook has to be: in shape, honest about what is compared, and safe to run in any way a learner would.

nbval compares the outputs; this file guards everything around them.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from helpers.authoring import refresh

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOT_COMPARED = {"nbval-ignore-output", "nbval-skip"}
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind=None):
    """Return the cells of a notebook, all or those of one kind."""
    found = nbformat.read(path, as_version=4).cells
    return [cell for cell in found if kind in (None, cell.cell_type)]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def test_the_sequence_has_no_gap():
    assert [path.name[:3] for path in NOTEBOOKS] == [
        f"{number:02d}_" for number in range(len(NOTEBOOKS))
    ]
    assert len(NOTEBOOKS) >= 4


@each_notebook
def test_it_is_stored_in_canonical_form(path):
    assert refresh.stale(path) == []


@each_notebook
def test_it_has_the_skeleton(path):
    first, *_, last = cells(path)
    assert first.cell_type == last.cell_type == "markdown"
    assert re.match(r"# \S", first.source)
    for part in ("Time", "You will do", "You will learn", "You need"):
        assert re.search(rf"\*\*{part}:?\*\*", first.source), f"the first cell does not say {part}"
    prose = "\n".join(cell.source for cell in cells(path, "markdown"))
    headings = re.findall(r"^(#+) (.+)$", prose, re.MULTILINE)
    levels = [len(marks) for marks, _ in headings]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    names = [name for marks, name in headings if marks == "##"]
    assert names[-3:] == ["Break it", "In practice", "Recap"] or {
        "Break it",
        "In practice",
        "Recap",
    } <= set(names)
    assert len(names) >= 6


@each_notebook
def test_it_leads_to_its_neighbours_and_to_its_lab(path):
    position = NOTEBOOKS.index(path)
    before, after = NOTEBOOKS[max(0, position - 1) : position], NOTEBOOKS[position + 1 :][:1]
    parts = [f"Previous: {link_to(notebook)}" for notebook in before]
    for lab in (ROOT / "labs").glob(f"{path.name[:2]}_*.ipynb"):
        title = nbformat.read(lab, as_version=4).cells[0].source.splitlines()[0]
        parts.append(f"Lab: [{title.partition(': ')[2]}](../labs/{lab.name})")
    parts += [f"Next: {link_to(notebook)}" for notebook in after]
    if not after:
        parts.append("This was the last one: your own server is next.")
    assert len(parts) >= 2 or not before
    assert cells(path)[-1].source == " · ".join(parts)


def link_to(notebook):
    """Return a link to a notebook, with the title that README gives it."""
    return re.search(rf"\[[^]]+\]\(notebooks/{notebook.name}\)", README)[0].replace(
        "(notebooks/", "("
    )


@each_notebook
def test_every_link_leads_somewhere(path):
    prose = "\n".join(cell.source for cell in cells(path, "markdown"))
    for target in re.findall(r"\]\(([^)#][^)]*)\)", prose):
        assert target.startswith("https://") or (path.parent / target.split("#")[0]).exists(), (
            target
        )


@each_notebook
def test_it_asks_before_it_answers_and_requires_an_error(path):
    code = "\n".join(cell.source for cell in cells(path, "code"))
    asked, answered = len(re.findall(r"\bpredict\(", code)), len(re.findall(r"\.reveal\(", code))
    assert asked == answered >= 3
    assert "with expect(" in code


@each_notebook
def test_its_cells_are_short(path):
    lines = [len(cell.source.splitlines()) for cell in cells(path, "code")]
    assert statistics.median(lines) <= 4
    assert sum(number < 10 for number in lines) >= 0.9 * len(lines)
    assert max(lines) <= 15
    words = [len(cell.source.split()) for cell in cells(path, "markdown")]
    assert 15 <= statistics.median(words) <= 45


@each_notebook
def test_all_its_code_runs(path):
    """A snippet in the prose would be code that nobody proves."""
    for cell in cells(path, "markdown"):
        assert not re.search(
            r"^ {0,3}(```|~~~)\s*(python|py|ipython)", cell.source, re.MULTILINE
        ), cell["id"]


@each_notebook
def test_its_pictures_have_text_alternatives(path):
    for cell in cells(path, "markdown"):
        assert "![](" not in cell.source, cell["id"]
        assert not re.search(r"<img(?![^>]*\balt=)", cell.source), cell["id"]
    for cell in cells(path, "code"):
        for output in cell.outputs:
            kinds = set(output.get("data", {}))
            assert not {"image/png", "image/jpeg", "image/svg+xml"} & kinds, (
                f"{cell['id']}: a picture without text"
            )
            markup = "".join(output.get("data", {}).get("text/html", ""))
            assert not re.search(r"<iframe(?![^>]*\btitle=)", markup), (
                f"{cell['id']}: an IFrame without a title"
            )


@each_notebook
def test_it_compares_what_it_prints_or_says_why_not(path):
    printing = [cell for cell in cells(path, "code") if cell.outputs]
    ignored = [cell for cell in cells(path, "code") if NOT_COMPARED & tags(cell)]
    assert len(printing) >= 10
    assert sum(bool(NOT_COMPARED & tags(cell)) for cell in printing) <= 0.15 * len(printing)
    for cell in ignored:
        assert re.match(r"# Not compared: \w.{10,}", cell.source), f"{cell['id']} gives no reason"
        assert "nbval-skip" not in tags(cell), f"{cell['id']} would not even run"


@each_notebook
def test_it_is_tagged_with_known_words_only(path):
    for cell in cells(path):
        unknown = {
            tag
            for tag in tags(cell)
            if tag not in NOT_COMPARED and not re.fullmatch(r"claim-[CTD]\d+", tag)
        }
        assert not unknown, cell["id"]


@each_notebook
def test_its_outputs_name_no_version_no_place_and_no_machine(path):
    versions = {
        f"{name}/{version}"
        for name, version in re.findall(
            r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
        )
    }
    assert len(versions) > 100
    for cell in cells(path, "code"):
        stored = json.dumps(cell.outputs, ensure_ascii=False)
        for place in (str(ROOT), "/home/", "site-packages", "Python/3."):
            assert place not in stored, cell["id"]
        assert not re.search(r"0x[0-9a-f]{9,}", stored), f"{cell['id']} shows an object's address"
        assert not any(version in stored for version in versions), cell["id"]
        assert not any(output.get("name") == "stderr" for output in cell.outputs), (
            f"{cell['id']} writes to stderr"
        )


# Every cell twice, each section on its own, beside an older kernel that still serves.

SERVE_ALL = """
from helpers import serve

async def old_echo(connection):
    async for message in connection:
        await connection.send(message)

async def old_page(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"old"})

print(serve(old_echo).port, serve(old_page).port)
"""

BELONGINGS = """
import json, threading, psutil
_me = psutil.Process()
print(json.dumps({
    "threads": sorted(thread.name for thread in threading.enumerate()),
    "sockets": len(_me.net_connections("all")),
    "children": [child.name() for child in _me.children(recursive=True)],
}))
"""

STOP_ALL = """
import gc, sys
sys.modules["helpers.server"].stop_all()
sys.modules["helpers.broker"].stop_all()
sys.modules["helpers.process"].stop_all()
gc.collect()
"""


def run(client, source):
    """Run source in a client's kernel, as no cell of its notebook, and return what it prints."""
    cell = nbformat.v4.new_code_cell(source)
    client.nb.cells.append(cell)
    try:
        client.execute_cell(cell, len(client.nb.cells) - 1)
    finally:
        client.nb.cells.remove(cell)
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def client_for(notebook, folder):
    return NotebookClient(
        notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )


@pytest.fixture(scope="module")
def older_kernel():
    """A kernel that serves, from before the first notebook until after the last."""
    client = client_for(nbformat.v4.new_notebook(), ROOT / "notebooks")
    with client.setup_kernel():
        ports = run(client, SERVE_ALL).split()
        assert len(ports) == 2
        yield
        again = (
            f"import httpx; print(httpx.get('http://127.0.0.1:{ports[1]}/', trust_env=False).text)"
        )
        assert run(client, again).strip() == "old", (
            "a notebook has stopped the server of another kernel"
        )


@each_notebook
@pytest.mark.timeout(480)
def test_every_cell_runs_twice_each_section_alone_and_nothing_is_left(path, older_kernel):
    notebook = nbformat.read(path, as_version=4)
    client = client_for(notebook, path.parent)
    twice = sections = 0
    with client.setup_kernel():
        run(client, "import helpers, helpers.process, helpers.server, IPython")
        before = json.loads(run(client, BELONGINGS))
        for position, cell in enumerate(list(notebook.cells)):
            if cell.cell_type == "markdown":
                if re.search(r"^## ", cell.source, re.MULTILINE):
                    run(client, "%reset -f")
                    sections += 1
                continue
            for _ in range(2):
                client.execute_cell(cell, position)
            twice += 1
        run(client, STOP_ALL)
        for _ in range(50):  # the last thread of a client may be on its way out
            after = json.loads(run(client, BELONGINGS))
            if after == before:
                break
        assert after == before
    assert twice >= 15
    assert sections >= 6


def test_the_network_ends_at_this_machine(older_kernel):
    """A notebook that needs more than loopback would fail for a learner on a train; so it has to fail here."""
    if "WORKBOOK_OFFLINE" not in os.environ:
        assert not os.environ.get("CI"), "CI has to run the tests with the network cut: make test"
        pytest.skip("the network is not cut; `make test` does that")
    source = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=3)"
    outside = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=30
    )
    assert outside.returncode != 0
    assert "OSError" in outside.stderr.replace("PermissionError", "OSError")
    client = client_for(nbformat.v4.new_notebook(), ROOT / "notebooks")
    with client.setup_kernel():
        said = run(client, f"try:\n    {source}\nexcept OSError as error: print('refused')")
    assert said.strip() == "refused"
