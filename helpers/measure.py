"""How long updates take and what they cost, over each transport: real clients in a process of their own, paced by a clock.

A client that shares the interpreter with its server, or with a cell, waits for both: up to five milliseconds a message. So the
server is one process, the client another, and the kernel only relays what they say to each other. It decodes what it heard
later, when somebody asks: work beside a run would hold up the relay.
"""

from __future__ import annotations

import contextlib
import html
import json
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

    from .apps.updates import Schedule
    from .decode import Message
    from .process import Child
    from .tap import Recording

TRANSPORTS = (
    "polling",
    "long polling",
    "SSE",
    "WebSocket",
    "Socket.IO on polling",
    "Socket.IO on websocket",
)
"""The transports that `updates` and `round_trips` know, in the order in which the notebooks show them."""

POLL_INTERVAL = 0.05
"""Seconds between two polls."""

HEADERS = {"User-Agent": "workbook", "Accept-Encoding": "identity"}
"""What an HTTP client says of itself: the same bytes on every machine, whatever versions and compressions it has."""


@dataclass(frozen=True)
class Run:
    """What one client measured over one transport."""

    transport: str
    latencies: list[float] = field(repr=False)
    """Milliseconds from when each update was due until the client had it, in the order of arrival."""
    recording: Recording = field(repr=False)
    """Every byte that crossed the wire."""

    @property
    def updates(self) -> int:
        """How many updates arrived."""
        return len(self.latencies)

    @property
    def up(self) -> int:
        """Bytes from the client, as counted on the wire."""
        return self.recording.bytes("client")

    @property
    def down(self) -> int:
        """Bytes from the server."""
        return self.recording.bytes("server")

    @property
    def connections(self) -> int:
        """TCP connections that the client opened."""
        return self.recording.connections

    @cached_property
    def messages(self) -> list[Message]:
        """What the client and the server said, decoded."""
        from .decode import decode

        return decode(self.recording)

    @property
    def requests(self) -> int:
        """HTTP requests, the handshake of a WebSocket included."""
        import h11

        return sum(isinstance(message.parsed, h11.Request) for message in self.messages)

    @property
    def bytes_per_update(self) -> float:
        """Bytes on the wire, both ways, for each update that arrived."""
        return (self.up + self.down) / self.updates

    @property
    def p50(self) -> float:
        """The median latency, in milliseconds."""
        return percentile(self.latencies, 50)

    @property
    def p99(self) -> float:
        """The latency that 99 of 100 updates stayed below or at, in milliseconds."""
        return percentile(self.latencies, 99)

    @property
    def quiet(self) -> float:
        """The median of the quietest tenth of the run, in milliseconds: a busy machine adds time, and never takes any away."""
        size = math.ceil(self.updates / 10)
        starts = range(0, self.updates, size)
        return min(percentile(self.latencies[start : start + size], 50) for start in starts)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of 100 values do not exceed (the nearest rank).

    Example:
        >>> percentile([5, 1, 4, 2, 3], 50)
        3
        >>> percentile([5, 1, 4, 2, 3], 99)
        5
    """
    if not values:
        raise ValueError("There is no percentile of no values.")
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def updates(
    transports: Sequence[str] = TRANSPORTS, *, count: int = 1000, rate: int = 1000
) -> dict[str, Run]:
    """Send the same updates to one client over each transport, one after the other.

    Args:
        transports: some of `TRANSPORTS`.
        count: how many updates.
        rate: updates a second, by the clock, whether or not the one before has arrived.

    Returns:
        A run for each transport.
    """
    return _measure("updates", transports, count, rate)


def round_trips(
    transports: Sequence[str] = TRANSPORTS, *, count: int = 200, rate: int = 250
) -> dict[str, Run]:
    """Let one client say something at a steady pace and hear it again, over each transport.

    Args:
        transports: some of `TRANSPORTS`; over the first three the client says it in a POST and hears it over the transport.
        count: how many messages.
        rate: messages a second, by the clock, whether or not the one before has come back.

    Returns:
        A run for each transport; its latencies are those of the whole way there and back.
    """
    return _measure("round trips", transports, count, rate)


def _measure(what: str, transports: Sequence[str], count: int, rate: int) -> dict[str, Run]:
    from .process import Child
    from .server import serve
    from .tap import tap

    unknown = [transport for transport in transports if transport not in TRANSPORTS]
    if unknown or not transports:
        raise ValueError(
            f"{unknown or 'Nothing'} cannot be measured; choose from {list(TRANSPORTS)}."
        )
    if count < 1 or rate < 1:
        raise ValueError(
            f"{count} {what} at {rate} a second cannot be measured; ask for at least 1."
        )
    runs: dict[str, Run] = {}
    with contextlib.ExitStack() as stack:
        # The client imports as much as the server does: they start side by side.
        command = [sys.executable, "-m", "helpers.measure"]
        client = stack.enter_context(Child(command, name="the measuring client"))
        server = stack.enter_context(
            serve("helpers.apps.updates:app", name="the measured server", process=True)
        )
        taps = {transport: tap(server) for transport in transports}
        for wire in taps.values():
            stack.callback(wire.stop, 0.0)
        ports = {transport: wire.port for transport, wire in taps.items()}
        job = {"what": what, "count": count, "rate": rate, "ports": ports}
        with socket.create_connection(("127.0.0.1", int(_said(client, _READY))), 5) as line:
            line.sendall(json.dumps(job).encode())
        with progress(
            f"{count:,} {what} over {len(transports)} transports", len(transports)
        ) as done:
            for number, transport in enumerate(transports):
                latencies = json.loads(_said(client, _RESULT, 10 + 2 * count / rate))
                taps[transport].stop()
                runs[transport] = Run(transport, latencies, taps[transport].recording)
                done(number + 1)
    return runs


def _said(client: Child, start: str, timeout: float = 30.0) -> str:
    """Wait for a line of the client that starts with a text, and return the rest of it."""
    lines: list[str] = []

    def ready() -> bool:
        line = client.log.take(start)
        if line is not None:
            lines.append(line.removeprefix(start))
        return bool(lines)

    client.wait_until(ready, timeout)
    return lines[0]


@contextlib.contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar for work that takes more than two seconds.

    Args:
        label: what is being done.
        total: how many steps it takes.

    Yields:
        A function to call with the number of steps done so far. Outside a notebook it shows nothing.
    """
    try:
        shell = get_ipython()  # type: ignore[name-defined]
    except NameError:
        shell = None
    if shell is None:
        yield lambda done: None
        return
    from IPython.display import display

    def bundle(done: int) -> dict[str, str]:
        bar = (
            f'<progress value="{done}" max="{total}" aria-label="{html.escape(label)}"></progress>'
        )
        return {
            "text/plain": f"{label}: {done} of {total}",
            "text/html": f"{bar} {html.escape(label)}: {done} of {total}",
        }

    handle: Any = display(bundle(0), raw=True, display_id=True)
    yield lambda done: handle.update(bundle(done), raw=True)


# What follows runs in the client's process.

_READY = "ready on port "
_RESULT = "result "


def _main() -> None:
    # Everything now, and nothing while the clock runs.
    import httpx  # noqa: F401
    import socketio  # noqa: F401
    import websocket  # noqa: F401
    import websockets.sync.client  # noqa: F401

    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"{_READY}{listener.getsockname()[1]}", flush=True)
        line, _ = listener.accept()
    with line, line.makefile() as text:
        job = json.load(text)
    sys.setswitchinterval(0.0005)  # who talks and who listens here are two threads
    for transport, port in job["ports"].items():
        latencies = _run(transport, port, job)
        print(_RESULT + json.dumps([round(latency, 3) for latency in latencies]), flush=True)


def _run(transport: str, port: int, job: dict[str, Any]) -> list[float]:
    from .apps.updates import Schedule

    start = time.monotonic_ns() + 50_000_000  # time to connect
    schedule = Schedule(start, job["rate"], job["count"])
    arrivals = _CLIENTS[transport](port, schedule, job["what"] == "round trips")
    if len(arrivals) != schedule.count:
        raise RuntimeError(f"{len(arrivals)} of {schedule.count} updates arrived over {transport}.")
    return [1e3 * (at - schedule.when(number)) for number, at in enumerate(arrivals)]


def _query(schedule: Schedule) -> str:
    return f"start={schedule.start:020d}&rate={schedule.rate}&count={schedule.count}"


def _client(port: int) -> httpx.Client:
    import httpx

    return httpx.Client(
        base_url=f"http://127.0.0.1:{port}",
        trust_env=False,
        timeout=10,
        headers=HEADERS,
    )


@contextlib.contextmanager
def _saying(schedule: Schedule, say: Callable[[str], object]) -> Iterator[None]:
    """Say the number of each message when it is due, in a thread."""

    def speak() -> None:
        for number in range(schedule.count):
            time.sleep(max(0.0, schedule.when(number) - time.monotonic()))
            say(f"{number:030d}")

    thread = threading.Thread(target=speak)
    thread.start()
    yield
    thread.join()


@contextlib.contextmanager
def _posting(port: int, schedule: Schedule, wanted: bool) -> Iterator[str]:
    """Return the query of a client's requests; say its messages in POST requests, if any are wanted."""
    if not wanted:
        yield _query(schedule)
        return
    name = f"client={schedule.start:020d}&count={schedule.count}"
    with (
        _client(port) as http,
        _saying(schedule, lambda text: http.post(f"/say?{name}", content=text)),
    ):
        yield name


def _polls(path: str, interval: float) -> Callable[[int, Schedule, bool], list[float]]:
    def client(port: int, schedule: Schedule, echo: bool) -> list[float]:
        arrivals: list[float] = []
        with _posting(port, schedule, echo) as query, _client(port) as http:
            time.sleep(max(0.0, schedule.when(0) - time.monotonic()))
            while len(arrivals) < schedule.count:
                answer = http.get(f"{path}?{query}&after={len(arrivals)}").raise_for_status()
                lines = answer.text.splitlines()
                arrivals += [time.monotonic()] * len(lines)
                if interval and len(arrivals) < schedule.count:
                    time.sleep(interval)
        return arrivals

    return client


def _sse(port: int, schedule: Schedule, echo: bool) -> list[float]:
    arrivals: list[float] = []
    with (
        _posting(port, schedule, echo) as query,
        _client(port) as http,
        http.stream("GET", f"/sse?{query}") as response,
    ):
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data:"):
                arrivals.append(time.monotonic())
    return arrivals


def _websocket(port: int, schedule: Schedule, echo: bool) -> list[float]:
    from websockets.sync.client import connect

    arrivals: list[float] = []
    url = f"ws://127.0.0.1:{port}/" + ("" if echo else f"?{_query(schedule)}")
    with (
        connect(url, compression=None, proxy=None, user_agent_header=None) as connection,
        _saying(schedule, connection.send) if echo else contextlib.nullcontext(),
    ):
        while len(arrivals) < schedule.count:
            connection.recv(timeout=10)
            arrivals.append(time.monotonic())
    return arrivals


def _socketio(transport: str) -> Callable[[int, Schedule, bool], list[float]]:
    def client(port: int, schedule: Schedule, echo: bool) -> list[float]:
        import requests

        from .inorder import Client  # so that no update comes after the end

        arrivals: list[float] = []
        complete, ended = threading.Event(), threading.Event()
        http = requests.Session()
        http.trust_env = False
        http.headers.update(HEADERS)
        connection = Client(handle_sigint=False, reconnection=False, http_session=http)

        def on_update(_: str) -> None:
            arrivals.append(time.monotonic())
            if len(arrivals) == schedule.count:
                complete.set()

        connection.on("update", on_update)
        connection.on("disconnect", lambda *reason: ended.set())
        connection.connect(f"http://127.0.0.1:{port}", transports=[transport])
        patience = 10 + schedule.count / schedule.rate
        if echo:
            with _saying(schedule, lambda text: connection.emit("say", text)):
                complete.wait(patience)
            connection.emit("leave")
        else:
            query = {"start": schedule.start, "rate": schedule.rate, "count": schedule.count}
            connection.emit("subscribe", query)
        if not ended.wait(patience):
            raise TimeoutError(f"The server did not end the connection over {transport}.")
        connection.eio.wait()
        http.close()
        return arrivals

    return client


_CLIENTS = {
    "polling": _polls("/poll", POLL_INTERVAL),
    "long polling": _polls("/long-poll", 0),
    "SSE": _sse,
    "WebSocket": _websocket,
    "Socket.IO on polling": _socketio("polling"),
    "Socket.IO on websocket": _socketio("websocket"),
}


if __name__ == "__main__":
    _main()
