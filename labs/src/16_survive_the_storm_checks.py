"""The checks of lab 16. One thread plays all the clients, on raw sockets, so that no library reads for those who stall."""

import ctypes
import inspect
import itertools
import json
import selectors
import socket
import struct
import time
from collections.abc import Sized
from contextlib import ExitStack, suppress
from random import Random

import flask
import flask_socketio
import psutil
import socketio
import uvicorn  # noqa: F401 (before the clock of a check runs)
import websockets.asyncio.server  # noqa: F401

from helpers import byhand, serve, table
from helpers.history import History
from helpers.lab import NotYet, exercise, given, patience, require, show

BURST = 10
"""Messages that are said at once; the next burst waits until every reader has this one."""
SIZE = 20_000
"""Bytes of a message of a storm, nearly."""
TEXT = "x" * (SIZE - 10)
MOST = 50 * 2**20
"""Bytes that a service may take more in a storm."""
STALLED = 2.0
"""Seconds within which a service lets go of those who do not read."""
TICK = 0.01
RUNS = itertools.count(1)
"""Each service that is tried gets ids of its own: it may remember those of the last time."""


class Member:
    """A client. `heard` has the ids of messages that came whole, and other texts as they came, shortened."""

    def __init__(self, hall, *, stalled=False):
        self.hall, self.stalled = hall, stalled
        self.heard, self.ended = [], None
        self.incoming, self.outgoing = bytearray(), bytearray()
        self.socket = socket.socket()
        self.socket.settimeout(patience())
        if stalled:
            # Little of what it does not read shall find room in the system, on either side.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
        self.socket.connect(("127.0.0.1", hall.server.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._shake_hands()
        self.socket.setblocking(False)
        hall.selector.register(self.socket, selectors.EVENT_READ, self)
        if hall.socketio:
            self._send("40")
            hall.until(lambda: self.heard or self.ended)
            self.heard.clear()
        if stalled:
            hall.selector.unregister(self.socket)

    def _shake_hands(self):
        path = "/socket.io/?EIO=4&transport=websocket" if self.hall.socketio else "/"
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.hall.server.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {byhand.KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            byte = self.socket.recv(1)
            if not byte:
                break
            answer += byte
        if b" 101 " not in answer:
            said = answer.partition(b"\r\n")[0].decode() or "nothing"
            raise NotYet(
                f"A client asked for a WebSocket at {path}, and your service answered {said!r}. The check takes a Flask "
                "application for one with Flask-SocketIO; all others are asked for the path `/`."
            )

    def say(self, id, text):
        self.hall.said[id] = f"{id} {text}"
        said = self.hall.said[id]
        self._send(f"42{json.dumps(['say', said])}" if self.hall.socketio else said)

    def _send(self, text, opcode=byhand.TEXT):
        data = text.encode() if isinstance(text, str) else text
        self.outgoing += byhand.frame(data, opcode, mask=bytes(4))  # a mask of zeros costs nothing
        self.write()

    def write(self):
        if self.ended:
            return
        try:
            while self.outgoing:
                del self.outgoing[: self.socket.send(self.outgoing)]
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(type(error).__name__)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outgoing else 0)
        with suppress(KeyError):
            self.hall.selector.modify(self.socket, events, self)

    def read(self):
        try:
            data = self.socket.recv(2**18)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(type(error).__name__)
            return
        if not data:
            self._end("end of stream")
            return
        self.incoming += data
        self._frames()

    def _frames(self):
        buffer, start = self.incoming, 0
        while len(buffer) >= start + 2 and not self.ended:
            length, head = buffer[start + 1] & 0x7F, 2
            if length > 125:
                head = 4 if length == 126 else 10
                if len(buffer) < start + head:
                    break
                length = int.from_bytes(buffer[start + 2 : start + head])
            if len(buffer) < start + head + length:
                break
            payload = bytes(buffer[start + head : start + head + length])
            self._take(buffer[start] & 15, payload)
            start += head + length
        del buffer[:start]

    def _take(self, opcode, payload):
        if opcode == byhand.CLOSE:
            self._send(payload, byhand.CLOSE)
            with suppress(
                OSError
            ):  # `websockets` tells of a handler\'s error when the connection is over
                self.socket.shutdown(socket.SHUT_WR)
            self._end(f"close {int.from_bytes(payload[:2])}")
        elif opcode == byhand.PING:
            self._send(payload, byhand.PONG)
        elif opcode == byhand.BINARY:
            self.heard.append(f"{len(payload)} bytes that are no text")
        elif opcode == byhand.TEXT:
            text = payload.decode()
            if self.hall.socketio:
                if text == "2":
                    return self._send("3")
                if text[:2] == "41" or text[:1] == "1":
                    return self._end("disconnect")
                if text[:1] == "0":
                    return None
                if text[:2] == "42":
                    text = str(json.loads(text[2:])[1])
            key = text.partition(" ")[0]
            self.heard.append(key if self.hall.said.get(key) == text else text[:60])
        return None

    def _end(self, how):
        if not self.ended and not self.stalled and how != "vanished":
            self.hall.ended.append(self)
        self.ended = self.ended or how
        with suppress(KeyError, ValueError):
            self.hall.selector.unregister(self.socket)

    def wake(self, *, to_stay=False):
        self.stalled = not to_stay
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        self.hall.selector.register(self.socket, selectors.EVENT_READ, self)

    def vanish(self):
        """End the connection as a crash does, with a reset."""
        self._end("vanished")
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def can_wait(service):
    """Require that a handler is asynchronous, if this is one; whatever else is served says by itself what it is."""
    if not inspect.isfunction(service) or inspect.isasyncgenfunction(service):
        return
    one = len(inspect.signature(service).parameters) == 1
    require(
        not one or inspect.iscoroutinefunction(service),
        f"Your `{service.__name__}` is a plain function, and a handler has to wait: begin it with `async def`.",
    )


def kept(service, name):
    """Return how many are in the collection that the notebook gives for clients, where the service uses it."""
    found = getattr(service, "__globals__", {}).get(name)
    return len(found) if isinstance(found, Sized) else 0


class Hall:
    """A service with its clients."""

    def __init__(self, service, opened):
        if isinstance(service, flask_socketio.SocketIO):
            raise NotYet(
                "You handed over the SocketIO object. What is served is the application around it: hand over the Flask object."
            )
        can_wait(service)
        self.socketio = isinstance(service, (flask.Flask, socketio.ASGIApp))
        self.run = next(RUNS)
        self.said = {}
        self.ended = []
        """Clients that read, and were disconnected."""
        self.patience = patience()
        self.opened = opened
        self.selector = opened.enter_context(selectors.DefaultSelector())
        self.server = opened.enter_context(serve(service, name="lab 16"))

    def ids(self, start, count):
        return [f"{self.run}.{number}" for number in range(start, start + count)]

    def join(self, count, *, stalled=False):
        """Return so many new clients, which are in."""
        new = []
        for _ in range(count):
            new.append(Member(self, stalled=stalled))
            self.opened.callback(new[-1].socket.close)
        return new

    def until(self, condition, seconds=None):
        """Let everybody read until a condition is true, and return whether it is. Only time in which nothing comes counts."""
        idle, most = 0, self.patience if seconds is None else seconds
        while not condition():
            if idle * TICK > most:
                return False
            ready = self.selector.select(TICK)
            for key, events in ready:
                if events & selectors.EVENT_WRITE:
                    key.data.write()
                if events & selectors.EVENT_READ:
                    key.data.read()
            idle += not ready
        return True


@exercise(
    "16-fan-out",
    deadline=20.0,
    hints=(
        "Who has to hear a message, who has to hear the `ok`, and which of the two comes first?",
        "Keep everybody who is there in one set. A message goes to all of them, and then `ok` with the first word of it to "
        "who said it. Who has left must not end the loop for the others.",
        "`clients.add(connection)`; in `async for text in connection`: `await asyncio.gather(*(c.send(text) for c in "
        "clients), return_exceptions=True)`, then `await connection.send('ok ' + id)`; in `finally`: "
        "`clients.discard(connection)`.",
    ),
)
def fan_out_reaches_all(service):
    before = kept(service, "clients")
    with ExitStack() as opened:
        given("Three clients came.")
        hall = Hall(service, opened)
        one, two, *more = hall.ids(1, 5)
        first, second, third = everybody = hall.join(3)
        given(f"The first of three clients said `{one} hello`.")
        first.say(one, "hello")
        hall.until(lambda: all(one in m.heard for m in everybody) and f"ok {one}" in first.heard)
        require(
            f"ok {one}" in first.heard,
            f"Three clients came, and the first said `{one} hello`. It heard {words(first)}, and no `ok {one}`: it does not "
            "know whether its message is safe, and will say it again. (On Socket.IO: hear `say`, and emit `said`, with one "
            "text each.)",
        )
        require(
            all(one in m.heard for m in everybody),
            f"The first client said `{one} hello` and was told `ok {one}`. The first has heard {words(first)}, the second "
            f"{words(second)}, the third {words(third)}. A message goes to everybody who is there, also to who said it.",
        )
        given(f"The second client said `{two} héllo wörld`.")
        second.say(two, "héllo wörld")
        hall.until(lambda: all(two in m.heard for m in everybody) and f"ok {two}" in second.heard)
        heard = [sorted(m.heard) for m in everybody]
        require(
            heard == [[one, two, f"ok {one}"], [one, two, f"ok {two}"], [one, two]],
            f"After `{one} hello` of the first and `{two} héllo wörld` of the second, the first has heard {words(first)}, the "
            f"second {words(second)}, the third {words(third)}. Everybody should have both, once and unchanged, and an `ok` "
            "only who said it.",
        )
        given("The third client vanished with a reset; then the first said three more.")
        third.vanish()
        for id in more:
            first.say(id, "still here?")
            if not hall.until(lambda id=id: id in second.heard and f"ok {id}" in first.heard):
                break
        require(
            {*more} <= {*second.heard} and {f"ok {id}" for id in more} <= {*first.heard},
            f"The third client vanished without a goodbye, and the first said `{'`, `'.join(more)}`. The first has heard "
            f"{words(first)}, the second {words(second)}. Whoever has gone must not keep the others waiting, nor end their "
            "connection.",
        )
    left = kept(service, "clients") - before
    require(
        left <= 0,
        f"Three clients came, and went. `clients` still holds {left} of them: each who was ever there stays in memory, and "
        "every message is tried on all of them. What runs for certain when a client leaves?",
    )
    return "Everybody hears everything, who said it knows, and nobody minds who leaves."


def words(member):
    heard = [f"`{text}`" for text in member.heard] or ["nothing"]
    return ", ".join(heard) + (f", then the end ({member.ended})" if member.ended else "")


@exercise(
    "16-mailbox",
    deadline=5.0,
    hints=(
        "What is a text's size, where it is sent? And what is the size of all that waits, after one was taken?",
        "Keep the texts in a deque, and their bytes in `waiting`: more with `put`, less with `take`. When one does not fit, "
        "forget them all and remember that this mailbox is closed.",
        "`size = len(text.encode())`; if `self.closed or self.waiting + size > self.limit`: `self.closed = True`, "
        "`self.texts.clear()`, `self.waiting = 0`, `return False`. Else append, count, `return True`.",
    ),
)
def mailbox_is_bounded(Mailbox):
    given("The check made a Mailbox(10), put in `one` and `two`, and took them out.")
    box = Mailbox(10)
    kept = box.put("one"), box.put("two"), box.waiting
    require(
        kept == (True, True, 6),
        f"In a Mailbox(10), `put('one')` and `put('two')` returned {kept[0]!r} and {kept[1]!r}, and then `waiting` was "
        f"{kept[2]!r}. Both fit, and there are 6 bytes.",
    )
    taken = box.take(), box.take(), box.take()
    require(
        taken == ("one", "two", None),
        f"After `put('one')` and `put('two')`, three times `take()` returned {', '.join(map(repr, taken))}. The oldest comes "
        "first, or a client reads answers before questions; and None says that there is nothing.",
    )
    given("The check used a Mailbox(10) for long: each text was taken out before the next came.")
    for number in range(100):
        fits = box.put(f"text {number:02}")
        require(
            fits is True and box.waiting == 7 and box.take() == f"text {number:02}",
            f"Text number {number + 1} of 7 bytes found an empty Mailbox(10); `put` returned {fits!r}, `waiting` is "
            f"{box.waiting!r}. What was taken out makes room again: else everybody is evicted in the end.",
        )
    given("The check put `ééééé`, 5 characters and 10 bytes, into a Mailbox(10), and then `x`.")
    box = Mailbox(10)
    fits, over = box.put("ééééé"), box.put("x")
    require(
        (fits, over) == (True, False),
        f"In a Mailbox(10), `put('ééééé')` returned {fits!r} and then `put('x')` {over!r}. The first is 10 bytes of UTF-8 and "
        "fits to the last, the second does not. Memory and wires count bytes.",
    )
    waiting, first = box.waiting, box.take()
    require(
        waiting == 0 and first is None,
        f"After a `put` that did not fit, `waiting` was {waiting!r}, and `take()` returned {first!r}. Its client will be "
        "evicted, so nobody takes out what it held: forget it, or a hundred stalled clients fill your memory.",
    )
    late = box.put("late")
    require(
        late is False and box.take() is None,
        f"One `put` did not fit; the next returned {late!r}. The client behind it would get a stream with a hole in it, and "
        "nobody would tell it. Closed is closed.",
    )
    given("The check made two mailboxes, and put `mine` into the first.")
    box, other = Mailbox(10), Mailbox(10)
    box.put("mine")
    waiting, first = other.waiting, other.take()
    require(
        waiting == 0 and first is None,
        f"Of two mailboxes the first got `mine`. Then `waiting` of the second was {waiting!r}, and its `take()` returned "
        f"{first!r}: one client reads what is for another. What stands in the class, or is a default, is there once for all; "
        "what `__init__` makes, each has for itself.",
    )
    given("The check put and took texts by chance.")
    random = Random(6455)
    for _ in range(200):
        limit, often = random.choice((8, 12, 100)), random.choice((0.1, 0.5))
        box, model, closed, did = Mailbox(limit), [], False, []
        for _ in range(40):
            if random.random() < often:
                did.append("take()")
                found, right = box.take(), model.pop(0) if model else None
            else:
                text = random.choice(("", "a", "bc", "éé", "☕☕"))
                did.append(f"put({text!r})")
                closed = closed or len("".join([*model, text]).encode()) > limit
                model = [] if closed else [*model, text]
                found, right = box.put(text), not closed
            waiting, inside = box.waiting, len("".join(model).encode())
            newest = "…, " * (len(did) > 6) + ", ".join(did[-6:])
            require(
                (found, waiting) == (right, inside),
                f"In a Mailbox({limit}), after {newest}, the last returned {found!r} and `waiting` was "
                f"{waiting!r}; it has to return {right!r}, and `waiting` has to be {inside}: the bytes of the texts inside, "
                "which are 2 for each é and 3 for each ☕.",
            )
    return "Never more than its limit, never a hole, and nothing kept for those who will not come."


def burst(hall, sender, readers, ids, *, said=False, again=False):
    """Let a sender say messages, wait until the `ok`s are there and readers have all; return what is wrong, or None."""
    for id in () if said else ids:
        sender.say(id, TEXT)
    want, acks = {*ids}, {f"ok {id}" for id in ids}
    latest, waiting = slice(-4 * len(ids), None), list(readers)

    def all_there():
        while waiting and want <= {*waiting[-1].heard[latest]}:
            waiting.pop()
        return not waiting and acks <= {*sender.heard[latest]}

    hall.until(lambda: hall.ended or all_there())
    if hall.ended:
        hall.until(lambda: False, 0.1)  # for the server to say why
        return (
            f"{len(hall.ended)} of {len(readers)} clients who read all that comes lost their connection "
            f"({hall.ended[0].ended}). Messages come in bursts, {len(ids)} of 20 kB at once: who reads must be able to fall "
            "behind by one burst."
        )
    acked = len(acks & {*sender.heard[latest]})
    if acked < len(ids) and again:
        return (
            f"A sender was cut off before it had heard an `ok`, came back, and said its {len(ids)} messages again; {acked} of "
            "them were acknowledged. Who repeats a message wants to hear one thing: that it is safe."
        )
    if acked < len(ids):
        before = any(text.startswith("ok ") for text in sender.heard)
        return (
            f"{len(ids)} messages were said, {ids[0]} to {ids[-1]}, and {acked or 'none'} of them acknowledged; then nothing "
            "moved any more. "
            + (
                "Some clients do not read: who waits for them?"
                if before
                else "Not even the first came through: what carries a text from a mailbox to the wire, and what wakes it?"
            )
        )
    if not all_there():
        missing = sum(not want <= {*m.heard[latest]} for m in readers)
        return (
            f"You said `ok` to the messages {ids[0]} to {ids[-1]}, and {missing} of {len(readers)} clients who read all that "
            "comes did not get all of them. Who said them believes that they are safe: an acknowledged message is lost."
        )
    return None


def let_go(hall, stuck, total):
    """Wake those who did not read, and require that they find the end of their connection."""
    for member in stuck:
        member.wake()
    hall.until(lambda: all(m.ended for m in stuck), min(STALLED, patience()))
    held = [m for m in stuck if not m.ended]
    if not held:
        return
    got = list(held[0].heard)
    if len({*got}) >= total:
        what = f"All {total} messages were kept for it: a client that sleeps for a day would be kept a day of messages."
    elif got == list(held[0].hall.said)[: len(got)]:
        what = f"It got the first {len(got)} of {total} messages, and believes that nothing was said since."
    else:
        what = f"It got {len(got)} of {total} messages, with a hole of which nobody told it: it believes that it has all."
    if len(stuck) == 1:
        who = "The client that stopped reading was still connected when it"
    else:
        were, they = ("was", "it") if len(held) == 1 else ("were", "they")
        who = f"{len(held)} of {len(stuck)} clients that stopped reading {were} still connected when {they}"
    raise NotYet(
        f"{who} woke up after the storm, and two seconds later. {what} Whose mailbox is full has to leave."
    )


@exercise(
    "16-evict",
    deadline=40.0,
    hints=(
        "Which line of your first service waits for a client that does not read? Who waits behind it?",
        "A mailbox for each client, and a task (on threads: a thread) that takes texts out and sends them. To hand a message "
        "out is to put it into each mailbox, without waiting. Where `put` returns False: out of the members, and a task that "
        "closes the connection.",
        "For each client of `receivers`: `mailbox, news = members[client]`; `if mailbox.put(text): news.set()`; else `del "
        "members[client]`, `task = asyncio.create_task(client.close(1013))`, `leaving.add(task)`. Call it with "
        "`list(members)`, and for the `ok` with `[connection]` while that is in `members`.",
    ),
)
def the_stalled_are_evicted(service):
    before = kept(service, "members")
    with ExitStack() as opened:
        given("Eight clients came, one of which never reads, and one naps for a burst.")
        hall = Hall(service, opened)
        sender, *readers = hall.join(6)
        [stuck], [napper] = hall.join(1, stalled=True), hall.join(1, stalled=True)
        for start in range(0, 80, BURST):
            ids = hall.ids(start, BURST)
            given(
                f"The first said {BURST} messages of 20 kB, {ids[0]} to {ids[-1]}; one of eight clients does not read."
            )
            problem = burst(hall, sender, [sender, *readers], ids)
            if not problem and napper not in readers:
                napper.wake(to_stay=True)
                readers.append(napper)
                problem = burst(hall, sender, readers, ids, said=True)
            require(not problem, problem)
        let_go(hall, [stuck], 80)
        strange = next((text for m in readers for text in m.heard if text not in hall.said), None)
        require(
            strange is None,
            f"A client that had said nothing heard `{strange}`. An `ok` is for who said the message, and for nobody else.",
        )
    left = kept(service, "members") - before
    require(
        left <= 0,
        f"Eight clients came, and went. `members` still holds {left} of them, each with a mailbox that fills up and that "
        "nobody empties. Let go of who leaves by themselves, too.",
    )
    return (
        f"The one that did not read woke up and found the end ({stuck.ended}). The others have all 80 messages, also the one "
        "that took a nap."
    )


class Storm:
    """200 clients, and 100 messages: what usually comes in 100 seconds, in five.

    60 of the clients stop reading, 10 vanish, and the sender is cut off once. The next burst begins when it is due, and not
    before the readers have this one.
    """

    MESSAGES, READERS, STUCK, VANISHING = 100, 129, 60, 10

    def __init__(self, service, seconds):
        self.service, self.seconds = service, seconds
        self.problem, self.grown = None, 0
        self.readers, self.senders, self.stuck = [], [], []

    def run(self, opened, patient=None):
        hall = self.hall = Hall(self.service, opened)
        hall.patience = patient or hall.patience
        self.senders = hall.join(1)
        self.readers += hall.join(self.READERS // 2)
        self.stuck = hall.join(self.STUCK, stalled=True)
        vanishing = hall.join(self.VANISHING)
        self.readers += hall.join(self.READERS - len(self.readers))
        before, start = memory(), time.monotonic()
        for number in range(0, self.MESSAGES, BURST):
            due = start + self.seconds * number / self.MESSAGES
            hall.until(lambda due=due: time.monotonic() >= due, self.seconds + 1)
            ids = hall.ids(number, BURST)
            given(f"The storm with 200 clients, messages {ids[0]} to {ids[-1]}.")
            again = number == BURST
            if again:
                self.cut(ids)
            self.problem = burst(hall, self.senders[-1], self.readers, ids, again=again)
            for member in vanishing if again else ():
                member.vanish()
            self.grown = max(self.grown, memory() - before)
            if (
                self.problem
                or self.grown > MOST
                or any(len({*m.heard}) < len(m.heard) for m in self.readers)
            ):
                break

    def cut(self, ids):
        """Cut the sender off when its messages are on their way, and let it come back."""
        for id in ids:
            self.senders[-1].say(id, TEXT)
        self.hall.until(lambda: ids[0] in self.readers[0].heard)
        self.senders[-1].vanish()
        self.senders += self.hall.join(1)

    def judge(self):
        history = History([f"reader {number}" for number in range(self.READERS)])
        for id in self.hall.said:
            history.sent(id)
        for text in [text for sender in self.senders for text in sender.heard]:
            if text.startswith("ok ") and text[3:] in self.hall.said:
                history.acked(text[3:])
        for number, reader in enumerate(self.readers):
            for text in reader.heard:
                history.received(text, f"reader {number}")
        return history.verdict()

    def sheet(self):
        """Return what came of it, in words that are the same on every machine."""
        has_all = sum({*self.hall.said} <= {*m.heard} for m in self.readers)
        whole = len(self.hall.said) == self.MESSAGES
        acked = whole and self.judge().acked == self.MESSAGES
        return {
            "messages acknowledged": f"all {self.MESSAGES}"
            if acked
            else f"not all {self.MESSAGES}",
            "readers that have every message": f"{has_all if whole else 0} of {self.READERS}",
            "stalled readers that had to leave": f"{sum(bool(m.ended) for m in self.stuck)} of {self.STUCK}",
            "memory": "within 50 MiB" if self.grown <= MOST else "more than 50 MiB",
        }


KNOWN = 950
"""Messages after which a service has to know each of them: fewer than the thousand that it may remember at most."""


def twice(service, opened):
    """Let somebody say many small messages, and then some of them again; return one that came again, or None."""
    hall = Hall(service, opened)
    sender, reader = hall.join(2)
    ids = hall.ids(0, KNOWN)
    again = [*ids[::106], ids[-1]]
    for part in [*(ids[n : n + BURST] for n in range(0, KNOWN, BURST)), again]:
        for id in part:
            sender.say(id, "small")
        if not hall.until(lambda last=part[-1]: f"ok {last}" in sender.heard[-2 * BURST :]):
            break
    [last] = hall.ids(KNOWN, 1)
    sender.say(last, "the last")
    hall.until(lambda: last in reader.heard)
    return next((id for id in again if reader.heard.count(id) > 1), None)


def memory():
    """Return the bytes that this process occupies, without those that nothing uses any more."""
    with suppress(OSError, AttributeError):  # a function of glibc
        ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


@exercise(
    "16-storm",
    deadline=90.0,
    hints=(
        "A sender that was cut off says its messages again. Which of them have you handed out already?",
        "Remember the ids of what was handed out, the newest thousand of them. For an id that you know there is one thing "
        "left to do, and it is not nothing.",
        "`if id not in seen: seen[id] = True`, and hand it out. Then, in either case, the `ok`. And `if len(seen) > 1000: "
        "del seen[next(iter(seen))]`.",
    ),
)
def it_survives(service, first_service, seconds):
    with ExitStack() as opened:
        after = Storm(service, seconds)
        after.run(opened)
        require(
            after.grown <= MOST,
            f"After {len(after.hall.said)} messages the memory of this process had grown by more than 50 MiB. 60 clients do "
            "not read: what waits for each of them, and where?",
        )
        verdict = after.judge()
        require(
            not verdict.duplicated,
            "A sender was cut off before it had heard an `ok`, came back, and said its messages again: readers got "
            "some of them twice. It cannot know what you have; the ids tell you what is new.",
        )
        require(not after.problem, after.problem)
        let_go(after.hall, after.stuck, Storm.MESSAGES)
    given(f"The storm was over; one client said {KNOWN} small messages, and some of them again.")
    with ExitStack() as opened:
        id = twice(service, opened)
        require(
            id is None,
            f"After the storm somebody said {KNOWN} small messages, and some of them again: `{id}` was handed out twice. It is "
            "among the newest thousand, and you had forgotten it. When there are too many ids, forget one: the oldest.",
        )
    with ExitStack() as opened, suppress(Exception):
        before = Storm(first_service, 0)
        before.run(opened, min(1.0, patience()))
        for member in before.stuck:
            member.wake()
        before.hall.until(lambda: all(m.ended for m in before.stuck), 0.3)
        rows = zip(before.sheet().items(), after.sheet().values(), strict=True)
        show(
            table(
                [{"": what, "before": one, "after": other} for (what, one), other in rows],
                caption="The storm: your first service, and this one",
            )
        )
    return (
        f"{verdict.sent} messages, all acknowledged, {verdict.received:,} copies at 129 readers: none lost, none twice, "
        "and 60 stalled readers had to leave."
    )
