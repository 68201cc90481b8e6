"""How long updates take and what they cost, over each transport: real clients in a process of their own, paced by a clock.

A client that shares the interpreter with its server, or with a cell, waits for both: up to five milliseconds a message. So the
server is one process, the client another, and the kernel only relays what they say to each other and counts it.
"""

from __future__ import annotations

import contextlib
import html
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

    from .apps.updates import Schedule

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


@dataclass(frozen=True)
class Run:
    """What one client measured over one transport."""

    transport: str
    latencies: list[float] = field(repr=False)
    """Milliseconds from when each update was due until the client had it, in the order of arrival."""
    up: int
    """Bytes from the client, as counted on the wire."""
    down: int
    """Bytes from the server."""
    connections: int
    """TCP connections that the client opened."""
    requests: int
    """HTTP requests, the handshake of a WebSocket included."""

    @property
    def updates(self) -> int:
        """How many updates arrived."""
        return len(self.latencies)

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
    runs: dict[str, Run] = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            serve("helpers.apps.updates:app", name="updates", process=True)
        )
        taps = {transport: tap(server) for transport in transports}
        for wire in taps.values():
            stack.callback(wire.stop, 0.0)
        job = {
            "what": what,
            "count": count,
            "rate": rate,
            "ports": {t: wire.port for t, wire in taps.items()},
        }
        command = [sys.executable, "-m", "helpers.measure", json.dumps(job)]
        client = stack.enter_context(Child(command, name="the measuring client"))
        with progress(
            f"{count:,} {what} over {len(transports)} transports", len(transports)
        ) as done:
            for number, transport in enumerate(transports):
                latencies = _result(client, timeout=10 + 2 * count / rate)
                taps[transport].stop()
                runs[transport] = _run(transport, latencies, taps[transport].recording)
                done(number + 1)
    return runs


def _result(client: Any, timeout: float) -> list[float]:
    found: list[str] = []

    def ready() -> bool:
        line = client.log.take(_RESULT)
        if line is not None:
            found.append(line.removeprefix(_RESULT))
        return bool(found)

    client.wait_until(ready, timeout)
    return [float(value) for value in json.loads(found[0])]


def _run(transport: str, latencies: list[float], recording: Any) -> Run:
    import h11

    from .decode import decode

    requests = sum(isinstance(message.parsed, h11.Request) for message in decode(recording))
    up, down = recording.bytes("client"), recording.bytes("server")
    return Run(transport, latencies, up, down, recording.connections, requests)


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

    handle = display(bundle(0), raw=True, display_id=True)
    yield lambda done: handle.update(bundle(done), raw=True)


# What follows runs in the client's process.

_RESULT = "result "


def _main(job: dict[str, Any]) -> None:
    from .apps.updates import Schedule

    clients = {
        "polling": _polls("/poll", POLL_INTERVAL),
        "long polling": _polls("/long-poll", 0),
        "SSE": _sse,
        "WebSocket": _websocket,
        "Socket.IO on polling": _socketio("polling"),
        "Socket.IO on websocket": _socketio("websocket"),
    }
    for transport, port in job["ports"].items():
        start = time.monotonic_ns() + 100_000_000  # time to connect
        schedule = Schedule(start, job["rate"], job["count"])
        arrivals = clients[transport](port, schedule, job["what"] == "round trips")
        if len(arrivals) != schedule.count:
            raise RuntimeError(
                f"{len(arrivals)} of {schedule.count} updates arrived over {transport}."
            )
        latencies = [1e3 * (at - schedule.when(number)) for number, at in enumerate(arrivals)]
        print(_RESULT + json.dumps([round(latency, 3) for latency in latencies]), flush=True)


def _query(schedule: Schedule) -> str:
    return f"start={schedule.start:020d}&rate={schedule.rate}&count={schedule.count}"


def _client(port: int) -> httpx.Client:
    import httpx

    return httpx.Client(
        base_url=f"http://127.0.0.1:{port}",
        trust_env=False,
        timeout=10,
        headers={"User-Agent": "workbook"},
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
    name = f"client={schedule.start}&count={schedule.count}"
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
                lines = http.get(f"{path}?{query}&after={len(arrivals)}").text.splitlines()
                arrivals += [time.monotonic()] * len(lines)
                if interval and len(arrivals) < schedule.count:
                    time.sleep(interval)
        return arrivals

    return client


def _sse(port: int, schedule: Schedule, echo: bool) -> list[float]:
    arrivals: list[float] = []
    with _posting(port, schedule, echo) as query, _client(port) as http:
        with http.stream("GET", f"/sse?{query}") as response:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    arrivals.append(time.monotonic())
    return arrivals


def _websocket(port: int, schedule: Schedule, echo: bool) -> list[float]:
    from websockets.sync.client import connect

    arrivals: list[float] = []
    url = f"ws://127.0.0.1:{port}/" + ("" if echo else f"?{_query(schedule)}")
    with connect(url, compression=None, proxy=None, user_agent_header=None) as connection:
        with _saying(schedule, connection.send) if echo else contextlib.nullcontext():
            while len(arrivals) < schedule.count:
                connection.recv(timeout=10)
                arrivals.append(time.monotonic())
    return arrivals


def _socketio(transport: str) -> Callable[[int, Schedule, bool], list[float]]:
    def client(port: int, schedule: Schedule, echo: bool) -> list[float]:
        import socketio
        from engineio.payload import Payload

        # A poll brings what has gathered, and by default the client refuses an answer with more than 16 packets and hangs up.
        Payload.max_decode_packets = schedule.count
        arrivals: list[float] = []
        complete, ended = threading.Event(), threading.Event()
        connection = socketio.Client(handle_sigint=False, reconnection=False)

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
        return arrivals

    return client


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
