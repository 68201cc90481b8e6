"""The ledger as learners see it: drawn, linked, and asked for a recommendation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers import ledger

ROOT = Path(__file__).resolve().parents[1]


def test_every_claim_is_drawn_with_its_verdict_and_links_that_lead_somewhere():
    drawing = ledger.ledger()
    page, text = drawing._repr_html_(), repr(drawing)
    assert page.count("<tr>") == 1 + 49
    assert len(re.findall(r"^(?:C|T|D)\d+ ", text, re.MULTILINE)) == 49
    links = re.findall(r'href="([^"]+)"', page)
    assert len(links) >= 49
    assert all((ROOT / "notebooks" / link).is_file() for link in links)


def test_some_claims_in_the_order_asked_for():
    assert re.findall(r"^(\w+) ", repr(ledger.ledger(["T4", "C01"])), re.MULTILINE) == [
        "The",
        "T4",
        "C01",
    ]


def test_an_unknown_claim_is_named():
    with pytest.raises(ValueError, match=r"no claim 'C99'. There are:\n\['C01'"):
        ledger.ledger(["C99"])


def test_reasons_are_counted_by_stack():
    votes = ledger.reasons(["D1", "D2", "D10", "D1"])
    assert {stack: [claim.id for claim in found] for stack, found in votes.items()} == {
        "Channels": ["D1", "D2"],
        "SSE": ["D10"],
        "websockets": ["D10"],
    }


def test_a_recommendation_cites_what_it_rests_on():
    drawing = ledger.recommend(["D1", "D2", "D4"])
    text, page = repr(drawing), drawing._repr_html_()
    assert text.startswith("Most reasons speak for Channels: 2 of 3.\nChannels: 2\n  D1 ")
    assert "(see T1, C13, C28)" in text
    assert "Decides nothing: D4 " in text
    assert '<a href="08_django_inside_the_socket.ipynb">08</a>' in page


def test_a_tie_names_all_who_are_first():
    text = repr(ledger.recommend(["D10"]))
    assert text.startswith("Most reasons speak for SSE or websockets: 1 of 1.")


def test_what_decides_nothing_says_so():
    assert repr(ledger.recommend(["D3"])).startswith(
        "Nothing here decides it.\nDecides nothing: D3"
    )


@pytest.mark.parametrize(
    ("yes", "named"), [([], "Nothing"), (["D1", "taste"], r"\['taste'\]"), (["C01"], "C01")]
)
def test_what_is_no_criterion_is_named_with_those_that_there_are(yes, named):
    with pytest.raises(ValueError, match=named) as caught:
        ledger.recommend(yes)
    assert str(caught.value).endswith(f"recommend({[f'D{n}' for n in range(1, 11)]})")


def test_the_page_is_up_to_date():
    stored = (ROOT / "notebooks" / "claims.md").read_text(encoding="utf-8")
    assert stored == ledger.markdown(), "notebooks/claims.md is old: run make refresh"
    assert stored.count("\n| ") == 1 + 49 + 1
