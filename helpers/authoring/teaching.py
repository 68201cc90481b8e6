"""Fill in what `TEACHING.md` takes from the notebooks and labs: `python -m helpers.authoring.teaching`.

In that page a comment says what stands below it, up to the comment `end`. This becomes a table with the clock, from the minutes
that the notebooks name; and this the wrong answers of every lab, with what its check says to each:

    <!-- plan from 9:00, at most 210 minutes: 00, 01, break 15, lab 02 -->
    <!-- mistakes -->
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

from . import labs
from .refresh import ROOT

PAGE = ROOT / "TEACHING.md"
BLOCK = re.compile(r"(<!-- (plan|mistakes)\b([^>]*) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
PAUSES = {"break", "lunch", "start"}


class PlanError(Exception):
    """A plan does not work out; the text says which, and by how much."""


def title_and_minutes(path: Path) -> tuple[str, int]:
    """Return the title of a notebook, and the minutes that its first cell names.

    Raises:
        PlanError: it names none.
    """
    first = nbformat.read(path, as_version=4).cells[0].source
    title = re.search(r"^# (.+)$", first, re.MULTILINE)
    minutes = re.search(r"\*\*Time:\*\* about (\d+) minutes", first)
    if title is None or minutes is None:
        raise PlanError(f"{path.name} has no title, or no **Time:** about N minutes.")
    return title[1], int(minutes[1])


def find(item: str) -> Path:
    """Return the notebook that `00` or `lab 02` stands for.

    Raises:
        PlanError: there is none.
    """
    number = item.removeprefix("lab ")
    folder = labs.LABS if item.startswith("lab ") else ROOT / "notebooks"
    for path in folder.glob(f"{number}_*.ipynb"):
        return path
    raise PlanError(f"There is no {item!r} to plan with.")


def plan(words: str) -> tuple[str, int]:
    """Return the table of a plan, and the minutes that it takes, breaks included.

    Args:
        words: what stands behind `plan`: ` from 9:00, at most 210 minutes: 00, break 15`.

    Raises:
        PlanError: it is not of this form, names what does not exist, or takes longer.
    """
    asked = re.fullmatch(r" from (\d+):(\d\d), at most (\d+) minutes: ([^:]+)", words)
    if asked is None:
        raise PlanError(f"Not understood: plan{words}")
    now, most = int(asked[1]) * 60 + int(asked[2]), int(asked[3])
    lines = ["| from | minutes | what |", "| --- | --- | --- |"]
    total = 0
    for item in asked[4].split(", "):
        kind, _, length = item.partition(" ")
        if kind in PAUSES:
            what, minutes = kind.capitalize(), int(length)
        else:
            path = find(item)
            title, minutes = title_and_minutes(path)
            label = title if item.startswith("lab ") else f"{item} {title}"
            what = f"[{label}]({path.relative_to(ROOT).as_posix()})"
        lines.append(f"| {now // 60}:{now % 60:02d} | {minutes} | {what} |")
        now, total = now + minutes, total + minutes
    if total > most:
        raise PlanError(f"The plan{words} takes {total} minutes, and has {most}.")
    lines.append(f"| {now // 60}:{now % 60:02d} | **{total}** | of {most} minutes |")
    return "\n".join(lines), total


def mistakes() -> str:
    """Return the wrong answers of every lab, each with what the check says to it."""
    lines = []
    for path in labs.sources():
        notebook = labs.read(path)
        title, _ = title_and_minutes(path)
        lines += [f"### {title}", ""]
        for exercise in labs.exercises(notebook):
            lines += [f"**{exercise.title}** ({exercise.minutes} minutes)", ""]
            for answer in exercise.wrong:
                says = " ".join(answer.says.split())
                lines.append(
                    f"- {answer.name[0].upper()}{answer.name[1:]}. *The check says:* … {says} …"
                )
            lines.append("")
    return "\n".join(lines).rstrip()


def filled(page: str) -> str:
    """Return the page with every block as it has to be."""

    def block(match: re.Match[str]) -> str:
        begin, kind, words, _, end = match.groups()
        body = plan(words)[0] if kind == "plan" else mistakes()
        return f"{begin}\n{body}\n\n{end}"

    return BLOCK.sub(block, page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
