"""A tap passes on and records every byte, and is otherwise not there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import random
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import DEADLINE, Belongings, eventually
from test_server import WebSockets as WebSocketsKind
from test_server import open_websocket, over_http, start
from websockets.sync.client import ClientConnection, connect

from helpers import faults, serve, tap
from helpers.tap import SETTLE, Recording, Tap

Handle = Callable[[socket.socket], object]


@contextlib.contextmanager
def listening(handle: Handle) -> Iterator[int]:
    """A server made of plain sockets: a thread for each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def accept() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                sock, _ = listener.accept()
                sock.settimeout(DEADLINE)
                thread = threading.Thread(target=answer, args=(sock,))
                threads.append(thread)
                thread.start()

    def answer(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            handle(sock)

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(DEADLINE)
        listener.close()
        for thread in threads:
            thread.join(DEADLINE)


@contextlib.contextmanager
def client(wire: Tap) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", wire.port), timeout=DEADLINE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def reset(sock: socket.socket) -> None:
    """Close a connection with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def said(wire: Tap, sender: str, connection: int = 1) -> bytes:
    return b"".join(
        c.data for c in wire.recording if c.sender == sender and c.connection == connection
    )


def ends(wire: Tap) -> list[tuple[str, str]]:
    return [(chunk.sender, chunk.end) for chunk in wire.recording if chunk.end]


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Pages of some length, and a stream of ten events."""
    if scope["type"] != "http":
        return
    events = scope["path"] == "/events"
    kind = b"text/event-stream" if events else b"text/plain"
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
    await send(start)
    for number in range(10 if events else 0):
        body = f"id: {number}\ndata: {'x' * number}\n\n".encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep(0)
    body = b"" if events else b"y" * 3000
    await send({"type": "http.response.body", "body": body})


# What the kernel counts: struct tcp_info of linux/tcp.h. The offsets are part of the kernel's promise to programs: 8 bytes of
# small fields, then 24 fields of 4 bytes (`tcpi_unacked` is the fifth), then 8 bytes each: `tcpi_pacing_rate`,
# `tcpi_max_pacing_rate`, `tcpi_bytes_acked`, `tcpi_bytes_received`.
UNACKED, ACKED, RECEIVED = 24, 120, 128


def counted(sock: socket.socket) -> tuple[int, int]:
    """Return how many bytes the kernel has sent and received for a client, once everything is acknowledged."""
    seen: dict[str, int] = {}

    def acknowledged() -> bool:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        seen["unacked"] = struct.unpack_from("=I", info, UNACKED)[0]
        seen["acked"], seen["received"] = struct.unpack_from("=QQ", info, ACKED)
        return seen["unacked"] == 0

    assert eventually(acknowledged)
    return seen["acked"] - 1, seen["received"]  # the SYN of the client counts as a byte


def talk_http(wire: Tap) -> tuple[int, int]:
    connection = http.client.HTTPConnection("127.0.0.1", wire.port, timeout=DEADLINE)
    for number in range(5):
        connection.request("POST", f"/{number}", body=b"z" * number)
        assert len(connection.getresponse().read()) == 3000
    try:
        return counted(connection.sock)
    finally:
        connection.close()


def talk_websocket(wire: Tap) -> tuple[int, int]:
    with open_through(wire) as connection:
        for size in (1, 125, 126, 70000):
            connection.send(b"m" * size)
            assert connection.recv(timeout=DEADLINE) == b"m" * size
        connection.ping().wait(DEADLINE)
        return counted(connection.socket)


def talk_sse(wire: Tap) -> tuple[int, int]:
    with client(wire) as sock:
        sock.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert read_all(sock).count(b"data:") == 10
        sent, received = counted(sock)
        return sent, received - 1  # the FIN of the server counts as a byte


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels count elsewhere")
@pytest.mark.parametrize("talk", [talk_http, talk_websocket, talk_sse])
def test_a_tap_counts_what_the_kernel_counts(talk: Callable[[Tap], tuple[int, int]]) -> None:
    """The difference is 0, both ways."""

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    server = serve(echo if talk is talk_websocket else application, name="server")
    with tap(server) as wire:
        sent, received = talk(wire)
    if (
        talk is talk_websocket
    ):  # it says goodbye after the count: 4 bytes each, and the client's mask
        sent, received = sent + 8, received + 4
    assert wire.recording.bytes("client") == sent > 0
    assert wire.recording.bytes("server") == received > 0
    assert wire.recording.bytes() == sent + received


@pytest.mark.parametrize(("size", "slice_size"), [(1_000_000, 65536), (30_000, 3)])
def test_content_is_untouched_both_ways_at_once(size: int, slice_size: int) -> None:
    source = random.Random(1)
    up, down = source.randbytes(size), source.randbytes(size)
    heard: list[bytes] = []

    def send(sock: socket.socket, data: bytes) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, size, slice_size):
            sock.sendall(data[at : at + slice_size])
        sock.shutdown(socket.SHUT_WR)

    def both(sock: socket.socket, data: bytes) -> bytes:
        sender = threading.Thread(target=send, args=(sock, data))
        sender.start()
        received = read_all(sock)
        sender.join(DEADLINE)
        return received

    with listening(lambda sock: heard.append(both(sock, down))) as port:
        with tap(port) as wire, client(wire) as sock:
            received = both(sock, up)
        digests = [hashlib.sha256(data).hexdigest() for data in (up, down)]
        assert eventually(lambda: heard)
        assert [hashlib.sha256(data).hexdigest() for data in (heard[0], received)] == digests
        recorded = [said(wire, "client"), said(wire, "server")]
        assert [hashlib.sha256(data).hexdigest() for data in recorded] == digests
    assert sorted(ends(wire)) == [("client", "FIN"), ("server", "FIN")]


def test_one_side_may_end_while_the_other_goes_on() -> None:
    def answer(sock: socket.socket) -> None:
        question = read_all(sock)
        sock.sendall(b"you said " + question)

    with listening(answer) as port, tap(port) as wire, client(wire) as sock:
        sock.sendall(b"everything")
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"you said everything"
    assert [(c.sender, c.data, c.end) for c in wire.recording] == [
        ("client", b"everything", ""),
        ("client", b"", "FIN"),
        ("server", b"you said everything", ""),
        ("server", b"", "FIN"),
    ]


def test_a_late_word_to_a_server_that_has_closed_leaves_nothing_open() -> None:
    with (
        listening(lambda sock: None) as port,
        tap(port) as wire,
        faults.slicer(wire, 4),
        client(wire) as sock,
    ):
        assert sock.recv(1) == b""
        sock.sendall(b"late")  # which the server's system answers with a reset
        wire.wait_for(lambda heard: heard.bytes("client") == 4 and not heard.lost())
        sock.shutdown(socket.SHUT_WR)
        assert wire.settle()


def test_a_server_that_is_not_there_is_not_there_through_the_tap() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
    with tap(port) as wire:
        for _ in range(20):
            with pytest.raises(ConnectionResetError), client(wire) as sock:
                sock.recv(1)
        with pytest.raises(ConnectionError):
            over_http(wire, "nonce")
    assert wire.recording.connections == 21
    assert wire.recording.bytes() == 0


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_is_passed_on_and_recorded(who: str) -> None:
    met: list[str] = []
    ready = threading.Event()

    def handle(sock: socket.socket) -> None:
        assert sock.recv(5) == b"hello"
        sock.sendall(b"hello")
        if who == "server":
            assert ready.wait(DEADLINE)
            reset(sock)
            return
        try:
            sock.recv(1)
        except ConnectionResetError:
            met.append("reset")

    with listening(handle) as port:
        with tap(port) as wire, client(wire) as sock:
            sock.sendall(b"hello")
            assert sock.recv(5) == b"hello"
            ready.set()
            if who == "client":
                reset(sock)
                assert eventually(lambda: met)
            else:
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)
        assert ends(wire) == [(who, "RST")]
    assert wire.recording.bytes() == 10


def test_a_client_that_does_not_read_stops_the_server_not_the_memory() -> None:
    """What waits in the tap is bounded, and nothing is lost when the client reads after all."""
    data = random.Random(2).randbytes(1 << 20) * 40
    stuck, finished = threading.Event(), threading.Event()

    def flood(sock: socket.socket) -> None:
        sock.setblocking(False)
        at = 0
        while at < len(data):
            _, writable, _ = select.select([], [sock], [], 0.25)
            if not writable:
                stuck.set()
                select.select([], [sock], [], DEADLINE)
            at += sock.send(data[at : at + (1 << 18)])
        finished.set()

    with listening(flood) as port, tap(port) as wire, client(wire) as sock:
        assert stuck.wait(DEADLINE)
        assert not finished.is_set()
        waiting = sum(side.transport.get_write_buffer_size() for side in wire._open)
        assert 0 < waiting < 1 << 20
        assert wire.recording.bytes() < len(data) - (1 << 20)
        received = read_all(sock)
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
    assert wire.recording.bytes("server") == len(data)


def test_a_server_that_does_not_read_stops_the_client() -> None:
    data = b"x" * (1 << 20) * 40
    read = threading.Event()
    sizes: list[int] = []

    def lazy(sock: socket.socket) -> None:
        assert read.wait(DEADLINE)
        sizes.append(len(read_all(sock)))

    with listening(lazy) as port, tap(port) as wire, client(wire) as sock:
        sock.setblocking(False)
        at = 0
        while select.select([], [sock], [], 0.25)[1]:
            at += sock.send(data[at : at + (1 << 18)])
        assert at < len(data)
        waiting = sum(side.transport.get_write_buffer_size() for side in wire._open)
        assert 0 < waiting < 1 << 20
        read.set()
        sock.settimeout(DEADLINE)
        sock.sendall(data[at:])
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""
    assert sizes == [len(data)] == [wire.recording.bytes("client")]


def test_the_recording_is_complete_when_the_block_ends() -> None:
    """Fifty clients that say something and are gone before it can have arrived."""
    heard: list[bytes] = []

    def listen(sock: socket.socket) -> None:
        heard.append(read_all(sock))

    with listening(listen) as port:
        for number in range(50):
            with tap(port) as wire, client(wire) as sock:
                sock.sendall(b"%d" % number * 1000)
            assert said(wire, "client") == b"%d" % number * 1000
            assert ends(wire) == [("client", "FIN"), ("server", "FIN")]
        assert eventually(lambda: len(heard) == 50)


def test_connections_are_numbered_and_times_rise() -> None:
    def echo(sock: socket.socket) -> None:
        while data := sock.recv(100):
            sock.sendall(data)

    before = time.monotonic()
    with listening(echo) as port, tap(port) as wire, contextlib.ExitStack() as clients:
        socks = [clients.enter_context(client(wire)) for _ in range(3)]
        assert eventually(lambda: wire.recording.connections == 3)
        for word in (b"first", b"second"):
            for sock in reversed(socks):
                sock.sendall(word)
                assert sock.recv(100) == word
    order = [(c.connection, c.sender) for c in wire.recording if c.data]
    assert order == [(n, who) for n in (3, 2, 1) * 2 for who in ("client", "server")]
    times = [chunk.at for chunk in wire.recording]
    assert times == sorted(times)
    assert before < times[0] < times[-1] < time.monotonic()
    assert len(times) == 12 + 6


def test_a_recording_is_a_list_of_chunks_that_says_what_it_holds() -> None:
    with (
        listening(lambda sock: sock.sendall(sock.recv(100) + b"!")) as port,
        tap(port) as wire,
        client(wire) as sock,
    ):
        sock.sendall(b"hello")
        read_all(sock)
    recording = wire.recording
    assert len(recording) == len(list(recording)) == 4
    assert recording[0].data == b"hello"
    assert [chunk.data for chunk in recording[:2]] == [b"hello", b"hello!"]
    assert (recording.bytes(), recording.bytes("client"), recording.bytes("server")) == (11, 5, 6)
    assert repr(recording) == (
        "<Recording: 1 connections, 5 bytes from clients, 6 from the server>"
    )


def test_a_recording_can_be_waited_for() -> None:
    """What the cell does next goes past the tap, and would now and then come first."""
    with listening(read_all) as port, tap(port) as wire, client(wire) as sock:
        wire.wait_for(lambda heard: heard.connections == 1)
        for number in range(10):
            sock.sendall(b"hello")
            wire.wait_for(lambda heard, size=5 * number + 5: heard.bytes("client") == size)
        wire.wait_for(lambda heard: heard[0].sender == "client", timeout=0)


@pytest.mark.parametrize("what", ["bytes", "connection", "end"])
def test_who_waits_for_a_recording_is_woken(what: str) -> None:
    """By whatever it can hear; the deadline is far."""
    conditions: dict[str, Callable[[Recording], object]] = {
        "bytes": lambda heard: heard.bytes("client") == 5,
        "connection": lambda heard: heard.connections == 2,
        "end": lambda heard: heard[-1:] and heard[-1].end == "FIN",
    }
    with listening(read_all) as port, tap(port) as wire, client(wire) as sock:
        wire.wait_for(lambda heard: heard.connections == 1)
        with ThreadPoolExecutor() as pool, contextlib.ExitStack() as more:
            waiting = pool.submit(wire.wait_for, conditions[what], timeout=2 * DEADLINE)
            assert not waiting.done()
            if what == "bytes":
                sock.sendall(b"hello")
            elif what == "connection":
                more.enter_context(client(wire))
            else:
                sock.shutdown(socket.SHUT_WR)
            waiting.result(DEADLINE)


def test_waiting_for_a_recording_has_a_deadline() -> None:
    """It says what was heard; an error in the condition is the caller's."""
    with listening(read_all) as port, tap(port) as wire, client(wire) as sock:
        sock.sendall(b"hello")
        wire.wait_for(lambda heard: heard.bytes() == 5)
        with pytest.raises(TimeoutError) as late:
            wire.wait_for(lambda heard: heard.bytes() > 5, timeout=0.05)
        with pytest.raises(IndexError):
            wire.wait_for(lambda heard: heard[1])
    assert str(late.value) == (
        "The recording did not meet the condition within 0.05 s: "
        "<Recording: 1 connections, 5 bytes from clients, 0 from the server>"
    )


def test_a_tap_says_where_it_is() -> None:
    server, _ = start(WebSocketsKind())
    with tap(server) as wire:
        assert wire.target == server.port != wire.port
        assert wire.url("/room") == f"http://127.0.0.1:{wire.port}/room"
        assert wire.ws_url("/room") == f"ws://127.0.0.1:{wire.port}/room"
        assert wire.url() == f"http://127.0.0.1:{wire.port}/"
        assert wire.ws_url() == f"ws://127.0.0.1:{wire.port}/"
        empty = "<Recording: 0 connections, 0 bytes from clients, 0 from the server>"
        assert repr(wire) == (f"<tap on port {wire.port} in front of port {server.port}: {empty}>")
    assert repr(wire) == f"<tap stopped in front of port {server.port}: {empty}>"


def test_a_tap_ends_with_its_block_whoever_is_still_connected(
    belongings: Callable[[], Belongings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tap.stop, "__defaults__", (0.1,))  # the patience, 2 s
    before = belongings()
    with (
        listening(lambda sock: sock.sendall(sock.recv(5)) or sock.recv(1)) as port,
        contextlib.ExitStack() as clients,
    ):
        wire = tap(port)
        socks = [clients.enter_context(client(wire)) for _ in range(5)]
        for sock in socks:
            sock.sendall(b"hello")
            assert sock.recv(5) == b"hello"
        assert wire.settle(0.01) is False
        wire.stop()
        for sock in socks:
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", wire.port), timeout=DEADLINE)
        wire.stop()
    assert wire.recording.bytes() == 50
    assert eventually(lambda: not belongings().more_than(before))


def test_a_block_that_fails_does_not_wait() -> None:
    started = time.monotonic()
    with (
        contextlib.ExitStack() as clients,
        listening(lambda sock: sock.recv(1)) as port,
        pytest.raises(ZeroDivisionError),
        tap(port) as wire,
    ):
        raise clients.enter_context(client(wire)) and ZeroDivisionError
    assert time.monotonic() - started < SETTLE / 2


def open_through(wire: Tap) -> ClientConnection:
    return connect(wire.ws_url(), proxy=None, compression=None)


def test_a_tap_of_a_server_that_stops_is_no_trouble() -> None:
    server, _ = start(WebSocketsKind())
    with tap(server) as wire, open_websocket(server) as direct, open_through(wire) as tapped:
        for each in (tapped, direct):
            each.send("nonce")
            assert each.recv(timeout=DEADLINE) == "one"
        server.stop()
        assert wire.settle(DEADLINE)
    assert ends(wire)


def test_taps_can_be_put_in_a_row() -> None:
    server, _ = start(WebSocketsKind())
    with tap(server) as inner, tap(inner.port) as outer, open_through(outer) as connection:
        connection.send("nonce")
        assert connection.recv(timeout=DEADLINE) == "one"
    assert said(inner, "client") == said(outer, "client")
    assert said(inner, "server") == said(outer, "server")


def test_answers_through_a_tap_do_not_wait_for_acknowledgements() -> None:
    """With Nagle's algorithm on, each of twenty answers in two parts would be 40 ms late."""
    server, _ = start(WebSocketsKind())
    seconds = []
    for _ in range(3):
        with (
            tap(server) as wire,
            open_through(wire) as connection,
        ):
            started = time.monotonic()
            for _ in range(20):
                connection.send("twice")
                assert [connection.recv(timeout=DEADLINE) for _ in range(2)] == ["one"] * 2
            seconds.append(time.monotonic() - started)
    assert min(seconds) < 20 * 0.040 / 5


def test_clients_that_leave_at_once_leave_nothing() -> None:
    """Connections that end or are reset while the tap still connects to the server."""
    with listening(lambda sock: read_all(sock)) as port, tap(port) as wire:
        for number in range(60):
            sock = socket.create_connection(("127.0.0.1", wire.port), timeout=DEADLINE)
            if number % 2:
                reset(sock)
            else:
                sock.close()
        assert eventually(lambda: wire.recording.connections == 60)
        assert wire.settle(DEADLINE)


def test_fifty_stops_while_clients_connect_leave_no_socket() -> None:
    with listening(lambda sock: read_all(sock)) as port:
        for _ in range(50):
            wire = tap(port)
            with contextlib.ExitStack() as clients:
                for _ in range(5):
                    clients.enter_context(client(wire))
                wire.stop(0)
            assert wire._open == set()
