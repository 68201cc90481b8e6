"""The checks of lab 15. All nodes are on the loop of the check, at ports of their own; the balancer is a real nginx."""

import asyncio
import contextlib
import json
import math
import socket
import time
from collections import Counter
from random import Random

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from helpers import table
from helpers.balancer import balancer as nginx
from helpers.history import History
from helpers.lab import exercise, given, patience, require, show

PEOPLE = 4
MACHINES = 3
CUTS = 200


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
        "once, with `asyncio.gather`, and keep the batch last.",
        "self.draining = True; await asyncio.gather(*(person.close(1012) for person in list(self.people))); while "
        "self.people: await asyncio.sleep(0.001); await self.keep()",
    ),
)
async def nothing_is_owed(Node):
    await a_debt(Node)
    await a_write(Node)
    return "Nobody came in while it drained, all were sent away with 1012, and what was acknowledged is in the journal."


@contextlib.asynccontextmanager
async def listening(node, **options):
    async with serve(
        node.handler, "127.0.0.1", 0, process_request=node.answer, **options
    ) as server:
        yield server.sockets[0].getsockname()[1]


async def a_debt(Node):
    """Three entries are in the batch when the drain begins; somebody sends another one as long as she can."""
    journal = Journal()
    node = Node(journal)
    async with listening(node) as port:
        given("The check asked for /ready, before any drain.")
        status = await ready(port)
        require(
            status == 200,
            f"Before any drain, /ready was answered with {status}. A balancer sends nobody to a node of which it does "
            "not know that it is ready; 200 says so.",
        )
        given("Ann connected, and three of her entries were acknowledged.")
        async with client(port) as ann:
            names = [f"Ann {number}" for number in range(3)]
            for name in names:
                await acknowledged(ann, name)
            late = []

            async def meanwhile():
                journal.before = None
                with contextlib.suppress(ConnectionClosed):
                    await acknowledged(ann, "Ann, late")
                    late.append("Ann, late")

            journal.before = meanwhile
            given(
                "Ann was connected, with three acknowledged entries, and the check awaited drain()."
            )
            await node.drain()
            after = await ready(port), await knock(port)
            given("Ann waited for the end of her connection, after drain().")
            async with asyncio.timeout(patience()):
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        await ann.recv()
            code = ann.close_code
        missing = [name for name in names if name not in journal.names]
        require(
            missing == [],
            f"After drain() the journal does not have {', '.join(missing)}: these entries were in the batch of your node, "
            "acknowledged, and nobody wrote them.",
        )
        require(
            set(late) <= journal.names,
            "While your drain wrote the batch, Ann was still connected. She wrote once more, and her entry was "
            "acknowledged after "
            "the last one was kept: it is lost. Keep when nobody can add anything.",
        )
        refused(*after, "After your drain")
        require(
            code == 1012,
            f"Ann's connection ended with {code}. Only 1012, service restart, says: come back, elsewhere; 1000 says "
            "that all is done.",
        )


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
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow():
        journal.before = None
        begun.set()
        await go_on.wait()

    journal.before = slow
    async with listening(node) as port, client(port) as ben:
        given(
            "Ben's ten entries were acknowledged, and a handler was writing them when drain() was called."
        )
        for number in range(10):
            await acknowledged(ben, f"Ben {number}")
        async with asyncio.timeout(patience()):
            await begun.wait()
        drain = asyncio.ensure_future(node.drain())
        try:
            with contextlib.suppress(ConnectionClosed):
                async with asyncio.timeout(patience()):
                    await ben.recv()
            for _ in range(100):
                await asyncio.sleep(0.001)
            early = drain.done()
            newcomer = await ready(port), await knock(port)
        finally:
            go_on.set()
            await drain
        require(
            not early,
            "A batch was full, and a handler was in the middle of a write, and your `drain` had returned. Whoever "
            "kills the process now loses ten acknowledged entries: wait until `people` is empty.",
        )
        refused(*newcomer, "In the middle of your drain")


@exercise(
    "15-client",
    hints=(
        "What do you know of a message that you have sent, and of which you have heard nothing?",
        "`self.unacked` keeps its order. An entry is new if its number is not below `self.have`. "
        "`self.random.uniform(a, b)` "
        "is a number by chance.",
        'return f"/?have={self.have}", [[name, text] for name, text in self.unacked.items()]; the pause is '
        "self.random.uniform(0, min(30, 2**attempt)).",
    ),
)
def no_gap(Client):
    verdict = cut_again_and_again(Client)
    pauses(Client)
    return (
        f"{CUTS} cuts, {verdict.sent} entries of two people, all of them read by both, once and in order. And a "
        "thousand who are "
        "sent away at once do not come back at once."
    )


class Wire:
    """A server in memory, and a connection to it that can be cut."""

    def __init__(self, journal):
        self.journal = journal
        self.up, self.down = [], []
        self.told = 0

    def open(self, client):
        given("A connection was made, and the check called hello().")
        hello = client.hello()
        shape = isinstance(hello, (tuple, list)) and len(hello) == 2 and isinstance(hello[0], str)
        require(
            shape and all(isinstance(m, (tuple, list)) and len(m) == 2 for m in hello[1]),
            f"`hello()` has to return two things, a path and a list of messages, each of them as `say` made it; yours "
            f"returned {hello!r}.",
        )
        path, messages = hello
        self.up, self.down = [list(message) for message in messages], []
        self.told = int(path.partition("have=")[2] or 0)

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
    wires = {name: Wire(journal) for name in people}
    texts, named = {}, {}

    def say(name):
        text = f"{name}'s text {texts.setdefault(name, 0)}"
        texts[name] += 1
        history.sent(text, name)
        message = people[name].say(text)
        named[message[0]] = text
        wires[name].up.append(list(message))

    def read(name):
        message = wires[name].down.pop(0)
        given(f"The server sent {json.dumps(message)}.")
        shown = people[name].take(list(message))
        require(
            shown is None or isinstance(shown, str),
            f"The server sent {json.dumps(message)}, and `take` returned {shown!r}. It has to return the text of a new "
            "entry, or None.",
        )
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
            wire.told == len(journal),
            f"{name.title()} has all {len(journal)} entries, and asks for those from {wire.told} on. A thousand who "
            "come back and ask for a whole journal are a second herd: put the number that you have into the path.",
        )
    return verdict


def judged(verdict, journal):
    kept = Counter(text for _, text in journal)
    nowhere = [text for text in verdict.lost if text not in kept]
    require(
        nowhere == [],
        f"After {CUTS} cuts {len(set(nowhere))} texts are not in the journal. The first, {nowhere[:1]}, has no ack, "
        "because the "
        "connection ended. You have sent it once, and it is nowhere: a new connection begins with all that has no ack.",
    )
    twice = [text for text, times in kept.items() if times > 1]
    require(
        twice == [],
        f"{len(twice)} texts are in the journal more than once, the first is {twice[:1]}. The journal knows an entry by "
        "its name, so one with a new name is a new one: send it again as it was.",
    )
    require(
        verdict.lost == [],
        f"{len(verdict.lost)} copies were never shown, the first is {verdict.lost[:1]}; in the journal it is. While it "
        "was away others wrote, and a client gets that by the number of entries that it has: have=12 after entry 11.",
    )
    require(
        verdict.duplicated == [],
        f"{verdict.duplicated[:1]} was shown twice. The number says whether you have an entry; `take` returns None for "
        "one that you have.",
    )
    require(
        verdict.reordered == [],
        f"{verdict.reordered[:1]} came late: something newer overtook an older one of the same person. `unacked` keeps the "
        "order in which things were said.",
    )
    return verdict


def pauses(Client):
    given("The check asked 1,000 clients for their pauses.")
    crowd = [Client(f"client {seed}", Random(seed)) for seed in range(1000)]
    first, fourth, late = ([one.pause(attempt) for one in crowd] for attempt in (0, 3, 12))
    longest = max(*first, *fourth, *late)
    require(
        min(first) >= 0 and longest <= 30,
        f"At attempt 12 somebody waits for {longest:,.0f} s. Nobody who is told to come back waits that long; 30 is the "
        "most.",
    )
    width = max(max(first) / 10, 0.001)
    _, most = Counter(int(pause / width) for pause in first).most_common(1)[0]
    require(
        most <= 250,
        f"A node closed all its connections, and {most} of 1,000 people came back within the same tenth of the time. "
        "They all knock at once, at the nodes that are left: let chance spread them.",
    )
    require(
        sum(fourth) > 3 * sum(first),
        f"The mean pause is {sum(first) / 1000:.1f} s before the first attempt, and {sum(fourth) / 1000:.1f} s before the "
        "fourth. Who was refused four times finds a server that has no room: wait longer each time.",
    )


@exercise(
    "15-deploy",
    hints=(
        "Name for each step what a newcomer would meet if it came too early.",
        "Nobody new, then drain, then stop; start, and ask `ready` until it says so; then newcomers again. And only "
        "then the next machine.",
        "for machine in machines: use all others; drain; stop; start; while not await machine.ready(): await "
        "asyncio.sleep(0.01); use all.",
    ),
    deadline=60.0,
)
async def nothing_acknowledged_is_lost(Node, Client, deploy, restarts=MACHINES):
    fleet = Fleet(Node)
    rounds = math.ceil(restarts / MACHINES)
    async with contextlib.AsyncExitStack() as stack:
        await fleet.open(stack)
        people = [Person(Client, number, fleet) for number in range(PEOPLE)]
        tasks = [asyncio.ensure_future(person.live()) for person in people]
        try:
            while not all(person.said > 2 for person in people):
                working(tasks)
                await asyncio.sleep(0.005)
            for _ in range(rounds):
                given(
                    "Three machines ran, four people wrote, and the check awaited deploy(machines, balancer)."
                )
                await deploy(list(fleet.machines), fleet)
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
        f"Your deployment returned, and {', '.join(map(str, old))} run the old version still. Every machine has to be "
        "restarted.",
    )
    missing = [machine for machine in fleet.machines if machine not in fleet.used]
    require(
        missing == [],
        f"At the end nginx sends newcomers to {len(fleet.used)} of {MACHINES} machines. Missing: "
        f"{', '.join(map(str, missing))}. "
        "Who is ready has to be used again.",
    )
    verdict = fleet.history.verdict()
    lost = list(dict.fromkeys(verdict.acked_and_lost))
    require(
        lost == [],
        f"{len(lost)} entries were acknowledged and are in no journal. They were in the batch of a process that you "
        "stopped before it had paid its debts.",
    )
    codes = Counter(code for person in people for code in person.codes)
    show(
        table(
            [
                {
                    "restarts": sum(machine.starts - 1 for machine in fleet.machines),
                    "newcomers refused": len(fleet.refused),
                    "acknowledged and lost": len(lost),
                    "shown twice": len(verdict.duplicated),
                    "closed with": str(max(codes, key=codes.__getitem__)),
                }
            ],
            caption="Four people wrote all the time",
        )
    )
    return "The newcomers noticed nothing, and those who were there were away for a moment and lost nothing."


class Machine:
    """A place at which a process runs, with a port that stays. A process is a node, and what is in its memory."""

    def __init__(self, number, fleet):
        self.number, self.fleet = number, fleet
        self.starts = 0
        self.server = self.node = self.timer = None
        self.warming = 0
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

    async def start(self):
        """Start the new version; it is ready when it was asked three times."""
        require(
            self.server is None,
            f"You started {self}, which still ran. Two processes cannot listen at one port: stop the old one first.",
        )
        self.starts += 1
        self.warming = 2 if self.starts > 1 else 0
        self.node = self.fleet.Node(self.fleet.journal)
        self.server = await serve(
            self.node.handler, "127.0.0.1", self.port, process_request=self._answer, close_timeout=1
        )
        self.timer = asyncio.ensure_future(self._keep())

    async def _keep(self):
        while True:
            await asyncio.sleep(0.05)
            await self.node.keep()

    async def ready(self):
        """Ask /ready."""
        return self.server is not None and await ready(self.port) == 200

    async def drain(self):
        """Drain the node, and have newcomers look in."""
        await self.node.drain()
        await self.fleet.newcomers(
            f"{self} was drained. A node that drains refuses people, and nginx was still sending some there"
        )

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
            self.node.journal = Journal()
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
        self.probes = 0

    async def open(self, stack):
        for machine in self.machines:
            stack.push_async_callback(machine.close)
            await machine.start()
        self.nginx = stack.enter_context(nginx(self.machines, name="lab 15"))

    async def use(self, machines):
        """Send newcomers to these from now on."""
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
        while time.monotonic() < deadline:
            quiet = not any(machine.node.batch for machine in self.machines)
            done = all(
                not p.client.unacked and p.client.have >= len(self.journal.entries) for p in people
            )
            if quiet and done:
                break
            await asyncio.sleep(0.01)


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
            await asyncio.sleep(min(self.client.pause(attempt), 30) / 20)
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
