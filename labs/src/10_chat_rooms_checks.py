"""The checks of lab 10: one script of attacks for both stacks, over plain WebSockets, so that each is asked the same."""

import asyncio
import contextlib
import inspect
import json
import linecache
from unittest import mock

import websockets

from helpers import serve
from helpers.lab import NotYet, exercise, given, patience, require, until

OPTIONS = {"proxy": None, "compression": None, "user_agent_header": None, "close_timeout": 0.5}
SOCKETIO = "/socket.io/?EIO=4&transport=websocket"


def short(thing):
    """A value in few letters; a text as JSON would bring it."""
    if not isinstance(thing, str):
        return repr(thing)[:60]
    text = json.dumps(thing, ensure_ascii=not thing.isprintable())
    return text if len(text) <= 40 else f"{text[:20]}… ({len(thing)} characters)"


HALF = " It is half of an emoji: JSON carries it, UTF-8 does not."
ESCAPE = " It looks like an escape, and is a name: whoever escapes some characters has to escape the first of an escape, too."
SUM = " A checksum is made for accidents, and guests can choose names that have the same. Which hash is made against that?"
WHY = {
    "\ud800": HALF,
    "\\ud800": ESCAPE,
    "\\u2615": ESCAPE,
    "&#9749;": ESCAPE,
    "eat": SUM,
    "buckeroo": SUM,
}


def begun_afresh(address):
    """`address` as another process has it: its cell, run once more."""
    code = getattr(inspect.unwrap(address), "__code__", None)
    if code is None:
        return address
    there = {**inspect.unwrap(address).__globals__, "check": lambda *answers: None}
    with contextlib.suppress(Exception):  # a cell of a notebook may have more than Python
        exec("".join(linecache.getlines(code.co_filename)), there)
    return there.get("address", address)


@exercise(
    "10-address",
    hints=(
        "What has a length that you know, letters that you know, and is another one for every other name?",
        "A hash has: `hashlib.sha256(…).hexdigest()` is 64 letters and digits. It wants bytes; which encoding takes every "
        "text that JSON can carry?",
        'Not a `str`: `None`. Else `"room." + sha256(json.dumps(room).encode()).hexdigest()`.',
    ),
)
def address_is_safe(address):
    from channels.layers import InMemoryChannelLayer

    layer, taken = InMemoryChannelLayer(), {}
    names = [
        "tea",
        "Tea",
        "tea time",
        "tea_time",
        "tea-time",
        "tea%20time",
        "room.tea",
        "☕",
        "",
        " ",
    ]
    names += ["x" * 300, "x" * 301, "é", "\ud800", "\ud801", "a/b", "None", "7"]
    names += ["\\ud800", "\\u2615", "&#9749;", "eat", "plumless", "buckeroo"]
    for name in names:
        why = WHY.get(name, "")
        given(f"The check called `address({short(name)})`.{why}")
        found = address(name)
        try:
            layer.require_valid_group_name(found)
        except TypeError:
            raise NotYet(
                f"`address({short(name)})` returned {short(found)}, and a layer refuses that: a group's name is of ASCII "
                "letters, digits, `-`, `_` and `.`, fewer than 100. One message with this name ends the connection."
            ) from None
        require(
            found.startswith("room."),
            f"`address({short(name)})` returned {short(found)}. Without a prefix of yours rooms lie in one drawer with all "
            'other groups, such as one for each user. Begin with "room.".',
        )
        require(
            found not in taken,
            f"{short(taken.get(found))} and {short(name)} have the same address, {short(found)}: whoever may enter one reads "
            f"what is said in the other.{why}",
        )
        require(
            address("".join([*name])) == found,  # another object with the same letters
            f"`address({short(name)})` returned {short(found)}, and then another one. Who comes later would wait in a room of "
            "their own.",
        )
        taken[found] = name
    given('The check called `address("tea")` as another process would.')
    with mock.patch("builtins.hash", lambda thing, hash=hash: hash(thing) ^ 6455):
        found = address("tea")
    require(
        taken.get(found) == "tea",
        '`address("tea")` hangs on `hash`, and for a text that is another number in every process: guests of two servers '
        "would wait in two rooms of one name. Which hash is the same everywhere?",
    )
    given("The check ran the cell of `address` once more, as another process would.")
    elsewhere = begun_afresh(address)
    for name in reversed(names):
        found = elsewhere(name)
        require(
            taken.get(found) == name,
            f"Your cell was run once more, as a second process would, and `address({short(name)})` is {short(found)} there, "
            "which it is not here: its guests would wait in two rooms of one name. What was remembered or invented here no "
            "other process knows. What follows from the name alone?",
        )
    for name in (7, None, True, ["tea"], {"room": "tea"}):
        given(f"The check called `address({name!r})`.")
        found = address(name)
        require(
            found is None,
            f"`address({name!r})` returned {short(found)}. JSON brings numbers, lists and more where you wait for text: return "
            "None, and whoever calls knows that this is no room.",
        )
    return f"{len(names)} names, each with an address of its own that a layer takes, and five that are none."


class Guest:
    """One connection to the learner's hall, on either stack."""

    def __init__(self, hall, name, ws):
        self.hall, self.name, self.ws = hall, name, ws

    async def tell(self, *words):
        await self.ws.send(self.hall.prefix + json.dumps(words))

    async def hear(self):
        while True:
            message = await self.ws.recv()
            if message == "2":
                await self.ws.send("3")
            elif message.startswith(self.hall.prefix):
                return json.loads(message.removeprefix(self.hall.prefix))

    async def until(self, last):
        """Everything that comes before one message, or before it is clear that it does not come."""
        heard = []
        with contextlib.suppress(TimeoutError, websockets.ConnectionClosed):
            async with asyncio.timeout(patience()):
                while (words := await self.hear()) != last:
                    heard.append(words)
                return heard, True
        return heard, False


class Hall:
    """The learner's application as it is served, and who is there."""

    def __init__(self, server, prefix, layer=None):
        self.server, self.prefix, self.layer, self.markers = server, prefix, layer, 0

    def connections(self):
        """Those that are in any group of Channels."""
        groups = list(self.layer.groups.values()) if self.layer else []
        return {connection for group in groups for connection in list(group)}

    @contextlib.asynccontextmanager
    async def guest(self, name):
        path = SOCKETIO if self.prefix else f"/{name}"
        given(f"{name} connected.")
        async with websockets.connect(
            self.server.ws_url(path), open_timeout=patience(), **OPTIONS
        ) as ws:
            if self.prefix:
                await ws.recv()
                await ws.send("40" + json.dumps({"name": name}))
                await ws.recv()
            yield Guest(self, name, ws)

    async def heard(self, who, wanted, what, why):
        """Require that each guest has heard exactly this by now. `who` acted, so what they caused is through when they are.

        Each goes into a room of their own and waits for their own arrival: what was caused before comes before it.
        """
        given(f"{what}.")
        for guest in [who, *(guest for guest in wanted if guest is not who)]:
            self.markers += 1
            marker = f"marker-{self.markers}"
            with contextlib.suppress(websockets.ConnectionClosed):
                await guest.tell("join", marker)
            got, passed = await guest.until(["arrived", marker, guest.name])
            expected = wanted.get(guest, [])
            require(
                got == expected and passed,
                f"{what}. Then {guest.name} got {spoken(got)}; it has to be {spoken(expected)}. {why}"
                + (
                    ""
                    if passed
                    else f" And after it {guest.name} joined another room, and did not arrive."
                ),
            )


def spoken(messages):
    return ", ".join(map(said, messages)) or "nothing"


def said(words):
    text = json.dumps(words, ensure_ascii=False)
    return text if len(text) <= 60 and text.isprintable() else ascii(text[:50]) + "…"


async def attack(hall):
    async with (
        hall.guest("ada") as ada,
        hall.guest("ben") as ben,
        hall.guest("eve") as eve,
        contextlib.AsyncExitStack() as opened,
    ):
        cem = await opened.enter_async_context(hall.guest("cem"))

        async def step(who, words, wanted, why):
            given(f"{who.name} sent {said(words)}.")
            with contextlib.suppress(websockets.ConnectionClosed):
                await who.tell(*words)
            everybody = {guest: wanted.get(guest, []) for guest in (ada, ben, eve)}
            await hall.heard(who, everybody, f"{who.name} sent {said(words)}", why)

        arrived = ["arrived", "tea", "ada"]
        await step(
            ada, ("join", "tea"), {ada: [arrived]}, "ada has come in, and nobody else is there."
        )
        arrived = ["arrived", "tea", "ben"]
        await step(
            ben,
            ("join", "tea"),
            {ada: [arrived], ben: [arrived]},
            "Everybody in the room hears who comes, ben too.",
        )
        words = ["said", "tea", "ada", "hello"]
        await step(
            ada,
            ("say", "tea", "hello"),
            {ada: [words], ben: [words]},
            "Those in the room hear it, each once, ada too; eve is not in it.",
        )
        await step(
            ben,
            ("join", "tea"),
            {},
            "ben had been in it already. A page that is loaded twice must not look like two arrivals.",
        )
        await step(
            eve,
            ("say", "tea", "buy!"),
            {eve: [["error", "tea"]]},
            "eve is not in the room. To know its name is not to be in it: ask at every verb, and tell her.",
        )
        await step(
            eve,
            ("join", "staff"),
            {eve: [["error", "staff"]]},
            "eve may not enter. Neither stack asks: `may_enter` does, if you call it.",
        )
        await step(
            eve,
            ("leave", "tea"),
            {eve: [["error", "tea"]]},
            "eve was not in it, so nobody departs.",
        )
        gone = ["departed", "tea", "ben"]
        await step(
            ben,
            ("leave", "tea"),
            {ada: [gone], ben: [gone]},
            "All who are in the room hear that ben goes, ben the last time.",
        )
        words = ["said", "tea", "ada", "is he gone?"]
        await step(
            ada,
            ("say", "tea", "is he gone?"),
            {ada: [words]},
            "ben had left. What he hears now was not meant for him.",
        )
        await step(
            ben,
            ("say", "tea", "I forgot my hat"),
            {ben: [["error", "tea"]]},
            "ben had left, and you still take him for one who is in the room: forget it when he goes.",
        )
        for room in ("tea time", "☕", "", "x" * 300, "\ud800", "staff"):
            comes = [["arrived", room, name] for name in ("ada", "ben")]
            why = "It is a name like any other."
            if room == "":
                why = "For Python an empty name is false, and `emit` takes it for no room at all."
            await step(ada, ("join", room), {ada: comes[:1]}, why)
            await step(ben, ("join", room), {ada: comes[1:], ben: comes[1:]}, why)
            words = ["said", room, "ben", "hi"]
            await step(
                ben,
                ("say", room, "hi"),
                {ada: [words], ben: [words]},
                "Who is in a room hears what is said there, and nobody else, whatever its name is.",
            )
        await step(
            eve,
            ("say", "staff", "let me in"),
            {eve: [["error", "staff"]]},
            "eve had asked to come in, and was refused. Remember where a guest is when they are let in, not before.",
        )
        for room in (7, True, ["tea"], {"room": "tea"}):
            await step(
                ada,
                ("join", room),
                {ada: [["error", room]]},
                "That is no text, so it is no room. Whatever a client sends, its connection goes on.",
            )
        await step(
            ada,
            ("say", ["tea"], "hi"),
            {ada: [["error", ["tea"]]]},
            "That is no room, so nobody is in it. Ask `address` first: a list cannot be looked up in a set or dictionary.",
        )
        for room in ("tea", "x" * 300):
            await cem.tell("join", room)
            comes = ["arrived", room, "cem"]
            inside = {ada: [comes], ben: [comes] if room != "tea" else [], cem: [comes]}
            await hall.heard(cem, inside, f"cem sent {said(['join', room])}", "cem has come in.")
        connected = len(hall.connections())
        await opened.aclose()
        what = "cem closed the connection"
        given(f"{what}.")
        wanted, got = [["departed", "tea", "cem"], ["departed", "x" * 300, "cem"]], []
        with contextlib.suppress(TimeoutError, websockets.ConnectionClosed):
            async with asyncio.timeout(patience()):
                while not all(words in got for words in wanted):
                    got.append(await ada.hear())
        require(
            sorted(got) == wanted,
            f"{what}, and said no goodbye. ada is in two rooms with cem and heard {spoken(got)}. For her cem is there for "
            "ever: the end of a connection is a way to leave every room that it was in.",
        )
        require(
            await until(lambda: not connected or len(hall.connections()) < connected),
            f"{what}, and it is still in its groups: all that is said there is put aside for it, and "
            "nobody fetches it. Take it out of each group when it ends.",
        )
        await ben.until(["departed", "x" * 300, "cem"])
        words = ["said", "tea", "ada", "who is left?"]
        await step(
            ada,
            ("say", "tea", "who is left?"),
            {ada: [words]},
            "cem has gone, each departure was told once, and ada is in the room as before: who goes takes nobody along.",
        )


PLAIN = {
    "connect": "each handshake is answered with an error, HTTP 500",
    "receive_json": "the first message of a guest ends the connection with an error",
    "disconnect": "the end of each connection is an error, and nobody hears who has gone",
}


def can_wait(consumer):
    """Require that what Channels awaits is asynchronous; the consumer may be one already served as an application."""
    from channels.consumer import AsyncConsumer, SyncConsumer

    consumer = getattr(consumer, "consumer_class", consumer)
    if not isinstance(consumer, type) or not issubclass(consumer, AsyncConsumer):
        return
    if issubclass(consumer, SyncConsumer):  # Channels runs those in threads
        return
    for name, why in PLAIN.items():
        method = getattr(consumer, name, None)
        require(
            method is None or inspect.iscoroutinefunction(inspect.unwrap(method)),
            f"Your `{name}` is a plain function, and Channels awaits what it returns: {why}. Nor can a plain function "
            "`await` anything itself. Begin it with `async def`.",
        )


SAME = "Outsiders, second arrivals, six odd names and four that are none: each guest heard what was meant for them"


@exercise(
    "10-channels",
    hints=(
        "For each verb: which question has to be answered before anything is done?",
        "Keep in `self.rooms` where this guest is, by address: what is no room has `None`, which is never in it. `join`: "
        "may this name enter, and is it new? `say` and `leave`: is the guest in it?",
        "`inside = address(room) in self.rooms`; `join` is fine if `address(room) is not None and may_enter(self.name, "
        "room)`, the others if `inside`. In `disconnect`: for each room `group_discard`, then `self.tell`.",
    ),
    deadline=30.0,
)
async def channels_keeps_the_rooms(Rooms):
    from channels.layers import get_channel_layer

    layer = get_channel_layer()
    layer.groups.clear()
    can_wait(Rooms)
    application = Rooms.as_asgi() if hasattr(Rooms, "as_asgi") else Rooms
    with serve(application, name="lab") as server:
        await attack(Hall(server, "", layer))
    return SAME + "."


@exercise(
    "10-socketio",
    hints=(
        "What did the consumer remember for each connection, and where can you keep that here?",
        "A dictionary from `request.sid` to a set of rooms. `emit(…, to=address(room))` needs an address that is not empty; "
        "several words go out as a tuple.",
        '`emit("said", (room, names[request.sid], text), to=address(room))`; and on `disconnect`, for each room of the '
        "`sid`, the same with `departed`.",
    ),
    deadline=30.0,
)
async def socketio_keeps_the_rooms(hall):
    with serve(hall(), name="lab") as server:
        await attack(Hall(server, "42"))
    return SAME + ", on the other stack."
