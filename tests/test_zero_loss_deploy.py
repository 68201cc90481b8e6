"""The deployment of lab 15, more often than a learner would wait for, and what its machines promise."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from helpers import lab
from helpers.authoring import labs


def given_and_solved() -> dict[str, Any]:
    """Return what the worked solution defines."""
    notebook = labs.read(labs.LABS / "src" / "15_zero_loss_deploy.ipynb")
    names: dict[str, Any] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and not labs.tags(cell) & (labs.AUTHORS_ONLY | {"check"}):
            exec(labs.worked(cell.source, cell["id"]), names)
    return names


def test_a_machine_ends_its_timer_between_two_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or what the timer has begun to write would be lost with the process, however well its node drains."""
    checks = lab.find("15-deploy").function.__globals__
    monkeypatch.setitem(checks, "MOMENT", 0.5)

    async def nobody(when: str) -> None:
        """Let no newcomer look in: there is no nginx."""

    async def kept() -> tuple[Any, Any]:
        fleet = checks["Fleet"](given_and_solved()["Node"])
        fleet.newcomers = nobody
        machine = fleet.machines[0]
        await machine.start()
        try:
            machine.node.batch.append(["Ann 0", "promised"])
            async with asyncio.timeout(10):
                while ["Ann 0", "promised"] not in sum(machine.line.begun, []):
                    await asyncio.sleep(0.001)
            await machine.drain()
            machine.kill()
        finally:
            for each in fleet.machines:
                await each.close()
        return fleet.journal.entries, fleet.debts

    entries, debts = asyncio.run(kept())
    assert entries == [["Ann 0", "promised"]]
    assert [owed for _, drained, owed in debts if drained] == [[]]


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_twenty_restarts_under_load_lose_nothing_that_was_acknowledged() -> None:
    """The worked solution, restarted seven times three times."""
    names = given_and_solved()
    result = lab.check("15-deploy", names["Node"], names["Client"], names["deploy"], 20)
    assert result.correct, repr(result)
    assert " 21 " in repr(result)
