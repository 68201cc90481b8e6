"""Make the labs from their authors' notebooks: `python -m helpers.authoring.labs [--check] [NN …]`.

An author writes `labs/src/NN_name.ipynb`, and the checks beside it. From that come `labs/NN_name.ipynb`, the exercise, without
outputs and without a trace of a solution, and `labs/solutions/NN_name.ipynb`, the worked solution, with outputs.

In an author's notebook these tags say what a cell is:

    exercise     what the learner completes; what stands between `### BEGIN SOLUTION` and `### END SOLUTION` becomes a TODO
    wrong        a wrong answer to the exercise above it, a whole cell; it begins with `# Wrong: the mistake`, `# Says: what the
                 check must say` and an empty line
    right        another right answer, differently written; it begins with `# Right: in what it differs` and an empty line
    check        `check("NN-word", answer)`
    solution     stands only in the worked solution
    instructor   stands in neither
"""

from __future__ import annotations

import argparse
import ast
import copy
import dataclasses
import re
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat

from .refresh import ROOT, canonical, refresh, text

LABS = ROOT / "labs"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
TODO = "your code here"
TAGS = {"exercise", "wrong", "right", "check", "solution", "instructor"}
AUTHORS_ONLY = {"wrong", "right", "instructor"}


class LabError(Exception):
    """An author's notebook cannot be made into a lab; the text names the cell and says why."""


@dataclasses.dataclass
class Answer:
    """Another answer than the solution: wrong, with what the check must say; or right."""

    name: str
    says: str
    source: str


@dataclasses.dataclass
class Exercise:
    """An exercise of an author's notebook.

    Attributes:
        id: the id of its cell, and of its check.
        title: the heading of its section.
        minutes: those in the heading.
        position: where its cell stands in the notebook.
        check: the source of the cell that checks it.
    """

    id: str
    title: str
    minutes: int
    position: int
    wrong: list[Answer] = dataclasses.field(default_factory=list)
    right: list[Answer] = dataclasses.field(default_factory=list)
    check: str = ""


def sources() -> list[Path]:
    """Return the authors' notebooks, in order."""
    return sorted((LABS / "src").glob("*.ipynb"))


def tags(cell: Any) -> set[str]:
    """Return the tags of a cell."""
    return set(cell.metadata.get("tags", []))


def regions(source: str, where: str) -> list[tuple[str, list[str]]]:
    """Split a cell into its parts: `("kept", lines)` and `("solution: words of its TODO", lines)`.

    Raises:
        LabError: a marker has no partner, or is not alone on its line.
    """
    parts: list[tuple[str, list[str]]] = [("kept", [])]
    inside = False
    for line in source.split("\n"):
        begin, end = line.strip().startswith(BEGIN), line.strip() == END
        if "SOLUTION" in line and not (begin or end):
            raise LabError(f"{where}: {line.strip()!r} is no marker.")
        if begin == end:  # neither
            parts[-1][1].append(line)
            continue
        if begin == inside:
            raise LabError(f"{where}: a marker of a solution has no partner.")
        inside = begin
        words = line.strip().removeprefix(BEGIN).lstrip(": ") or TODO
        indent = line[: len(line) - len(line.lstrip())]
        parts.append((f"{indent}# TODO: {words}", []) if begin else ("kept", []))
    if inside:
        raise LabError(f"{where}: a marker of a solution has no partner.")
    return parts


def stub(source: str, where: str) -> str:
    """Return a cell with a TODO in the place of each solution."""
    lines: list[str] = []
    for what, inside in regions(source, where):
        if what == "kept":
            lines += inside
        else:
            indent = what[: len(what) - len(what.lstrip())]
            lines += [what, f"{indent}raise NotImplementedError"]
    return "\n".join(lines)


def worked(source: str, where: str) -> str:
    """Return a cell with its solution, without the markers."""
    return "\n".join(line for _, inside in regions(source, where) for line in inside)


def solution_lines(source: str, where: str) -> list[str]:
    """Return the lines between the markers of a cell."""
    return [line for what, inside in regions(source, where) if what != "kept" for line in inside]


def read(path: Path) -> Any:
    """Return an author's notebook, in canonical form and without outputs.

    Raises:
        LabError: a tag is unknown, or a code cell other than an exercise holds a marker.
    """
    notebook = canonical(nbformat.read(path, as_version=4))
    for cell in notebook.cells:
        where = f"{path.name}, cell {cell['id']}"
        if unknown := tags(cell) - TAGS - {"nbval-ignore-output"}:
            raise LabError(f"{where}: unknown tags {sorted(unknown)}.")
        if "exercise" not in tags(cell) and "SOLUTION" in cell.source:
            raise LabError(f"{where}: only a cell tagged exercise may hold a solution.")
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def exercises(notebook: Any) -> list[Exercise]:
    """Return the exercises of an author's notebook, each with its answers.

    Raises:
        LabError: an answer or a check belongs to no exercise, or an exercise lacks a heading or a check.
    """
    found: list[Exercise] = []
    heading = ""
    for position, cell in enumerate(notebook.cells):
        kind = tags(cell)
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^## (.+)$", cell.source, re.MULTILINE) or [heading])[-1]
        elif "exercise" in kind:
            minutes = re.search(r" \((\d+) minutes\)$", heading)
            if minutes is None:
                raise LabError(f"{cell['id']}: its heading has to end in (N minutes).")
            title = heading[: minutes.start()]
            found.append(Exercise(cell["id"], title, int(minutes[1]), position))
            if not solution_lines(cell.source, cell["id"]):
                raise LabError(f"{cell['id']}: no solution is marked.")
        elif kind & {"wrong", "right", "check"}:
            if not found:
                raise LabError(f"{cell['id']}: belongs to no exercise.")
            if "check" in kind:
                found[-1].check = cell.source
            else:
                answer = _answer(cell, "Wrong" if "wrong" in kind else "Right")
                (found[-1].wrong if "wrong" in kind else found[-1].right).append(answer)
    for exercise in found:
        if f'check("{exercise.id}", ' not in exercise.check:
            raise LabError(f'{exercise.id}: no cell tagged check says check("{exercise.id}", …).')
    return found


def _answer(cell: Any, word: str) -> Answer:
    """Read the comment at the head of an answer: its name, and what the check must say."""
    lines = cell.source.split("\n")
    head = []
    while lines and lines[0].startswith("#"):
        head.append(lines.pop(0).lstrip("# "))
    name, _, says = " ".join(head).partition(" Says: ")
    if not name.startswith(f"{word}: ") or (word == "Wrong") != bool(says):
        form = "# Wrong: the mistake\n# Says: the message" if word == "Wrong" else "# Right: how"
        raise LabError(f"{cell['id']}: begin it with\n{form}")
    return Answer(name.removeprefix(f"{word}: "), says, "\n".join(lines).strip("\n"))


def exercise_notebook(notebook: Any) -> Any:
    """Return what the learner gets."""
    return _without(notebook, AUTHORS_ONLY | {"solution"}, stub)


def solution_notebook(notebook: Any) -> Any:
    """Return the worked solution, not run yet."""
    return _without(notebook, AUTHORS_ONLY, worked)


def _without(notebook: Any, dropped: set[str], change: Any) -> Any:
    made = copy.deepcopy(notebook)
    made.cells = [cell for cell in made.cells if not tags(cell) & dropped]
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.source = change(cell.source, cell["id"])
        kept = tags(cell) & {"nbval-ignore-output"}
        cell.metadata = nbformat.from_dict({"tags": sorted(kept)} if kept else {})
    return made


def sources_of(notebook: Any) -> list[tuple[str, str, str, list[str]]]:
    """Return all of a notebook but its outputs."""
    return [(c["id"], c.cell_type, c.source, sorted(tags(c))) for c in notebook.cells]


def leaks(notebook: Any, made: Any) -> list[str]:
    """Return the lines of solutions that an exercise gives away: those of 12 characters or more, wherever they stand."""
    given = {line.strip() for cell in made.cells for line in cell.source.split("\n")}
    secret = [
        line.strip()
        for cell in notebook.cells
        if "exercise" in tags(cell)
        for line in solution_lines(cell.source, cell["id"])
    ]
    return [line for line in secret if len(line) >= 12 and line in given]


def stale(path: Path) -> list[str]:
    """Return why what was made from an author's notebook has to be made again; nothing is run."""
    notebook = read(path)
    said = []
    exercise, solution = LABS / path.name, LABS / "solutions" / path.name
    if not exercise.exists() or exercise.read_text(encoding="utf-8") != text(
        exercise_notebook(notebook)
    ):
        said.append(f"labs/{path.name} is stale")
    if not solution.exists() or sources_of(nbformat.read(solution, 4)) != sources_of(
        solution_notebook(notebook)
    ):
        said.append(f"labs/solutions/{path.name} is stale")
    return said


def write(path: Path) -> int:
    """Write both notebooks, run the worked solution, and return how many of its outputs have changed."""
    notebook = read(path)
    (LABS / path.name).write_text(text(exercise_notebook(notebook)), encoding="utf-8")
    solution = LABS / "solutions" / path.name
    made = solution_notebook(notebook)
    before = nbformat.read(solution, 4).cells if solution.exists() else []
    known = {(cell["id"], cell.source): cell for cell in before if cell.cell_type == "code"}
    for cell in made.cells:
        if (was := known.get((cell["id"], cell.source))) is not None:
            cell.outputs = was.outputs
    solution.parent.mkdir(exist_ok=True)
    solution.write_text(text(canonical(made)), encoding="utf-8")
    return refresh(solution)


def mutants(source: str) -> list[tuple[int, str]]:
    """Return a file of checks once for each of its requirements, with this one taken out, and the line where it was."""
    found = []
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.stmt) or not is_requirement(node):
            continue
        indent = " " * node.col_offset
        weak = [*lines[: node.lineno - 1], indent + "pass", *lines[node.end_lineno :]]
        found.append((node.lineno, "\n".join(weak)))
    return sorted(found)


def is_requirement(node: ast.AST) -> bool:
    """Return whether a statement is `require(…)` or `raise NotYet(…)`."""
    call: Any = None
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call, name = node.value, "require"
    elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        call, name = node.exc, "NotYet"
    return call is not None and getattr(call.func, "id", None) == name


def main(arguments: Sequence[str] | None = None) -> int:
    """Make or check the labs whose numbers the command line names."""
    summary = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m helpers.authoring.labs", description=summary)
    parser.add_argument("numbers", nargs="*", help="as in 02; all by default")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if one is stale")
    options = parser.parse_args(arguments)
    failed = 0
    for path in sources():
        if options.numbers and path.name[:2] not in options.numbers:
            continue
        try:
            if options.check:
                said = "; ".join(stale(path)) or "fresh"
                failed += said != "fresh"
            else:
                exercises(read(path))
                begin = time.monotonic()
                changed = write(path)
                said = f"{changed} outputs changed, {time.monotonic() - begin:.0f} s"
        except LabError as error:
            failed += 1
            said = textwrap.indent(str(error), "  ").strip()
        print(f"{path.name}: {said}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
