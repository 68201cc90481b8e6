"""The checks of lab 12: small examples first, then a wire that is cut at seeded places, and a history as the judge."""

import asyncio
import contextlib
import inspect
import json
import math
import time
from random import Random

import websockets

from helpers import serve, tap
from helpers.history import History
from helpers.lab import NotYet, exercise, given, patience, require, show, turns, until
from helpers.tap import Fault

SEED = 6455
OPTIONS = {"proxy": None, "compression": None, "user_agent_header": None, "close_timeout": 0.5}
HANDSHAKE = {"client": 154, "server": 166}
"""Bytes of a handshake; where they differ by some, cuts move by as many."""


class Cuts(Fault):
    """Cuts connections at seeded bytes, mostly within the first few messages, until so many have been cut."""

    name = "cuts"

    def __init__(self, count):
        super().__init__()
        self.count, self.left, self.ended = count, {}, set()

    def budget(self, side):
        """The bytes that may still pass. What a client says is only cut half of the time: it says more, and at once."""
        if self.done >= self.count:
            return math.inf
        key = side.connection, side.peer
        if key not in self.left:
            random = Random(f"{SEED} {key}")
            free = side.peer == "client" and random.random() < 0.5
            size = HANDSHAKE[side.peer] + random.randrange(-30, 100)
            self.left[key] = math.inf if free else size
        return self.left[key]

    def wait(self, side):
        if self.budget(side):
            return 0.0
        self.cut(side)
        return math.inf

    def size(self, side):
        return self.budget(side)

    def passed(self, side, size):
        if self.budget(side) != math.inf:
            self.left[side.connection, side.peer] -= size
            if not self.budget(side):
                self.cut(side)

    def cut(self, side):
        if side.connection not in self.ended:
            self.ended.add(side.connection)
            side.cut("cut")

    @property
    def done(self):
        return len(self.ended)


def connector(wire):
    """What the learner's code gets as `connect`: it tries until there is a connection."""

    @contextlib.asynccontextmanager
    async def connect():
        while True:
            try:
                ws = await websockets.connect(wire.ws_url(), **OPTIONS)
                break
            except (OSError, EOFError, websockets.WebSocketException):
                await asyncio.sleep(0)
        ws.send, ws.recv = not_for_ever(ws.send), not_for_ever(ws.recv)
        try:
            yield ws
        finally:
            await ws.close()

    return connect


def not_for_ever(method):
    """What is tried on an ended connection without an end would hold the loop: nothing waits there any more."""
    tries = 0

    async def call(*args, **options):
        nonlocal tries
        try:
            return await method(*args, **options)
        except websockets.ConnectionClosed:
            tries += 1
            require(
                tries < 1000,
                "Your code tried a thousand times to go on with a connection that had ended. It does not come back: `async "
                "with connect()` gives you another one, and belongs inside of the loop.",
            )
            raise

    return call


def words(message):
    """What a message says, as a list if it is one."""
    try:
        said = json.loads(message)
    except ValueError:
        return message
    return said if isinstance(said, list) and said else message


@contextlib.asynccontextmanager
async def running(wire, *coroutines):
    """Run what the learner's functions returned, until the block ends and their sockets are closed."""
    for coroutine in coroutines:
        require(
            inspect.iscoroutine(coroutine),
            f"The check called your function and got {type(coroutine).__name__}, which it cannot await: nothing was "
            "connected and nothing was said. It has to stay an `async def` without a `yield`.",
        )
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        if (await asyncio.wait(tasks, timeout=patience()))[1]:
            given(
                "The check cancelled your function, and it went on: a bare `except:` catches that, too."
            )
        await asyncio.gather(*tasks, return_exceptions=True)
        await turns(5)  # for the sockets of its clients: the tap that is closed next waits for them


async def rest(tasks, complete, progress):
    """Wait until all is complete, a task has ended, or nothing has moved for as long as a right answer may take."""
    seen, since = progress(), time.monotonic()
    while not complete() and time.monotonic() < since + patience():
        for task in tasks:
            if task.done():
                await task  # what it raised is what there is to say
                return
        await asyncio.sleep(0.002)
        if progress() != seen:
            seen, since = progress(), time.monotonic()


def listed(texts):
    return ", ".join(map(repr, texts[:4])) + (
        f" and {len(texts) - 4} more" if len(texts) > 4 else ""
    )


@exercise(
    "12-log",
    hints=(
        "Of each sender, what is the least that you must remember to tell a new text from a second copy?",
        "Numbers come without holes, so a count is enough: how many of this sender's are here. A number below it is a "
        "copy, the count itself is new, above it something is missing.",
        "`known = self.counts.get(sender, 0)`; `if number == known`, append and count; `return number <= known`. And "
        "`list(enumerate(…))[have:]` keeps the offsets.",
    ),
)
def log_has_each_text_once(Log):
    log = Log()
    expect_added(log, ("ann", 0, "hi"), True, "It is the first thing that ann has said.")
    expect_held(log, 0, [(0, "ann", "hi")], "That is all that anybody has said so far.")
    expect_added(
        log,
        ("ann", 0, "hi"),
        True,
        "It is in the log already: if the server does not acknowledge it, ann will say it for ever.",
    )
    expect_held(log, 0, [(0, "ann", "hi")], "ann has said it once; the second copy was a retry.")
    expect_added(log, ("ben", 0, "hi"), True, "Every sender counts from 0.")
    expect_added(log, ("ann", 1, "hi"), True, "A new number is a new text, whatever it says.")
    wanted = [(0, "ann", "hi"), (1, "ben", "hi"), (2, "ann", "hi")]
    expect_held(
        log, 0, wanted, "Three texts, alike by chance: only sender and number together tell."
    )
    expect_added(
        log,
        ("ann", 3, "?"),
        False,
        "ann's number 2 is not there yet. To take 3 now is to have 2 behind it, or never.",
    )
    expect_held(log, 2, wanted[2:], "An offset is for ever: a client counts with it what it has.")
    expect_added(
        log, ("cid", 1, "?"), False, "cid is new here, and begins with 0 as well: that is missing."
    )
    expect_added(log, ("ann", 2, "so"), True, "Now it is there: ann's next.")
    expect_added(log, ("ann", 3, "?"), True, "It was too early before; now 2 is there.")
    expect_held(
        log,
        3,
        [(3, "ann", "so"), (4, "ann", "?")],
        "ann's 3 had come too early, and was refused. Who counts what did not come in takes her next texts for copies.",
    )
    log = Log()
    expect_added(log, ("ann", 0, "hi"), True, "This is another log, and the first text in it.")
    expect_held(
        log,
        0,
        [(0, "ann", "hi")],
        "This is another log, made just now. What stands on the class, or is the default of an argument, is made once "
        "and shared by all logs: make it in `__init__`, for `self`.",
    )
    fuzzed(Log)
    return "Three senders, ninety texts and three copies of each, in an order that no clock would give."


def expect_added(log, call, wanted, why):
    given(f"The check called `add{call!r}`.")
    found = log.add(*call)
    require(found is wanted, f"`add{call!r}` returned {found!r}, not {wanted}. {why}")


def expect_held(log, have, wanted, why):
    given(f"The check called `after({have})`.")
    found = log.after(have)
    if isinstance(found, (list, tuple)):
        found = [tuple(entry) for entry in found]
    require(
        found == wanted,
        f"`after({have})` returned {found!r}; it has to be {wanted!r}. {why}",
    )


def fuzzed(Log):
    """Each text three times: at any moment any that is not ahead of its sender may come again."""
    random, log, history, known = Random(SEED), Log(), History(["the log"]), {}
    left = [(sender, number) for sender in ("ann", "ben", "cid") for number in range(30)] * 3
    given("The check added texts of three senders, each three times, the copies at seeded moments.")
    while left:
        sender, number = random.choice([call for call in left if call[1] <= known.get(call[0], 0)])
        left.remove((sender, number))
        known[sender] = max(known.get(sender, 0), number + 1)
        history.sent(f"{sender} {number}", sender)
        log.add(sender, number, f"{sender} {number}")
    for _, _, text in log.after(0):
        history.received(text, "the log")
    verdict = history.verdict()
    if not (verdict.exactly_once and verdict.in_order):
        show(verdict)
        raise NotYet(
            "Three senders said thirty texts each, and copies of older ones kept coming in between; what your log made of "
            "them is below. A copy may come long after other texts: a retry on a new connection, and then what was still on "
            "its way on the old one."
        )


@exercise(
    "12-follow",
    hints=(
        "What do you know about yourself that survives the connection?",
        "Count what you have delivered, outside of the loop that connects. It is what you ask for, and the only offset "
        "that you deliver next.",
        '`have = 0`; in `while True` and `with suppress(ConnectionClosed)`: `async with connect() as ws`, send `["have", '
        "have]`; for each entry: `if offset == have: deliver(sender, text); have += 1`.",
    ),
    deadline=20.0,
)
async def follow_delivers_each_entry_once(follow):
    given('The server waits for ["have", 0] and then sends three entries.')
    await followed(follow, 3, cuts=0)
    given(
        "The server has sixty entries, and the wire is cut forty times: a pause after each cut adds up."
    )
    cuts = await followed(follow, 60, cuts=40)
    await alike(follow)
    return f"Sixty entries over {cuts} cuts, some of them sent twice, and each delivered once."


async def followed(follow, size, cuts):
    history, entries, asked = History(["you"]), [f"text {n}" for n in range(size)], []
    for text in entries:
        history.sent(text)

    async def replay(ws):
        said = words(await ws.recv())
        asked.append((said, len(history.ids("you"))))
        match said:
            case ["have", int(have)]:
                first = max(0, have)
            case _:
                first = size
        for offset in range(first, size):
            for again in sorted({offset - offset % 2, offset}):  # as if live met the replay
                await ws.send(json.dumps(["entry", again, "ann", entries[again]]))
        await ws.wait_closed()

    def deliver(sender, text):
        history.received(text, "you")

    fault = Cuts(cuts)
    with serve(replay, name="lab") as server, tap(server) as wire:
        wire.add(fault)
        async with running(wire, follow(connector(wire), deliver)) as tasks:
            await rest(
                tasks,
                lambda: {*entries} <= {*history.ids("you")},
                lambda: (len(history.ids("you")), fault.done),
            )
            ended = tasks[0].done()
    verdict, had = history.verdict(), len(history.ids("you"))
    wrong = [(said, had) for said, had in asked if said != ["have", had]]
    require(
        asked,
        f"Your function said nothing within {patience():g} s. The server does not know what you have, and "
        'waits for ["have", 0].',
    )
    if verdict.duplicated:
        require(
            not wrong,
            f"You had delivered {wrong and wrong[0][1]} of {size} entries, and came back with "
            f"{wrong and json.dumps(wrong[0][0])}. The server sent them again, and {verdict.duplicated[0]!r} was delivered "
            "more than once. What you know has to survive the connection.",
        )
    require(
        not verdict.duplicated,
        f"You asked for the right entries, and {verdict.duplicated[0] if verdict.duplicated else ''!r} was delivered "
        "twice: the server had sent it twice. What is written while it replays comes live as well, so look at the offset of "
        "what comes.",
    )
    require(
        not ended,
        f"Your function returned after {had} of {size} entries. The connection had ended, the log had not: come back, and "
        "say what you have.",
    )
    require(
        not wrong,
        f"You had delivered {wrong and wrong[0][1]} of {size} entries, and said {wrong and json.dumps(wrong[0][0])}. What "
        "goes out is JSON, and the number in it is how many you have: the offset of the first that you want.",
    )
    if not (verdict.exactly_once and verdict.in_order):
        show(verdict)
        raise NotYet(
            f"The server sent {size} entries, and you delivered {had}, but not each of them, once and in order. An entry is "
            "offset, sender and text, and `deliver` takes sender and text."
        )
    return fault.done


async def alike(follow):
    """Three entries that say the same: nothing but the offset tells them from copies."""
    entries, delivered = [(sender, "hi") for sender in ("ann", "ben", "ann")], []

    async def replay(ws):
        await ws.recv()
        for offset, entry in enumerate(entries):
            await ws.send(json.dumps(["entry", offset, *entry]))
        await ws.wait_closed()

    given("The server has three entries, and each of them says 'hi'.")
    with serve(replay, name="lab") as server:
        reading = follow(connector(server), lambda *entry: delivered.append(entry))
        async with running(server, reading) as tasks:
            await rest(tasks, lambda: len(delivered) >= len(entries), lambda: len(delivered))
    require(
        len(delivered) == len(entries),
        f"The server sent three entries that all say 'hi', of ann, ben and ann again, and you delivered {len(delivered)}. "
        "Two people may say the same, and one of them twice: only the offset tells an entry from a copy.",
    )
    require(
        delivered == entries,
        f"The server sent entries of ann, ben and ann, and you delivered {', '.join(map(repr, delivered))}. The sender is "
        "the third thing in an entry, and goes to `deliver` with its text.",
    )


class Numbers:
    """The log of the checks: what a right answer to 12-log does."""

    def __init__(self):
        self.texts, self.gap = [], None

    def add(self, number, text):
        if number == len(self.texts):
            self.texts.append(text)
        elif number > len(self.texts):
            self.gap = number
        return number < len(self.texts)


@exercise(
    "12-say",
    hints=(
        "When may you stop saying a text? And by what does the server know it again?",
        "The number is the text's place in the list, on every try. Go on to the next when its ack is there, and on a "
        "`ConnectionClosed` connect and say the same again.",
        "`acked = 0`; in `while acked < len(texts)` and `with suppress(ConnectionClosed)`: `async with connect() as ws`, "
        "say number `acked`, wait for its ack, `acked += 1`, while there are any left.",
    ),
    deadline=20.0,
)
async def say_is_heard_once(say):
    given("The server acknowledges four texts, and the third is like the first.")
    await said(say, ["one", "two", "one", "three"])
    given("The server stored the first text; the connection was cut before its ack.")
    await said(say, ["one", "two"], lose=1)
    given(
        "A hundred texts of ben, and the wire is cut thirty times: a pause after each cut adds up."
    )
    cuts = await said(say, [f"text {n}" for n in range(100)], cuts=30, name="ben")
    return f"A hundred texts over {cuts} cuts: each is in the log, once, and in your order."


async def said(say, texts, cuts=0, lose=0, name="ann"):
    log, heard, fault, whole = Numbers(), [], Cuts(cuts), not cuts and not lose

    async def listen(ws):
        nonlocal lose
        async for message in ws:
            heard.append(words(message))
            match heard[-1]:
                case ["say", sender, int(number), text] if sender == name:
                    known = log.add(number, text)
                    if lose:
                        lose -= 1
                        ws.transport.abort()
                        return
                    if known:
                        await ws.send(json.dumps(["ack", number]))

    with serve(listen, name="lab") as server, tap(server) as wire:
        wire.add(fault)
        async with running(wire, say(connector(wire), name, [*texts])) as tasks:
            await rest(
                tasks,
                lambda: log.gap is not None or len(log.texts) > len(texts),
                lambda: (len(log.texts), fault.done),
            )
            returned = tasks[0].done()
    stray = [one for one in heard if one[:1] == ["say"] and one[1:2] != [name]]
    require(
        not stray,
        f"This time your function was to speak for {name}, and it said {stray and json.dumps(stray[0])}. The name is what "
        "it was called with.",
    )
    known = list(zip(texts, log.texts, strict=False))
    wrong = [number for number, (text, found) in enumerate(known) if whole and text != found]
    require(
        not wrong,
        f"Your list is {texts}, and the server heard {log.texts}, though the wire was whole. The number of a text is its "
        "place in the list.",
    )
    early = whole and log.gap is not None
    numbers = [one[2] for one in heard if one[:1] == ["say"]]
    require(
        not (early and numbers.count(0) > 1 and 2 not in numbers),
        f"Your list is {texts}, and you said both {texts[0]!r} under number 0: the server takes the second for a retry. A text "
        "is known by its place, not by its words.",
    )
    require(
        not early,
        f"You said number {log.gap} when the server had {len(log.texts)} of your texts, though the wire was whole. The "
        "first in the list is number 0, the next is 1: say them in this order.",
    )
    twice = [text for text in texts if log.texts.count(text) > texts.count(text)]
    require(
        not twice,
        f"{twice[0] if twice else ''!r} is in the log twice. Its ack was lost, and you said it again under another "
        "number: for the server that was somebody who says the same thing twice.",
    )
    require(
        log.gap is None,
        f"You said number {log.gap}, and the server has only {len(log.texts)} of your texts: one before it was lost on the "
        "wire, and whoever takes this one first has them out of order. Say the oldest without an ack first.",
    )
    missing = [text for text in texts if text not in log.texts]
    require(
        not (returned and missing),
        f"Your function returned, and {listed(missing)} {'is' if len(missing) == 1 else 'are'} not in the log. Sent is not "
        "stored: only the ack tells.",
    )
    require(
        returned,
        f"{len(log.texts)} of {len(texts)} texts are in the log, and your function went on without an end. The last thing "
        f"that the server heard was {json.dumps(heard[-1]) if heard else 'nothing'}.",
    )
    assert log.texts == texts
    return fault.done


MEMBERS, TEXTS, CUTS = ("ann", "ben", "cid"), 40, 200


@exercise(
    "12-chat",
    hints=(
        "On the server: who sends entries to a client that says nothing for an hour? On the client: which two numbers "
        "survive a connection?",
        "The server needs a task beside its loop, that awaits `log.news(have)` and counts `have` up; cancel it in "
        "`finally`. The client says what it has and all that has no ack, then listens to both kinds of answer.",
        "Server: `telling = asyncio.create_task(tell(ws, log, have))`; `async for message in ws`, if `log.add(…)`: send the "
        'ack. Client: `if kind == "ack": acked = number + 1`; otherwise, if `offset == have`: deliver, and `have += 1`.',
    ),
    deadline=40.0,
)
async def chat_survives_the_wire(chat, member, Log):
    await answers(chat, Log)
    again = await remembers(member)
    log, history, arrived, begun = Log(), History(MEMBERS), set(), []
    for name in MEMBERS:
        for text in texts_of(name):
            history.sent(text, name)

    def deliver_to(name):
        def deliver(sender, text):
            history.received(text, name)
            arrived.add((name, text))

        return deliver

    def complete(more=0):
        return len(arrived) >= len(MEMBERS) * (len(MEMBERS) * TEXTS + more)

    fault = Cuts(CUTS)
    given(
        f"Three members say {TEXTS} texts each, and the wire is cut {CUTS} times: a pause after each cut adds up."
    )
    with serve(handler(chat, log, begun), name="lab") as server, tap(server) as wire:
        wire.add(fault)
        connect = connector(wire)
        members = [member(connect, n, texts_of(n), deliver_to(n)) for n in MEMBERS]
        async with running(wire, *members) as tasks:
            await rest(tasks, complete, lambda: (len(arrived), fault.done))
            if complete() and not any(task.done() for task in tasks):
                history.sent("the end", "check")
                async with connect() as ws:
                    await ws.send(json.dumps(["have", len(log.after(0))]))
                    await ws.send(json.dumps(["say", "check", 0, "the end"]))
                    await rest(tasks, lambda: complete(1), lambda: len(arrived))
            ended = [name for name, task in zip(MEMBERS, tasks, strict=True) if task.done()]
    verdict = history.verdict()
    show(verdict)
    other = [first for first in begun if first[0] != "have"]
    require(
        not other,
        f"Your `member` began a connection with {other and json.dumps(other[0])}. One connection is for both, saying and "
        "listening, and the first word on each is `have`: the server waits for it.",
    )
    require(
        not ended,
        f"Your client of {ended and ended[0]} returned, though others had more to say. A chat has no last entry: "
        "`member` goes on until the check ends it.",
    )
    require(
        not verdict.duplicated,
        f"{listed(verdict.duplicated)}: that was delivered more than once. After a cut `have` is still what "
        "this member has, and an entry with another offset is not the next one.",
    )
    held = {text for _, _, text in log.after(0)}
    missing = [text for name in MEMBERS for text in texts_of(name) if text not in held]
    require(
        not missing,
        f"{listed(missing)} never came into the log: what is said on a connection that is then cut is gone. On the next "
        "one say all again that has no ack.",
    )
    require(
        verdict.exactly_once and verdict.in_order,
        f"All texts are in the log, and not all members have them: {listed(verdict.lost)} did not arrive. Does everybody "
        "ask for the offset that is missing, and does the server go on telling?",
    )
    order = [text for _, _, text in log.after(0)]
    for name in MEMBERS:
        got = history.ids(name)
        first = next(
            (n for n, pair in enumerate(zip(got, order, strict=False)) if len({*pair}) > 1), 0
        )
        require(
            got == order,
            f"{name} has everything, and another conversation than the log: at {first} the log has {order[first]!r}, and "
            f"{got[first]!r} was delivered. Deliver a text when it comes as an entry, your own, too: the server says "
            "what came first.",
        )
    require(
        again == [2],
        "The server acknowledged ann's texts 0 and 1 and closed the connection. The first that your `member` said on the "
        f"next one was {again[0] if again else 'nothing'}, and it takes 2: say again what has no ack, and nothing else, or "
        "a long conversation is said anew at each cut.",
    )
    return (
        f"{fault.done} cuts, and each of {len(MEMBERS)} members has all {len(MEMBERS) * TEXTS} texts, once, each "
        "sender's in order. And the end, of course."
    )


def texts_of(name):
    return [f"{name} {number}" for number in range(TEXTS)]


async def remembers(member):
    """Return the numbers that ann's next connection begins with, when two of her three texts have an ack."""
    connections, delivered = [], []

    async def listen(ws):
        connections.append([])
        async for message in ws:
            match words(message):
                case ["have", _] if len(connections) == 1:
                    await ws.send(json.dumps(["entry", 0, "ben", "hello"]))
                case ["say", str(name), int(number), _]:
                    connections[-1].append((name, number))
                    if len(connections) == 1:
                        await ws.send(json.dumps(["ack", number]))
                        if number == 1:
                            return

    given("The server told ann of a text of ben, acknowledged two of her three and closed.")
    with serve(listen, name="lab") as server:
        saying = member(
            connector(server),
            "ann",
            ["one", "two", "three"],
            lambda *entry: delivered.append(entry),
        )
        async with running(server, saying) as tasks:
            await rest(
                tasks,
                lambda: len(connections) > 1 and connections[1],
                lambda: len(connections),
            )
    names = {name for said in connections for name, _ in said}
    require(
        names <= {"ann"},
        "Your `member` was called with the name ann, heard a text of ben, and then spoke as ben. Has the loop that takes "
        "entries apart put another in the place of `name`?",
    )
    senders = {sender for sender, text in delivered if text == "hello"}
    require(
        senders <= {"ben"},
        f"The server sent ann an entry of ben, 'hello', and your `member` delivered it as a text of {listed(sorted(senders))}. "
        "The sender is the third thing in an entry, and goes to `deliver` with its text.",
    )
    return [number for _, number in connections[1][:1]] if len(connections) > 1 else []


def handler(chat, log, begun=None):
    """The learner's handler; with a list, the first word of each connection is noted there."""

    async def handle(ws):
        plain, first = ws.recv, True

        async def recv(*args, **options):
            nonlocal first
            message = await plain(*args, **options)
            if first and begun is not None:
                begun.append(words(message))
            first = False
            return message

        ws.recv = recv
        await chat(ws, log)

    return handle


async def answers(chat, Log):
    """What the server's part does without any cut, but for the one at the end."""

    class Watched(Log):
        waiting = 0

        async def news(self, have):
            self.waiting += 1
            try:
                return await super().news(have)
            finally:
                self.waiting -= 1

    log = Watched()
    with serve(handler(chat, log), name="lab") as server:
        async with (
            websockets.connect(server.ws_url(), **OPTIONS) as ann,
            websockets.connect(server.ws_url(), **OPTIONS) as ben,
        ):
            log.add("cid", 0, "first")
            await exchange(
                ann,
                [["have", 0]],
                [["entry", 0, "cid", "first"]],
                "The log has one entry, and ann has none.",
            )
            await exchange(
                ann,
                [["say", "ann", 0, "hi"]],
                [["ack", 0], ["entry", 1, "ann", "hi"]],
                "ann needs the ack, and her own text as an entry, as everybody does.",
            )
            await exchange(
                ann,
                [["say", "ann", 0, "hi"], ["say", "ann", 1, "there"]],
                [["ack", 0], ["ack", 1], ["entry", 2, "ann", "there"]],
                "The first was a retry, because its ack was lost: it wants an ack again, and is no new entry.",
            )
            await exchange(
                ann,
                [["say", "ann", 7, "later"], ["say", "ann", 2, "you"]],
                [["ack", 2], ["entry", 3, "ann", "you"]],
                "Number 7 is not in the log: an ack would make ann forget it, and that is the worst way to lose a text.",
            )
            await exchange(
                ben,
                [["have", 2]],
                [["entry", 2, "ann", "there"], ["entry", 3, "ann", "you"]],
                "ben has two entries already, and has missed the rest.",
            )
            with contextlib.suppress(websockets.ConnectionClosed):
                await ann.send(json.dumps(["say", "ann", 3, "all"]))
            await exchange(
                ben,
                [],
                [["entry", 4, "ann", "all"]],
                "ann said it on her connection a moment ago, while ben was there.",
            )
            given("The wire to ann was cut, and nobody said anything.")
            ann.transport.abort()
            require(
                await until(lambda: log.waiting <= 1),
                "ann's connection was cut, and your task goes on waiting for news for her: a silent chat collects one for "
                "everybody who was ever there. Cancel it in a `finally`, for a cut makes the loop raise.",
            )
            given("ben closed his connection, and nobody said anything.")
            await ben.close()
            require(
                await until(lambda: not log.waiting),
                "ben closed his connection in peace, and your task goes on waiting for news for him. `async for` ends then "
                "without raising anything: whatever ends the loop has to end the task as well.",
            )


async def exchange(ws, said, wanted, why):
    """Say something, and compare what comes, acks apart from entries, whose order is open."""
    what = "The client said " + ", ".join(map(json.dumps, said)) if said else "The client listened"
    given(f"{what}.")
    got = []
    with contextlib.suppress(TimeoutError, websockets.ConnectionClosed):
        async with asyncio.timeout(patience()):
            for part in said:
                await ws.send(json.dumps(part))
            while not all(part in got for part in wanted[-2:]) and len(got) < len(wanted) + 3:
                got.append(words(await ws.recv()))
    require(
        sorted(map(str, got)) == sorted(map(str, wanted)),
        f"{what}. Your server sent {', '.join(map(json.dumps, got)) or 'nothing'}; it takes "
        f"{', '.join(map(json.dumps, wanted))}. {why}",
    )
