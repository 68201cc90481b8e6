"""The ledger of claims: what the article that this workbook grew from says, and what running code says to it.

The file is `notebooks/claims.toml`, and a test ties every verdict in it to a cell whose output is compared. Here it is read,
drawn, and asked for a recommendation.
"""

from __future__ import annotations

import html
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .draw import Drawing

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


@dataclass(frozen=True)
class Claim:
    """A statement and its answer."""

    id: str
    claim: str
    """The statement, in our words."""
    verdict: str
    """"true", "half true", "false", "outdated" or "depends" where cells answer it; "judgement" or "not run" with a source."""
    answer: str = ""
    notebooks: tuple[str, ...] = ()
    """The numbers of the notebooks with cells that answer it."""
    source: str = ""
    """What a judgement rests on."""
    question: str = ""
    """Of a criterion: what to ask about a project."""
    favours: tuple[str, ...] = ()
    """Of a criterion: the stacks that a yes speaks for, after what has been run."""
    evidence: tuple[str, ...] = ()
    """Of a criterion: the claims that it rests on."""


@cache
def claims() -> Mapping[str, Claim]:
    """Return every claim, by its id, in the order of the article."""
    entries = tomllib.loads((NOTEBOOKS / "claims.toml").read_text(encoding="utf-8"))
    lists = ("notebooks", "favours", "evidence")
    found = {}
    for key, entry in entries.items():
        fields: dict[str, Any] = {
            name: tuple(value) if name in lists else value for name, value in entry.items()
        }
        found[key] = Claim(key, **fields)
    return found


def ledger(ids: Iterable[str] | None = None, *, caption: str = "The ledger of claims") -> Drawing:
    """Draw claims with their verdicts, and links to the notebooks that prove them.

    Args:
        ids: which claims; all by default.
        caption: what is shown, in a few words.

    Raises:
        ValueError: there is no such claim; the message names those that there are.
    """
    chosen = [_claim(key) for key in (claims() if ids is None else ids)]
    text = [caption]
    rows = []
    for claim in chosen:
        text += [f"{claim.id:<4} {claim.claim}", f"     {claim.verdict.upper()}: {claim.answer}"]
        text += [f"     notebook {', '.join(claim.notebooks)}"]
        cells = [claim.id, claim.claim, claim.verdict, claim.answer]
        links = ", ".join(f'<a href="{_file(number)}">{number}</a>' for number in claim.notebooks)
        rows.append(
            "".join(f"<td {_CELL}>{html.escape(cell)}</td>" for cell in cells)
            + f"<td {_CELL}>{links}</td>"
        )
    head = "".join(f'<th scope="col" {_CELL}>{name}</th>' for name in _COLUMNS)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    heading = f'<caption style="caption-side:top;text-align:left;font-weight:bold">{html.escape(caption)}</caption>'
    return Drawing(
        "\n".join(text),
        f"<table>{heading}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
    )


def reasons(yes: Iterable[str]) -> dict[str, list[Claim]]:
    """Return, for each stack, the criteria that speak for it.

    Args:
        yes: the ids of the criteria to which the answer is yes: `["D2", "D5"]`.

    Raises:
        ValueError: one of them is no criterion, or there are none; the message names those that there are.
    """
    criteria = [key for key, claim in claims().items() if claim.question]
    chosen = list(dict.fromkeys(yes))
    if not chosen or not set(chosen) <= set(criteria):
        wrong = [key for key in chosen if key not in criteria] or "Nothing"
        raise ValueError(f"{wrong} is no criterion. Choose from these:\nrecommend({criteria})")
    found: dict[str, list[Claim]] = {}
    for key in chosen:
        for stack in claims()[key].favours:
            found.setdefault(stack, []).append(claims()[key])
    return found


def recommend(yes: Iterable[str]) -> Drawing:
    """Say which stacks the criteria that hold for a project speak for, with what each rests on.

    Every yes is a reason for the stacks that it favours after what has been run here, not for the one that the article names.
    The reasons are counted, not weighed: the weights are yours.

    Args:
        yes: the ids of the criteria to which the answer is yes: `["D2", "D5"]`.

    Raises:
        ValueError: one of them is no criterion, or there are none; the message names those that there are.
    """
    chosen = list(dict.fromkeys(yes))
    ranked = sorted(reasons(chosen).items(), key=lambda item: (-len(item[1]), item[0]))
    most = len(ranked[0][1]) if ranked else 0
    first = " or ".join(stack for stack, found in ranked if len(found) == most)
    verdict = (
        f"Most reasons speak for {first}: {most} of {len(chosen)}."
        if ranked
        else "Nothing here decides it."
    )
    silent = [key for key in chosen if not claims()[key].favours]
    text, items = [verdict], []
    for stack, found in ranked:
        text.append(f"{stack}: {len(found)}")
        lines = []
        for claim in found:
            text.append(f"  {claim.id} {claim.answer} (see {', '.join(claim.evidence)})")
            proofs = ", ".join(f"{key} {_links(claims()[key])}" for key in claim.evidence)
            lines.append(f"<li>{claim.id}: {html.escape(claim.answer)} (see {proofs})</li>")
        items.append(f"<p>{html.escape(stack)}: {len(found)}</p><ul>{''.join(lines)}</ul>")
    if silent:
        text.append(
            "Decides nothing: " + "; ".join(f"{key} {claims()[key].answer}" for key in silent)
        )
        items.append(f"<p>{html.escape(text[-1])}</p>")
    return Drawing(
        "\n".join(text), f"<p><strong>{html.escape(verdict)}</strong></p>{''.join(items)}"
    )


def markdown() -> str:
    """Return the whole ledger as a page, for `notebooks/claims.md`."""
    lines = [
        "# The ledger of claims",
        "",
        "What the article that this workbook grew from says, in our words, and what running code says to it. Each verdict is",
        "tied to cells whose output is compared in every run; a judgement to its evidence. `make refresh` makes this page.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "| --- | --- | --- | --- | --- |",
    ]
    for claim in claims().values():
        links = ", ".join(f"[{number}]({_file(number)})" for number in claim.notebooks)
        answer = " ".join(
            filter(None, [claim.answer, claim.source and f"*Rests on:* {claim.source}"])
        )
        lines.append(f"| {claim.id} | {claim.claim} | {claim.verdict} | {answer} | {links} |")
    return "\n".join([*lines, ""])


_COLUMNS = ("id", "claim", "verdict", "answer", "notebooks")
_CELL = 'style="text-align:left;vertical-align:top;padding:.2em .6em"'


def _claim(key: str) -> Claim:
    if key not in claims():
        raise ValueError(f"There is no claim {key!r}. There are:\n{list(claims())}")
    return claims()[key]


@cache
def _file(number: str) -> str:
    return next(path.name for path in NOTEBOOKS.glob(f"{number}_*.ipynb"))


def _links(claim: Claim) -> str:
    return " ".join(f'<a href="{_file(number)}">{number}</a>' for number in claim.notebooks)


if __name__ == "__main__":
    (NOTEBOOKS / "claims.md").write_text(markdown(), encoding="utf-8")
