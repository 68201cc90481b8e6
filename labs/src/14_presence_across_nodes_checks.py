"""The checks of lab 14. Nodes are objects with one Valkey between them, until the last check, which has two processes."""

import contextlib
import json
import linecache
import socket
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import redis.asyncio
from websockets.sync.client import connect

from helpers import serve, table
from helpers.broker import broker
from helpers.cluster import cluster
from helpers.lab import ROOT, exercise, given, happens, patience, require, show

MOST = 30
"""How often a sweep may speak to the store; nobody needs a tenth of it."""


@contextlib.asynccontextmanager
async def a_store(url, connection_class=redis.asyncio.Connection):
    """A client of the broker, as one node has it."""
    pool = redis.asyncio.ConnectionPool.from_url(
        url, connection_class=connection_class, decode_responses=True
    )
    store = redis.asyncio.Redis(connection_pool=pool)
    try:
        yield store
    finally:
        await store.aclose()
        await pool.aclose()


async def forget(store, *rooms):
    """Remove what was noted: the broker may be one that somebody else uses as well."""
    for room in rooms:
        for key in await store.keys(f"*{room}*"):
            await store.delete(key)


def a_room():
    return f"room-{uuid4().hex}"


def listed(names, who="`here`"):
    """Whether this is a list of names; says what it is otherwise."""
    require(
        isinstance(names, (list, tuple)),
        f"{who} returned "
        + (
            "a coroutine and no list: something was not awaited."
            if hasattr(names, "__await__")
            else f"{type(names).__name__}. It has to return the list of those who have gone."
            if "sweep" in who
            else f"{type(names).__name__}, and has to return a list of names."
        ),
    )
    return list(names)


@exercise(
    "14-leases",
    hints=(
        "What has to be in a note, so that `here` can tell whose it is and whether it still holds?",
        "A sorted set holds members with a number: `zadd` with when the note lapses, `zrem`, and `zrange(key, low, high, "
        "byscore=True)`. Let the member be text from which both the user and the tab can be read again: `json.dumps`.",
        '`zadd(self.key, {json.dumps([user, tab]): now + LIFE})`; `zrem` with the same text; `zrange(self.key, f"({now}", '
        '"inf", byscore=True)`, then `json.loads(note)[0]` of each, as a set, sorted.',
    ),
)
async def notes_lapse_one_by_one(Presence):
    asked = []

    class Heard(redis.asyncio.Connection):
        async def send_packed_command(self, command, check_health=True):
            asked.append(command)
            await super().send_packed_command(command, check_health)

    with broker("lab 14") as store:
        async with a_store(store.url) as one, a_store(store.url, Heard) as two:
            room, other = a_room(), a_room()
            try:
                await notes(Presence, one, two, room, other, asked)
            finally:
                await forget(one, room, other)
    return "Eight users, nine tabs and three nodes, and each note lapsed by itself. Nobody had to say goodbye."


async def notes(Presence, one, two, room, other, asked):
    first, second = Presence(one, room), Presence(two, room)
    given(
        "At second 0 a tab of Ann's was renewed on node 0, and then both nodes were asked who is here."
    )
    await first.renew("Ann", "a", 0)
    here = [listed(await first.here(0)), listed(await second.here(0))]
    require(
        here[0] != ["Ann"] or here[1] != [],
        "Ann was renewed on one node, and the other one answered []. What a node keeps in a variable, no other node sees: "
        "keep it in `self.store`.",
    )
    require(
        here == [["Ann"], ["Ann"]],
        f"Ann was renewed on node 0, with the tab 'a'. Asked who is here the nodes answered {here[0]} and {here[1]}. "
        + (
            "Has the note been made? Without `await` a command is never sent."
            if here[0] == []
            else "`here` is asked for names. What you keep in the store is your own affair."
        ),
    )
    require(
        asked,
        "Ann was renewed on node 0, and node 1 listed her, and had not asked the store. What you keep on the class, or "
        "outside it, is seen by all objects of this process; a node is a process of its own, and there the list would "
        "be []. Keep it in `self.store`.",
    )
    given(
        "At second 0 Ben was renewed once, and Ann every ten seconds; node 1 was asked at second 35."
    )
    await first.renew("Ben", "b", 0)
    for now in (10, 20, 30):
        await second.renew("Ann", "a", now)
    now = listed(await second.here(35))
    later = listed(await second.here(99))
    require(
        later == [],
        f"The last note was renewed at second 30, and at second 99 you still listed {later}. A node that is killed removes "
        "nothing, so a note has to end by itself, at the second that `now` counts; a TTL of the store's would go by "
        "its own clock.",
    )
    require(
        now == ["Ann"],
        f"Ben was renewed at second 0 and never again, Ann last at 30. At second 35 you listed {now}. Each note has a life "
        "of its own: Ann's renewal has renewed his note, too, or the whole list.",
    )
    given("Ann had two tabs, 'a' and 'phone', on two nodes; 'phone' said goodbye, and then 'a'.")
    await first.renew("Ann", "a", 100)
    await first.renew("Ann", "phone", 105)
    both = listed(await first.here(106))
    await first.leave("Ann", "phone")
    left = listed(await second.here(106))
    require(
        left == ["Ann"],
        f"One tab of Ann's said goodbye, and Ann was gone, with her other tab open: you listed {left}. A note belongs to a "
        "tab.",
    )
    require(
        both == ["Ann"],
        f"Ann had two tabs open, and you listed {both}. The list is one of people, and Ann is one.",
    )
    await second.leave("Ann", "a")
    left = listed(await first.here(106))
    require(
        left == [],
        f"Ann's last tab said goodbye and was still listed. Nobody should have to wait 30 seconds for that: you listed "
        f"{left}.",
    )
    given("Cleo was renewed in one room, and another room was asked who is here.")
    await first.renew("Cleo", "c", 110)
    elsewhere = listed(await Presence(two, other).here(111))
    require(
        elsewhere == [],
        f"Cleo is in one room, and another room listed {elsewhere}. Each `Presence` is for one room, so your notes of "
        "different rooms lie in the same place: let its name be part of the key.",
    )
    await odd_names(first, second)
    given("Node 0 was started again: it is a new Presence now, with the same store.")
    again = Presence(one, room)
    await again.renew("Dan", "d", 111)
    here = listed(await again.here(112))
    require(
        sorted(here) == ["Cleo", "Dan"],
        f"Cleo was noted, node 0 started again, and then Dan was noted there; you listed {here}. A node that starts "
        "anew is not alone: the store holds the notes of all the others.",
    )
    given("Kim, Eve, Bo and Abe came one after the other, and node 1 was asked who is here.")
    for now, user in enumerate(["Kim", "Eve", "Bo", "Abe"], 112):
        await first.renew(user, f"tab-{user}", now)
    here = listed(await second.here(116))
    require(
        here == ["Abe", "Bo", "Cleo", "Dan", "Eve", "Kim"],
        f"Abe was the last of six to come, and you listed {here}. The names have to be sorted: a client would "
        "show a list that jumps about, and take it for a change.",
    )


async def odd_names(first, second):
    """Users whose names look like two fields."""
    users = [
        ("Ann:a", "b"),
        ("Ann", "a:b"),
        ('["Ann"', "a"),
        ("Ann b", "c-d"),
        ("", "a"),
        ("Zoë/,|", "1"),
    ]
    for user, tab in users:
        given(f"There was a user whose name is {user!r}, with the tab {tab!r}.")
        if " " in user and " " in tab:
            continue
        await first.renew(user, tab, 110)
        here = listed(await second.here(111))
        await first.leave(user, tab)
        left = listed(await second.here(111))
        require(
            (sorted(here), left) == (sorted(["Cleo", user]), ["Cleo"]),
            f"A user has the name {user!r}, and the tab {tab!r}. Beside Cleo you listed {here}, and after the goodbye "
            f"{left}. A note from which the name cannot be read for certain lets somebody look like somebody else.",
        )


@exercise(
    "14-sweep",
    hints=(
        "Node 1 sweeps between two of your commands. Which of your answers is then no longer true?",
        "Ask for what has lapsed, remove what has lapsed, and ask for what is left: three commands in one transaction. "
        "Without `await`, a command of a pipeline waits for `execute`.",
        'In `async with self.store.pipeline(transaction=True) as pipe`: `pipe.zrange(self.key, "-inf", now, byscore=True)`; '
        '`pipe.zremrangebyscore(self.key, "-inf", now)`; `pipe.zrange(self.key, 0, -1)`; `lapsed, _, left = await '
        "pipe.execute()`.",
    ),
)
async def everybody_leaves_once(Register):
    with broker("lab 14") as store:
        async with a_store(store.url) as one, a_store(store.url) as two:
            await alone(Register, one, two)
            times = await together(Register, store.url, two)
    said = "once" if times == 1 else f"{times} times"
    return (
        f"Your sweep speaks to the store {said}. Before each of them the other node swept, or Ben came back, and each "
        "time the history was right."
    )


async def alone(Register, one, two):
    """One sweep after the other."""
    room = a_room()
    first, second = Register(one, room), Register(two, room)
    try:
        given(
            "Ann's tabs were renewed at seconds 0 and 20, Ben's at 0 and 1, Abe's at 2; node 0 swept at second 40."
        )
        for now, user, tab in (
            (0, "Ann", "a"),
            (20, "Ann", "phone"),
            (0, "Ben", "b"),
            (1, "Ben", "phone"),
            (2, "Abe", "c"),
        ):
            await first.renew(user, tab, now)
        gone = listed(await first.sweep(40), "`sweep`")
        require(
            "Ann" not in gone,
            f"One of Ann's two notes had lapsed, and you said that she has gone: {gone}. Her other tab is open.",
        )
        require(
            gone == ["Abe", "Ben"],
            f"At second 40 Abe's note had lapsed, and both of Ben's, and the sweep returned {gone}. The history gets one line "
            "for each name in it: return all who have no note left, each of them once, sorted.",
        )
        given("Node 1 swept at second 40, after node 0 had.")
        gone = listed(await second.sweep(40), "`sweep`")
        require(
            gone == [],
            f"A second sweep, and you said it again: what has lapsed is still in the store. It returned {gone}.",
        )
        given(
            "Ann's other note lapsed at second 50, somebody asked at 60 who is here, and node 0 swept."
        )
        listed(await second.here(60))
        gone = listed(await first.sweep(60), "`sweep`")
        require(
            gone == ["Ann"],
            "Somebody asked who is here, and nobody was told that Ann has gone: after a question, `here`, the sweep at "
            f"second 60 returned {gone}. Only a sweep may remove what has lapsed, because only a sweep says so.",
        )
    finally:
        await forget(one, room)


async def together(Register, url, two):
    """Two nodes at the same time: something happens before each of the times that a sweep speaks to the store."""
    meanwhile, calls = None, 0

    class Interrupted(redis.asyncio.Connection):
        async def send_packed_command(self, command, check_health=True):
            nonlocal calls
            if meanwhile is not None:
                calls += 1
                if calls == before:
                    await meanwhile()
            await super().send_packed_command(command, check_health)

    async with a_store(url, Interrupted) as one:
        for before in range(1, MOST):
            room = a_room()
            first, second = Register(one, room), Register(two, room)
            said = []

            async def sweeps(second=second, said=said):
                said.extend(listed(await second.sweep(40), "`sweep`"))

            async def returns(second=second):
                await second.renew("Ben", "b", 40)

            async def returns_elsewhere(second=second):
                await second.renew("Ben", "phone", 40)

            try:
                given(
                    f"Two nodes swept at once: node 1 just before node 0 spoke to the store, for time number {before}."
                )
                await one.ping()
                await second.renew("Ben", "b", 0)
                meanwhile, calls = sweeps, 0
                gone = listed(await first.sweep(40), "`sweep`")
                times, meanwhile = calls, None
                require(
                    gone + said != ["Ben", "Ben"],
                    f"Two nodes swept at once. Node 1 said {said}, node 0 {gone}: the history says twice that Ben has "
                    "left. Between your question and your next command there was time for the other node's.",
                )
                require(
                    gone + said == ["Ben"],
                    f"Ben's note had lapsed, and two nodes swept. Node 1 said {said}, node 0 {gone}: nobody said that "
                    "Ben has left. He was noted by the other node, which may be the one that is dead.",
                )
                if times < before:
                    return times
                given(
                    f"Ben's note had lapsed, and was renewed while node 0 swept, before it spoke for time number {before}."
                )
                await second.renew("Ben", "b", 0)
                meanwhile, calls = returns, 0
                gone = listed(await first.sweep(40), "`sweep`")
                meanwhile = None
                here = listed(await second.here(40))
                require(
                    here == ["Ben"] and (gone == [] or said == []),
                    f"Ben came back in the middle of your sweep, before it spoke to the store for time number {before}. It "
                    f"returned {gone}, and then `here` listed {here}. He had a new note, and your sweep removed the new "
                    "note: he is in the room, and not on the list; or you said that he has gone while he has not.",
                )
                given(
                    "Ben's note had lapsed, and while node 0 swept, before it spoke for time number "
                    f"{before}, he came with another tab."
                )
                await second.leave("Ben", "b")
                await second.renew("Ben", "b", 0)
                meanwhile, calls = returns_elsewhere, 0
                gone = listed(await first.sweep(40), "`sweep`")
                meanwhile = None
                require(
                    gone == [] or said == [],
                    "Ben's old note had lapsed, and before your sweep spoke to the store for time number "
                    f"{before} he came with another tab. It returned {gone}: the history says that he has left, and he is "
                    "in the room. Who is left was asked before the old note was removed: ask at the same moment.",
                )
            finally:
                meanwhile = None
                await forget(two, room)
    return MOST


class Tab:
    """A client of a node."""

    def __init__(self, stack, server, user, where=""):
        given(f"{user} connected.{where}")
        self.user, self.where = user, where
        self.socket = stack.enter_context(connect(server.ws_url(f"/{user}"), proxy=None))
        self.told = self.hear()

    def hear(self):
        text = self.socket.recv(timeout=patience())
        try:
            names = json.loads(text)
        except ValueError:
            names = None
        require(
            isinstance(names, list),
            f"{self.user} was sent {text!r}. That is no list in JSON: `json.dumps` makes one of what `here` returns.",
        )
        return names

    def alive(self):
        """Say something, and return the list that comes back."""
        given(f"{self.user} sent a message, and waits for the list.{self.where}")
        self.socket.send("alive")
        return self.hear()

    def sees_no(self, name):
        """Ask until somebody is gone, or patience ends; return the last answer."""
        deadline = time.monotonic() + patience()
        while name in (names := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.005)
        return names


@exercise(
    "14-nodes",
    hints=(
        "Two tabs of one user, on two nodes: what makes their notes different? And who may renew one?",
        "`uuid4().hex` is a name that nobody else has. Renew before you send the list. A `finally` is reached however the "
        "connection ends.",
        "`tab = uuid4().hex`; in `try` renew, send `json.dumps(await register.here(clock()))`, then the same in `async for "
        "_ in connection`; in `finally` comes `await register.leave(user, tab)`.",
    ),
    deadline=30.0,
)
def the_list_outlives_a_node(Register, node):
    with broker("lab 14") as store:
        in_the_kernel(Register, node, store.url)
    show(in_processes(Register, node))
    return (
        "A node was killed and came back, a laptop was shut, a line was cut, and the list was right. Nobody had to "
        "tell it that a process died."
    )


def in_the_kernel(Register, node, url):
    """All that one process can show."""
    now = serving = 0
    room = a_room()
    pool = redis.asyncio.ConnectionPool.from_url(url, decode_responses=True)
    store = redis.asyncio.Redis(connection_pool=pool)
    register = Register(store, room)

    async def a_node(connection):
        nonlocal serving
        serving += 1
        try:
            await node(connection, register, lambda: now)
        finally:
            serving -= 1

    with serve(a_node, name="lab 14") as server, contextlib.ExitStack() as stack:
        try:
            ann = Tab(stack, server, "Ann")
            require(
                ann.told == ["Ann"],
                f"Ann connected at /Ann, and the first list that she was sent is {ann.told}. "
                + (
                    "Ann was on her own list only later: make the note first."
                    if ann.told == []
                    else "She is alone, and her name is what stands behind the slash."
                ),
            )
            server.run(register.renew("Zoe", "z", 20))
            names = ann.alive()
            require(
                names == ["Ann", "Zoe"],
                f"Ann asked, and was told {names}. Zoe is on another node. Ask the register, for the second "
                "that `clock()` says: it knows them all.",
            )
            Tab(stack, server, "Ann").socket.close()
            happens(lambda: serving <= 1)
            ben = Tab(stack, server, "Ben")
            require(
                "Ann" in ben.told,
                f"Ann opened a second tab on the same node, and closed it; then Ben came, and was told {ben.told}. Her "
                "first tab is open. Both had one name, so the goodbye of one has removed the note of the other: each "
                "connection needs a name of its own, and not one for each process or each user.",
            )
            now = 20
            ann.alive()
            now = 31
            names = ann.alive()
            require(
                "Ann" in names,
                f"At second 31 Ann, who had said something at second 20, was no longer listed: {names}. Each message "
                "renews the note of the one who sent it.",
            )
            require(
                "Ben" not in names,
                f"Ben has said nothing since second 0, and at second 31 the list is {names}. A connection that is open "
                "is no sign of life: renew a note when this client says something, at `clock()`, and at no other time.",
            )
            ben.alive()
            ben.socket.close()
            names = ann.sees_no("Ben")
            require(
                "Ben" not in names,
                f"Ben closed his connection, and the list is still {names}. He has said goodbye with a close frame: "
                "this is the moment to `leave`.",
            )
            cleo = Tab(stack, server, "Cleo")
            cleo.socket.socket.shutdown(socket.SHUT_RDWR)
            names = ann.sees_no("Cleo")
            require(
                "Cleo" not in names,
                f"Cleo's line was cut, and the list is still {names}. Her connection broke, without a close frame, and "
                "your handler ended by an exception: `leave` has to be reached then, too.",
            )
            elsewhere = Register(store, room)
            said = [server.run(one.sweep(51)) for one in (register, elsewhere)]
            require(
                said == [["Zoe"], []],
                f"Zoe was never heard of again, and two nodes swept, one after the other. They said {said[0]} and "
                f"{said[1]}: the first one has to say that she has gone, and only that one. This is `sweep` of your "
                "Register.",
            )
        finally:
            server.run(forget(store, room))
            server.run(store.aclose())
            server.run(pool.aclose())


PROGRAM = """
import json as _json, os as _os, redis.asyncio as _redis

_store = _redis.Redis.from_url(_os.environ["QUEUE_URL"], decode_responses=True)
_register = {register}(_store, _os.environ["ROOM"])
_now, _serving = 0.0, 0


async def the_node(connection):
    global _now, _serving
    if connection.request.path == "/clock":
        async for text in connection:
            _now, gone = float(text), await _register.sweep(float(text))
            await connection.send(_json.dumps([gone, _serving]))
        return
    _serving += 1
    try:
        await {node}(connection, _register, lambda: _now)
    finally:
        _serving -= 1
"""


def program(Register, node):
    """The text of the cells in which these were written, and what turns them into a server."""
    functions = [
        found.__code__
        for kind in reversed(Register.__mro__)
        for found in vars(kind).values()
        if hasattr(found, "__code__")
    ]
    files = dict.fromkeys(code.co_filename for code in [*functions, node.__code__])
    cells = ["".join(linecache.getlines(name)) for name in files]
    return "\n\n".join(cells) + PROGRAM.format(register=Register.__name__, node=node.__name__)


class Clock:
    """The hand that moves the time of a node."""

    def __init__(self, stack, server):
        self.socket = stack.enter_context(connect(server.ws_url("/clock"), proxy=None))

    def at(self, second):
        """Set the time, have the node sweep, and return whom it said to be gone, and how many it serves."""
        self.socket.send(str(second))
        return json.loads(self.socket.recv(timeout=patience()))

    def only(self, number, second):
        """Wait until the node serves so many, or patience ends."""
        happens(lambda: self.at(second)[1] <= number)


def in_processes(Register, node):
    """Kill a node, and start it again; return what the list was, second by second."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        (Path(folder) / "lab_14_node.py").write_text(program(Register, node), encoding="utf-8")
        paths = [folder, str(ROOT), *sys.path[:1]]
        room = a_room()
        nodes = stack.enter_context(
            cluster(
                "lab_14_node:the_node",
                queue="QUEUE_URL",
                env={"PYTHONPATH": ":".join(filter(None, paths)), "ROOM": room},
                name="lab 14, cluster",
            )
        )
        return a_killed_node(nodes, stack)


APART = (
    " This was in a process of its own, which has the text of your three cells and nothing else of this notebook: what "
    "they use has to be imported, or defined, in them."
)


def untouched(names, expected):
    """Return the list that a process told, if it holds those of the other process, too."""
    require(
        names == expected,
        f"{', '.join(expected)} are noted, on two nodes, of which one has started after the first notes were made. "
        f"Asked there, who is here, your code said {names}. A process that starts must not touch the notes of the others.",
    )
    return names


def a_killed_node(nodes, stack):
    rows = []

    def note(second, event, names):
        rows.append({"second": second, "what happened": event, "the list": ", ".join(names)})

    clocks = [Clock(stack, server) for server in nodes.nodes]
    ben = Tab(stack, nodes.nodes[0], "Ben", APART)
    cleo = Tab(stack, nodes.nodes[1], "Cleo", APART)
    ann = Tab(stack, nodes.nodes[0], "Ann", APART)
    phone = Tab(stack, nodes.nodes[1], "Ann", APART)
    names = untouched(cleo.alive(), ["Ann", "Ben", "Cleo"])
    note(0, "two nodes, four tabs", names)
    phone.socket.close()
    clocks[1].only(1, 0)
    names = cleo.alive()
    require(
        names == ["Ann", "Ben", "Cleo"],
        f"Ann has a tab on each of two processes. She closed the one on node 1, and the list is {names}. Two processes "
        "count alike, so the note that was removed was that of her other tab: a tab needs a name that nobody else gives.",
    )
    note(1, "Ann closes her tab on node 1", names)
    for clock in clocks:
        clock.at(20)
    ann.alive()
    ben.alive()
    cleo.alive()
    nodes.kill(0)
    clocks[1].at(25)
    note(25, "node 0 is killed", cleo.alive())
    ann = Tab(stack, nodes, "Ann", APART)  # nginx finds the node that is left
    nodes.restart(0)
    clocks[0] = Clock(stack, nodes.nodes[0])
    clocks[0].at(26)
    dan = Tab(stack, nodes.nodes[0], "Dan", APART)
    untouched(dan.told, ["Ann", "Ben", "Cleo", "Dan"])
    note(26, "node 0 is back, Dan comes", dan.told)
    for clock in clocks:
        clock.at(45)
    for tab in (ann, cleo, dan):
        tab.alive()
    said = [clock.at(51)[0] for clock in clocks]
    assert sorted(said) == [[], ["Ben"]]
    note(51, "both nodes sweep, one says that Ben has gone", cleo.alive())
    return table(rows, caption="Who is here, on two processes")
