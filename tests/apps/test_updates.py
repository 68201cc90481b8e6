"""The updates that are measured: due by the clock, the same in every run."""

from __future__ import annotations

import asyncio
import time

from helpers.apps.updates import Inbox, Schedule, update


def test_an_update_has_30_bytes_and_its_number():
    assert {len(update(number)) for number in range(1000)} == {30}
    assert len({update(number) for number in range(1000)}) == 1000


def test_what_is_due_follows_from_the_clock():
    now = time.monotonic_ns()
    assert Schedule(now + 10**12, 1000, 10).due() == 0
    assert Schedule(now - 10**12, 1000, 10).due() == 10
    assert 3 <= Schedule(now - 2 * 10**9, 1, 10).due() <= 5
    assert Schedule(5 * 10**9, 100, 10).when(7) == 5.07


def test_a_schedule_yields_every_number_once_in_order():
    async def numbers():
        schedule = Schedule(time.monotonic_ns(), 1000, 50)
        return [
            (number, time.monotonic() - schedule.when(number))
            async for number in schedule.numbers()
        ]

    found = asyncio.run(numbers())
    assert [number for number, _ in found] == list(range(50))
    assert min(late for _, late in found) > -0.005


def test_an_inbox_waits_until_there_is_more():
    async def talk():
        inbox = Inbox()
        inbox.put("a")
        assert await inbox.after(0) == ["a"]
        waiting = asyncio.ensure_future(inbox.after(1))
        await asyncio.sleep(0)
        assert not waiting.done()
        inbox.put("b")
        inbox.put("c")
        assert await waiting == ["b", "c"]

    asyncio.run(talk())
