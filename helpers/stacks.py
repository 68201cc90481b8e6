"""The four stacks side by side: one small service on each, and one client for all, so that what differs is the server.

The client is plain bytes on a socket (`byhand`), also for Socket.IO, whose packets are text in frames. A client library would
cost more than some of the servers do. It lives in the process that measures; the servers usually in processes of their own.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import selectors
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import byhand

if TYPE_CHECKING:
    from .server import Server
    from .tap import Tap


@dataclass(frozen=True)
class Stack:
    """One way to build the service: `helpers.apps.stacks`."""

    name: str
    application: str
    """What `serve(…, process=True)` takes."""
    path: str
    """Where a client asks for the connection."""
    socketio: bool
    """Whether what is said travels in Socket.IO's packets."""
    options: Mapping[str, Any]
    """Further options of its server: none compresses."""

    def packet(self, text: str) -> bytes:
        """Return what a client says, as a frame."""
        event = json.dumps(["say", text], separators=(",", ":"))
        return byhand.frame(f"42{event}" if self.socketio else text)


_SOCKETIO = "/socket.io/?EIO=4&transport=websocket"
_PLAIN = {"ws_per_message_deflate": False}

STACKS = {
    stack.name: stack
    for stack in (
        Stack("websockets", "helpers.apps.stacks.plain:app", "/", False, {"compression": None}),
        Stack("Channels", "helpers.apps.stacks.consumers:app", "/", False, _PLAIN),
        Stack("Flask-SocketIO", "helpers.apps.stacks.flask_app:app", _SOCKETIO, True, {}),
        Stack("python-socketio", "helpers.apps.stacks.asgi_app:app", _SOCKETIO, True, _PLAIN),
    )
}
"""The four, by name: the library `websockets`, Channels on uvicorn, Flask-SocketIO on Werkzeug, python-socketio on uvicorn."""


def start(
    stack: Stack,
    *,
    name: str | None = None,
    process: bool = True,
    env: Mapping[str, str] | None = None,
) -> Server:
    """Serve the service on one stack.

    Args:
        stack: one of `STACKS`.
        name: what to call the server; the stack's name by default.
        process: whether in a process of its own, as by default, or in this one.
        env: variables that its process gets besides (see `helpers.apps.stacks`).
    """
    from .server import serve

    application: Any = stack.application
    if not process:
        module, _, attribute = stack.application.partition(":")
        application = getattr(importlib.import_module(module), attribute)
    options = {"process": process, "env": env, **stack.options}
    return serve(application, name=name or stack.name, **options)


class Client:
    """A client of one stack. Close it, or treat it as a context manager.

    Args:
        stack: one of `STACKS`.
        where: its server, or a tap in front of it.
    """

    def __init__(self, stack: Stack, where: Server | Tap) -> None:
        self._stack = stack
        self._connection = byhand.handshake(where.port, stack.path)
        try:
            if stack.socketio:
                self._expect("0")
                self._connection.send(byhand.frame("40"))
                self._expect("40")
        except BaseException:
            self._connection.close()
            raise

    def _expect(self, start: str) -> str:
        while (frame := self._connection.read()) is not None:
            if frame.opcode == byhand.CLOSE:
                break
            text = frame.payload.decode()
            if text == "2" and self._stack.socketio:  # Engine.IO's ping
                self._connection.send(byhand.frame("3"))
            elif frame.opcode == byhand.PING:
                self._connection.send(byhand.frame(frame.payload, byhand.PONG))
            elif frame.opcode == byhand.TEXT and text.startswith(start):
                return text
        raise ConnectionError(f"{self._stack.name} closed the connection.")

    def fileno(self) -> int:
        """Return the descriptor of the socket, for `select`."""
        return self._connection.stream.fileno()

    def say(self, text: str) -> None:
        """Say something, without waiting."""
        self._connection.send(self._stack.packet(text))

    def hear(self) -> str:
        """Wait for the next thing that is said, and return it."""
        if not self._stack.socketio:
            return self._expect("")
        return str(json.loads(self._expect("42")[2:])[1])

    def close(self) -> None:
        """Say goodbye and hang up, without waiting for an answer. Closing twice is safe."""
        with contextlib.suppress(OSError):
            self._connection.send(byhand.frame((1000).to_bytes(2), byhand.CLOSE))
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@contextlib.contextmanager
def clients(stack: Stack, where: Server | Tap, count: int) -> Iterator[list[Client]]:
    """Connect so many clients, one after the other; all hang up at the end.

    Args:
        stack: one of `STACKS`.
        where: its server, or a tap in front of it.
        count: how many.

    Yields:
        The clients, when the server has answered each of them.
    """
    with contextlib.ExitStack() as opened:
        yield [opened.enter_context(Client(stack, where)) for _ in range(count)]


def echo(client: Client, count: int, text: str = "x" * 64) -> list[float]:
    """Say something so many times, each time when the last has come back, and return how long each took.

    Args:
        client: who speaks; nobody else should.
        count: how many times.
        text: what to say, 64 characters by default.

    Returns:
        Milliseconds, in order. They hold no waiting in a queue: there is never more than one message on its way.
    """
    times = []
    for _ in range(count):
        before = time.perf_counter()
        client.say(text)
        heard = client.hear()
        times.append((time.perf_counter() - before) * 1e3)
        if heard != text:
            raise RuntimeError(f"Said {text!r}, and heard {heard!r}.")
    return times


def fan_out(everybody: Sequence[Client], count: int, *, timeout: float = 30.0) -> list[float]:
    """Let the first client say something to everybody, so many times, and return how long it took until the last had it.

    Args:
        everybody: the clients.
        count: how many messages, each when the last has reached everybody.
        timeout: seconds that each may take.

    Returns:
        Milliseconds, in order.

    Raises:
        TimeoutError: somebody did not get a message in time; the message says how many did.
    """
    times = []
    with selectors.DefaultSelector() as selector:
        for client in everybody:
            selector.register(client, selectors.EVENT_READ, client)
        for number in range(count):
            text = f"!{number}"
            waiting = set(everybody)
            before = time.perf_counter()
            everybody[0].say(text)
            while waiting:
                ready = selector.select(before + timeout - time.perf_counter())
                if not ready:
                    raise TimeoutError(
                        f"{len(everybody) - len(waiting)} of {len(everybody)} clients had message {number} "
                        f"after {timeout:g} s."
                    )
                for key, _ in ready:
                    client = key.data
                    if client.hear() == text:
                        waiting.discard(client)
            times.append((time.perf_counter() - before) * 1e3)
    return times


def message_bytes(stack: Stack, server: Server, text: str) -> tuple[int, int]:
    """Return how many bytes a text takes on the wire, to the server and back, counted at a tap.

    Args:
        stack: one of `STACKS`.
        server: its server.
        text: what to say; it comes back.
    """
    from .tap import tap

    with tap(server) as wire, Client(stack, wire) as client:
        echo(client, 1, text)  # and whatever a connection says first
        before = [wire.recording.bytes(sender) for sender in ("client", "server")]
        echo(client, 1, text)
        after = [wire.recording.bytes(sender) for sender in ("client", "server")]
    return after[0] - before[0], after[1] - before[1]


def memory(server: Server) -> int:
    """Return the bytes of memory that the process of a server has to itself (USS: what would be free if it ended).

    Args:
        server: a server in a process of its own.

    Raises:
        TypeError: the server lives in this process.
    """
    import psutil  # type: ignore[import-untyped]

    from .server import ProcessServer

    if not isinstance(server, ProcessServer):
        raise TypeError(
            f"{server.name} shares its memory with this kernel: start it with process=True."
        )
    guarded = psutil.Process(server.pid).children(recursive=True)
    return int(sum(process.memory_full_info().uss for process in guarded))
