"""What is right passes on every level, and each bug does what its name says; which level finds it is the notebook's matter."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidHandshake

from helpers import serve
from helpers.apps.planted import BUGS, channels_app, socketio_app
from helpers.apps.planted.client import Member, heard, lets_in, talk, talking
from helpers.server import Server

SITES = ["right", *BUGS]


@pytest.fixture(params=[False, True], ids=["channels", "socketio"])
def stack(request: pytest.FixtureRequest) -> Iterator[tuple[Server, bool]]:
    """A server with all the sites of one stack, and whether it speaks Socket.IO."""
    application = socketio_app.build()[0] if request.param else channels_app.app
    with serve(application, name="planted") as server:
        yield server, request.param


def fault(server: Server, bug: str, socketio: bool) -> str:
    """Return the line at which a conversation fails, or nothing."""
    with (
        Member(server, bug, socketio=socketio) as one,
        Member(server, bug, socketio=socketio) as two,
    ):
        try:
            talk(one, two)
        except (AssertionError, ValueError) as error:
            frames = traceback.extract_tb(error.__traceback__)
            return next(str(frame.line) for frame in frames if frame.name == "talk")
    return ""


def test_each_bug_shows_where_it_is_and_nowhere_else(stack: tuple[Server, bool]) -> None:
    server, socketio = stack
    found = {bug: fault(server, bug, socketio) for bug in SITES}
    heard_hi = 'assert [text for _, _, text in one.heard() + two.heard()] == ["hi", "hi"]'
    assert found == {
        "right": "",
        "origin": "",
        "join": heard_hi,
        "leave": "assert two.heard() == []",
        "name": heard_hi,
        "wait": 'assert one.hear() == ["rung", True]',
        "count": "",
    }


def test_one_site_lets_in_a_foreign_page(stack: tuple[Server, bool]) -> None:
    server, socketio = stack
    assert [bug for bug in SITES if lets_in(server, bug, socketio=socketio)] == ["origin"]
    with pytest.raises(InvalidHandshake):
        Member(server, "right", socketio=socketio, origin="http://evil.example")


def test_a_communicator_hears_up_to_the_mark_and_an_error_at_once() -> None:
    async def said(bug: str) -> list[list[object]]:
        async with talking(channels_app.routes(bug), f"/{bug}/tested") as client:
            await client.send_json_to(["join"])
            await client.send_json_to(["unknown"])
            await client.send_json_to(["say", "hi"])
            events = await heard(client)
            assert await heard(client) == []
            return events

    async def said_without_routes() -> None:
        async with talking(channels_app.Room.as_asgi(), "/right/tested"):
            pass

    begun = time.monotonic()
    try:
        assert [event[::2] for event in asyncio.run(said("right"))] == [["said", "hi"]]
        with pytest.raises(ValueError, match="No handler"):
            asyncio.run(said("name"))
        with pytest.raises(KeyError):
            asyncio.run(said_without_routes())
    finally:
        serve(channels_app.app, name="whose end ends the thread of asgiref").stop()
    assert time.monotonic() - begun < 10, "the timeout of a communicator"
