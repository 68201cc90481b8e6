"""What was noted is shown, once, in the order of the notebook."""

from __future__ import annotations

import pytest

from helpers.apps import attacks


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch):
    monkeypatch.setattr(attacks, "_seen", {})


def test_there_are_twelve_and_none_has_run():
    rows = attacks.noted()
    assert len(rows) == len({row["attack"] for row in rows}) == 12
    assert all(row["before"] == "its section has not run" and row["after"] == "" for row in rows)


def test_the_last_note_of_an_attack_stays():
    attacks.note("a flood", 1000, 20)
    attacks.note("a flood", 1000, 21)
    assert attacks.noted()[attacks.ATTACKS.index("a flood")] == {
        "attack": "a flood",
        "before": 1000,
        "after": 21,
    }
    assert sum(row["before"] == 1000 for row in attacks.noted()) == 1


def test_an_unknown_attack_is_refused():
    with pytest.raises(ValueError, match="none of the twelve"):
        attacks.note("a flod", 1, 2)
