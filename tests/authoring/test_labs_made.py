"""From an author's notebook to an exercise without a trace of the solution."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest

from helpers.authoring import labs

ANSWER = """\
def double(number):
    ### BEGIN SOLUTION: twice the number
    result = number * 2
    return result
    ### END SOLUTION


def triple(number):
    ### BEGIN SOLUTION
    return number * 3
    ### END SOLUTION"""

STUB = """\
def double(number):
    # TODO: twice the number
    raise NotImplementedError


def triple(number):
    # TODO: your code here
    raise NotImplementedError"""

WORKED = """\
def double(number):
    result = number * 2
    return result


def triple(number):
    return number * 3"""

WRONG = (
    "# Wrong: adds\n# Says: You returned 3\n# for 1.\n\ndef double(number):\n    return number + 2"
)
RIGHT = "# Right: shifts\n\ndef double(number):\n    return number << 1"


def cell(id: str, source: str, *tags: str) -> Any:
    kind = nbformat.v4.new_markdown_cell if id.startswith("md") else nbformat.v4.new_code_cell
    made = kind(source, metadata={"tags": list(tags)})
    made["id"] = id
    return made


def cells() -> list[Any]:
    return [
        cell("md-title", "# Lab 99: count"),
        cell("md-heading", "## 1. Double it (5 minutes)"),
        cell("99-double", ANSWER, "exercise"),
        cell("wrong-1", WRONG, "wrong"),
        cell("right-1", RIGHT, "right"),
        cell("check-1", 'check("99-double", double, triple)', "check"),
        cell("md-after", "Ask why.", "instructor"),
        cell("after", "1 + 1", "solution"),
    ]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "src").mkdir()
    monkeypatch.setattr(labs, "LABS", tmp_path)
    return tmp_path


def stored(*made: Any) -> Path:
    path = labs.LABS / "src" / "99_count.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=list(made)), path)
    return path


def test_a_solution_becomes_a_todo_or_stands_without_its_markers() -> None:
    assert labs.stub(ANSWER, "here") == STUB
    assert labs.worked(ANSWER, "here") == WORKED


@pytest.mark.parametrize(
    "source",
    [
        "### BEGIN SOLUTION\npass",
        "pass\n### END SOLUTION",
        "### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION",
        "### BEGIN SOLUTION\n### END SOLUTION\n### END SOLUTION",
        "# BEGIN SOLUTION\npass\n# END SOLUTION",
        "### BEGIN SOLUTION\npass\n### END SOLUTION of it",
    ],
)
def test_a_marker_without_a_partner_is_refused(source: str) -> None:
    with pytest.raises(labs.LabError, match="here: .*marker"):
        labs.stub(source, "here")
    with pytest.raises(labs.LabError, match="here: .*marker"):
        labs.worked(source, "here")


def test_the_exercise_holds_no_trace_of_a_solution_and_the_solution_no_wrong_answer() -> None:
    notebook = labs.read(stored(*cells()))
    made = labs.exercise_notebook(notebook)
    assert [c["id"] for c in made.cells] == ["md-title", "md-heading", "99-double", "check-1"]
    assert made.cells[2].source == STUB
    assert all(not labs.tags(c) for c in made.cells)
    made = labs.solution_notebook(notebook)
    assert [c["id"] for c in made.cells][2:] == ["99-double", "check-1", "after"]
    assert made.cells[2].source == WORKED
    assert notebook.cells[2].source == ANSWER


def test_an_exercise_knows_its_answers() -> None:
    (found,) = labs.exercises(labs.read(stored(*cells())))
    assert (found.id, found.title, found.minutes, found.position) == (
        "99-double",
        "1. Double it",
        5,
        2,
    )
    source = "def double(number):\n    return number + 2"
    assert found.wrong == [labs.Answer("adds", "You returned 3 for 1.", source)]
    assert [answer.name for answer in found.right] == ["shifts"]
    assert found.check == 'check("99-double", double, triple)'


@pytest.mark.parametrize(
    ("position", "changed", "said"),
    [
        (1, cell("md-heading", "## 1. Double it"), "has to end in"),
        (2, cell("99-double", WORKED, "exercise"), "no solution is marked"),
        (2, cell("99-double", WORKED), "belongs to no exercise"),
        (3, cell("wrong-1", "# Wrong: adds\n\npass", "wrong"), "begin it with"),
        (3, cell("wrong-1", "pass", "wrong"), "begin it with"),
        (4, cell("right-1", "# Right: x\n# Says: y\n\npass", "right"), "begin it with"),
        (5, cell("check-1", 'check("99-other", double)', "check"), "no cell tagged check says"),
        (7, cell("after", "1", "solutions"), "unknown tags"),
        (7, cell("after", ANSWER), "only a cell tagged exercise"),
    ],
)
def test_a_notebook_that_cannot_become_a_lab_is_refused(
    position: int, changed: Any, said: str
) -> None:
    made = cells()
    made[position] = changed
    with pytest.raises(labs.LabError, match=said):
        labs.exercises(labs.read(stored(*made)))


def test_a_line_of_a_solution_that_is_given_away_is_found() -> None:
    notebook = labs.read(stored(*cells(), cell("md-hint", "Try this:\n\n    return number * 3")))
    assert labs.leaks(notebook, labs.exercise_notebook(notebook)) == ["return number * 3"]
    notebook = labs.read(stored(*cells(), cell("md-hint", "Try this:\n\n    number * 3")))
    assert labs.leaks(notebook, labs.exercise_notebook(notebook)) == []


def test_what_was_made_of_an_older_notebook_is_stale(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = stored(*[c for c in cells() if c["id"] != "check-1"], cell("md-end", "The end."))
    assert labs.stale(path) == [
        "labs/99_count.ipynb is stale",
        "labs/solutions/99_count.ipynb is stale",
    ]
    assert labs.write(path) == 1  # `1 + 1` has an output
    assert labs.stale(path) == []
    before = [p.read_bytes() for p in sorted(labs.LABS.rglob("*.ipynb"))]
    assert labs.write(path) == 0
    assert [p.read_bytes() for p in sorted(labs.LABS.rglob("*.ipynb"))] == before
    stored(*[c for c in cells() if c["id"] != "check-1"], cell("md-end", "The very end."))
    assert len(labs.stale(path)) == 2
    assert labs.main(["--check"]) == 1
    assert "is stale" in capsys.readouterr().out


def test_each_requirement_is_taken_out_once() -> None:
    source = "require(\n    1,\n    'a')\nif x:\n    raise NotYet('b')\nother(2)\nraise ValueError('c')\n"
    found = labs.mutants(source)
    assert [line for line, _ in found] == [1, 5]
    assert found[0][1].startswith("pass\nif x:")
    assert "if x:\n    pass\nother(2)" in found[1][1]
    for _, weaker in found:
        ast.parse(weaker)
