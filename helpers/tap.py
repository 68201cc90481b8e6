"""A recording relay in front of a server: every byte, both ways, with its time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar, overload

from .background import Background
from .decode import Chunk, Peer, Speaker
from .log import Log
from .server import Server, accept_no_more, browser_url

R = TypeVar("R")

SETTLE = 2.0
"""Seconds that `Tap.stop` waits for connections that are still open to come to their end by themselves."""

HELD = 2**18
"""Bytes of one direction that a fault may hold before the tap reads no more, so that the sender notices."""


class Recording(Sequence[Chunk]):
    """What a tap has heard so far, oldest first."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self.connections = 0
        """How many connections clients have opened."""

    def bytes(self, sender: Speaker | None = None) -> int:
        """Return how many bytes were sent: all of them, or those of one peer."""
        return sum(len(chunk.data) for chunk in self._chunks if sender in (None, chunk.sender))

    def lost(self, sender: Peer | None = None) -> int:
        """Return how many bytes the other side has not got: a fault holds them, or has cut the connection."""
        return sum(
            chunk.lost for chunk in self._chunks if sender in (None, chunk.sender) and not chunk.end
        )

    def __len__(self) -> int:
        return len(self._chunks)

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> list[Chunk]: ...
    def __getitem__(self, index: int | slice) -> Chunk | list[Chunk]:
        return self._chunks[index]

    def __repr__(self) -> str:
        return (
            f"<Recording: {self.connections} connections, {self.bytes('client')} bytes from clients, "
            f"{self.bytes('server')} from the server>"
        )


class Fault:
    """Something that a network does to connections; `helpers.faults` has them all.

    Every method is called in the tap's thread. A side is one direction of a connection: what its peer says, on the way to the
    other.
    """

    name = "fault"

    def __init__(self, sender: Peer | None = None) -> None:
        self.sender = sender
        """Whose bytes it concerns; None for both."""

    def delay(self) -> float:
        """Return the seconds that bytes take which arrive now."""
        return 0.0

    def wait(self, side: Side) -> float:
        """Return the seconds until the next of the side's bytes may pass: 0 at once, infinite until something changes."""
        return 0.0

    def size(self, side: Side) -> float:
        """Return how many bytes may pass together."""
        return math.inf

    def passed(self, side: Side, size: int) -> None:
        """Learn that so many bytes have passed."""

    def opened(self, side: Side) -> None:
        """Learn that a connection is there: once when the fault begins for those that are open, and for each new one."""

    def ended(self) -> None:
        """Learn that the fault is over."""

    def __str__(self) -> str:
        return self.name if self.sender is None else f"{self.name}, from the {self.sender}"


class Tap:
    """A relay on a port of its own that passes on what it hears and keeps a copy.

    Connect clients to it in place of the server. Treat it as a context manager: at the end it waits until the connections that
    clients have closed are closed, so that the recording is complete.

    Args:
        target: the server, or a port on 127.0.0.1.

    Attributes:
        port: the port that clients use.
        recording: what was heard, also after the end.
        server: the server, if it was given as one.
    """

    def __init__(self, target: Server | int) -> None:
        self.target = target if isinstance(target, int) else target.port
        self.server = None if isinstance(target, int) else target
        self.recording = Recording()
        self._open: set[Side] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._faults: list[Fault] = []
        self._changes = 0
        self._quiet = threading.Event()
        self._quiet.set()
        self._heard = threading.Condition()
        # IPPROTO_TCP, or asyncio leaves Nagle's algorithm on.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.bind(("127.0.0.1", 0))
            listener.listen(2048)
            listener.setblocking(False)
            self.port: int = listener.getsockname()[1]
            self._background = Background(
                self._relaying(listener), name=f"tap on port {self.target}", log=Log()
            )
            self._background.start()
        except BaseException:
            listener.close()
            raise

    def url(self, path: str = "/") -> str:
        """Return the address of a path, through the tap, for an HTTP client in the kernel."""
        return f"http://127.0.0.1:{self.port}{path}"

    def ws_url(self, path: str = "/") -> str:
        """Return the address of a path, through the tap, for a WebSocket client in the kernel."""
        return f"ws://127.0.0.1:{self.port}{path}"

    def browser_url(self, path: str = "/") -> str:
        """Return the address of a path, through the tap, for a browser, which may sit behind a hub."""
        return browser_url(self.port, path)

    @property
    def running(self) -> bool:
        """Whether the tap relays."""
        return self._background.running

    @property
    def open(self) -> int:
        """How many connections are open now, on either side."""
        return len({side.connection for side in list(self._open)})

    @property
    def faults(self) -> list[Fault]:
        """The faults that act now, oldest first."""
        return list(self._faults)

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine in the tap's thread and return its result here. Tasks that it starts end with the tap.

        Raises:
            RuntimeError: the tap has been stopped.
        """
        return self._background.run(coroutine)

    def wait_for(self, condition: Callable[[Recording], object], *, timeout: float = 10.0) -> None:
        """Wait until the recording meets a condition.

        What a client sends goes through the tap, and what a cell does to the server does not: wait where their order matters.

        Args:
            condition: a function of the recording that must return something true. The tap hears nothing while it runs.
            timeout: seconds to wait, 10 by default.

        Raises:
            TimeoutError: the condition did not come true in time; the message sums the recording up.
        """
        with self._heard:
            if not self._heard.wait_for(lambda: condition(self.recording), timeout):
                raise TimeoutError(
                    f"The recording did not meet the condition within {timeout:g} s: {self.recording!r}"
                )

    def settle(self, timeout: float = SETTLE) -> bool:
        """Wait until no connection is open, and return whether that came true within `timeout` seconds."""
        if self._background.running:
            self._background.run(_some_turns())
        return self._quiet.wait(timeout)

    def stop(self, timeout: float = SETTLE) -> None:
        """Wait for open connections to end, at most `timeout` seconds, close the rest, and stop. Stopping twice is safe.

        What runs in the tap's own thread waits for nothing here: the tap ends after it.
        """
        if self._background.running and not self._background.current:
            self.settle(timeout)
        self._background.stop()

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        self.stop(SETTLE if error_type is None else 0.0)

    def __repr__(self) -> str:
        state = f"on port {self.port}" if self._background.running else "stopped"
        return f"<tap {state} in front of port {self.target}: {self.recording!r}>"

    @contextlib.asynccontextmanager
    async def _relaying(self, listener: socket.socket) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Side(self, "client"), sock=listener, backlog=2048)
        try:
            yield
        finally:
            await accept_no_more(listener)
            server.close()
            while (
                self._open or self._tasks
            ):  # each abort calls connection_lost in the loop's next turn
                for side in list(self._open):
                    side.abort()
                await asyncio.sleep(0)

    def _count(self) -> int:
        with self._heard:
            self.recording.connections += 1
            self._heard.notify_all()
            return self.recording.connections

    def add(self, fault: Fault) -> None:
        """Let a fault begin, on open connections and on new ones. `helpers.faults` does this for you.

        Raises:
            RuntimeError: the tap has been stopped, or the fault acts already.
        """
        if not self._background.running:
            raise RuntimeError(
                f"{self!r} has been stopped, and there is no network to disturb. Start another:\n"
                "wire = tap(server)"
            )
        if fault in self._faults:
            raise RuntimeError(f"The fault acts already: {fault}. Make another.")
        self._background.run(self._add(fault))

    def remove(self, fault: Fault) -> None:
        """Let a fault end: what it holds goes on its way. Removing it twice, or from a stopped tap, is safe."""
        if self._background.running:
            # An interrupt may end the wait, and not this.
            self._background.loop.call_soon_threadsafe(self._remove, fault)
            self._background.run(_some_turns())

    async def _add(self, fault: Fault) -> None:
        self._faults.append(fault)
        self._changes += 1
        self._event(0, f"begins: {fault}")
        for side in list(self._open):
            if side.other is not None and fault.sender in (None, side.peer):
                fault.opened(side)
            side.changed()

    def _remove(self, fault: Fault) -> None:
        if fault not in self._faults:
            return
        self._faults.remove(fault)
        self._changes += 1
        fault.ended()
        self._event(0, f"ends: {fault}")
        for side in self._open:
            side.changed()
            if side.other is not None:  # whose TCP connection may be over, and its last words held
                side.other.changed()

    def _acting_on(self, side: Side) -> list[Fault]:
        return [fault for fault in self._faults if fault.sender in (None, side.peer)]

    def _task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _note(
        self,
        connection: int,
        sender: Speaker,
        data: bytes,
        *,
        end: Any = "",
        lost: int = 0,
        event: str = "",
    ) -> Chunk:
        chunk = Chunk(connection, sender, data, time.monotonic(), end, lost, event=event)
        with self._heard:
            self.recording._chunks.append(chunk)
            self._heard.notify_all()
        return chunk

    def _event(self, connection: int, event: str, data: bytes = b"") -> None:
        self._note(connection, "network", data, event=event)


@dataclasses.dataclass
class _Held:
    """What has been heard and not yet passed on."""

    chunk: Chunk
    delays: dict[Fault, float]
    changes: int


class Side(asyncio.Protocol):
    """One of the two TCP connections of a relayed one: with the client, or with the server."""

    transport: asyncio.Transport

    def __init__(self, tap: Tap, peer: Peer, other: Side | None = None) -> None:
        self.tap = tap
        self.peer: Peer = peer
        """Who is at the other end of this TCP connection, and says what arrives here."""
        self.other = other
        """The side that what arrives here is passed on to."""
        self.connection: int = other.connection if other else 0
        """The connection's number, from 1."""
        self.heard_at = time.monotonic()
        """When the last bytes arrived, on the monotonic clock."""
        self.complete = False
        """Whether the peer has said all that it will."""
        self.ended = False
        """Whether the other peer has been told so."""
        self.lost = False
        self.full = False
        """Whether this TCP connection takes no more bytes for the moment."""
        self._held: deque[_Held] = deque()
        self._holding = 0
        self._passing: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def held(self) -> bytes:
        """What has arrived here and has not been passed on."""
        return b"".join(
            held.chunk.data[-held.chunk.lost :] for held in self._held if held.chunk.data
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.tap._open.add(self)
        self.tap._quiet.clear()
        if self.peer == "client":
            self.connection = self.tap._count()
            transport.pause_reading()
            self.tap._task(self._connect())
        elif self.other is not None:
            self.other.other = self
            if self.other.lost:
                self.abort()
                return
            self.other.transport.resume_reading()
            for side in (self.other, self):
                for fault in self.tap._acting_on(side):
                    fault.opened(side)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(
                lambda: Side(self.tap, "server", self), "127.0.0.1", self.tap.target
            )
        except OSError:  # no server there: the client sees what it would see without the tap
            self.abort()

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        assert self.other is not None
        if not self._hear(data):
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        self.complete = True
        if not self._hear(b"", "FIN"):
            self._pass_end()
        return True  # the other direction may go on

    def _pass_end(self) -> None:
        assert self.other is not None
        self.ended = True
        if not self.other.lost:
            with contextlib.suppress(OSError):  # reset after its own end: nobody reads that
                self.other.transport.write_eof()
        if self.other.ended:
            self.transport.close()
            self.other.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = self.complete = True
        self.changed()
        self.tap._open.discard(self)
        if not self.tap._open:
            self.tap._quiet.set()
        if self.other is None:
            return
        self.other.changed()
        if self.other.lost:
            return
        if error is None:
            self.other.transport.close()
        elif not self._hear(b"", "RST"):
            self.other.abort()

    def _hear(self, data: bytes, end: str = "") -> bool:
        """Record what the peer says, and keep it if a fault concerns it, what came before still waits, or nobody is there."""
        assert self.other is not None
        faults = self.tap._acting_on(self)
        keep = bool(faults or self._held or self.other.gone)
        lost = (len(data) or 1) if keep else 0
        chunk = self.tap._note(self.connection, self.peer, data, end=end, lost=lost)
        if keep:
            self._held.append(
                _Held(chunk, {fault: fault.delay() for fault in faults}, self.tap._changes)
            )
            self._holding += len(data)
            self._set_pace()
            self.changed()
            if self._passing is None or self._passing.done():
                self._passing = self.tap._task(self._pass_on())
        return keep

    async def _pass_on(self) -> None:
        """Pass on what is held, as the faults of the moment allow."""
        while self._held and self.other is not None and not self.other.gone:
            faults = self.tap._acting_on(self)
            chunk, delays = self._held[0].chunk, self._held[0].delays
            delay = sum(delays.get(fault, 0.0) for fault in faults)
            wait = math.inf if self.other.full else chunk.at + delay - time.monotonic()
            for fault in faults:
                if wait <= 0:  # else it has not come to this one
                    wait = fault.wait(self)
            self._changed.clear()
            if wait > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), min(wait, 3600.0))
                continue
            if chunk.end:
                self._took(chunk, 1)
                if chunk.end == "FIN":
                    self._pass_end()
                else:
                    self.other.abort()
                continue
            size = int(min([chunk.lost, *(fault.size(self) for fault in faults)]))
            start = len(chunk.data) - chunk.lost
            self.other.transport.write(chunk.data[start : start + size])
            self._took(chunk, size)
            for fault in faults:
                fault.passed(self, size)
            await asyncio.sleep(0)  # so that each piece is a write of its own

    def _took(self, chunk: Chunk, size: int) -> None:
        with self.tap._heard:
            chunk.lost -= size
            if not chunk.lost:
                chunk.held = self._held.popleft().changes != self.tap._changes
            self.tap._heard.notify_all()
        if not chunk.end:
            self._holding -= size
            self._set_pace()

    def _set_pace(self) -> None:
        """Read on, or let the sender's own buffers fill."""
        if not self.complete:  # after the end, asyncio would read it again
            if self._holding > HELD or (self.other is not None and self.other.full):
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    @property
    def gone(self) -> bool:
        """Whether this TCP connection takes no more bytes at all."""
        return self.lost or self.transport.is_closing()

    def changed(self) -> None:
        """Have what is held looked at again."""
        self._changed.set()

    def cut(self, event: str) -> None:
        """End the connection in order (FIN) on both sides, as a proxy does. What is held is lost."""
        left = self._left()
        if left:
            self.tap._event(self.connection, event)
        for side in left:
            side.transport.close()

    def reset(self, sender: Peer | None, event: str) -> None:
        """End the connection with a reset (RST), as if `sender` had, whose own end is then closed in order; by default both."""
        left = self._left()
        if left:
            self.tap._event(self.connection, event)
        for side in left:
            if sender == side.peer:
                side.transport.close()
            else:
                side.abort()

    def _left(self) -> list[Side]:
        """Return the sides that are still open: one of them may have gone, and a fault hold the news."""
        return [side for side in (self, self.other) if side and not side.gone]

    def answer(self, data: bytes, event: str) -> None:
        """Say something to this side's peer in the other's place, and end the connection."""
        if not self.gone:
            self.tap._event(self.connection, event, data)
            if not (self.other and self.other.ended):  # else nothing can be said after that end
                self.transport.write(data)
            for side in filter(None, (self, self.other)):
                side.transport.close()

    def abort(self) -> None:
        """End this TCP connection with a reset, whatever still waits to be sent."""
        if not self.lost:
            sock = self.transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def pause_writing(self) -> None:
        self._fill(True)

    def resume_writing(self) -> None:
        self._fill(False)

    def _fill(self, full: bool) -> None:
        self.full = full
        if self.other is not None:
            self.other._set_pace()
            self.other.changed()


async def _some_turns() -> None:
    """Let the loop accept the connections that the system already has."""
    for _ in range(5):
        await asyncio.sleep(0)


def tap(target: Server | int) -> Tap:
    """Start a recording relay in front of a server.

    Args:
        target: the server, or a port on 127.0.0.1.

    Returns:
        The running tap; use it as `with tap(server) as wire:`.
    """
    return Tap(target)
