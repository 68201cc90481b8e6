"""Many clients of one server, which read all that comes and remember it, for notebooks that send one message to many."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from .background import Background
from .log import Log

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from .server import Server
    from .tap import Tap


class Crowd:
    """Clients that are connected, and read, until `stop`. Treat it as a context manager to have them leave.

    Attributes:
        received: for each client the messages that it has got, in order.
    """

    def __init__(self, server: Server | Tap, size: int, path: str, options: dict[str, Any]) -> None:
        self.received: list[list[str | bytes]] = [[] for _ in range(size)]
        self._server = server
        self._url = server.ws_url(path)
        self._options = {
            "compression": None,
            "proxy": None,
            "user_agent_header": None,
            "close_timeout": 0.5,
            **options,
        }
        self._background = Background(self._reading(), name="a crowd of clients", log=Log())

    @property
    def counts(self) -> list[int]:
        """How many messages each client has got so far."""
        return [len(messages) for messages in self.received]

    def wait(self, count: int, timeout: float = 10.0) -> None:
        """Wait until each client has got so many messages.

        Args:
            count: how many, since the client came.
            timeout: seconds to wait.

        Raises:
            TimeoutError: some client did not get them in time.
        """
        deadline = time.monotonic() + timeout
        while min(self.counts, default=count) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"Not every client got {count} messages within {timeout:g} s: {self.counts}"
                )
            time.sleep(0.001)

    def feed(
        self,
        publish: Callable[[str], Awaitable[object]],
        messages: Sequence[str],
        *,
        burst: int = 20,
        timeout: float = 1.0,
    ) -> None:
        """Publish messages on the server's own loop, in bursts; the next burst waits until each client has the one before.

        So clients that read are never behind by more than a burst, however busy the machine is.

        Args:
            publish: what the server does with one message, awaited for one after the other.
            messages: what to publish, in order.
            burst: how many messages without a pause.
            timeout: seconds that publishing a burst may take.

        Raises:
            TypeError: these are the clients of a tap, which has nothing to publish on.
            TimeoutError: a burst was not published in time, or did not reach each client within five seconds.
        """

        from .server import Server

        if not isinstance(self._server, Server):
            raise TypeError("A tap cannot publish: make this a crowd of the server itself.")

        async def publish_all(part: Sequence[str]) -> None:
            for message in part:
                await publish(message)

        before = min(self.counts, default=0)
        for start in range(0, len(messages), burst):
            part = messages[start : start + burst]
            self._server.run(publish_all(part), timeout)
            self.wait(before + start + len(part))

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        from websockets.asyncio.client import ClientConnection, connect

        async def read(client: ClientConnection, messages: list[str | bytes]) -> None:
            while (
                True
            ):  # until the connection is closed, which is an exception that the end collects
                messages.append(await client.recv())

        clients: list[ClientConnection] = []
        readers: list[asyncio.Task[None]] = []
        try:
            for messages in self.received:
                clients.append(await connect(self._url, **self._options))
                readers.append(asyncio.create_task(read(clients[-1], messages)))
            yield
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, *(c.close() for c in clients), return_exceptions=True)

    def stop(self) -> None:
        """Let every client say goodbye. Stopping twice is safe."""
        self._background.stop()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{len(self.received)} clients of {self._url}>"


def crowd(server: Server | Tap, size: int, path: str = "/", **options: Any) -> Crowd:
    """Connect many clients to a server; they read all that comes, on an event loop in a thread of their own.

    Args:
        server: a server that speaks WebSocket, or a tap in front of it.
        size: how many clients.
        path: the path that they ask for, from `/`.
        options: what else `websockets.connect` understands; without any, they offer no compression.

    Returns:
        The clients, when all of them are connected. The server's handlers may not have begun yet.

    Raises:
        OSError: there was no connection.
        websockets.exceptions.InvalidHandshake: the server did not switch to WebSocket.
        TimeoutError: not all were connected within ten seconds.
    """
    clients = Crowd(server, size, path, options)
    clients._background.start()
    return clients


def small_send_buffer(connection: ServerConnection, size: int = 65_536) -> None:
    """Let the system buffer little of what a server sends on a connection, so that a client that does not read is felt soon.

    Left alone, Linux lets this buffer grow to megabytes.

    Args:
        connection: the server's end, in its handler.
        size: bytes to ask for, 65,536 by default; Linux takes twice as many, for what it needs itself (`socket(7)`).
    """
    sock = connection.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def raise_file_limit(count: int) -> int:
    """Make sure that this process may open so many files, sockets included, and return how many it may.

    A process may raise its own soft limit as far as the hard limit (`setrlimit(2)`); processes that it starts inherit it.

    Args:
        count: how many files the process wants to have open.

    Raises:
        RuntimeError: the hard limit of this machine is lower.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            raise RuntimeError(
                f"This machine lets a process open {hard:,} files, and {count:,} are needed. That limit came first: "
                "see 'ulimit -Hn' in a terminal."
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
        soft = count
    return soft
