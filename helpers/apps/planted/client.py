"""Members of a room, over a real connection or in a communicator of Channels, who hear all that came before their mark."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from channels.testing import WebsocketCommunicator
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect
from websockets.typing import Origin


class Member:
    """One connection to one site. Treat it as a context manager to have it hang up.

    Args:
        where: what has a `ws_url`: a server, a cluster, a node of one.
        bug: the name of the site: `right`, or one of `BUGS`.
        socketio: whether to speak Socket.IO.
        origin: where the page comes from that connects; from the server itself by default.

    Raises:
        websockets.exceptions.InvalidHandshake: the server refuses the connection.
        TimeoutError: it does not answer.
    """

    def __init__(
        self, where: Any, bug: str, *, socketio: bool = False, origin: str | None = None
    ) -> None:
        self._prefix = f"/{bug}," if socketio else ""
        self._socketio = socketio
        path = f"/socket.io/?EIO=4&transport=websocket&site={bug}" if socketio else f"/{bug}/lobby"
        self._connection = connect(
            where.ws_url(path),
            origin=Origin(origin or where.url("").rstrip("/")),
            proxy=None,
            compression=None,
            user_agent_header=None,
            close_timeout=1,
            legacy=True,
        )
        if socketio:
            self._connection.send(f"40{self._prefix}")
            while not self._read().startswith("40"):
                pass

    def _read(self) -> str:
        text = str(self._connection.recv(timeout=10))
        if text == "2" and self._socketio:  # Engine.IO's ping
            self._connection.send("3")
        return text

    def tell(self, name: str, *arguments: object) -> None:
        """Send one event, without waiting."""
        if self._socketio and name in ("join", "leave", "say"):
            arguments = ("lobby", *arguments)
        event = json.dumps([name, *arguments])
        self._connection.send(f"42{self._prefix}{event}" if self._socketio else event)

    def hear(self) -> list[Any]:
        """Wait for the next event, and return its name and its arguments."""
        while self._socketio:
            text = self._read()
            if text.startswith("42"):
                return list(json.loads(text[2:].removeprefix(self._prefix)))
        return list(json.loads(self._read()))

    def heard(self) -> list[list[Any]]:
        """Return all that came since the last time, up to a mark that is set now. A connection that ends is `["ended"]`."""
        events = []
        try:
            self.tell("mark")
            while (event := self.hear()) != ["marked"]:
                events.append(event)
        except ConnectionClosed:
            events.append(["ended"])
        return events

    def close(self) -> None:
        """Hang up. Closing twice is safe."""
        self._connection.close()

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def talk(one: Member, two: Member) -> None:
    """Test a site, from joining to ringing."""
    for member in (one, two):
        member.tell("join")
        assert member.heard() == []
    one.tell("say", "hi")
    assert [text for _, _, text in one.heard() + two.heard()] == ["hi", "hi"]
    two.tell("leave")
    assert two.heard() == []
    one.tell("say", "ho")
    assert len(one.heard()) == 1
    assert two.heard() == []
    one.tell("ring")
    assert one.hear() == ["ringing"]
    two.tell("answer")
    assert one.hear() == ["rung", True]


def lets_in(where: Any, bug: str, *, socketio: bool = False) -> bool:
    """Return whether a site lets in a page from elsewhere."""
    try:
        Member(where, bug, socketio=socketio, origin="http://evil.example").close()
    except InvalidHandshake:
        return False
    return True


@contextlib.asynccontextmanager
async def talking(application: Any, path: str) -> AsyncIterator[WebsocketCommunicator]:
    """Connect a communicator for the time of a block, and end it, whatever happens there.

    Args:
        application: an ASGI application.
        path: the path that the communicator asks for.
    """
    communicator = WebsocketCommunicator(application, path)
    try:
        connected, _ = await _or_error(communicator, communicator.connect(timeout=10))
        assert connected
        yield communicator
        await communicator.disconnect(timeout=10)
    finally:
        communicator.stop(exceptions=False)


async def heard(communicator: WebsocketCommunicator) -> list[list[Any]]:
    """Return all that came to a communicator since the last time, up to a mark that is set now.

    An error of the application is raised at once; the communicator by itself would wait for its timeout.

    Args:
        communicator: it is connected.
    """
    await communicator.send_json_to(["mark"])
    events: list[list[Any]] = []
    while True:
        event = await _or_error(communicator, communicator.receive_json_from(timeout=10))
        if event == ["marked"]:
            return events
        events.append(event)


async def _or_error(communicator: WebsocketCommunicator, answer: Coroutine[Any, Any, Any]) -> Any:
    """Return an answer of the application, or raise the error that has ended it."""
    coming, application = asyncio.ensure_future(answer), communicator.future
    await asyncio.wait({coming, application}, return_when=asyncio.FIRST_COMPLETED)
    if not coming.done() and (error := application.exception()):
        coming.cancel()
        raise error
    return await coming
