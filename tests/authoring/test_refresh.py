"""Refreshing a notebook changes what really changed, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import nbformat
import pytest

from helpers.authoring import refresh


def notebook(*cells):
    """Return a notebook of code cells: sources, or pairs of a source and its tags."""
    made = nbformat.v4.new_notebook()
    for position, cell in enumerate(cells):
        source, tags = cell if isinstance(cell, tuple) else (cell, [])
        new = nbformat.v4.new_code_cell(source, id=f"cell-{position}")
        if tags:
            new.metadata["tags"] = tags
        made.cells.append(new)
    return made


@pytest.fixture
def write(tmp_path):
    def write(*cells):
        path = tmp_path / "notebook.ipynb"
        nbformat.write(notebook(*cells), path)
        return path

    return write


def test_a_second_refresh_changes_no_byte(write):
    path = write(
        "import random, sys\nprint('127.0.0.1:%d' % random.randrange(10_000, 60_000))",
        ("# Not compared: it is random\nrandom.random()", ["nbval-ignore-output"]),
        "print('out'); print('err', file=sys.stderr); print('out again'); 7",
    )
    assert refresh.refresh(path) == 3
    first = path.read_bytes()
    assert refresh.refresh(path) == 0
    assert path.read_bytes() == first
    assert refresh.stale(path) == []
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.execution_count for cell in cells] == [1, 2, 3]
    assert [output.get("name") for output in cells[2].outputs] == ["stdout", "stderr", None]


def test_an_output_that_differs_after_sanitizing_is_rewritten(write):
    path = write("print(6 * 7)")
    refresh.refresh(path)
    path.write_text(path.read_text().replace("42", "41"))
    assert refresh.refresh(path) == 1
    assert "42" in path.read_text()


def test_forgetting_makes_the_next_refresh_store_what_is_not_compared(write):
    path = write(
        ("# Not compared: it is random\nimport random; random.random()", ["nbval-ignore-output"])
    )
    refresh.refresh(path)
    first = path.read_bytes()
    assert refresh.main(["--new", str(path)]) == 0
    assert path.read_bytes() != first


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda cell: cell.update(execution_count=None), "never run"),
        (lambda cell: cell.update(execution_count=9), "canonical"),
        (lambda cell: cell.metadata.update(execution={"started": "now"}), "canonical"),
    ],
)
def test_a_notebook_that_is_not_canonical_is_named(write, capsys, damage, said):
    path = write("1 + 1")
    refresh.refresh(path)
    assert refresh.main(["--check", str(path)]) == 0
    stored = nbformat.read(path, as_version=4)
    damage(stored.cells[0])
    path.write_text(refresh.text(stored))
    assert refresh.main(["--check", str(path)]) == 1
    printed = capsys.readouterr().out
    assert said in printed
    assert "make refresh" in printed


def test_a_cell_that_raises_ends_the_refresh_and_leaves_the_file(write):
    path = write("1 / 0")
    before = path.read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        refresh.refresh(path)
    assert path.read_bytes() == before


VIEW = """class Widget:
    def _repr_mimebundle_(self, **_):
        from uuid import uuid4
        view = {"model_id": uuid4().hex, "version_major": 2, "version_minor": 0}
        words = {"text/plain": "its words", "text/html": "<b>its words</b>"}
        return words | {"application/vnd.jupyter.widget-view+json": view}
Widget()"""


def nbval(path):
    """Compare a notebook as `make test` does, and return what pytest says."""
    options = ["-p", "no:cacheprovider", "--rootdir", str(refresh.ROOT), "--nbval", "-q"]
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-c",
            str(refresh.ROOT / "pyproject.toml"),
            *options,
            path,
        ],
        cwd=refresh.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout


def test_the_view_of_a_widget_is_neither_stored_nor_compared_and_its_words_are(write):
    path = write(VIEW)
    assert refresh.refresh(path) == 1
    first = path.read_bytes()
    (output,) = nbformat.reads(first, as_version=4).cells[0].outputs
    assert sorted(output.data) == ["text/html", "text/plain"]
    assert refresh.refresh(path) == 0
    assert path.read_bytes() == first
    assert "1 passed" in nbval(path)
    for words in ("its words", "<b>its words</b>"):
        path.write_bytes(first.replace(f'"{words}"'.encode(), b'"other words"'))
        assert path.read_bytes() != first
        assert "1 failed" in nbval(path)
        assert refresh.refresh(path) == 1
        assert path.read_bytes() == first


def test_a_stored_view_is_not_canonical(write, capsys):
    path = write(VIEW)
    refresh.refresh(path)
    stored = nbformat.read(path, as_version=4)
    stored.cells[0].outputs[0].data[refresh.NOT_STORED] = {"model_id": "1"}
    path.write_text(refresh.text(stored))
    assert refresh.main(["--check", str(path)]) == 1
    assert "canonical" in capsys.readouterr().out


def test_the_sanitizer_stays_short_and_gives_reasons():
    patterns = refresh.patterns()
    assert 1 <= len(patterns) < 10
    lines = refresh.SANITIZE.read_text(encoding="utf-8").splitlines()
    for position, line in enumerate(lines):
        if line.startswith("["):
            assert lines[position - 1].startswith("# "), f"{line} has no reason"
    assert sum(line.startswith("[") for line in lines) == len(patterns)


def test_every_stored_notebook_is_found():
    found = refresh.notebooks()
    assert len(found) >= 4
    assert found[0].name == "00_start_here.ipynb"
