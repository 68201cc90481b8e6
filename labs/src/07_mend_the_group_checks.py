"""The checks of lab 07. Consumers are called as a server calls them, by clients that read, stall and leave when the check
says so."""

import asyncio
import itertools
import json
import types
from random import Random
from unittest.mock import patch

from channels.layers import InMemoryChannelLayer, get_channel_layer
from uvicorn.protocols.utils import ClientDisconnected
from websockets.sync.client import connect

from helpers import ladder, project, serve, table, tap
from helpers.lab import NotYet, exercise, given, patience, require, runs, show, turns, until

ROOMS = itertools.count(1)
"""So that no check meets what an earlier one has left behind."""


class Visitor:
    """A client, and what a server is to a consumer: `receive` and `send`. What is sent while it does not read has
    arrived."""

    def __init__(self, consumer, path, name, query="", takes=None):
        self.name = name
        self.heard = []
        self.accepted = self.closed = self.gone = False
        self.afterwards = None  # what was sent after the refusal
        self._takes = takes  # messages until it hangs up
        self._inbox = asyncio.Queue()
        self._reads = asyncio.Event()
        self._reads.set()
        scope = {"type": "websocket", "path": path, "query_string": query.encode(), "headers": []}
        self._inbox.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.ensure_future(consumer.as_asgi()(scope, self._receive, self._send))

    async def _receive(self):
        return await self._inbox.get()

    async def _send(self, message):
        if self.gone:
            self.afterwards = self.closed and message["type"]
            raise ClientDisconnected
        if message["type"] == "websocket.accept":
            if self._takes == "nothing":
                self.leave()
                raise ClientDisconnected
            self.accepted = True
        elif message["type"] == "websocket.close":
            self.closed = True
            self.leave()
        elif not self.accepted:
            raise RuntimeError(
                f"Expected ASGI message 'websocket.accept', but got {message['type']!r}."
            )
        else:
            self.heard.append(message.get("text") or message.get("bytes"))
            if len(self.heard) == self._takes:
                self.leave()
            await self._reads.wait()
            if self.gone and self._takes is None:
                raise ClientDisconnected

    @property
    def numbers(self):
        return [number for number, _ in map(parsed, self.heard)]

    def say(self, *texts):
        for text in texts:
            self._inbox.put_nowait({"type": "websocket.receive", "text": text})

    def stall(self):
        self._reads.clear()

    def wake(self):
        self._reads.set()

    def leave(self):
        self.gone = True
        self._inbox.put_nowait({"type": "websocket.disconnect", "code": 1001})
        self._reads.set()

    def failed(self):
        """Raise what has ended the consumer, if it was not the end of its client."""
        if self.task.done() and not self.task.cancelled():
            error = self.task.exception()
            if error is not None and not isinstance(error, ClientDisconnected):
                raise error


class House:
    """One consumer of the learner's, its visitors, and the channel layer."""

    def __init__(self, consumer):
        project.configure()
        self.consumer = consumer
        self.layer = get_channel_layer()
        self.visitors = []

    async def __aenter__(self):
        await self.layer.flush()
        self.layer.capacity = 100  # whatever an earlier answer has made of it
        return self

    async def __aexit__(self, *exc_info):
        for visitor in self.visitors:
            if not visitor.task.done():
                visitor.task.cancel()
        await asyncio.gather(*(v.task for v in self.visitors), return_exceptions=True)
        await self.layer.flush()

    async def enter(self, path, name, **options):
        given(
            f"{name} connected to {path}{'?' if options.get('query') else ''}{options.get('query', '')}."
        )
        visitor = Visitor(self.consumer, path, name, **options)
        self.visitors.append(visitor)
        await until(lambda: visitor.accepted or visitor.closed or visitor.task.done())
        visitor.failed()
        return visitor

    async def hears(self, visitor, count):
        """Wait until a visitor has heard so many messages; what ended any consumer is raised."""
        await until(
            lambda: (
                len(visitor.heard) >= count
                or any(v.task.done() and not v.gone for v in self.visitors)
            )
        )
        for one in self.visitors:
            one.failed()

    async def ends(self, visitor):
        return await until(visitor.task.done)

    def is_quiet(self):
        return not any(queue.qsize() for queue in self.layer.channels.values())

    def channels(self):
        return {channel for group in self.layer.groups.values() for channel in group}

    def members(self):
        return len(self.channels())


def parsed(text):
    try:
        message = json.loads(text if isinstance(text, str) else "")
        return message["number"], message["text"]
    except (ValueError, KeyError, TypeError):
        raise NotYet(
            f'A client got {text!r}, and wanted JSON such as {{"number": 1, "text": "hello"}}. `json.dumps` also knows '
            "what to do with quotation marks in a text."
        ) from None


@exercise(
    "07-name",
    hints=(
        "Which alphabet has a name that any layer takes, and how long is it at most? What has that alphabet and always the "
        "same length?",
        "A digest: `sha256(room.encode()).hexdigest()` is 64 characters of 0 to 9 and a to f, another for each text, and "
        "the same in every process.",
        'Put the two together: `return "room_" + sha256(room.encode()).hexdigest()`.',
    ),
)
def names_are_safe(group_name):
    layer = InMemoryChannelLayer()
    rooms = [
        "tea",
        "Tea",
        "tea time",
        "tea_time",
        "tea ",
        "tea-time",
        "café",
        "cafe",
        "茶",
        "酒",
        "x" * 1_000,
        "x" * 1_001,
    ]
    names = {}
    for room in rooms:
        short = repr(room) if len(room) < 20 else f"{room[:3]!r} and so on, {len(room):,} letters"
        given(f"The room was {short}.")
        name = group_name(room)
        try:
            layer.require_valid_group_name(name)
        except TypeError:
            raise NotYet(
                f"For the room {short} you return {name if len(str(name)) < 60 else str(name)[:50] + '…'!r}. The layer "
                "raises TypeError, and the visitor sees a server error. Fewer than 100 characters, of them: ASCII "
                "letters, digits, hyphen, underscore, dot."
            ) from None
        require(
            name not in names,
            f"The rooms {names.get(name)} and {short} share the group {name[:50]!r}: each hears what the other says.",
        )
        names[name] = short
    again = group_name("".join(["te", "a"]))
    require(
        names.get(again) == "'tea'",
        f"The check asked twice for the room 'tea', and got two names, the second {again[:50]!r}. Two visitors of one room "
        "would never meet.",
    )
    require(
        all(name.startswith("room_") for name in names),
        f"The room 'tea' has the group {group_name('tea')!r}. Without `room_` before it, a visitor who names a room may "
        "hit any group of your application, also one meant for the staff.",
    )
    given("The check asked for 3,000 rooms, from 'room 1' to 'room 3000'.")
    many = len({group_name(f"room {number}") for number in range(1, 3_001)})
    require(
        many == 3_000,
        f"3,000 rooms have {many:,} groups: the part that tells them apart is too short, and strangers meet. Keep the "
        "whole digest; there is room for it.",
    )
    twins = "room 1466157", "room 1528241"
    require(
        group_name(twins[0]) != group_name(twins[1]),
        f"The rooms {twins[0]!r} and {twins[1]!r} share the group {group_name(twins[0])!r}: you keep so little of the digest "
        "that whoever wants to listen in finds the name of such a room in seconds. Keep all of it; 64 characters fit.",
    )
    require(
        salted_otherwise(group_name)("tea") == group_name("tea"),
        "Your names are made with `hash`, which Python salts: each process has other numbers. The same room in two "
        "processes would be two groups, and nobody would tell you.",
    )
    return "As many groups as rooms, and any layer takes them."


def salted_otherwise(function):
    """Return the same function as another process has it, in which `hash` gives other numbers."""
    if not isinstance(function, types.FunctionType):
        return function
    names = {"hash": lambda thing: hash((thing, "salt"))} | function.__globals__
    code, defaults, closure = function.__code__, function.__defaults__, function.__closure__
    salted = types.FunctionType(code, names, function.__name__, defaults, closure)
    salted.__kwdefaults__ = function.__kwdefaults__
    return salted


@exercise(
    "07-tidy",
    hints=(
        "Which piece of code runs whichever way a consumer ends, also when it is cancelled?",
        "`try: await super().__call__(scope, receive, send)`, and the discard in `finally`. Remember the group before you "
        "join it; a visitor who was refused has none.",
        "In `finally`: `if self.group: await self.channel_layer.group_discard(self.group, self.channel_name)`. In "
        "`connect`: `self.group = …`, `group_add`, `accept`; or `close`, if there is no name.",
    ),
    deadline=20.0,
)
async def leaves_no_zombie(Room):
    async with House(Room) as house:
        ann = await house.enter("/tea/", "Ann")
        require(
            ann.accepted,
            "Ann connected to /tea/, and your consumer did not accept: her browser waits for the end of the handshake. "
            "Is there an `await` before `super().__call__`, and an `accept` in `connect`?",
        )
        ben = await house.enter("/tea", "Ben")
        cem = await house.enter("/café Zoë/", "Cem")
        given("Ann said hello in /tea/, then Cem said hi in /café Zoë/.")
        ann.say("hello")
        await house.hears(ann, 1)
        await house.hears(ben, 1)
        require(
            ben.heard or len(house.layer.groups) < 3,
            "Ann is at /tea/, Ben is at /tea, and Ann said hello. Ben heard nothing: you have made two rooms of one. The "
            "slashes at both ends do not belong to the name.",
        )
        cem.say("hi")
        await house.hears(cem, 1)
        require(
            (ann.heard, ben.heard, cem.heard) == (["hello"], ["hello"], ["hi"]),
            f"Ann said hello in /tea/, then Cem said hi in /café Zoë/. Ann heard {ann.heard}, Ben, in her room, "
            f"{ben.heard}, and Cem {cem.heard}. A room hears its own, and only that.",
        )
        nobody = await house.enter("/", "Somebody")
        require(
            nobody.closed and not nobody.accepted,
            "Somebody connected to /, a room without a name, and your consumer did not refuse: `close` before `accept` "
            "makes it a 403.",
        )
        await house.ends(nobody)
        nobody.failed()
        require(
            not nobody.afterwards,
            f"Somebody connected to /, your consumer closed, and then it sent {nobody.afterwards}: it had gone on, and "
            "joined a room for somebody who was refused. A server raises an error there. `return` after `close`.",
        )
        rows = []
        for way, why in {
            "says goodbye": "That is the plain case: take its channel out of the group.",
            "hangs up in the middle of a `send`": "`send` raises then, the consumer ends, and `disconnect` is never "
            "called.",
            "hangs up before it is accepted": "`accept` raises, like any `send`. Whoever joins first has to remember the "
            "group before, not after.",
            "gets an event of an unknown type": "The layer's ValueError ends the consumer, and `disconnect` is not called.",
            "is cancelled, for the server shuts down": "A CancelledError is no Exception: only `finally` sees it.",
        }.items():
            before = house.channels()
            given(f"Dee comes to /tea/. Then she {way}.")
            error = await one_way_out(house, way)
            require(
                house.members() <= len(before),
                f"Dee comes to /tea/. Then she {way}. Her consumer has ended, and its channel is still in the group: a "
                f"zombie, for which messages are kept. {why}",
            )
            require(
                before <= house.channels(),
                f"Dee comes to /tea/. Then she {way}. Now {len(before - house.channels())} of those who stay are in no group "
                "any more, and hear nothing. What ends is one consumer: take its own channel out of its own group.",
            )
            require(
                "cancelled" not in way or isinstance(error, asyncio.CancelledError),
                "Dee's consumer was cancelled, and your `__call__` returned as if it had come to its end: it has swallowed the "
                "CancelledError. Whoever cancels, a timeout or a server that shuts down, takes what was broken off for "
                "what was finished. Tidy up, and let the error go on.",
            )
            if "unknown" in way:
                require(
                    isinstance(error, ValueError),
                    "An event of an unknown type ended Dee's consumer, and nobody will ever know: the ValueError did not "
                    "come out of your `__call__`. Tidy up, and let go on what was raised: the server's log is the only "
                    "place where it shows.",
                )
            rows.append(
                {"Dee": way.replace("`", ""), "left in the group": house.members() - len(before)}
            )
    show(table(rows, caption="Five ways out"))
    return "However a visitor leaves, nobody speaks to an empty chair."


async def one_way_out(house, way):
    """Let one more come in, and end in a certain way; return what came out of the consumer."""
    early, before = "before" in way, house.channels()
    dee = await house.enter("/tea/", "Dee", takes="nothing" if early else None)
    if "goodbye" in way:
        dee.leave()
    elif "middle" in way:
        dee.stall()
        dee.say("a long story")
        await house.hears(dee, 1)
        dee.leave()
    elif "unknown" in way:
        for channel in house.channels() - before:
            await house.layer.send(channel, {"type": "room.sayd"})
    elif "cancelled" in way:
        dee.task.cancel()
    if not await house.ends(dee):
        dee.leave()
    await asyncio.wait({dee.task}, timeout=patience())
    if dee.task.cancelled():
        return asyncio.CancelledError()
    if not dee.task.done():
        return None
    error = dee.task.exception()
    if "unknown" not in way:
        dee.failed()
    return error


@exercise(
    "07-number",
    hints=(
        "Who knows that a message exists: the one that sends it into the group, or the one that gets it out, perhaps?",
        "Count in `receive`, one count for each group, shared by all consumers; put the number into the event.",
        '`self.numbers[self.group] += 1`, then `{"type": "room.said", "number": self.numbers[self.group], "text": …}` into '
        "the group; `room_said` sends `json.dumps` of number and text.",
    ),
    deadline=20.0,
)
async def gaps_are_seen(Numbered):
    tea, coffee = (f"/room {next(ROOMS)}/" for _ in range(2))
    async with House(Numbered) as house:
        ann, ben = [await house.enter(tea, name) for name in ("Ann", "Ben")]
        given('In a room, Ann said one and Ben said "two".')
        ann.say("one")
        await house.hears(ben, 1)
        ben.say('"two"')
        for one in (ann, ben):
            await house.hears(one, 2)
        wanted = [(1, "one"), (2, '"two"')]
        for one in (ann, ben):
            require(
                [parsed(text) for text in one.heard] == wanted,
                f'In a room, Ann said one and then Ben said "two". {one.name} got {", ".join(one.heard) or "nothing"}. Each '
                "member hears both, numbered 1 and 2: the numbers belong to the room, whoever speaks.",
            )
        cem = await house.enter(coffee, "Cem")
        given("In another room, Cem said the first word.")
        cem.say("first")
        await house.hears(cem, 1)
        require(
            cem.numbers == [1],
            f"Cem said the first word in his room, and it got the number {runs(cem.numbers)}. Cem would ask for what he "
            "missed, and there is nothing: each room has numbers of its own.",
        )
        given("Ben stopped reading, Ann said 150 things, Ben woke up, and Ann said one more.")
        ben.stall()
        things = [f"thing {number}" for number in range(150)]
        ann.say(*things)
        await house.hears(ann, 152)
        ben.wake()
        await house.hears(ben, 103)
        ann.say("one more")
        await until(lambda: ben.heard and "one more" in ben.heard[-1])
        require(
            ben.numbers[-1] == 153 and len(ben.numbers) < 153,
            f"Ben did not read while Ann said 150 things; a channel holds 100. Of 153 messages he got {len(ben.numbers)}, "
            f"with the numbers {runs(ben.numbers)}. He sees no gap, and believes that he knows everything. A number has "
            "to be given before the layer can drop the message, not after.",
        )
        said = dict(enumerate(["one", '"two"', *things, "one more"], 1))
        for number, text in map(parsed, [*ann.heard, *ben.heard]):
            require(
                said.get(number) == text,
                f"{said.get(number)!r} was number {number} in this room, and a client got {text!r} with that number: between "
                "the event and the `send` the count had gone on. A message and its number belong into one event.",
            )
        missing = [n for n in range(1, 154) if n not in ben.numbers]
        rows = [
            {
                "reader": "Ann, who reads",
                "numbers": runs(ann.numbers),
                "missing": 153 - len(ann.numbers),
            },
            {"reader": "Ben, who slept", "numbers": runs(ben.numbers), "missing": len(missing)},
        ]
        dee = await house.enter(tea, "Dee")
        dee.leave()
        await house.ends(dee)
        given("Dee came and left, and Ann spoke once more.")
        ann.say("the last")
        await house.hears(ann, 154)
        require(
            ann.numbers[-1] == 154,
            "153 things had been said, Dee came and left, and Ann spoke. What she heard of it had the number "
            f"{runs(ann.numbers[153:])}, not 154: who has 153 takes it for old. A room goes on counting, whoever comes and "
            "goes.",
        )
        show(table(rows, caption="153 messages, 100 places"))
    return "The layer still drops without a word, but now Ben can tell that it did, and what."


class Log:
    """The log that the exercise promises, by the same name; it can be slow, and something can happen meanwhile."""

    def __init__(self):
        self.rooms = {}
        self.meanwhile, self.others = None, ()

    async def append(self, room, text):
        await asyncio.sleep(0)
        texts = self.rooms.setdefault(room, [])
        texts.append(text)
        return len(texts)

    async def since(self, room, number):
        await asyncio.sleep(0)
        found = list(enumerate(self.rooms.get(room, []), 1))[number:]
        if self.meanwhile is not None and asyncio.current_task() not in self.others:
            happens, self.meanwhile = self.meanwhile, None
            await happens()
        return found

    @property
    def size(self):
        return sum(map(len, self.rooms.values()))


@exercise(
    "07-catch-up",
    hints=(
        "What if the event in the group carried nothing at all but: there is news? What would each consumer do with it?",
        "Keep `self.sent`, and at each piece of news send everything that the log has since. A dropped event does no harm "
        "then: one is dropped when the channel is full, and those that fill it are still to be handled.",
        "In `connect`: `await super().connect()` first, then what the log has since `self.sent`. In `receive`: append, then "
        "`group_send`. In `room_news`: `for number, text in await self.log.since(self.group, self.sent)`, send it, and "
        "`self.sent = number`.",
    ),
    deadline=30.0,
)
async def nothing_is_missed(Lossless):
    log = Log()  # an empty one for each check
    with patch.object(Lossless, "log", log, create=True):
        await with_a_log(Lossless, log)
    on_a_real_wire(Lossless)
    return "The layer may drop what it likes: it carries hints, and the log has the truth."


async def with_a_log(Lossless, log):
    room = f"/room {next(ROOMS)}/"
    async with House(Lossless) as house:
        ann, ben = [await house.enter(room, name) for name in ("Ann", "Ben")]
        given("Ann said one thing.")
        sizes = []
        with announcing(house.layer, lambda: sizes.append(log.size)):
            ann.say("thing 1")
            await house.hears(ben, 1)
            await house.hears(ann, 1)
        require(
            log.size,
            "Ann said one thing, and afterwards `self.log` is empty: your consumer has stored nothing there. `append` is a "
            "coroutine, which does nothing until it is awaited; and it is the log in `self.log` that all have in common.",
        )
        require(
            sizes[:1] in ([], [1]),
            "Your consumer told the group that there is news, and stored it afterwards. A member that looks at once "
            "finds nothing, and nobody tells it again. Store first, then announce.",
        )
        whole("Ben", ben.numbers, 1, "Ann said one thing, and Ben was there")
        given("Ben stopped reading, Ann said 149 more, and Ben woke up.")
        ben.stall()
        ann.say(*(f"thing {number}" for number in range(2, 151)))
        await until(lambda: log.size == 150)
        await house.hears(ann, 150)
        ben.wake()
        await house.hears(ben, 150)
        whole(
            "Ben",
            ben.numbers,
            150,
            "Ben did not read while Ann said 149 more things; then he woke up. A channel holds 100, so events were dropped",
        )
        given("Cem came with ?after=147.")
        cem = await house.enter(room, "Cem", query="after=147")
        await house.hears(cem, 3)
        require(
            cem.numbers == [148, 149, 150],
            f"Cem came with ?after=147, when there were 150 messages. Your consumer sent {runs(cem.numbers)}. What he has "
            "is `self.sent`; what he missed comes before any news.",
        )
        given("Flo came without a number.")
        flo = await house.enter(room, "Flo")
        await house.hears(flo, 150)
        require(
            flo.numbers == [*range(1, 151)],
            f"Flo came without a number, when there were 150 messages: she has nothing yet. Your consumer sent "
            f"{runs(flo.numbers)}. Who says nothing has 0, and wants what came after that, like everybody.",
        )
        given("In another room, Gus said the first word.")
        gus = await house.enter(f"/room {next(ROOMS)}/", "Gus")
        gus.say("hi")
        await house.hears(gus, 1)
        why = (
            "The log keeps the rooms apart if it is told which: the first argument of `append` and of `since`."
            if gus.heard
            else "What does your consumer remember of others? What belongs to one client belongs to `self`, not to the class."
        )
        require(
            [*map(parsed, gus.heard)] == [(1, "hi")],
            f"In another room, Gus said the first word. Your consumer sent him {len(gus.heard)} messages, with the numbers "
            f"{runs(gus.numbers)}, and not his own as number 1. {why}",
        )
        for one in (flo, gus):
            one.leave()
            await house.ends(one)
        given("Dee came with ?after=149, and Ann spoke while your consumer looked into the log.")
        over = []

        async def ann_speaks():
            ann.say("thing 151")
            await house.hears(ann, 151)
            await turns()
            over.append(True)

        await until(house.is_quiet)
        log.meanwhile, log.others = ann_speaks, [visitor.task for visitor in house.visitors]
        dee = await house.enter(room, "Dee", query="after=149")
        await house.hears(dee, 2)
        await until(lambda: over)
        await turns()
        story = "While your consumer looked into the log for Dee, who came with ?after=149, Ann said the next thing, number 151"
        require(
            151 in dee.numbers,
            f"{story}. Dee got {runs(dee.numbers)}. The message came after the look and before the `group_add`: join first, "
            "look then.",
        )
        require(
            dee.numbers == [150, 151],
            f"{story}. Dee got {runs(dee.numbers)}: two of your tasks looked into the log for her at the same time, and both "
            "sent what they found. `await` the first look, and the next waits for its turn.",
        )
        cuts, got = await cut_at_random(house, room, ann, log)
        members = house.members()
    rows = [
        {"what": "messages", "number": max(map(len, log.rooms.values()))},
        {"what": "times that Eve hung up", "number": cuts},
        {"what": "messages that she has", "number": len(got)},
        {"what": "members: Ann, Ben, Cem, Dee", "number": members},
    ]
    show(table(rows, caption="Eve came back again and again"))


def whole(name, numbers, count, story):
    require(
        set(range(1, count + 1)) <= set(numbers),
        f"{story}. {name} got {runs(numbers)} of {count}. What is in the log and was not sent has to follow with "
        "the next event that does arrive.",
    )
    require(
        numbers == [*range(1, count + 1)],
        f"{story}. {name} got {len(numbers)} messages, {runs(numbers)}: some twice, or out of order. Each event "
        "says only that there is news; remember in `self.sent` what this client has been sent.",
    )


class announcing:
    """Call a function whenever somebody sends to a group."""

    def __init__(self, layer, function):
        self._layer, self._function = layer, function

    def __enter__(self):
        plain = self._layer.group_send

        async def group_send(group, message):
            self._function()
            await plain(group, message)

        self._layer.group_send = group_send

    def __exit__(self, *exc_info):
        del self._layer.group_send


async def cut_at_random(house, room, ann, log):
    """A client that hangs up after some messages, at times before the last has arrived, and comes back with what it has."""
    random, got, cuts, told, goal = Random(6455), [*range(1, 152)], 0, 151, 250
    while len(got) < goal:
        had, before = len(got), told
        given(f"Eve had {had} messages, hung up in the middle, and came back with ?after={had}.")
        told = min(goal, told + random.randrange(8))
        ann.say(*(f"thing {number}" for number in range(before + 1, told + 1)))
        takes = random.randrange(2, 8)
        eve = await house.enter(room, "Eve", query=f"after={had}", takes=takes)
        await house.hears(eve, min(takes, told - had))
        lost = eve.gone and random.random() < 0.5
        eve.leave()
        await house.ends(eve)
        got += eve.numbers[: -1 if lost else None]
        cuts += 1
        if not eve.heard and told == goal:
            break
    whole(
        "Eve",
        got,
        goal,
        f"Eve hung up {cuts} times, and came back with `?after=` what she had, in a room with {goal} "
        "messages",
    )
    await until(lambda: house.members() == 4)
    return cuts, got


def on_a_real_wire(Lossless):
    """Nothing new is required here: it is the evidence to look at."""
    options = {"proxy": None, "user_agent_header": None, "compression": None}
    given("On a real server, a client heard two messages, left, and came back.")
    with (
        patch.object(Lossless, "log", Log(), create=True),
        serve(Lossless.as_asgi(), name="lab 07") as server,
        tap(server) as wire,
    ):
        with connect(server.ws_url("/tea/"), **options) as ann:
            with connect(wire.ws_url("/tea/"), **options) as ben:
                for text in ("one", "two"):
                    ann.send(text)
                    ben.recv(patience())
            for text in ("three", "four"):
                ann.send(text)
            for _ in range(4):
                ann.recv(patience())
            with connect(wire.ws_url("/tea/?after=2"), **options) as ben:
                ben.recv(patience())
                ben.recv(patience())
        wire.settle()
    show(
        ladder(
            wire,
            connection=2,
            caption="On a real wire: Ben comes back, and has two messages already",
        )
    )
