"""Faults slow, hold and cut, and never change what is said: what arrives is a beginning of what was sent."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import http.client
import queue
import random
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import DEADLINE, Belongings, eventually
from test_tap import client, listening, read_all, reset, said
from websockets.exceptions import ConnectionClosedError, InvalidMessage, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from helpers import faults, serve, tap
from helpers.faults import During
from helpers.server import Server
from helpers.tap import HELD, Fault, Side, Tap

Begin = Callable[[Tap], During]

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade-Insecure-Requests: 1\r\nupgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


# Content


@dataclasses.dataclass
class Ear:
    """What one side has heard, held at every moment against what the other says."""

    expected: bytes
    heard: bytearray = dataclasses.field(default_factory=bytearray)
    looks: int = 0
    right: bool = True
    end: str = ""

    def listen(self, sock: socket.socket) -> None:
        try:
            while data := sock.recv(65536):
                self.right = self.right and self.expected.startswith(data, len(self.heard))
                self.heard += data
                self.looks += 1
            self.end = "FIN"
        except ConnectionResetError:
            self.end = "RST"


def talk(sock: socket.socket, says: bytes, ear: Ear, source: random.Random) -> None:
    """Say something in pieces of random size, end, and listen meanwhile."""

    def speak() -> None:
        at = 0
        with contextlib.suppress(OSError):  # cut
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while at < len(says):
                size = source.choice((1, 7, 100, 5000))
                sock.sendall(says[at : at + size])
                at += size
            sock.shutdown(socket.SHUT_WR)

    speaking = threading.Thread(target=speak)
    speaking.start()
    ear.listen(sock)
    speaking.join(DEADLINE)
    assert not speaking.is_alive()


class Conversation:
    """A client and a server that say random bytes to each other at once, through a tap, each to its end."""

    def __init__(
        self, wire: Tap, incoming: queue.Queue[Conversation], seed: int, size: int
    ) -> None:
        self.source = random.Random(seed)
        self.said = {who: self.source.randbytes(size) for who in ("client", "server")}
        self.ears = {"server": Ear(self.said["client"]), "client": Ear(self.said["server"])}
        self.over = threading.Event()
        incoming.put(self)
        self.number = wire.recording.connections + 1
        self.thread = threading.Thread(target=self.live, args=(wire,))
        self.thread.start()

    def live(self, wire: Tap) -> None:
        with contextlib.suppress(ConnectionResetError), client(wire) as sock:
            talk(sock, self.said["client"], self.ears["client"], random.Random(self.number))

    def answer(self, sock: socket.socket) -> None:
        talk(sock, self.said["server"], self.ears["server"], random.Random(-self.number))
        self.over.set()

    def check(self, wire: Tap, exactly: bool = True) -> int:
        """Hold what arrived against what was sent and what the recording says; return how often was looked."""
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()
        assert self.over.wait(DEADLINE)
        for who, other in (("client", "server"), ("server", "client")):
            ear, recorded = self.ears[other], said(wire, who, self.number)
            assert ear.right, f"what the {who} said arrived changed"
            assert self.said[who].startswith(recorded)
            lost = sum(
                c.lost
                for c in wire.recording
                if (c.connection, c.sender, c.end) == (self.number, who, "")
            )
            if exactly:
                assert len(ear.heard) == len(recorded) - lost
            assert len(ear.heard) <= len(recorded) - lost
        return sum(ear.looks for ear in self.ears.values())


@contextlib.contextmanager
def conversations() -> Iterator[tuple[Tap, Callable[[int, int], Conversation]]]:
    """A tap, and a function from a seed and a size to a conversation through it; one begins at a time."""
    incoming: queue.Queue[Conversation] = queue.Queue()

    def begin(seed: int, size: int) -> Conversation:
        before = wire.recording.connections
        conversation = Conversation(wire, incoming, seed, size)
        wire.wait_for(lambda heard: heard.connections > before, timeout=DEADLINE)
        assert eventually(incoming.empty)
        return conversation

    with (
        listening(lambda sock: incoming.get(timeout=DEADLINE).answer(sock)) as port,
        tap(port) as wire,
    ):
        yield wire, begin


def kinds(sender: Any) -> dict[str, Begin]:
    """Every fault that takes a sender, at a strength that a conversation of some thousand bytes meets in no time."""
    return {
        "latency": lambda wire: faults.latency(wire, 0.005, jitter=0.005, sender=sender),
        "bandwidth": lambda wire: faults.bandwidth(wire, 300_000, sender=sender),
        "slicer": lambda wire: faults.slicer(wire, 3, sender=sender),
        "limit_data": lambda wire: faults.limit_data(wire, 3001, sender=sender),
        "reset_peer": lambda wire: faults.reset_peer(wire, after=0.005, sender=sender),
        "black_hole": lambda wire: faults.black_hole(wire, sender=sender),
        "idle_cut": lambda wire: faults.idle_cut(wire, 0.02, sender=sender),
    }


CASES = [
    *((name, sender) for sender in (None, "client", "server") for name in kinds(None)),
    ("refuse_upgrade", None),
    ("swallow_upgrade", None),
]


def make(name: str, sender: Any) -> Begin:
    if "upgrade" in name:
        return getattr(faults, name)  # type: ignore[no-any-return]
    return kinds(sender)[name]


CUTS = {"limit_data", "reset_peer", "idle_cut"}


@pytest.mark.parametrize(("name", "sender"), CASES)
def test_what_arrives_is_a_beginning_of_what_was_sent(name: str, sender: Any) -> None:
    """Begun before a connection and in the middle of one; healed in the middle, and all goes on."""
    looks = 0
    with conversations() as (wire, begin):
        for seed in range(3):
            early = begin(seed, 8000) if seed else None
            with make(name, sender)(wire):
                late = begin(seed + 10, 8000)
                if name in CUTS:
                    assert late.over.wait(DEADLINE)
                else:
                    wire.wait_for(lambda heard, n=late.number: said(wire, "client", n))
            for conversation in filter(None, (early, late)):
                looks += conversation.check(wire, exactly=name not in CUTS)
                if name not in CUTS:
                    assert conversation.ears["server"].heard == conversation.said["client"]
                    assert conversation.ears["client"].heard == conversation.said["server"]
                    assert {ear.end for ear in conversation.ears.values()} == {"FIN"}
        assert wire.settle(DEADLINE)
    assert wire.recording.connections == 5
    assert looks >= (5 if name in CUTS else 10)
    if name not in CUTS:
        assert wire.recording.lost() == 0
        assert wire.recording.bytes() == 5 * 2 * 8000


@pytest.mark.parametrize("seed", range(10))
def test_a_campaign_of_faults_changes_nothing(seed: int) -> None:
    """Faults by chance, that begin and end by chance while five connections speak."""
    source = random.Random(seed)
    cut, begun = False, 0
    with conversations() as (wire, begin):
        talks = []
        for round_ in range(5):
            talks.append(begin(100 * seed + round_, 6000))
            with contextlib.ExitStack() as acting:
                for name, sender in source.sample(CASES, source.randint(1, 4)):
                    acting.enter_context(make(name, sender)(wire))
                    cut, begun = cut or name in CUTS, begun + 1
                time.sleep(source.uniform(0, 0.02))  # pacing: chance decides how far they come
        looks = sum(conversation.check(wire, exactly=not cut) for conversation in talks)
        assert wire.settle(DEADLINE)
    words = [chunk.event.split(":")[0] for chunk in wire.recording if chunk.connection == 0]
    assert (words.count("begins"), words.count("ends")) == (begun, begun)
    assert looks >= 5
    assert wire._tasks == set()


def echo(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


def receive(sock: socket.socket, size: int) -> bytes:
    """Read so many bytes, or what comes before the end."""
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def test_fifty_connections_at_once_meet_several_faults() -> None:
    """Each gets its own words back, in order."""
    with (
        listening(echo) as port,
        tap(port) as wire,
        contextlib.ExitStack() as clients,
        faults.latency(wire, 0.01, jitter=0.01),
        faults.slicer(wire, 7, sender="client"),
        faults.bandwidth(wire, 100_000, sender="server"),
    ):
        socks = [clients.enter_context(client(wire)) for _ in range(50)]
        words = [b"%d " % number * 30 for number in range(50)]
        for sock, word in zip(socks, words, strict=True):
            sock.sendall(word)
        assert [receive(sock, len(word)) for sock, word in zip(socks, words, strict=True)] == words
    assert wire.recording.connections == 50
    assert wire.recording.lost() == 0


async def repeat(connection: Any) -> None:
    async for message in connection:
        await connection.send(message)


def open_through(wire: Tap | Server, **options: Any) -> ClientConnection:
    options = {
        "open_timeout": DEADLINE,
        "close_timeout": DEADLINE,
        "user_agent_header": None,
        **options,
    }
    return connect(wire.ws_url(), proxy=None, compression=None, **options)


def ask(wire: Tap | Server, message: str) -> Any:
    with open_through(wire) as connection:
        connection.send(message)
        return connection.recv(timeout=DEADLINE)


def test_600_echoes_arrive_in_slices_of_three_bytes() -> None:
    source = random.Random(1)
    with (
        serve(repeat) as server,
        tap(server) as wire,
        faults.slicer(wire, 3),
        open_through(wire) as connection,
    ):
        messages = [source.randbytes(source.randint(0, 40)) for _ in range(600)]
        for message in messages:
            connection.send(message)
        assert [connection.recv(timeout=DEADLINE) for _ in range(600)] == messages


class Spy(Fault):
    """A fault that does nothing and knows what passes."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, list[int]] = {"client": [], "server": []}

    def passed(self, side: Side, size: int) -> None:
        self.sizes[side.peer].append(size)


def test_slices_are_as_small_as_was_asked() -> None:
    """And no smaller, whatever else acts; the other direction goes as it came."""
    spy = Spy()
    with listening(echo) as port, tap(port) as wire, client(wire) as sock:
        wire.add(spy)
        with faults.slicer(wire, 3, sender="client"), faults.slicer(wire, 5, sender="client"):
            for _ in range(20):
                sock.sendall(b"0123456789")
                assert receive(sock, 10) == b"0123456789"
        wire.remove(spy)
    assert spy.sizes["client"] == [3, 3, 3, 1] * 20
    assert sum(spy.sizes["server"]) == 200
    assert str(spy) == "fault"


@pytest.mark.parametrize("sender", ["client", "server"])
def test_a_cut_at_each_of_the_first_512_bytes_is_a_clean_error(sender: Any) -> None:
    """Of a handshake and a first message: an error that the client's library has a name for, in time, and nothing stays."""
    met: collections.Counter[type[BaseException]] = collections.Counter()
    arrived, longest = set(), 0.0
    with serve(repeat) as server, tap(server) as wire:
        for size in range(512):
            started = time.monotonic()
            with (
                faults.limit_data(wire, size, sender=sender),
                pytest.raises((ConnectionClosedError, InvalidMessage)) as caught,
            ):
                ask(wire, "x" * 600)
            longest = max(longest, time.monotonic() - started)
            met[caught.type] += 1
            chunks = [c for c in wire.recording if (c.connection, c.sender) == (size + 1, sender)]
            arrived.add(sum(len(chunk.data) - chunk.lost for chunk in chunks))
            if size % 64 == 0:
                assert ask(server, "still there") == "still there"
        assert wire.settle(DEADLINE)
    assert arrived == set(range(512))
    assert set(met) == {ConnectionClosedError, InvalidMessage}
    assert met.total() == 512
    assert longest < DEADLINE / 2
    assert {type(error) for error in server.log.failures} == {ConnectionClosedError}


# Time


def round_trip(sock: socket.socket) -> float:
    started = time.monotonic()
    sock.sendall(b"ping")
    assert receive(sock, 4) == b"ping"
    return time.monotonic() - started


@pytest.mark.parametrize(("sender", "ways"), [(None, 2), ("client", 1), ("server", 1)])
def test_latency_delays_each_way(sender: Any, ways: int) -> None:
    """What is measured is never less; fivefold margins where more could be a slow machine's doing."""
    with listening(echo) as port, tap(port) as wire, client(wire) as sock:
        round_trip(sock)
        with faults.latency(wire, 0.04, sender=sender):
            late = [round_trip(sock) for _ in range(3)]
        after = min(round_trip(sock) for _ in range(3))
        with faults.latency(wire, 0.02), faults.latency(wire, 0.02, sender="client"):
            summed = min(round_trip(sock) for _ in range(2))
    assert ways * 0.04 <= min(late) < 5 * ways * 0.04
    assert after < 0.04 / 5
    assert 0.06 <= summed < 5 * 0.06


def test_latency_delays_the_end_too_and_delays_all_alike() -> None:
    """A hundred messages at once are all late by the same, not one after the other."""
    with listening(echo) as port, tap(port) as wire, client(wire) as sock:
        with faults.latency(wire, 0.03):
            started = time.monotonic()
            for number in range(100):
                sock.sendall(b"%2d" % number)
                wire.wait_for(lambda heard, n=number: heard.bytes("client") == 2 * n + 2)
            spoken = time.monotonic() - started
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b"".join(b"%2d" % number for number in range(100))
            took = time.monotonic() - started
        assert 0.06 <= took < spoken + 100 * 0.03
    assert [c.held for c in wire.recording] == [False] * len(wire.recording)


def test_jitter_keeps_the_order_and_its_bounds() -> None:
    fault = faults.latency(tap_of_nobody(), 0.02, jitter=0.01).fault
    delays = [fault.delay() for _ in range(1000)]
    assert 0.01 <= min(delays) < 0.012
    assert 0.028 < max(delays) <= 0.03
    assert {faults.latency(tap_of_nobody(), 0, jitter=1).fault.delay() >= 0 for _ in range(9)} == {
        True
    }
    with listening(echo) as port, tap(port) as wire, client(wire) as sock:
        with faults.latency(wire, 0.01, jitter=0.01):
            words = [b"%03d" % number for number in range(300)]
            for word in words:
                sock.sendall(word)
            assert receive(sock, 900) == b"".join(words)
            times = [round_trip(sock) for _ in range(5)]
        assert min(times) < 5 * 0.04
        with faults.latency(wire, 0.02, jitter=0.01):
            assert min(round_trip(sock) for _ in range(3)) >= 0.02


def tap_of_nobody() -> Any:
    return None  # a fault asks for its tap only when it begins


@pytest.mark.parametrize("sender", ["client", "server"])
def test_bandwidth_lets_no_more_through(sender: Any) -> None:
    """20 kB at 100 kB/s are a fifth of a second; the other direction takes no time."""
    size, rate = 20_000, 100_000
    with (
        listening(lambda sock: sock.sendall(receive(sock, size))) as port,
        tap(port) as wire,
        client(wire) as sock,
        faults.bandwidth(wire, rate, sender=sender),
    ):
        times = {}
        started = time.monotonic()
        sock.sendall(bytes(size))
        wire.wait_for(lambda heard: heard.bytes("server"))
        times["client"] = time.monotonic() - started
        started = time.monotonic()
        assert receive(sock, size) == bytes(size)
        times["server"] = time.monotonic() - started
    other = "server" if sender == "client" else "client"
    assert size / rate - 2 * 0.02 <= times[sender]
    assert times[other] < times[sender]


def test_bandwidth_and_a_black_hole_hold_back_who_sends() -> None:
    """The tap keeps a quarter of a megabyte and what it was reading; then the sender's own buffers fill."""
    data = random.Random(3).randbytes(1 << 20) * 24
    kinds: list[Begin] = [faults.black_hole, lambda wire: faults.bandwidth(wire, 1000)]
    for begin in kinds:
        digests: list[bytes] = []
        with (
            listening(lambda sock, digests=digests: digests.append(read_all(sock))) as port,
            tap(port) as wire,
            client(wire) as sock,
        ):
            with begin(wire):
                sock.setblocking(False)
                at = 0
                while select.select([], [sock], [], 0.25)[1]:
                    at += sock.send(data[at : at + (1 << 18)])
                assert at < len(data)
                assert HELD < wire.recording.lost() < HELD + (1 << 18) + 65536
                assert wire.recording.bytes() < HELD + (1 << 18) + 65536
            sock.settimeout(DEADLINE)
            sock.sendall(data[at:])
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b""
        assert digests == [data]
        assert wire.recording.lost() == 0


def test_an_end_that_was_heard_is_not_heard_again() -> None:
    """While what a black hole held waits for a server that does not read."""
    sizes: list[int] = []
    read = threading.Event()

    def lazy(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        if read.wait(DEADLINE):
            sizes.append(len(read_all(sock)))

    with listening(lazy) as port, tap(port) as wire, client(wire) as sock:
        with faults.black_hole(wire):
            sock.sendall(bytes(HELD))
            sock.shutdown(socket.SHUT_WR)
            wire.wait_for(lambda heard: heard[-1:] and heard[-1].end)
            for side in wire._open:
                sock_of_tap = side.transport.get_extra_info("socket")
                sock_of_tap.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        assert eventually(lambda: any(side.full for side in wire._open))
        read.set()
        assert read_all(sock) == b""
    assert sizes == [HELD]
    assert [(c.sender, c.end) for c in wire.recording if c.end] == [
        ("client", "FIN"),
        ("server", "FIN"),
    ]


def test_a_reset_that_a_black_hole_held_arrives_when_it_heals() -> None:
    """The server's TCP connection is over by then, and its last word still waits."""

    def rude(sock: socket.socket) -> None:
        sock.recv(1)
        reset(sock)

    with listening(rude) as port, tap(port) as wire, client(wire) as sock:
        with faults.black_hole(wire, sender="server"):
            sock.sendall(b"x")
            wire.wait_for(lambda heard: heard[-1].end == "RST")
        sock.settimeout(DEADLINE)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


# Silence


class Witness:
    """A server that notes what it hears, and how each connection ends for it."""

    def __init__(self) -> None:
        self.heard = b""
        self.ends: list[str] = []
        self.here = 0
        self.socks: list[socket.socket] = []

    def __call__(self, sock: socket.socket) -> None:
        self.here += 1
        self.socks.append(sock)
        try:
            while data := sock.recv(65536):
                self.heard += data
            self.ends.append("FIN")
        except ConnectionResetError:
            self.ends.append("RST")
        self.here -= 1


def silent(sock: socket.socket, seconds: float = 0.1) -> bool:
    """Whether nothing arrives, and no end either, for a time."""
    return not select.select([sock], [], [], seconds)[0]


@pytest.mark.parametrize("sender", [None, "client"])
@pytest.mark.parametrize("end", ["FIN", "RST"])
def test_a_black_hole_swallows_words_and_ends_until_it_heals(end: str, sender: Any) -> None:
    """The server's handler is still there when the client has long gone."""
    witness = Witness()
    with listening(witness) as port, tap(port) as wire:
        with faults.black_hole(wire, sender=sender), client(wire) as sock:
            sock.sendall(b"before")
            wire.wait_for(lambda heard: heard.bytes() == 6)
            assert wire.recording.lost("client") == 6, "counted as soon as it is heard"
            assert eventually(lambda: witness.here == 1)
            if end == "RST":
                reset(sock)
            sock.close()
            wire.wait_for(lambda heard: heard[-1].end == end)
            assert silent(witness.socks[0])
            assert (witness.here, witness.heard, witness.ends) == (1, b"", [])
        assert eventually(lambda: witness.ends == [end])
        assert wire.settle(DEADLINE)
    # After a reset nothing that was said before it needs to arrive: RFC 9293, section 3.10.7.4.
    assert witness.heard == b"before" or end == "RST"
    assert [c.held for c in wire.recording if c.sender == "client"] == [True, True]


def test_a_black_hole_can_swallow_one_direction_only() -> None:
    with listening(echo) as port, tap(port) as wire, client(wire) as sock:
        with faults.black_hole(wire, sender="server"):
            sock.sendall(b"hello")
            wire.wait_for(lambda heard: heard.bytes("server") == 5)
            assert silent(sock)
            assert (wire.recording.lost("client"), wire.recording.lost("server")) == (0, 5)
        assert receive(sock, 5) == b"hello"
        assert wire.recording.lost() == 0


def test_what_is_said_to_a_client_that_is_gone_is_lost() -> None:
    """A black hole has swallowed that it is gone; what the server says meets no fault, and nobody."""
    speak = threading.Event()

    def late(sock: socket.socket) -> None:
        if speak.wait(DEADLINE):
            sock.sendall(b"hello")
            read_all(sock)

    with listening(late) as port, tap(port) as wire:
        with faults.black_hole(wire, sender="client"):
            with client(wire) as sock:
                assert eventually(lambda: len(wire._open) == 2)
                reset(sock)
            wire.wait_for(lambda heard: heard[-1].end == "RST")
            speak.set()
            wire.wait_for(lambda heard: heard.bytes("server") == 5)
            assert wire.recording.lost("server") == 5
            assert wire.open == 1
        assert wire.settle(DEADLINE)
    assert wire.recording.lost("server") == 5


def test_a_machine_that_stands_still_is_no_silent_peer() -> None:
    limit = 0.2
    with listening(echo) as port, tap(port) as wire, client(wire) as sock:

        async def stand_still() -> None:
            time.sleep(2 * limit)

        round_trip(sock)
        with faults.idle_cut(wire, limit):
            wire._background.run(stand_still())
            round_trip(sock)
            assert read_all(sock) == b"", "it is cut all the same when it is silent"


@pytest.mark.parametrize("sender", [None, "client", "server"])
def test_silence_is_cut(sender: Any) -> None:
    """In order, on both sides, and not before its time; one that speaks all the while is spared."""
    limit = 0.3
    witness = Witness()

    def chatter(sock: socket.socket) -> None:
        if sender == "client":  # what the server says does not count
            with contextlib.suppress(OSError):
                while silent(sock, limit / 10):
                    sock.sendall(b".")
        witness(sock)

    with listening(chatter) as port, tap(port) as wire, client(wire) as sock:
        assert eventually(lambda: wire.open == 1)
        started = time.monotonic()
        with faults.idle_cut(wire, limit, sender=sender):
            if sender == "server":  # what the client says does not count
                while silent(sock, limit / 10):
                    sock.sendall(b".")
            read_all(sock)
            took = time.monotonic() - started
            assert eventually(lambda: witness.ends == ["FIN"])
        assert limit <= took < DEADLINE
    assert [c.event for c in wire.recording if c.connection == 1 and c.event] == [
        "idle for 300 ms: cut"
    ]


def test_who_speaks_often_enough_is_not_cut() -> None:
    """A word every fifth of the time keeps one connection; beside it, a silent one ends."""
    limit = 0.4
    with (
        listening(echo) as port,
        tap(port) as wire,
        client(wire) as speaks,
        faults.idle_cut(wire, limit),
        client(wire) as silent_one,
    ):
        started, words = time.monotonic(), 0
        while time.monotonic() < started + 2 * limit:
            round_trip(speaks)
            words += 1
            silent(speaks, limit / 5)  # pacing
        assert words >= 5
        assert silent_one.recv(1) == b""
        assert round_trip(speaks) < limit


@pytest.mark.parametrize(
    ("sender", "client_sees", "server_sees"),
    [(None, "RST", "RST"), ("server", "RST", "FIN"), ("client", "FIN", "RST")],
)
def test_a_reset_is_seen_by_both_or_by_the_other(
    sender: Any, client_sees: str, server_sees: str
) -> None:
    """By open connections, and by each new one while it lasts."""
    witness = Witness()
    seen = []

    def look(sock: socket.socket) -> None:
        try:
            seen.append("FIN" if sock.recv(1) == b"" else "data")
        except ConnectionResetError:
            seen.append("RST")

    with listening(witness) as port, tap(port) as wire, client(wire) as sock:
        sock.sendall(b"hello")
        assert eventually(lambda: witness.heard == b"hello")
        with faults.reset_peer(wire, sender=sender):
            look(sock)
            for _ in range(3):
                try:
                    with client(wire) as another:
                        look(another)
                except ConnectionResetError:  # so early that connecting met it
                    seen.append("RST")
            assert eventually(lambda: len(witness.ends) == 4)
        assert wire.settle(DEADLINE)
        with client(wire) as late:
            late.sendall(b"late")
            assert eventually(lambda: witness.heard == b"hellolate")
    assert seen == [client_sees] * 4, "and none twice"
    assert witness.ends[:4] == [server_sees] * 4


def test_a_reset_may_come_later() -> None:
    """After so long from the fault's beginning, or from that of a new connection."""
    after = 0.15
    with listening(echo) as port, tap(port) as wire, client(wire) as early:
        round_trip(early)
        # Before the fault begins: a busy machine may stand still between its beginning and the next line.
        started = time.monotonic()
        with faults.reset_peer(wire, after=after):
            assert round_trip(early) < after
            with pytest.raises(ConnectionResetError):
                early.recv(1)
            assert after <= time.monotonic() - started < DEADLINE
            started = time.monotonic()
            with client(wire) as late:
                assert round_trip(late) < after
                with pytest.raises(ConnectionResetError):
                    late.recv(1)
            assert after <= time.monotonic() - started < DEADLINE
        with client(wire) as spared:
            with faults.reset_peer(wire, after=after):
                round_trip(spared)
            assert silent(spared, 2 * after), "it has healed in time"


# Upgrades


async def site(scope: Any, receive: Any, send: Any) -> None:
    """A page at each path, and an echo over WebSocket."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
    elif scope["type"] == "http":
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        body += message["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode() + body})


def pages(wire: Tap) -> list[bytes]:
    """Ask for some pages over one connection that is kept alive."""
    connection = http.client.HTTPConnection("127.0.0.1", wire.port, timeout=DEADLINE)
    answers = []
    try:
        for method, path, body in [
            ("GET", "/1", None),
            ("GET", "/2", None),
            ("POST", "/3", b"GET lost"),
            ("GET", "/4", None),
            ("POST", "/5", b"G"),
        ]:
            connection.request(method, path, body)
            answers.append(connection.getresponse().read())
    finally:
        connection.close()
    return answers


ANSWERS = [b"/1", b"/2", b"/3GET lost", b"/4", b"/5G"]


@pytest.mark.parametrize("sliced", [0, 1, 3, 50])
def test_an_upgrade_is_refused_and_all_else_passes(sliced: int) -> None:
    """In one piece or in slices that the client or the tap made of it."""
    with (
        serve(site, name="site") as server,
        tap(server) as wire,
        contextlib.ExitStack() as slices,
        open_through(wire) as early,
    ):
        early.send("GET me")
        assert early.recv(timeout=DEADLINE) == "GET me"
        if sliced:
            slices.enter_context(faults.slicer(wire, sliced))
        before = wire.recording.connections
        with faults.refuse_upgrade(wire):
            for _ in range(3):
                with pytest.raises(InvalidStatus) as caught, open_through(wire):
                    pass
                assert caught.value.response.status_code == 403
            with client(wire) as sock:
                for at in range(0, len(UPGRADE), sliced or len(UPGRADE)):
                    sock.sendall(UPGRADE[at : at + (sliced or len(UPGRADE))])
                assert read_all(sock) == faults.REFUSAL
            assert pages(wire) == ANSWERS
            early.send("still there")
            assert early.recv(timeout=DEADLINE) == "still there"
        assert wire.recording.connections == before + 5
        with open_through(wire) as late:
            late.send("healed")
            assert late.recv(timeout=DEADLINE) == "healed"
    refused = [chunk for chunk in wire.recording if chunk.sender == "network" and chunk.data]
    assert [chunk.data for chunk in refused] == [faults.REFUSAL] * 4
    for chunk in refused:
        assert wire.recording.lost("client") > 4 * 150
        assert said(wire, "server", chunk.connection) == b"", "the server has heard nothing of it"


def test_an_upgrade_that_follows_other_requests_is_refused() -> None:
    """Also when they come in one packet."""
    page = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
    with serve(site, name="site") as server, tap(server) as wire, faults.refuse_upgrade(wire):
        with client(wire) as sock:
            sock.sendall(page)
            wire.wait_for(lambda heard: heard.bytes("server"))
            sock.sendall(UPGRADE)
            answer = read_all(sock)
        with client(wire) as sock:
            sock.sendall(page + page + UPGRADE)
            assert read_all(sock).endswith(faults.REFUSAL)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(faults.REFUSAL)
    assert said(wire, "client", 2) == page + page + UPGRADE
    assert wire.recording.lost() == 2 * len(UPGRADE)


def test_a_swallowed_upgrade_is_a_time_out_and_goes_on_when_healed() -> None:
    with serve(site, name="site") as server, tap(server) as wire:
        with faults.swallow_upgrade(wire):
            with pytest.raises(TimeoutError), open_through(wire, open_timeout=0.2):
                pass
            assert pages(wire) == ANSWERS
            with client(wire) as sock:
                before = wire.recording.bytes("client")
                sock.sendall(UPGRADE)
                wire.wait_for(lambda heard: heard.bytes("client") == before + len(UPGRADE))
                assert silent(sock)
        # The first client has left; its request goes on nevertheless, as a router's queue would let it.
        with client(wire) as sock:
            sock.sendall(UPGRADE)
            assert sock.recv(65536).startswith(b"HTTP/1.1 101 ")
        assert wire.settle(DEADLINE)
    assert wire.recording.lost("client") == 0


def test_a_swallowed_upgrade_is_answered_when_healed() -> None:
    with serve(site, name="site") as server, tap(server) as wire, client(wire) as sock:
        with faults.swallow_upgrade(wire):
            sock.sendall(UPGRADE)
            wire.wait_for(lambda heard: heard.lost("client") == len(UPGRADE))
            assert silent(sock)
        assert sock.recv(65536).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("fault", [faults.refuse_upgrade, faults.swallow_upgrade])
def test_what_is_no_request_for_an_upgrade_passes(fault: Callable[[Tap], During]) -> None:
    """The beginning of a head and then the end; a head without an end; bytes that are no HTTP at all."""
    beginnings = [
        b"", b"G", b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n", b"GET " + bytes(70_000), b"\x81\x00",
        b"HEAD / HTTP/1.1\r\n\r\n", bytes(300_000), b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET",
    ]  # fmt: skip
    with (
        listening(lambda sock: sock.sendall(read_all(sock))) as port,
        tap(port) as wire,
        fault(wire),
    ):
        for data in beginnings:
            with client(wire) as sock:
                sock.sendall(data)
                if len(data) > faults.LONGEST_HEAD:
                    wire.wait_for(lambda heard: not heard.lost())
                sock.shutdown(socket.SHUT_WR)
                assert read_all(sock) == data
    assert wire.recording.connections == len(beginnings)
    assert wire.recording.lost() == 0


def test_an_upgrade_is_refused_in_silence_where_the_server_has_ended() -> None:
    """Nothing can be said after an end of stream."""
    with (
        listening(lambda sock: (sock.shutdown(socket.SHUT_WR), read_all(sock))) as port,
        tap(port) as wire,
        faults.refuse_upgrade(wire),
        client(wire) as sock,
    ):
        assert sock.recv(1) == b""
        sock.sendall(UPGRADE)
        assert wire.settle(DEADLINE)
    assert wire.recording.lost("client") == len(UPGRADE)


# Beginning and ending


class Trouble(Exception):
    pass


@pytest.mark.parametrize("error", [None, Trouble, KeyboardInterrupt])
@pytest.mark.parametrize(("name", "sender"), [c for c in CASES if c[1] is None])
def test_a_fault_ends_with_its_block_however_that_ends(name: str, sender: Any, error: Any) -> None:
    with listening(echo) as port, tap(port) as wire, contextlib.ExitStack() as clients:
        with contextlib.suppress(Trouble, KeyboardInterrupt), make(name, sender)(wire) as fault:
            assert wire.faults == [fault]
            with contextlib.suppress(ConnectionResetError):
                sock = clients.enter_context(client(wire))
                sock.sendall(b"ping" if name not in CUTS else bytes(4000))
            if error is KeyboardInterrupt:
                signal.raise_signal(signal.SIGINT)
            elif error is not None:
                raise error
        assert wire.faults == []
        if name not in CUTS:
            assert receive(sock, 4) == b"ping"
        with client(wire) as late:
            assert round_trip(late) < DEADLINE
            assert silent(late, 0.05), "no timer is left"
    events = [chunk.event for chunk in wire.recording if chunk.connection == 0]
    assert events == [f"begins: {fault}", f"ends: {fault}"]


def test_an_interrupt_at_the_door_leaves_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it waits for the tap's thread, as it begins and as it ends."""
    with listening(echo) as port, tap(port) as wire, client(wire) as sock:
        run = wire._background.run
        for interrupted in range(2):
            calls: list[int] = []

            def once(coroutine: Any, calls: list[int] = calls, at: int = interrupted) -> Any:
                calls.append(1)
                result = run(coroutine)
                if len(calls) == at + 1:
                    raise KeyboardInterrupt
                return result

            monkeypatch.setattr(wire._background, "run", once)
            with pytest.raises(KeyboardInterrupt), faults.black_hole(wire):
                assert interrupted
            monkeypatch.setattr(wire._background, "run", run)
            assert wire.faults == []
            assert len(calls) == 2
            assert round_trip(sock) < DEADLINE
    assert [c.event for c in wire.recording if c.event] == [
        "begins: black hole",
        "ends: black hole",
    ] * 2


def test_a_fault_can_be_entered_again_and_begins_anew() -> None:
    """What it counted and timed before is forgotten."""
    with listening(echo) as port, tap(port) as wire:
        limit = faults.limit_data(wire, 10, sender="client")
        idle = faults.idle_cut(wire, 0.1)
        late = faults.reset_peer(wire, after=0.1)
        refuse = faults.refuse_upgrade(wire)
        for _ in range(2):
            with client(wire) as sock:
                with limit:
                    round_trip(sock)
                with limit:
                    sock.sendall(b"0123456789")
                    assert read_all(sock) in (b"", b"0123456789")
            with client(wire) as sock:
                round_trip(sock)
                with idle:
                    round_trip(sock)
                with idle:
                    assert sock.recv(1) == b""
            with client(wire) as sock:
                round_trip(sock)
                with late:
                    round_trip(sock)
                with late, pytest.raises(ConnectionResetError):
                    sock.recv(1)
            with client(wire) as sock:
                with refuse:
                    round_trip(sock)
                with refuse:
                    sock.sendall(UPGRADE)
                    assert read_all(sock) == faults.REFUSAL
    events = [chunk.event for chunk in wire.recording if chunk.connection and chunk.event]
    assert len(events) == 8


def test_a_fault_cannot_act_twice_at_once() -> None:
    with listening(echo) as port, tap(port) as wire, client(wire) as sock:
        slow = faults.latency(wire, 0.02)
        with slow as fault:
            with (
                pytest.raises(RuntimeError, match=r"^The fault acts already: latency 20 ms\. "),
                slow,
            ):
                pass
            assert wire.faults == [fault]
            assert round_trip(sock) >= 0.04
        wire.remove(fault)
        assert wire.faults == []


@pytest.mark.parametrize(
    ("end", "heard"),
    [
        (lambda side: side.cut("over"), "FIN"),
        (lambda side: side.reset(None, "over"), "RST"),
        (lambda side: side.reset("client", "over"), "RST"),
        (lambda side: side.reset("server", "over"), "FIN"),
    ],
)
def test_a_connection_ends_for_the_server_too_when_the_news_of_the_client_is_held(
    end: Callable[[Side], None], heard: str
) -> None:
    ear, over = Ear(b""), threading.Event()

    def answer(sock: socket.socket) -> None:
        ear.listen(sock)
        over.set()

    async def act(side: Side) -> None:
        end(side)

    with listening(answer) as port, tap(port) as wire, client(wire) as sock:
        assert eventually(lambda: len(wire._open) == 2)
        [side] = [side for side in wire._open if side.peer == "client"]
        with faults.black_hole(wire):
            reset(sock)
            assert eventually(lambda: side.lost)
            assert not over.is_set()
            wire.run(act(side))
            assert over.wait(DEADLINE)
            wire.run(act(side))  # and nothing more happens
        assert wire.settle(DEADLINE)
    assert ear.end == heard
    assert [c.event for c in wire.recording if c.event and "black hole" not in c.event] == ["over"]


def test_a_tap_that_has_been_stopped_has_no_network_to_disturb() -> None:
    with listening(echo) as port:
        with tap(port) as wire:
            kept = faults.latency(wire, 1)
            kept.__enter__()
        for during in (kept, faults.black_hole(wire)):
            with (
                pytest.raises(RuntimeError, match="has been stopped, and there is no network"),
                during,
            ):
                pass
        kept.__exit__()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: faults.latency(WIRE, -1), "seconds must be 0 or more, not -1."),
        (lambda: faults.latency(WIRE, 1, jitter=-0.5), "jitter must be 0 or more, not -0.5."),
        (lambda: faults.latency(WIRE, float("nan")), "seconds must be 0 or more, not nan."),
        (lambda: faults.bandwidth(WIRE, 0), "bytes_per_second must be more than 0, not 0."),
        (lambda: faults.slicer(WIRE, 0), "size must be more than 0, not 0."),
        (lambda: faults.slicer(WIRE, 0.5), "size must be a whole number of bytes, not 0.5."),
        (lambda: faults.limit_data(WIRE, -1), "size must be 0 or more, not -1."),
        (lambda: faults.limit_data(WIRE, 1.5), "size must be a whole number of bytes, not 1.5."),
        (
            lambda: faults.slicer(WIRE, float("inf")),
            "size must be a whole number of bytes, not inf.",
        ),
        (lambda: faults.reset_peer(WIRE, after=-1), "after must be 0 or more, not -1."),
        (lambda: faults.idle_cut(WIRE, 0), "seconds must be more than 0, not 0."),
        (
            lambda: faults.black_hole(WIRE, sender="clients"),
            'sender must be "client", "server" or left away, not \'clients\'.',
        ),
    ],
)
def test_wrong_values_are_named(make: Callable[[], During], says: str) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        make()
    assert str(caught.value) == says


WIRE: Any = None  # a fault asks for its tap only when it begins


def test_faults_say_what_they_are() -> None:
    names = {
        "latency 100 ms": faults.latency(WIRE, 0.1),
        "latency 1.5 s ± 250 ms, from the client": faults.latency(
            WIRE, 1.5, jitter=0.25, sender="client"
        ),
        "bandwidth 10,000 bytes/s": faults.bandwidth(WIRE, 10_000),
        "bandwidth 0.5 bytes/s": faults.bandwidth(WIRE, 0.5),
        "slices of 3 bytes": faults.slicer(WIRE, 3),
        "limit of 0 bytes, from the server": faults.limit_data(WIRE, 0, sender="server"),
        "reset": faults.reset_peer(WIRE),
        "reset after 2 s": faults.reset_peer(WIRE, after=2),
        "black hole": faults.black_hole(WIRE),
        "idle cut after 40 s": faults.idle_cut(WIRE, 40),
        "Upgrade refused": faults.refuse_upgrade(WIRE),
        "Upgrade swallowed": faults.swallow_upgrade(WIRE),
    }
    assert {name: str(during.fault) for name, during in names.items()} == {n: n for n in names}
    assert repr(faults.black_hole(WIRE)) == "<black hole: begins with a `with` block>"


@pytest.mark.parametrize("end", ["nothing", "client", "server", "both"])
def test_a_tap_stops_while_faults_act_and_leaves_nothing(
    end: str, belongings: Callable[[], Belongings]
) -> None:
    """Whoever has reset the connection meanwhile: no thread, no task, no socket, and no waiting for what is held."""
    witness, hang_up = Witness(), threading.Event()

    def answer(sock: socket.socket) -> None:
        if end not in ("server", "both"):
            witness(sock)
        elif hang_up.wait(DEADLINE):
            reset(sock)

    before = belongings()
    with listening(answer) as port:
        wire = tap(port)
        with contextlib.ExitStack() as acting:
            for name, sender in CASES:
                if name not in CUTS:
                    acting.enter_context(make(name, sender)(wire))
            # Those with a timer have one that runs, and does not come first: the reset of this test does.
            acting.enter_context(faults.reset_peer(wire, after=60))
            acting.enter_context(faults.idle_cut(wire, 60))
            assert len(wire.faults) == 16
            with client(wire) as sock:
                sock.sendall(b"hello")
                wire.wait_for(lambda heard: heard.bytes() == 5)
                assert eventually(lambda: len(wire._open) == 2)
                if end in ("client", "both"):
                    reset(sock)
                    assert eventually(lambda: len(wire._open) == 1)
                if end in ("server", "both"):
                    hang_up.set()
                    left = 0 if end == "both" else 1
                    assert eventually(lambda: len(wire._open) == left)
                wire.stop(0)
            assert wire._open == set()
            assert wire._tasks == set()
            assert wire._background.running is False
    assert wire.recording.lost("client") == 5
    assert [c.end for c in wire.recording if c.end] == ([] if end == "nothing" else ["RST"])
    assert eventually(lambda: not belongings().more_than(before))


def test_without_a_fault_nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes then goes the short way, as if there were no faults in the world; also after one has healed."""
    with listening(echo) as port, tap(port) as wire, client(wire) as sock:
        with faults.slicer(wire, 1):
            round_trip(sock)
        monkeypatch.setattr(sys.modules["helpers.tap"], "_Held", None)
        for _ in range(100):
            round_trip(sock)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""
    assert wire.recording.bytes() == 2 * 404
    assert wire._tasks == set()


def test_faults_act_in_the_order_in_which_they_began() -> None:
    """What one holds has not come to the next: a black hole before a limit lets nobody count, and none is refused in it."""
    with listening(echo) as port, tap(port) as wire, client(wire) as sock:
        with faults.black_hole(wire), faults.limit_data(wire, 0), faults.refuse_upgrade(wire):
            sock.sendall(UPGRADE)
            wire.wait_for(lambda heard: heard.bytes())
            assert silent(sock)
        assert receive(sock, len(UPGRADE)) == UPGRADE
