"""What a network does to a connection: slow it, hold it, cut it. Never does it change what is said.

Each fault works on a tap, for as long as a `with` block lasts, and shows in the ladder. They combine:

    with tap(server) as wire:
        with faults.latency(wire, 0.1), faults.slicer(wire, 3):
            ...

With `sender="client"` or `sender="server"` a fault concerns only what that peer says; else both directions. What arrives is at
any moment, byte for byte, a beginning of what was sent. Where Toxiproxy (https://github.com/Shopify/toxiproxy) has the same,
the name is its own.
"""

from __future__ import annotations

import abc
import asyncio
import math
import random
import re
import time
from collections import defaultdict

from .decode import Peer
from .tap import Fault, Side, Tap

REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
"""What a proxy says that lets no Upgrade through."""


LONGEST_HEAD = 2**16
"""Bytes of a request's head after which nobody looks for its end any more."""


class During:
    """A fault for as long as a `with` block lasts.

    Attributes:
        fault: the fault, for `Tap.add` and `Tap.remove`.
    """

    def __init__(self, wire: Tap, fault: Fault) -> None:
        if fault.sender not in (None, "client", "server"):
            raise ValueError(
                f'sender must be "client", "server" or left away, not {fault.sender!r}.'
            )
        self.wire = wire
        self.fault = fault

    def __enter__(self) -> Fault:
        try:
            self.wire.add(self.fault)
        except KeyboardInterrupt:  # it may have begun, and no block would end it
            self.wire.remove(self.fault)
            raise
        return self.fault

    def __exit__(self, *_: object) -> None:
        self.wire.remove(self.fault)

    def __repr__(self) -> str:
        return f"<{self.fault}: begins with a `with` block>"


def latency(
    wire: Tap, seconds: float, *, jitter: float = 0.0, sender: Peer | None = None
) -> During:
    """Let everything arrive later.

    Args:
        wire: the tap.
        seconds: how much later, each way.
        jitter: seconds more or less, by chance, 0 by default. Order is kept, as TCP keeps it.
        sender: whose bytes; both by default.
    """
    _not_negative(seconds=seconds, jitter=jitter)
    return During(wire, _Latency(seconds, jitter, sender))


def bandwidth(wire: Tap, bytes_per_second: float, *, sender: Peer | None = None) -> During:
    """Let only so many bytes a second through, each way.

    The tap holds 256 KiB; after that the sender's own buffers fill.
    """
    _positive(bytes_per_second=bytes_per_second)
    return During(wire, _Bandwidth(bytes_per_second, sender))


def slicer(wire: Tap, size: int, *, sender: Peer | None = None) -> During:
    """Pass everything on in pieces of `size` bytes: TCP is a stream and promises no boundaries."""
    _positive(size=size)
    _whole(size=size)
    return During(wire, _Slicer(size, sender))


def limit_data(wire: Tap, size: int, *, sender: Peer | None = None) -> During:
    """End each connection in order (FIN) as soon as `size` more bytes have passed one way; with 0, at the first byte."""
    _not_negative(size=size)
    _whole(size=size)
    return During(wire, _LimitData(size, sender))


def reset_peer(wire: Tap, *, after: float = 0.0, sender: Peer | None = None) -> During:
    """Reset (RST) each connection: those that are open, and every new one.

    Args:
        wire: the tap.
        after: seconds from the beginning, of the fault or of a later connection.
        sender: who seems to have done it: with `"server"` the client sees a reset and the server an end of stream. Both sides
            see a reset by default.
    """
    _not_negative(after=after)
    return During(wire, _ResetPeer(after, sender))


def black_hole(wire: Tap, *, sender: Peer | None = None) -> During:
    """Let nothing through and say nothing: the sockets stay open, and not even the end of a connection is heard.

    When it heals, what was held arrives, as after TCP's retransmission. (Toxiproxy has it as `timeout` with 0.)
    """
    return During(wire, _BlackHole(sender))


def idle_cut(wire: Tap, seconds: float, *, sender: Peer | None = None) -> During:
    """End a connection in order (FIN) on which nothing has been said for so many seconds, as proxies do (nginx: 60).

    Args:
        wire: the tap.
        seconds: how long silence may last.
        sender: whose silence counts; by default either side's word keeps the connection.
    """
    _positive(seconds=seconds)
    return During(wire, _IdleCut(seconds, sender))


def refuse_upgrade(wire: Tap) -> During:
    """Answer a request for an Upgrade with 403 in the server's place, as some proxies do; other requests pass."""
    return During(wire, _RefuseUpgrade("client"))


def swallow_upgrade(wire: Tap) -> During:
    """Let a request for an Upgrade never arrive, and say nothing; other requests pass. Healed, it goes on its way."""
    return During(wire, _SwallowUpgrade("client"))


class _Latency(Fault):
    def __init__(self, seconds: float, jitter: float, sender: Peer | None) -> None:
        super().__init__(sender)
        self.seconds = seconds
        self.jitter = jitter
        self.name = f"latency {_time(seconds)}" + (f" ± {_time(jitter)}" if jitter else "")

    def delay(self) -> float:
        return max(0.0, self.seconds + random.uniform(-self.jitter, self.jitter))


class _Bandwidth(Fault):
    def __init__(self, rate: float, sender: Peer | None) -> None:
        super().__init__(sender)
        self.rate = rate
        self.name = (
            f"bandwidth {rate:,.0f} bytes/s" if rate >= 10 else f"bandwidth {rate:g} bytes/s"
        )
        self._free: dict[Side, float] = {}

    def wait(self, side: Side) -> float:
        return self._free.get(side, 0.0) - time.monotonic()

    def size(self, side: Side) -> float:
        return max(1.0, self.rate / 50)

    def passed(self, side: Side, size: int) -> None:
        now = time.monotonic()
        # From when it could have gone: a thread that wakes late makes up for it, but for no more than a piece.
        start = max(self._free.get(side, now), now - 0.02)
        self._free[side] = start + size / self.rate


class _Slicer(Fault):
    def __init__(self, size: int, sender: Peer | None) -> None:
        super().__init__(sender)
        self.piece = size
        self.name = f"slices of {size} bytes"

    def size(self, side: Side) -> float:
        return self.piece


class _LimitData(Fault):
    def __init__(self, size: int, sender: Peer | None) -> None:
        super().__init__(sender)
        self.limit = size
        self.name = f"limit of {size} bytes"
        self._left: defaultdict[Side, int] = defaultdict(lambda: size)

    def ended(self) -> None:
        self._left.clear()

    def wait(self, side: Side) -> float:
        if self._left[side]:
            return 0.0
        self._cut(side)
        return math.inf

    def size(self, side: Side) -> float:
        return self._left[side]

    def passed(self, side: Side, size: int) -> None:
        self._left[side] -= size
        if not self._left[side]:
            self._cut(side)

    def _cut(self, side: Side) -> None:
        side.cut(f"cut after {self.limit} bytes from the {side.peer}")


class _Timed(Fault, abc.ABC):
    """A fault with a timer for each connection."""

    def __init__(self, sender: Peer | None) -> None:
        super().__init__(sender)
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def opened(self, side: Side) -> None:
        if side.connection not in self._timers:
            self._again(side, self._due(side))

    def ended(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _again(self, side: Side, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timers[side.connection] = loop.call_later(max(0.0, seconds), self._act, side)

    @abc.abstractmethod
    def _due(self, side: Side) -> float:
        """Return the seconds until it is time."""

    @abc.abstractmethod
    def _act(self, side: Side) -> None:
        """Do it."""


class _ResetPeer(_Timed):
    def __init__(self, after: float, sender: Peer | None) -> None:
        super().__init__(sender)
        self.after = after
        self.name = "reset" + (f" after {_time(after)}" if after else "")

    def _due(self, side: Side) -> float:
        return self.after

    def _act(self, side: Side) -> None:
        side.reset(self.sender, self.name)


class _BlackHole(Fault):
    name = "black hole"

    def wait(self, side: Side) -> float:
        return math.inf


class _IdleCut(_Timed):
    def __init__(self, seconds: float, sender: Peer | None) -> None:
        super().__init__(sender)
        self.seconds = seconds
        self.name = f"idle cut after {_time(seconds)}"
        self._began: dict[int, float] = {}

    def opened(self, side: Side) -> None:
        self._began.setdefault(side.connection, time.monotonic())
        super().opened(side)

    def ended(self) -> None:
        super().ended()
        self._began.clear()

    def _due(self, side: Side) -> float:
        heard = [s.heard_at for s in (side, side.other) if s and self.sender in (None, s.peer)]
        return max([*heard, self._began[side.connection]]) + self.seconds - time.monotonic()

    def _act(self, side: Side) -> None:
        due = self._due(side)
        late = asyncio.get_running_loop().time() - self._timers[side.connection].when()
        if (
            due <= 0 and late > self.seconds / 5
        ):  # the machine stood still: nobody could say anything
            due = self.seconds
        if due > 0:
            self._again(side, due)
        else:
            side.cut(f"idle for {_time(self.seconds)}: cut")


class _Upgrade(Fault, abc.ABC):
    """A fault that looks at the heads of requests."""

    def __init__(self, sender: Peer) -> None:
        super().__init__(sender)
        self._cleared: defaultdict[Side, float] = defaultdict(float)

    def ended(self) -> None:
        self._cleared.clear()

    def wait(self, side: Side) -> float:
        if self._cleared[side]:
            return 0.0
        held = side.held
        head, end, _ = held.partition(b"\r\n\r\n")
        if not b"GET ".startswith(held[:4]):  # frames, or a request that may have a body
            self._cleared[side] = math.inf
        elif end and re.search(rb"(?i)\r\nupgrade:", head):
            self.meet(side)
            return math.inf
        elif end or side.complete or len(head) > LONGEST_HEAD:
            self._cleared[side] = len(head) + len(end)
        else:
            return math.inf  # for the rest of the head
        return 0.0

    def size(self, side: Side) -> float:
        return self._cleared[side]

    def passed(self, side: Side, size: int) -> None:
        self._cleared[side] -= size

    @abc.abstractmethod
    def meet(self, side: Side) -> None:
        """Do something about a request for an Upgrade."""

    def __str__(self) -> str:
        return self.name


class _RefuseUpgrade(_Upgrade):
    name = "Upgrade refused"

    def meet(self, side: Side) -> None:
        side.answer(REFUSAL, "403 Forbidden, in the server's place")


class _SwallowUpgrade(_Upgrade):
    name = "Upgrade swallowed"

    def meet(self, side: Side) -> None:
        """Leave it where it is."""


def _time(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 or not seconds else f"{seconds * 1000:g} ms"


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be more than 0, not {value!r}.")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must be 0 or more, not {value!r}.")


def _whole(**values: float) -> None:
    for name, value in values.items():
        if value % 1:
            raise ValueError(f"{name} must be a whole number of bytes, not {value!r}.")
