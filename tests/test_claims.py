"""The ledger of claims agrees with the cells that answer them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import nbformat

from helpers.stacks import STACKS

ROOT = Path(__file__).resolve().parents[1]
LEDGER = tomllib.loads((ROOT / "notebooks" / "claims.toml").read_text(encoding="utf-8"))
IDS = [
    *(f"C{n:02d}" for n in range(1, 31)),
    *(f"T{n}" for n in range(1, 10)),
    *(f"D{n}" for n in range(1, 11)),
]
ANSWERED = {"true", "half true", "false", "outdated", "depends"}
SOURCED = {"judgement", "not run"}
CRITERION = {"question", "favours", "evidence"}
NOT_COMPARED = {"nbval-ignore-output", "nbval-skip"}


def answers() -> dict[str, set[str]]:
    """Return, for each claim, the numbers of the notebooks with a cell that answers it."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            tags = cell.metadata.get("tags", [])
            for tag in tags:
                if tag.startswith("claim-"):
                    where = f"{path.name}, cell {cell['id']}, {tag}"
                    assert cell.cell_type == "code", (
                        f"{where}: only a cell that runs answers a claim"
                    )
                    assert cell.outputs, f"{where}: it prints nothing"
                    assert not NOT_COMPARED & set(tags), f"{where}: its output is not compared"
                    found.setdefault(tag.removeprefix("claim-"), set()).add(path.name[:2])
    return found


def test_the_ledger_lists_every_claim_once_in_order():
    assert list(LEDGER) == IDS
    assert len(LEDGER) == 49


def test_every_entry_has_a_verdict_that_it_can_stand_by():
    for key, entry in LEDGER.items():
        assert entry["verdict"] in ANSWERED | SOURCED, key
        assert len(entry["claim"]) > 10, key
        assert entry["notebooks"], key
        assert all(re.fullmatch(r"\d\d", number) for number in entry["notebooks"]), key
        assert len(entry["answer"]) > 10, key
        assert ("source" in entry) == (entry["verdict"] in SOURCED), key
        known = {"claim", "verdict", "answer", "notebooks", "source"}
        assert set(entry) - known == (CRITERION if key.startswith("D") else set()), key


def test_a_criterion_rests_on_claims_that_cells_answer():
    criteria = {key: entry for key, entry in LEDGER.items() if key.startswith("D")}
    assert len(criteria) == 10
    for key, entry in criteria.items():
        assert entry["verdict"] == "judgement", key
        assert set(entry["favours"]) <= {*STACKS, "SSE"}, key
        assert len(entry["evidence"]) >= 2, key
        assert all(LEDGER[claim]["verdict"] in ANSWERED for claim in entry["evidence"]), key


def test_every_answered_claim_has_a_compared_cell_in_each_notebook_that_it_names():
    found = answers()
    answered = {key for key, entry in LEDGER.items() if entry["verdict"] in ANSWERED}
    for key in answered:
        assert set(LEDGER[key]["notebooks"]) == found.get(key, set()), key
    assert set(found) == answered, (
        "a tag answers a claim that the ledger calls a judgement, or does not know"
    )
    assert len(answered) == 49 - 13
