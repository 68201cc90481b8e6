"""The checks of lab 15. All nodes are on the loop of the check, at ports of their own; the balancer is a real nginx."""

import asyncio
import contextlib
import functools
import inspect
import json
import math
import re
import socket
import time
import weakref
from collections import Counter
from collections.abc import Iterable
from random import Random

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.http11 import Response

from helpers import table
from helpers.balancer import balancer as nginx
from helpers.history import History
from helpers.lab import NotYet, exercise, given, patience, require, show, turns, until

PEOPLE = 4
MACHINES = 3
CUTS = 200
ATTEMPTS = (0, 1, 2, 3, 4, 5, 6, 12)
"""Those for which the check asks 1,000 clients how long they wait."""
FRUITLESS = 50
"""Questions to a machine that is not ready, after which it will not become so."""
MOMENT = 0.03
"""Seconds that a write takes under load."""


class Journal:
    """What is kept, each name once."""

    def __init__(self):
        self.entries = []
        self.names = set()
        self.changed = asyncio.Event()
        self.before = None
        """Awaited before anything is written."""

    async def write(self, batch):
        if self.before is not None:
            await self.before()
        for name, text in batch:
            if name not in self.names:
                self.names.add(name)
                self.entries.append([name, text])
        self.changed.set()
        self.changed = asyncio.Event()

    async def follow(self, have):
        """Yield (number, (name, text)), for ever."""
        while True:
            while have >= len(self.entries):
                await self.changed.wait()
            yield have, self.entries[have]
            have += 1


class Line:
    """The way of one process to the journal: a write takes a moment, and one that has begun ends with the process."""

    def __init__(self, journal):
        self.journal = journal
        self.begun = []
        self.cut = False

    async def write(self, batch):
        self.begun.append(batch)
        await asyncio.sleep(MOMENT if batch else 0)
        if not self.cut:
            await self.journal.write(batch)
            self.begun.remove(batch)

    def follow(self, have):
        return self.journal.follow(have)


def client(port, path=f"/?have={10**9}"):
    """A connection; by default of somebody who wants to read nothing. It reads what comes, also while nobody looks."""
    return connect(
        f"ws://127.0.0.1:{port}{path}",
        proxy=None,
        compression=None,
        close_timeout=1,
        max_queue=None,
    )


async def knock(port):
    """Try to come in, and return the status that one gets."""
    try:
        async with client(port):
            return 101
    except InvalidStatus as error:
        return error.response.status_code
    except (InvalidHandshake, OSError, EOFError):
        return 0


async def ready(port):
    """Return the status of /ready."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    try:
        line = (await reader.readline()).split()
        await reader.read()
    finally:
        writer.close()
    return int(line[1]) if len(line) > 1 else 0


def said(value):
    """Say what the learner's code returned."""
    if inspect.iscoroutine(value):
        value.close()
        return "a coroutine (write `def`, not `async def`)"
    text = repr(value)
    return text if len(text) < 200 else text[:200] + " …"


def listed(names):
    """Say names: Ann's, Ben's and Cleo's."""
    *others, last = [f"{name}'s" for name in names]
    return f"{', '.join(others)} and {last}" if others else last


async def acknowledged(person, name, text="…"):
    """Send an entry, and wait for its ack among the entries."""
    await person.send(json.dumps([name, text]))
    async with asyncio.timeout(patience()):
        while json.loads(await person.recv()) != ["ack", name]:
            pass


@exercise(
    "15-drain",
    hints=(
        "From which moment on can nothing new get into the batch?",
        "`self.people` holds the connections, and each handler takes its own out when it ends. Close all of them at "
        "once, with `asyncio.gather`, so that none waits for another, and keep the batch last.",
        "`self.draining = True`; `await asyncio.gather(*(person.close(1012) for person in list(self.people)))`; "
        "`while self.people: await asyncio.sleep(0.001)`; `await self.keep()`.",
    ),
)
async def nothing_is_owed(Node):
    await a_debt(Node)
    await a_write(Node)
    return "Nobody came in while it drained, all were sent away with 1012, and what was acknowledged is in the journal."


class Door:
    """The learner's `answer`, and what it said: websockets would put its own words in the place of an odd one."""

    def __init__(self, node):
        self.node = node
        self.returned = []
        self.raised = []

    async def answer(self, connection, request):
        try:
            value = self.node.answer(connection, request)
            value = await value if inspect.isawaitable(value) else value
        except Exception as error:
            self.raised.append(error)
            return connection.respond(500, "")
        self.returned.append(value)
        return (
            value if value is None or isinstance(value, Response) else connection.respond(500, "")
        )

    async def ready(self, port):
        """Return the status of /ready."""
        return self.sound(await ready(port))

    async def knock(self, port):
        """Return the status that a newcomer gets."""
        return self.sound(await knock(port))

    def sound(self, status):
        if self.raised:
            raise self.raised[0]
        odd = [value for value in self.returned if not isinstance(value, (Response, type(None)))]
        kind = type(odd[0]).__name__ if odd else ""
        require(
            odd == [],
            f"`answer` returned {said(odd[0]) if odd else ''}, {'an' if kind[:1] in 'aeiou' else 'a'} {kind}, and that is "
            "no response: return `connection.respond(200, …)`, or None, with which the handshake goes on.",
        )
        return status


class Watched(ServerConnection):
    """A connection that knows whether somebody has closed it, and how often since others could run."""

    closes = in_a_row = 0

    async def close(self, code=1000, reason=""):
        if self.in_a_row == 0:
            asyncio.get_running_loop().call_soon(setattr, self, "in_a_row", 0)
        self.closes += 1
        self.in_a_row += 1
        require(
            self.in_a_row < 1000,
            "You closed one connection 1,000 times in a row. Closing what is closed returns at once and lets nobody else "
            "run, so no handler can end and `people` never gets empty: close once, then wait with `asyncio.sleep`.",
        )
        await super().close(code, reason)


@contextlib.asynccontextmanager
async def listening(door):
    async with serve(
        door.node.handler,
        "127.0.0.1",
        0,
        process_request=door.answer,
        create_connection=Watched,
    ) as server:
        yield server.sockets[0].getsockname()[1]


async def ten_seconds():
    """Let them pass on the clock of this loop alone: whoever waits for a time has waited by then."""
    loop, ahead = asyncio.get_running_loop(), 0.0
    before = loop.time
    loop.time = lambda: before() + ahead
    for _ in range(40):
        ahead += 0.25
        await asyncio.sleep(0)


async def a_debt(Node):
    """Entries are in the batch when the drain begins; somebody sends another one as long as she can."""
    journal = Journal()
    node = Node(journal)
    door = Door(node)
    async with listening(door) as port, contextlib.AsyncExitStack() as stack:
        await at_first(door, port)
        given("Ann and Ben connected, and four of their entries were acknowledged.")
        people = {
            name: await stack.enter_async_context(client(port)) for name in ("Ann", "Ben", "Cleo")
        }
        ann = people["Ann"]
        names = [f"Ann {number}" for number in range(3)]
        for name in names:
            await acknowledged(ann, name)
        await acknowledged(people["Ben"], "Ben 0")
        names.append("Ben 0")
        await until(lambda: len(node.people) == len(people))
        late, writes, looked = [], [], asyncio.Event()

        async def meanwhile():
            journal.before = None
            writes.append(True)
            await looked.wait()
            with contextlib.suppress(ConnectionClosed):
                await acknowledged(ann, "Ann, late")
                late.append("Ann, late")

        journal.before = meanwhile
        given(
            "Ann, Ben and Cleo were connected, four entries were acknowledged, and the check awaited drain()."
        )
        inside = list(node.people)
        drain = asyncio.ensure_future(node.drain())
        await turns(3)  # three closes need more
        at_once = node.draining
        first = (
            "wrote the batch"
            if writes
            else "sent people away"
            if any(person.closes for person in inside)
            else "waited"
        )
        looked.set()
        await gone(drain, people)
        given("After drain() the check asked for /ready, and a newcomer knocked.")
        after = await door.ready(port), await door.knock(port)
        missing = [name for name in names if name not in journal.names]
        require(
            missing == [],
            f"After drain() the journal does not have {', '.join(missing)}: these entries were in the batch of your node, "
            "acknowledged, and nobody wrote them.",
        )
        require(
            set(late) <= journal.names,
            "While your drain wrote the batch, Ann was still connected. She wrote once more, and her entry was "
            "acknowledged after the last one was kept: it is lost. Keep when nobody can add anything.",
        )
        refused(*after, "After your drain")
        require(
            node.draining,
            "After your drain `draining` is False still: `answer` goes by something of its own, and `handler` by `draining`. "
            "Whoever was let in a moment before the drain is served, and may write. Set `self.draining`.",
        )
        require(
            at_once,
            f"Your `drain` {first} first, and `draining` was False meanwhile: the balancer is told that the node is ready, "
            "and whoever is sent away comes straight back in. Let it be the first line.",
        )
        name, code = next(
            ((name, p.close_code) for name, p in people.items() if p.close_code != 1012), ("", 1012)
        )
        require(
            code == 1012,
            f"{name}'s connection ended with {code}. Only 1012, service restart, says: come back, elsewhere; 1000 says "
            "that all is done.",
        )


async def at_first(door, port):
    """Whether a node takes people before anybody has drained it."""
    given(
        "The check asked for /ready, before any drain: websockets called `answer(connection, request)`."
    )
    status = await door.ready(port)
    went_on = ""
    if door.returned[-1:] == [None]:
        went_on = (
            " `answer` returned None, so the handshake went on, and a plain request is no handshake. Is there a "
            "`return` before `connection.respond`, and is the path `/ready`, with its slash?"
        )
    require(
        status == 200,
        f"Before any drain, /ready was answered with {status}.{went_on} A balancer sends nobody to a node of which it does "
        "not know that it is ready; 200 says so.",
    )
    given(
        "A newcomer connected, before any drain: websockets called `answer(connection, request)`."
    )
    newcomer = await door.knock(port)
    require(
        newcomer == 101,
        f"Before any drain, a newcomer got {newcomer}, and not 101: nobody can come in. Return None for all but /ready, "
        "and the handshake goes on.",
    )


async def gone(drain, people):
    """Await a drain, and the ends of all connections."""

    def ended():
        return all(person.close_code is not None for person in people.values())

    try:
        await until(lambda: drain.done() or ended())
        await ten_seconds()
        returned = drain.done()
        if returned:
            drain.result()
            await until(ended)
        left = [name for name, person in people.items() if person.close_code is None]
        require(
            left == [],
            f"Your `drain` {'returned' if returned else 'still waits'}, and nobody closed {listed(left) if left else ''} "
            f"connection{'s' * (len(left) > 1)}. Whoever is connected when the process is killed is cut off without a "
            "word: close all that are in `people`, and await it.",
        )
        given("All connections had ended, and drain() did not return: what does it wait for?")
        async with asyncio.timeout(patience()):
            await drain
    finally:
        drain.cancel()


def refused(status, newcomer, when):
    """Whether a node refuses people."""
    require(
        (status, newcomer) == (503, 503),
        f"{when}, /ready was answered with {status}, and a newcomer got {newcomer} (101 is in). A node that drains "
        "refuses with 503, from the first moment: else the first one you send away comes straight back in.",
    )


async def a_write(Node):
    """A handler writes a full batch when the drain begins."""
    journal = Journal()
    node = Node(journal)
    door = Door(node)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow():
        journal.before = None
        begun.set()
        await go_on.wait()

    journal.before = slow
    async with listening(door) as port, client(port) as ben:
        given(
            "Ben's ten entries were acknowledged, and drain() was called while a handler wrote them, for ten seconds."
        )
        try:
            for number in range(10):
                try:
                    await acknowledged(ben, f"Ben {number}")
                except TimeoutError:
                    raise NotYet(
                        f"Ben got no ack for entry {number} of ten while the journal was slow: did you change `handler`? "
                        "Leave it as it is; what it owes is what `drain` is for."
                    ) from None
            async with asyncio.timeout(patience()):
                await begun.wait()
            drain = asyncio.ensure_future(node.drain())
            await until(lambda: drain.done() or ben.close_code is not None)
            await ten_seconds()
            early = drain.done()
            if early:
                drain.result()
            newcomer = await door.ready(port), await door.knock(port)
        finally:
            go_on.set()
        given("The handler had written Ben's entries and ended, and drain() did not return.")
        async with asyncio.timeout(patience()):
            await drain
        require(
            not early,
            "A batch was full, and a handler was in the middle of a write, and your `drain` had returned. Whoever "
            "kills the process now loses ten acknowledged entries: wait until `people` is empty, however long that takes.",
        )
        refused(*newcomer, "In the middle of your drain")


@exercise(
    "15-client",
    hints=(
        "What do you know of a message that you have sent, and of which you have heard nothing?",
        "`self.unacked` keeps its order. An entry is new if its number is not below `self.have`. "
        "`self.random.uniform(a, b)` is a number by chance.",
        '`return f"/?have={self.have}", [[name, text] for name, text in self.unacked.items()]`. In `take`: '
        "`self.unacked.pop(message[1], None)` after an ack; if `message[1] >= self.have`, then "
        "`self.have = message[1] + 1` and `return message[3]`. "
        "The pause is `self.random.uniform(0, min(30, 2**attempt))`.",
    ),
)
def no_gap(Client):
    verdict = cut_again_and_again(Client)
    pauses(Client)
    return (
        f"{CUTS} cuts, {verdict.sent} entries of two people, all of them read by both, once and in order. And a thousand "
        "who are sent away at once do not come back at once."
    )


class Wire:
    """A server in memory, and a connection to it that can be cut."""

    def __init__(self, journal, texts):
        self.journal = journal
        self.texts = texts
        """What was said, by the names of the messages."""
        self.up, self.down = [], []
        self.told = 0

    def open(self, client):
        given("A connection was made, and the check called hello().")
        hello = client.hello()
        pair = isinstance(hello, (tuple, list)) and len(hello) == 2 and isinstance(hello[0], str)
        several = pair and isinstance(hello[1], Iterable) and not isinstance(hello[1], str)
        path, messages = hello[0] if pair else "", list(hello[1]) if several else []
        require(
            several and all(isinstance(m, (tuple, list)) and len(m) == 2 for m in messages),
            "`hello()` has to return two things, a path and a list of messages, each of them as `say` made it; yours "
            f"returned {said(hello)}.",
        )
        number = path.removeprefix("/?have=")
        require(
            re.fullmatch(r"/\?have=\d+", path),
            f"`hello()` returned the path {path!r}, in which a server finds no number of entries. "
            + (
                "It begins with a slash and a question mark, as in `/?have=12`."
                if number == path
                else f"{number!r} is none: `have` counts them, from 0."
            ),
        )
        strange = [list(m) for m in messages if self.texts.get(str(m[0])) != m[1]]
        require(
            strange == [],
            f"`hello()` sends {strange[:1]} again, and `say` has made no such message. The journal knows an entry by its "
            "name, so one with a new name is a new one: send it again as it was.",
        )
        self.up, self.down = [list(message) for message in messages], []
        self.told = int(path.partition("have=")[2])

    def step(self):
        """The server reads one message, and writes what follows from it, and what is new."""
        if self.up:
            name, text = self.up.pop(0)
            if name not in [entry[0] for entry in self.journal]:
                self.journal.append([name, text])
            self.down.append(["ack", name])
        while self.told < len(self.journal):
            self.down.append(["entry", self.told, *self.journal[self.told]])
            self.told += 1


def cut_again_and_again(Client):
    random, journal, history = Random(6455), [], History(["ann", "ben"])
    people = {name: Client(name, Random(index)) for index, name in enumerate(("ann", "ben"))}
    named = {}
    wires = {name: Wire(journal, named) for name in people}
    texts = dict.fromkeys(people, 0)
    seen = {name: set() for name in people}

    def say(name):
        text = f"{name}'s text {texts[name]}"
        texts[name] += 1
        history.sent(text, name)
        message = people[name].say(text)
        named[message[0]] = text
        wires[name].up.append(list(message))

    def read(name):
        message = wires[name].down.pop(0)
        given(f"The server sent {json.dumps(message)}.")
        shown = people[name].take(list(message))
        if message[0] == "ack":
            right, why = None, "An ack is nothing to show: return None."
        elif message[1] in seen[name]:
            right, why = (
                None,
                (
                    f"{name.title()} has entry {message[1]}, and it was new only once. The number says whether you have an "
                    "entry; `take` returns None for one that you have."
                ),
            )
        else:
            right, why = (
                message[3],
                (f"It has to return the text of a new entry, {message[3]!r}, also of one's own."),
            )
        require(
            shown == right and type(shown) is type(right),
            f"The server sent {json.dumps(message)}, and `take` returned {said(shown)}. {why}",
        )
        if message[0] == "entry":
            seen[name].add(message[1])
        if shown is not None:
            history.received(shown, name)
        if message[0] == "ack" and message[1] in named:
            history.acked(named[message[1]])

    for name, wire in wires.items():
        wire.open(people[name])
    for _ in range(CUTS):
        name = random.choice(["ann", "ben"])
        for _ in range(random.randrange(1, 8)):
            other = random.choice(["ann", "ben"])
            random.choice([lambda other=other: say(other), wires[other].step, wires[other].step])()
            if wires[other].down and random.random() < 0.7:
                read(other)
        wires[name].open(people[name])
    for _ in range(2):
        for name, wire in wires.items():
            wire.open(people[name])
            while wire.up or wire.down:
                wire.step()
                if wire.down:
                    read(name)
        for wire in wires.values():
            wire.step()
    for name, wire in wires.items():
        while wire.down:
            read(name)
    verdict = judged(history.verdict(), journal)
    for name, wire in wires.items():
        wire.open(people[name])
        require(
            wire.up == [],
            f"All is acknowledged, and {name.title()}'s `hello()` still sends {len(wire.up)} messages again. After "
            '`["ack", name]` forget it.',
        )
        require(
            wire.told == len(journal),
            f"{name.title()} has all {len(journal)} entries, and asks for those from {wire.told} on. A thousand who "
            "come back and ask for a whole journal are a second herd: put the number that you have into the path.",
        )
        wire.down = [["entry", 0, *journal[0]]]
        read(name)
    return verdict


def judged(verdict, journal):
    kept = {text for _, text in journal}
    nowhere = [text for text in verdict.lost if text not in kept]
    require(
        nowhere == [],
        f"After {CUTS} cuts {len(set(nowhere))} texts are not in the journal. The first, {nowhere[:1]}, has no ack, "
        "because the connection ended. You have sent it once, and it is nowhere: a new connection begins with all that "
        "has no ack.",
    )
    require(
        verdict.lost == [],
        f"{len(verdict.lost)} copies were never shown, the first is {verdict.lost[:1]}; in the journal it is. While it "
        "was away others wrote, and a client gets that by the number of entries that it has: have=12 after entry 11.",
    )
    require(
        verdict.reordered == [],
        f"{verdict.reordered[:1]} came late: something newer overtook an older one of the same person. `unacked` keeps the "
        "order in which things were said.",
    )
    return verdict


def seconds(client, attempt):
    """Return a pause."""
    given(f"The check called pause({attempt}).")
    pause = client.pause(attempt)
    number = isinstance(pause, (int, float)) and not isinstance(pause, bool)
    require(
        number and pause >= 0,
        f"`pause({attempt})` returned {said(pause)}; it has to return a number of seconds, 0 or more.",
    )
    return pause


def pauses(Client):
    def asked(seed):
        one = Client(f"client {seed}", Random(seed))
        return {attempt: seconds(one, attempt) for attempt in ATTEMPTS}

    everybody = [asked(seed) for seed in range(1000)]
    crowds = {attempt: [one[attempt] for one in everybody] for attempt in ATTEMPTS}
    longest, attempt = max((max(crowd), attempt) for attempt, crowd in crowds.items())
    require(
        longest <= 30,
        f"At attempt {attempt} somebody waits for {longest:,.0f} s. Nobody who is told to come back waits that long; 30 is "
        "the most.",
    )
    for attempt, crowd in crowds.items():
        width = max(max(crowd) / 10, 0.001)
        tenth, most = Counter(int(pause / width) for pause in crowd).most_common(1)[0]
        after = min(pause for pause in crowd if int(pause / width) == tenth)
        require(
            most <= 250,
            f"A node closed all its connections, and {most:,} of 1,000 people came back within the same tenth of the time, "
            f"at attempt {attempt} after {after:.1f} s. They all knock at once, at the nodes that are left: "
            + (
                f"{crowd.count(30):,} wait 30 s to the dot. Limit the range, not what chance gave."
                if 250 < crowd.count(30) < 1000
                else "let chance spread them."
            ),
        )
        least, longest, limit = min(crowd), max(crowd), min(30, 2**attempt)
        require(
            least <= limit / 10 and 0.9 * limit <= longest <= limit,
            f"At attempt {attempt} the shortest of 1,000 pauses was {least:.1f} s and the longest {longest:.1f} s, and "
            f"they have to be anything from 0 to {limit}. Who was refused again finds a server that has no room: up to "
            "twice as long each time, and never more than 30 s.",
        )
    require(
        asked(7) == everybody[7],
        "Two clients were made with the same `Random(7)`, and their pauses differ: yours does not take its chance from "
        "`self.random`, and nobody can repeat what it did.",
    )


@exercise(
    "15-deploy",
    hints=(
        "Name for each step what a newcomer would meet if it came too early.",
        "Nobody new, then drain, then stop; start, and ask `ready` until it says so; then newcomers again. And only "
        "then the next machine.",
        "For each machine: `use` all others; `drain`; `stop`; `start`; `while not await machine.ready(): await "
        "asyncio.sleep(0.01)`; `use` all.",
    ),
    deadline=60.0,
)
async def nothing_acknowledged_is_lost(Node, Client, deploy, restarts=MACHINES):
    fleet = Fleet(Node)
    rounds = max(1, math.ceil(restarts / MACHINES))
    async with contextlib.AsyncExitStack() as stack:
        await fleet.open(stack)
        people = [Person(Client, number, fleet) for number in range(PEOPLE)]
        tasks = [asyncio.ensure_future(person.live()) for person in people]
        try:
            given("Four people came in and wrote, with your `Client`: is `15-client` correct?")
            async with asyncio.timeout(2 * patience()):
                while not all(person.said > 2 for person in people):
                    working(tasks)
                    await asyncio.sleep(0.005)
            for _ in range(rounds):
                given(
                    "Three machines ran, four people wrote, and the check awaited deploy(machines, balancer)."
                )
                fleet.handed = list(fleet.machines)
                await deploy(fleet.handed, fleet)
                fleet.nothing_forgotten()
                working(tasks)
            await fleet.settle(people)
            working(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return reported(fleet, people, rounds)


def working(tasks):
    """Raise what the learner's client has raised."""
    for task in tasks:
        if task.done():
            task.result()


def reported(fleet, people, rounds):
    old = [machine for machine in fleet.machines if machine.starts < rounds + 1]
    require(
        old == [],
        f"Your deployment returned, and {', '.join(map(str, old))} {'run' if len(old) > 1 else 'runs'} the old version "
        "still. Every machine has to be restarted."
        + " You changed `machines` while you went through it, and so the loop left some out."
        * (fleet.handed != fleet.machines),
    )
    missing = [machine for machine in fleet.machines if machine not in fleet.used]
    require(
        missing == [],
        f"At the end nginx sends newcomers to {len(fleet.used)} of {MACHINES} machines. Missing: "
        f"{', '.join(map(str, missing))}. Who is ready has to be used again.",
    )
    verdict = fleet.history.verdict()
    kept = {text for _, text in fleet.journal.entries}
    lost = [text for text in dict.fromkeys(verdict.acked_and_lost) if text not in kept]
    owing = [
        f"`drain` of {machine} had returned, and when you stopped it, it owed some of them still: is `15-drain` correct?"
        if drained
        else f"You stopped {machine}, which had some of them in memory, and nobody had told it to drain."
        for machine, drained, debts in fleet.debts
        if any(text in lost for _, text in debts)
    ]
    require(
        lost == [],
        f"{len(lost)} entries were acknowledged and are in no journal. {''.join(owing[:1])}",
    )
    require(
        verdict.duplicated == [],
        f"{len(verdict.duplicated)} times somebody was shown what was on the screen already, first "
        f"{verdict.duplicated[:1]}: your Client asks from 0 on, or returns what it has.",
    )
    missed = owed(verdict)
    require(
        missed == [],
        f"{len(missed)} times somebody was not shown what another one wrote, first {missed[:1]}: your Client asks for less "
        "than it needs, or does not send again what has no ack.",
    )
    codes = Counter(code for person in people for code in person.codes)
    code, _ = codes.most_common(1)[0]
    require(
        code == 1012,
        f"Your node sent people away with {code}, and browsers may take that for the end. Only 1012, service restart, "
        "says: come back.",
    )
    show(
        table(
            [
                {
                    "restarts": sum(machine.starts - 1 for machine in fleet.machines),
                    "newcomers refused": len(fleet.refused),
                    "acknowledged and lost": len(lost),
                    "shown twice": len(verdict.duplicated),
                    "closed with": str(code),
                }
            ],
            caption="Four people wrote all the time",
        )
    )
    return "The newcomers noticed nothing, and those who were there were away for a moment and lost nothing."


def owed(verdict):
    """Return what somebody has not been shown, but for what a stop has cut off in the middle."""
    kept = set(verdict.acked_and_lost)
    return [text for text in verdict.lost if text in kept or not text.startswith("probe ")]


def step(words):
    """Make a method of the deployment: it is noted if somebody calls it and throws away what should be awaited."""

    def made(function):
        @functools.wraps(function)
        def call(self, *arguments):
            fleet, begun = getattr(self, "fleet", self), []

            async def run():
                begun.append(True)
                fleet.nothing_forgotten()
                return await function(self, *arguments)

            coroutine = run()
            coroutine.__qualname__ = words
            fleet.steps.append(
                weakref.ref(coroutine, lambda _: begun or fleet.forgotten.append(words))
            )
            return coroutine

        return call

    return made


class Machine:
    """A place at which a process runs, with a port that stays. A process is a node, and what is in its memory."""

    def __init__(self, number, fleet):
        self.number, self.fleet = number, fleet
        self.starts = 0
        self.server = self.node = self.timer = self.line = None
        self.drained = False
        self.writing = asyncio.Lock()
        self.warming = self.fruitless = 0
        self.asked, self.others_went_on = 0.0, True
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port = self._reserved.getsockname()[1]

    def __repr__(self):
        return f"machine {self.number}"

    def _answer(self, connection, request):
        if self.warming:
            self.warming -= request.path == "/ready"
            return connection.respond(503, "warming up\n")
        return self.node.answer(connection, request)

    @step("machine.start")
    async def start(self):
        """Start the new version; it is ready when it was asked three times."""
        require(
            self.server is None,
            f"You started {self}, which still ran. Two processes cannot listen at one port: stop the old one first.",
        )
        self.starts += 1
        self.fruitless, self.drained = 0, False
        self.warming = 2 if self.starts > 1 else 0
        self.line = Line(self.fleet.journal)
        self.node = self.fleet.Node(self.line)
        self.server = await serve(
            self.node.handler, "127.0.0.1", self.port, process_request=self._answer, close_timeout=1
        )
        self.timer = asyncio.ensure_future(self._keep())

    async def _keep(self):
        while True:
            await asyncio.sleep(0.05)
            async with self.writing:
                await self.node.keep()

    @step("machine.ready")
    async def ready(self):
        """Ask /ready."""
        held = time.monotonic() - self.asked
        require(
            self.others_went_on or held < 0.5,
            f"Before you asked {self} again, your deployment held everything up: in the meantime nobody on this loop was "
            "served, not even the node that was to become ready. `await asyncio.sleep(…)` lets the others go on.",
        )
        status = 0 if self.server is None else await ready(self.port)
        self.fruitless = 0 if status == 200 else self.fruitless + 1
        drains = (
            " It drains, as you have told it to: stop it, and start the new version."
            * self.node.draining
        )
        require(
            self.fruitless < FRUITLESS,
            f"You asked {FRUITLESS} times whether {self} is ready: "
            + (
                "nobody listens there. Has it been started?"
                if self.server is None
                else f"it said {status}, and will say so for ever.{drains}"
            ),
        )
        if status != 200:
            self.asked, self.others_went_on = time.monotonic(), False
            asyncio.get_running_loop().call_soon(setattr, self, "others_went_on", True)
        return status == 200

    @step("machine.drain")
    async def drain(self):
        """End the timer between two of its writes, drain the node, and have newcomers look in."""
        require(
            self.server is not None or self.drained,
            f"You drained {self} after you had stopped it. `stop` ends a process as it is: what it had acknowledged, and "
            "had only in memory, is lost. First drain, then stop.",
        )
        given(f"The drain() of your Node, at {self}, did not return: is `15-drain` correct?")
        async with asyncio.timeout(2 * patience()):
            async with self.writing:
                self.timer.cancel()
            await self.node.drain()
        self.drained = True
        given(f"Four people wrote, and {self} was drained.")
        await self.fleet.newcomers(
            f"{self} was drained. A node that drains refuses people, and nginx was still sending some there"
        )

    @step("machine.stop")
    async def stop(self):
        """Kill the process, while somebody is writing, if it still takes anybody."""
        if self.server is None:
            return
        self.timer.cancel()
        with contextlib.suppress(InvalidHandshake, ConnectionClosed, OSError, EOFError):
            async with client(self.port) as probe:
                for _ in range(30):
                    await self.fleet.probe(probe)
                    if self.node.batch:
                        break
                self.kill()
        self.kill()
        await asyncio.gather(self.timer, return_exceptions=True)

    def kill(self):
        """End it at once: what its tasks still write goes nowhere."""
        if self.server is not None:
            self.line.cut = True
            debts = [entry for batch in (*self.line.begun, self.node.batch) for entry in batch]
            self.fleet.debts.append((self, self.drained, debts))
            for connection in list(self.server.connections):
                connection.transport.abort()
            self.server.close()
            self.server = None

    async def close(self):
        if self.timer is not None:
            self.timer.cancel()
        self.kill()
        self._reserved.close()


class Fleet:
    """The machines, the journal, and the balancer in front."""

    def __init__(self, Node):
        self.Node = Node
        self.journal = Journal()
        self.history = History([f"person {number}" for number in range(PEOPLE)])
        self.machines = [Machine(number, self) for number in range(MACHINES)]
        self.used = list(self.machines)
        self.refused = []
        self.turn = asyncio.Lock()
        self.probes = 0
        self.steps, self.forgotten = [], []
        self.debts, self.handed = [], []

    def nothing_forgotten(self):
        require(
            self.forgotten == [],
            f"`{'`, `'.join(dict.fromkeys(self.forgotten))}` was called and never awaited, so it did nothing: write "
            "`await` before it.",
        )

    async def open(self, stack):
        for machine in self.machines:
            stack.push_async_callback(machine.close)
            await machine.start()
        given("A process had started, and was asked whether it is ready.")
        status = await ready(self.machines[0].port)
        require(
            status == 200,
            f"Before any deployment, {self.machines[0]} was asked whether it is ready, and `answer` of your Node made that "
            f"{status}: there is nothing to deploy yet. Is `15-drain` correct?",
        )
        self.nginx = stack.enter_context(nginx(self.machines, name="lab 15"))

    @step("balancer.use")
    async def use(self, machines):
        """Send newcomers to these from now on."""
        require(
            machines,
            "You told nginx to use no machine, and every newcomer would be refused: there has to be one at least. Who "
            "takes people while one is out?",
        )
        async with self.turn:
            self.used = list(machines)
            await asyncio.to_thread(self.nginx.reload, self.used)
        await self.newcomers(
            "you had told nginx which machines to use. One of them is not ready for people. "
            "It listens, and is not ready: ask, and ask again"
        )

    async def newcomers(self, when):
        """Two for each machine, as people who come back are dealt out in between; each has to get in."""
        for _ in range(2 * MACHINES):
            status = await knock(self.nginx.port)
            if status != 101:
                self.refused.append(status)
            require(
                status == 101,
                f"A newcomer was refused with {status}, after {when}.",
            )

    async def probe(self, connection):
        """Write something that everybody has to read."""
        name = f"probe {self.probes}"
        self.probes += 1
        self.history.sent(name, "somebody")
        await acknowledged(connection, name, name)
        self.history.acked(name)

    async def settle(self, people):
        """Wait until all is kept and read, or patience ends."""
        for person in people:
            person.writing = False
        deadline = time.monotonic() + patience()
        while time.monotonic() < deadline and owed(self.history.verdict()):
            await asyncio.sleep(0.02)


class Person:
    """Somebody who writes and reads through the balancer, with the learner's client."""

    def __init__(self, Client, number, fleet):
        self.name = f"person {number}"
        self.fleet = fleet
        self.client = Client(self.name, Random(number))
        self.said = 0
        self.writing = True
        self.codes = []
        self.texts = {}

    async def live(self):
        attempt = 0
        while True:
            path, again = self.client.hello()
            connection = None
            try:
                async with client(self.fleet.nginx.port, path) as connection:
                    attempt = 0
                    for message in again:
                        await connection.send(json.dumps(message))
                    writer = asyncio.ensure_future(self.write(connection))
                    try:
                        async for text in connection:
                            self.read(json.loads(text))
                    finally:
                        writer.cancel()
                self.codes.append(connection.close_code)
            except ConnectionClosed:
                self.codes.append(connection.close_code)
            except (InvalidHandshake, OSError, EOFError):
                pass
            await asyncio.sleep(min(seconds(self.client, attempt), 30) / 20)
            attempt += 1

    async def write(self, connection):
        with contextlib.suppress(ConnectionClosed):
            while self.writing:
                text = f"{self.name} says {self.said}"
                self.said += 1
                self.fleet.history.sent(text, self.name)
                message = self.client.say(text)
                self.texts[message[0]] = text
                await connection.send(json.dumps(message))
                await asyncio.sleep(0.02)

    def read(self, message):
        shown = self.client.take(list(message))
        if shown is not None:
            self.fleet.history.received(shown, self.name)
        if message[0] == "ack" and message[1] in self.texts:
            self.fleet.history.acked(self.texts[message[1]])
