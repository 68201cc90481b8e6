"""The checks of lab 01. Most of them need no network: what can be cut at any byte is a list of bytes."""

import asyncio
from random import Random
from weakref import WeakSet

import httpx

from helpers import ladder, serve, tap
from helpers.lab import exercise, given, patience, require, show, turns, until

SSE = b"text/event-stream"
HEADERS = {"User-Agent": "workbook", "Accept-Encoding": "identity"}


def dispatched(text):
    """What an EventSource hands to a page, as (id, data), and the id that it will name (WHATWG HTML, 9.2.6)."""
    events, data, last, named = [], [], "", ""
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            last = named
            if data:
                events.append((last, "\n".join(data)))
            data = []
        elif field == "data":
            data.append(value)
        elif field == "id":
            named = value
    return events, last


@exercise(
    "01-event",
    hints=(
        "What would a client make of a line of your text that has no field name in front of it?",
        "Every line of the text needs a `data: ` of its own, the empty ones too. Which method splits a text and keeps "
        "empty pieces?",
        '`lines = data.replace("\\r\\n", "\\n").replace("\\r", "\\n").split("\\n")`; one `f"data: {line}\\n"` for each, '
        "then an empty line.",
    ),
)
def event_is_what_the_browser_gets(event):
    for data, why in {
        "2:1": "An event is the text as it came, in no quotes, and then an empty line: without one the client goes on "
        "collecting, and the next one runs into it.",
        "goal!\nby number 9": "A line without `data: ` before it is a field with an odd name, and is ignored.",
        "": "An event without any `data` line is dropped, and its update is lost.",
        "no goal\n": "A newline at the end of a text is a part of it: behind it stands one more line, an empty one.",
        "  indented": "A client removes one space after the colon, if there is one. Send that one, and leave the text's "
        "own alone.",
        "id: 99": "The text looks like a field. It must arrive as text, and must not change the id.",
        "2:1\n\nhalf-time": "Two newlines in a row have an empty line between them. Newlines that are taken for one, as by "
        "the pattern `[\\r\\n]+`, leave it out.",
        "to be continued  ": "A space at the end of a line is a part of the text, too: what strips the line you write, strips "
        "the text.",
        "first\r\nsecond\rthird": "CR alone and CR LF end a line for the client, as LF does. What comes after is then "
        "no data.",
        "a\u2028b": "Nothing but CR and LF ends a line for the client: this text is one line. `splitlines` knows more "
        "ends, U+2028 among them.",
    }.items():
        given(f"The check called `event(7, {data!r})`.")
        text = event(7, data)
        require(
            isinstance(text, str),
            f"`event(7, {data!r})` returned {type(text).__name__}. The stream is made of what you `return`: "
            "one `str` in which the lines end with newlines.",
        )
        events, _ = dispatched(text + "id: 8\ndata: the next one\n\n")
        wanted = data.replace("\r\n", "\n").replace("\r", "\n")
        require(
            len(events) < 2 or events[0][0] == "7",
            f"You wrote {text!r}, and the client will name the id {events[0][0]!r} when it comes back. Without the "
            "right one it cannot say what it has: write `id: 7` on a line of its own.",
        )
        require(
            [found for _, found in events] == [wanted, "the next one"],
            f"You wrote {text!r} for the text {data!r}, then came one more event, 'the next one'. The client handed to "
            f"the page: {', '.join(repr(found) for _, found in events)}. {why}",
        )
    return "Ten texts, one of them empty and one with three kinds of newline, arrived as they were sent."


@exercise(
    "01-journal",
    hints=(
        "Which update is at position 0 of your list, once the oldest have been thrown away?",
        "Keep pairs of id and data, and count the ids on their own. `since` need not know a position: it can compare ids.",
        "Bad or future id: return all you keep. Else `[(id, data) for id, data in self.kept if id > int(last_id)]`.",
    ),
)
def journal_forgets_nothing_too_early(Journal):
    journal = Journal(limit=100)
    given("The check made a Journal(limit=100) and appended three updates.")
    ids = [journal.append(data) for data in ("0:0", "1:0", "1:1")]
    require(
        (ids, journal.latest) == ([1, 2, 3], 3),
        f"Three calls of `append` returned {ids}, and `latest` is {journal.latest}. Return the id. "
        "Ids count from 1, so that 0 can mean: nothing yet.",
    )
    asked(
        journal,
        "1",
        [(2, "1:0"), (3, "1:1")],
        "The client has update 1: to send it again is a duplicate, to skip 2 a loss.",
    )
    asked(journal, "3", [], "The client has all there is. What you send it now comes twice.")
    alive = WeakSet()
    for number in range(4, 1051):
        update = Text(f"update {number}")
        alive.add(update)
        journal.append(update)
    del update
    everything = [(number, f"update {number}") for number in range(951, 1051)]
    given("The check appended 1,050 updates in all to a Journal(limit=100).")
    kept = len(journal.since("0"))
    require(
        kept <= 100,
        f"After 1,050 updates the journal still holds {kept}, with limit=100. A server that runs for a month would hold "
        "them all.",
    )
    require(
        len(alive) <= 500,  # some let a heap grow before they clear it
        f"After 1,050 updates `since` shows no more than the limit of 100, but {len(alive):,} are still in memory: they are "
        "hidden, not forgotten. A server that runs for a month runs out of memory. Throw away in `append` what is too much.",
    )
    asked(journal, "0", everything, "The last hundred are kept; an update keeps its id for ever.")
    asked(
        journal,
        "1000",
        everything[50:],
        "The oldest 950 are gone, so the position in your list is no longer the id.",
    )
    asked(
        journal,
        "900",
        everything,
        "901 to 950 are gone, but all that came after them is not. A place counted from your oldest is negative here, and a "
        "slice that begins there begins near the end: compare ids, not places.",
    )
    for unknown in ("5000", "1051", "abc", "", "-1000", "1000.5", "\u00b2"):
        asked(
            journal,
            unknown,
            everything,
            "Nobody got this id from you: perhaps the server has restarted and counts anew. You cannot know what this "
            "client has, so it gets all that you keep. A duplicate can be dropped, a loss cannot be repaired.",
        )
    returned = journal.since("abc")
    given("The check called `since('abc')`, then appended one more update.")
    journal.append("update 1051")
    require(
        returned == everything,
        f"`since('abc')` had returned {brief(everything)}. Then one more update was appended, and the returned list says "
        f"{brief(returned)}: it is the list in which you keep them. A stream that is sending from it when the oldest goes "
        "skips one. Return a list of its own.",
    )
    other = Journal(limit=2)
    given("The check made another journal, Journal(limit=2), and appended nothing yet.")
    asked(
        other,
        "7",
        [],
        "This journal is new and empty. What is in it belongs to another one: a value on the class, or a default, is the "
        "same for all of them. Make it in `__init__`, on `self`.",
    )
    ids = [other.append(data) for data in ("0:0", "0:1", "0:2")]
    require(
        ids == [1, 2, 3],
        f"The first three updates of another journal got the ids {ids}. It counts on where the first one stopped, so its "
        "clients name ids that it has never given. Count on `self`.",
    )
    asked(
        other,
        "0",
        [(2, "0:1"), (3, "0:2")],
        "This one was made with limit=2: it keeps the newest two.",
    )
    return "Known, old, future and senseless ids, two journals apart, and a memory that ends at its limit."


class Text(str):
    """A text of which one can see whether somebody still has it."""


def asked(journal, last_id, wanted, why):
    given(f"The check called `since({last_id!r})`; the latest id was {journal.latest}.")
    found = journal.since(last_id)
    require(
        found == wanted,
        f"`since({last_id!r})` returned {brief(found)}, not {brief(wanted)}; the latest id was {journal.latest}. {why}",
    )


def brief(found):
    if not isinstance(found, list) or len(found) < 4:
        return repr(found)
    return f"[{found[0]!r}, …, {found[-1]!r}], {len(found)} in all"


class Feed:
    """What the exercise promises: a journal whose news can be awaited."""

    def __init__(self):
        self.updates = []
        self.grown = asyncio.Event()
        self.waiting = 0

    @property
    def latest(self):
        return len(self.updates)

    def publish(self, data):
        self.updates.append((self.latest + 1, data))
        self.grown.set()
        self.grown = asyncio.Event()

    def since(self, last_id):
        return self.updates[self.place(last_id) :]

    async def news(self, last_id):
        self.waiting += 1
        try:
            while self.latest <= self.place(last_id):
                await self.grown.wait()
        finally:
            self.waiting -= 1

    def place(self, last_id):
        known = str(last_id).isdecimal() and int(last_id) <= self.latest
        return int(last_id) if known else 0


class Wire:
    """A connection that takes `room` bytes and is cut then; whoever sends waits for ever."""

    def __init__(self, room=1_000_000, during=None, meanwhile=None):
        self.room = room
        self.data = b""
        self.heads = []
        self.ended = False
        self.during, self.meanwhile = during, meanwhile
        self.changed = asyncio.Event()
        self.slow = asyncio.Event()
        self.slow.set()

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.heads.append(message)
        else:
            self.ended |= not message.get("more_body")
            self.data += message.get("body", b"")[: self.room - len(self.data)]
        if message["type"] == self.during:
            self.during = None
            self.meanwhile()
        self.changed.set()
        await self.slow.wait()
        if len(self.data) >= self.room:
            await asyncio.Event().wait()


async def visit(stream, feed, last_id, wire, last):
    """One connection: run the stream until the client has the update `last` or the wire is cut; return what it got."""
    task = asyncio.ensure_future(stream(feed, last_id, wire.send))
    ended = asyncio.ensure_future(
        idle(wire, lambda: has(wire, last) or len(wire.data) >= wire.room)
    )
    await asyncio.wait({task, ended}, timeout=patience(), return_when=asyncio.FIRST_COMPLETED)
    await turns(5)  # a stream that is about to end may do so
    over = task.done()
    for one in (task, ended):
        one.cancel()
    await asyncio.wait({task, ended})
    if over and not task.cancelled():
        task.result()  # what it raised
    return over


async def idle(wire, condition):
    while not condition():
        wire.changed.clear()
        await wire.changed.wait()


def has(wire, number):
    return any(id == str(number) for id, _ in dispatched(wire.data.decode(errors="replace"))[0])


def ids_of(wire):
    return [
        int(id) if id.isdecimal() else id or 0
        for id, _ in dispatched(wire.data.decode(errors="replace"))[0]
    ]


def few(ids):
    return f"[{', '.join(map(str, ids[:8]))}{', …' if len(ids) > 8 else ''}]"


@exercise(
    "01-stream",
    hints=(
        "Between two looks at the feed, an update may be published. Who notices?",
        "Fix where you start before the first `await`. Then again and again: send everything `since` that id, remember "
        "the id of each one sent, wait for news after it.",
        "`last = feed.latest if last_id is None else last_id`; the head; then, in `while True:`, first `for last, data in "
        "feed.since(last): await send(…)`, and after it `await feed.news(last)`.",
    ),
)
async def stream_loses_nothing(stream):
    feed = Feed()
    for number in range(1, 4):
        feed.publish(f"update {number}")
    given(
        "A client came without an id. Three updates were in the feed, a fourth came with the head of the response."
    )
    wire = Wire(during="http.response.start", meanwhile=lambda: feed.publish("update 4"))
    over = await visit(stream, feed, None, wire, 4)
    require(
        wire.heads,
        "Your stream sent no `http.response.start`, so the client waits for a status line.",
    )
    status = wire.heads[0].get("status")
    require(
        status == 200,
        f"Your head has the status {status!r}. An EventSource that meets anything but 200 gives up for good, and never comes "
        "back for the updates that follow.",
    )
    headers = wire.heads[0].get("headers", [])
    require(
        any(name == b"content-type" and value.startswith(SSE) for name, value in headers),
        f"Your response has the headers {headers!r}. An EventSource that meets anything but the content type "
        "text/event-stream gives up for good. Names and values are `bytes` here, names in small letters.",
    )
    require(
        not wire.ended,
        "You sent a body without `more_body=True`. The server takes it for the last one and ends the response: the client "
        "comes back for every single update.",
    )
    require(
        not over,
        f"Your stream ended after the updates {few(ids_of(wire))}. Each end makes the client come back: that is polling, "
        "with longer headers. After what there is, wait for `feed.news`.",
    )
    got = ids_of(wire)
    require(
        len(got) == len(set(got)),
        f"A new client got the updates {few(got)}, one of them again and again. `feed.news` returns at once while there "
        "is something after the id that you name: each update that you have sent moves that id on.",
    )
    require(
        got == [4],
        f"A new client got the updates {few(got)}. It begins at now: 1 to 3 were there before it came"
        + (
            ", and it does not want them."
            if 1 in got
            else ". Update 4 was published while your `send` of the head was under way: where did you look up what is the "
            "latest?"
        ),
    )
    given(
        "A client came back with the id 1; while update 2 was under way to it, 5 and 6 were published."
    )
    more = lambda: [feed.publish(f"update {number}") for number in (5, 6)]  # noqa: E731
    wire = Wire(during="http.response.body", meanwhile=more)
    await visit(stream, feed, "1", wire, 6)
    require(
        ids_of(wire) == [2, 3, 4, 5, 6],
        f"A client that had update 1 came back and got {few(ids_of(wire))}; 5 and 6 were published after it had come. It "
        "needs 2 to 6, each once: what it missed, and what came while you were telling it.",
    )
    given("A client came with the id 'abc'. Six updates were in the feed.")
    wire = Wire()
    await visit(stream, feed, "abc", wire, 6)
    require(
        ids_of(wire) == [1, 2, 3, 4, 5, 6],
        f"A client came with the id 'abc' and got {few(ids_of(wire))} of six updates. An id that nobody gave gets "
        "everything, and `feed.since` knows that: hand it over as it came.",
    )
    given("A slow reader: its first event took until 50 more had been published.")
    wire = Wire()
    wire.slow.clear()
    reading = asyncio.ensure_future(visit(stream, feed, "6", wire, 56))
    for number in range(7, 57):
        feed.publish(f"update {number}")
        await asyncio.sleep(0)
    wire.slow.set()
    await reading
    require(
        ids_of(wire) == list(range(7, 57)),
        f"A slow reader, who took its first event only after 50 were published, got {brief(ids_of(wire))}. "
        "`send` waits for a reader, and the feed does not: ask it again after each wait.",
    )
    await two_at_once(stream)
    cuts = await cut_at_random(stream)
    await on_a_real_wire(stream)
    return f"{cuts} cuts at random bytes, 200 updates, each of them once and in order."


async def two_at_once(stream):
    feed, wires = Feed(), [Wire(), Wire()]
    for number in range(1, 5):
        feed.publish(f"update {number}")
    given("Two clients were there at once, with the ids 4 and 2; when both had all, update 5 came.")
    visits = [
        asyncio.ensure_future(visit(stream, feed, id, wire, 5))
        for id, wire in zip(("4", "2"), wires, strict=True)
    ]
    waited = await until(lambda: feed.waiting == 2)
    feed.publish("update 5")
    await asyncio.gather(*visits)
    require(
        waited,
        "Two clients had all there was, and your stream did not wait in `feed.news` for either of them. Whoever looks "
        "again after a sleep tells each update late, and asks for nothing, once for each client, all the time in between.",
    )
    got = [ids_of(wire) for wire in wires]
    require(
        got == [[5], [3, 4, 5]],
        f"Of two clients at once, the one with the id 4 got {few(got[0])} and the one with the id 2 got {few(got[1])}, up to "
        "update 5. How far one has come is not how far the other has: each call of `stream` keeps that in a local name.",
    )


async def cut_at_random(stream):
    random, feed, got, cuts = Random(6455), Feed(), [], 0
    while len(got) < 200:
        for _ in range(random.randrange(12)):
            if feed.latest < 200:
                feed.publish(f"update {feed.latest + 1}\nof the match")
        if feed.latest == len(got):
            continue
        last = got[-1][0] if got else "0"
        given(f"The wire was cut at a random byte; the client came back with the id {last}.")
        wire = Wire(room=random.randrange(1, 400))
        await visit(stream, feed, last, wire, feed.latest)
        news, _ = dispatched(wire.data.decode(errors="replace"))
        got += news
        cuts += 1
        require(
            got == [(str(id), data) for id, data in feed.updates[: len(got)]],
            f"Cut {cuts}: the client came back with the id {last} and got {', '.join(map(repr, news[:3]))}"
            f"{' and more' if len(news) > 3 else ''}. In the feed came {', '.join(map(repr, feed.since(last)[:3]))}. Whatever "
            "has not arrived with its empty line must come again, and whole.",
        )
    return cuts


async def publish(feed, data):
    feed.publish(data)


async def on_a_real_wire(stream):
    """Nothing new is required here: it is the evidence to look at."""
    feed = Feed()

    async def app(scope, receive, send):
        last_id = dict(scope["headers"]).get(b"last-event-id")
        await stream(feed, last_id and last_id.decode(), send)

    with serve(app, name="lab 01") as server, tap(server) as wire:
        for last_id, missed, published in (
            (None, (), ("0:0", "1:0")),
            ("2", ("1:1", "2:1"), ("2:2",)),
        ):
            feed.updates += [(feed.latest + n, data) for n, data in enumerate(missed, 1)]
            headers = HEADERS | ({"Last-Event-ID": last_id} if last_id else {})
            async with (
                httpx.AsyncClient(trust_env=False) as client,
                client.stream("GET", wire.url(), headers=headers) as response,
            ):
                for data in published:
                    server.run(publish(feed, data))
                async for line in response.aiter_lines():
                    if line == f"data: {published[-1]}":
                        break
            wire.settle()
    show(ladder(wire, caption="The same on a real wire, cut after update 2"))
