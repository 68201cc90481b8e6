"""The same updates over six transports, from one ASGI application.

An update is due at a time that its number and a schedule fix, so the application keeps no state for them: over any transport it
sends what is due and not yet sent. What clients say is kept in an inbox for each, and comes back over the same transport.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import socketio
from engineio.payload import Payload

# On polling, what has gathered goes out together. By default the server drops more than 16 packets at once, and
# the client hangs up.
Payload.max_decode_packets = 10_000


@dataclass(frozen=True)
class Schedule:
    """When each update is due.

    Args:
        start: when update 0 is due, in nanoseconds of the monotonic clock, which all processes of a machine share.
        rate: updates a second.
        count: how many there are.
    """

    start: int
    rate: int
    count: int

    def when(self, number: int) -> float:
        """Return when an update is due, in seconds of the monotonic clock."""
        return self.start / 1e9 + number / self.rate

    def due(self) -> int:
        """Return how many updates are due by now."""
        elapsed = time.monotonic() - self.start / 1e9
        return min(self.count, max(0, int(elapsed * self.rate) + 1 if elapsed >= 0 else 0))

    async def wait(self, number: int) -> int:
        """Wait until an update is due, and return how many are due by then."""
        await asyncio.sleep(max(0.0, self.when(number) - time.monotonic()))
        return max(self.due(), number + 1)  # a clock may wake a little early

    async def numbers(self) -> AsyncIterator[int]:
        """Yield the number of each update when it is due."""
        sent = 0
        while sent < self.count:
            due = await self.wait(sent)
            for number in range(sent, due):
                yield number
            sent = due


def update(number: int) -> str:
    """Return an update: 30 bytes of JSON, the same in every run."""
    return f'{{"id":{number:5d},"price":{100 + number * 37 % 900 / 100:9.2f}}}'


class Inbox:
    """What one client has said, for it to hear again."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self._more = asyncio.Event()

    def put(self, text: str) -> None:
        """Keep what the client said."""
        self.said.append(text)
        self._more.set()

    async def after(self, seen: int) -> list[str]:
        """Wait until there is more than a client has seen, and return that."""
        while len(self.said) <= seen:
            self._more.clear()
            await self._more.wait()
        return self.said[seen:]


_inboxes: defaultdict[str, Inbox] = defaultdict(Inbox)


async def http(scope: Any, receive: Any, send: Any) -> None:
    """Answer polls, long polls and streams of events; take what a client says."""
    query = dict(parse_qsl(scope["query_string"].decode()))
    path, after = scope["path"], int(query.get("after", 0))
    inbox = _inboxes[query["client"]] if "client" in query else None
    if path == "/say" and inbox is not None:
        inbox.put((await receive())["body"].decode())
        await _answer(send, 204, "")
    elif path == "/sse":
        await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
        if inbox is None:
            async for number in _schedule(query).numbers():
                await _event(send, number, update(number))
        else:
            for number in range(int(query["count"])):
                await _event(send, number, (await inbox.after(number))[0])
        await send({"type": "http.response.body", "body": b""})
    elif inbox is not None:
        lines = inbox.said[after:] if path == "/poll" else await inbox.after(after)
        await _answer(send, 200, "\n".join(lines))
    else:
        schedule = _schedule(query)
        due = schedule.due() if path == "/poll" else await schedule.wait(after)
        await _answer(send, 200, "\n".join(update(number) for number in range(after, due)))


async def websocket(scope: Any, receive: Any, send: Any) -> None:
    """Send the updates, or what the client says."""
    query = dict(parse_qsl(scope["query_string"].decode()))
    await receive()
    await send({"type": "websocket.accept"})
    if "start" in query:
        async for number in _schedule(query).numbers():
            await send({"type": "websocket.send", "text": update(number)})
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": message["text"]})


_EVENTS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]


def _schedule(query: dict[str, str]) -> Schedule:
    return Schedule(int(query["start"]), int(query["rate"]), int(query["count"]))


async def _event(send: Any, number: int, data: str) -> None:
    await send(
        {
            "type": "http.response.body",
            "body": f"id: {number}\ndata: {data}\n\n".encode(),
            "more_body": True,
        }
    )


async def _answer(send: Any, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": headers if status != 204 else [],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """Route what is not Socket.IO."""
    if scope["type"] == "http":
        await http(scope, receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)


async def subscribe(sid: str, query: dict[str, str]) -> None:
    """Send the updates of a schedule to one client."""
    async for number in _schedule(query).numbers():
        await sio.emit("update", update(number), to=sid)
    await sio.disconnect(sid)


async def leave(sid: str) -> None:
    """Let a client go: one that leaves by itself while a poll is held waits for that poll, 25 s at most."""
    await sio.disconnect(sid)


async def say(sid: str, text: str) -> None:
    """Send back what a client says."""
    await sio.emit("update", text, to=sid)


sio = socketio.AsyncServer(async_mode="asgi", http_compression=False)
for handler in (subscribe, say, leave):
    sio.on(handler.__name__, handler)
app = socketio.ASGIApp(sio, other_asgi_app=plain)
