"""A recording relay in front of a server: every byte, both ways, with its time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, overload

from .background import Background
from .decode import Chunk, Peer
from .log import Log
from .server import Server, accept_no_more

SETTLE = 2.0
"""Seconds that `Tap.stop` waits for connections that are still open to come to their end by themselves."""


class Recording(Sequence[Chunk]):
    """What a tap has heard so far, oldest first."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self.connections = 0
        """How many connections clients have opened."""

    def bytes(self, sender: Peer | None = None) -> int:
        """Return how many bytes crossed the wire: all of them, or those of one peer."""
        return sum(len(chunk.data) for chunk in self._chunks if sender in (None, chunk.sender))

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


class Tap:
    """A relay on a port of its own that passes on what it hears and keeps a copy.

    Connect clients to it in place of the server. Treat it as a context manager: at the end it waits until the connections that
    clients have closed are closed, so that the recording is complete.

    Args:
        target: the server, or a port on 127.0.0.1.

    Attributes:
        port: the port that clients use.
        recording: what was heard, also after the end.
    """

    def __init__(self, target: Server | int) -> None:
        self.target = target if isinstance(target, int) else target.port
        self.recording = Recording()
        self._open: set[_Side] = set()
        self._connecting: set[asyncio.Task[None]] = set()
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

    def wait_for(self, condition: Callable[[Recording], object], *, timeout: float = 5.0) -> None:
        """Wait until the recording meets a condition.

        What a client sends goes through the tap, and what a cell does to the server does not: wait where their order matters.

        Args:
            condition: a function of the recording that must return something true. The tap hears nothing while it runs.
            timeout: seconds to wait, 5 by default.

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
        """Wait for open connections to end, at most `timeout` seconds, close the rest, and stop. Stopping twice is safe."""
        if self._background.running:
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
        server = await loop.create_server(
            lambda: _Side(self, "client"), sock=listener, backlog=2048
        )
        try:
            yield
        finally:
            await accept_no_more(listener)
            server.close()
            while (
                self._open or self._connecting
            ):  # each abort calls connection_lost in the loop's next turn
                for side in list(self._open):
                    side.abort()
                await asyncio.sleep(0)

    def _count(self) -> int:
        with self._heard:
            self.recording.connections += 1
            self._heard.notify_all()
            return self.recording.connections

    def _note(self, connection: int, sender: Peer, data: bytes, end: Any = "") -> None:
        with self._heard:
            self.recording._chunks.append(Chunk(connection, sender, data, time.monotonic(), end))
            self._heard.notify_all()


class _Side(asyncio.Protocol):
    """One of the two TCP connections of a relayed one: with the client, or with the server."""

    transport: asyncio.Transport

    def __init__(self, tap: Tap, peer: Peer, other: _Side | None = None) -> None:
        self.tap = tap
        self.peer: Peer = peer
        self.other = other
        self.connection: int = other.connection if other else 0
        self.ended = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.tap._open.add(self)
        self.tap._quiet.clear()
        if self.peer == "client":
            self.connection = self.tap._count()
            transport.pause_reading()
            connecting = asyncio.get_running_loop().create_task(self._connect())
            self.tap._connecting.add(connecting)
            connecting.add_done_callback(self.tap._connecting.discard)
        elif self.other is not None:
            self.other.other = self
            self.other.transport.resume_reading()
            if self.other.lost:
                self.abort()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(
                lambda: _Side(self.tap, "server", self), "127.0.0.1", self.tap.target
            )
        except OSError:  # no server there: the client sees what it would see without the tap
            self.abort()

    def data_received(self, data: bytes) -> None:
        self.tap._note(self.connection, self.peer, data)
        assert self.other is not None
        if not self.other.lost:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        self.tap._note(self.connection, self.peer, b"", "FIN")
        assert self.other is not None
        self.ended = True
        if not self.other.lost:
            self.other.transport.write_eof()
        if self.other.ended:
            self.transport.close()
            self.other.transport.close()
        return True  # the other direction may go on

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.tap._open.discard(self)
        if not self.tap._open:
            self.tap._quiet.set()
        if self.other is not None and not self.other.lost:
            if error is None:
                self.other.transport.close()
            else:
                self.tap._note(self.connection, self.peer, b"", "RST")
                self.other.abort()

    def abort(self) -> None:
        """End this connection with a reset, whatever still waits to be sent."""
        if not self.lost:
            sock = self.transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def pause_writing(self) -> None:
        if self.other is not None and not self.other.lost:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.lost:
            self.other.transport.resume_reading()


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
