"""The checks of lab 05. Most readers here only stand for a client: they stall and vanish when the check says so."""

import asyncio
import contextlib
import inspect

from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK

from helpers import byhand, serve, table
from helpers.crowd import crowd, small_send_buffer
from helpers.lab import (
    NotYet,
    exercise,
    given,
    happens,
    patience,
    require,
    runs,
    show,
    turns,
    until,
)


class Reader:
    """A server's end of a connection, as `websockets` has it. What its client does not read lies in a buffer."""

    def __init__(self, name):
        self.name = name
        self.got = []
        self.codes = []
        self._reads = asyncio.Event()
        self._reads.set()
        self._gone = asyncio.Event()
        self._heard = asyncio.Event()
        self._end = ConnectionClosedError
        self.task = None

    def __repr__(self):
        return f"the connection of {self.name}"

    async def send(self, message):
        if self._gone.is_set() or self.codes:
            raise self._closed()
        self.got.append(str(message))
        await asyncio.sleep(0)
        while not self._reads.is_set():
            await self._first(self._reads, self._gone)
            if self._gone.is_set():
                raise self._closed()

    async def close(self, code=1000, reason=""):
        self.codes.append(code)
        await self._gone.wait()

    async def wait_closed(self):
        await self._gone.wait()

    async def recv(self):
        await self._heard.wait()
        if self._gone.is_set():
            raise self._closed()
        self._heard.clear()
        return "a word"

    async def __aiter__(self):
        with contextlib.suppress(ConnectionClosedOK):
            while True:
                yield await self.recv()

    def stall(self):
        self._reads.clear()

    def wake(self):
        self._reads.set()

    def say(self):
        self._heard.set()

    def go(self, end):
        self._end = end
        self._gone.set()
        self._heard.set()

    def _closed(self):
        return self._end(None, None)

    @staticmethod
    async def _first(*events):
        waits = [asyncio.ensure_future(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


class House:
    """A broadcaster of the learner's, and who is in it."""

    def __init__(self, hall):
        self.hall = hall
        self.readers = []
        self.before = asyncio.all_tasks()

    async def enter(self, name):
        reader = Reader(name)
        given(f"{name} came in: the check called `handler` with a connection.")
        reader.task = started(self.hall.handler(reader), "handler")
        self.readers.append(reader)
        await turns()
        ended(reader)
        require(
            not reader.task.done(),
            f"{name} came in, and your handler returned at once. The library closes a connection when its handler "
            "returns: stay until the client has gone.",
        )
        return reader

    def publish(self, *messages):
        for message in messages:
            said = self.hall.publish(message)
            if inspect.iscoroutine(said):
                said.close()
                raise NotYet(
                    "Your `publish` is async, so whoever publishes has to wait for it, and it for the slowest reader. "
                    "Leave it a plain function: what has to wait waits in a task of its own."
                )

    async def feed(self, first, last, sleeper):
        """Publish numbers, four at a time; those who read take them before the next four."""
        awake = [r for r in self.readers if r is not sleeper and not r.task.done()]
        for start in range(first, last, 4):
            part = range(start, min(start + 4, last))
            self.publish(*map(str, part))
            await until(lambda end=part[-1]: all(r.got[-1:] == [str(end)] for r in awake))
            self.look()
            for reader in awake:
                require(
                    reader.got[-1:] != [str(part[-1])] or len(reader.got) == part[-1] + 1,
                    f"{sleeper.name} stopped reading, and messages 0 to {part[-1]} were published. {reader.name}, who "
                    f"reads, got {runs(reader.got)}: a hole. Whatever is to be done about {sleeper.name}, the loop of your "
                    "`publish` has to come to all the others. Is there a `return` or a `break` in it, a `try` around it?",
                )
                require(
                    reader.got == [*map(str, range(part[-1] + 1))],
                    f"{sleeper.name} stopped reading, and messages 0 to {part[-1]} were published. {reader.name}, who "
                    f"reads, got {runs(reader.got)}. One sleeper holds up the others: only a task of "
                    f"{sleeper.name}'s own may wait for {sleeper.name}.",
                )

    def look(self):
        for reader in self.readers:
            ended(reader)

    async def talk(self, reader):
        given(f"{reader.name} sent a message.")
        reader.say()
        await turns()
        ended(reader)
        require(
            not reader.task.done(),
            f"{reader.name} sent a message, and your handler returned, which hangs up on {reader.name}. `recv` "
            "returns with each message: only an exception of it is the end.",
        )
        heard = [r.name for r in self.readers if "a word" in r.got]
        require(
            not heard,
            f"{reader.name} sent a message, and {', '.join(heard)} got it: your handler passes on what a client says. Nobody "
            "has published it. What comes from clients shows that they are there, and is thrown away.",
        )

    async def leave(self, reader, how="left", end=ConnectionClosedError):
        given(f"{reader.name} {how}.")
        reader.go(end)
        await until(reader.task.done)
        ended(reader)
        return reader.task.done()

    def busy(self):
        """The tasks that the learner's code has left behind."""
        mine = {asyncio.current_task(), *(reader.task for reader in self.readers)}
        return [t for t in asyncio.all_tasks() - self.before - mine if not t.done()]


def ended(reader):
    """Raise what a handler has raised, if it was not the end of its connection."""
    if reader.task.done() and not reader.task.cancelled():
        with contextlib.suppress(ConnectionClosed):
            reader.task.result()


async def goodbye(hall, counted):
    """Let somebody come in and say goodbye, as a browser does: that end is no error."""
    house = House(hall)
    eve = await house.enter("Eve")
    await house.leave(eve, "said goodbye, with a close frame", ConnectionClosedOK)
    await turns()
    before = getattr(hall, counted)
    house.publish("0", "1", "2")
    count = getattr(hall, counted) - before
    require(
        not count,
        f"Eve said goodbye, with a close frame, three messages were published, and you counted {count} {counted}: she is "
        "still in. After a goodbye `async for` ends without an exception, and `recv` raises ConnectionClosedOK, which is no "
        "ConnectionClosedError. Tidy up in `finally`, whichever way a connection ends.",
    )


def started(coroutine, name):
    require(
        inspect.isawaitable(coroutine),
        f"Your `{name}` is no coroutine, so it cannot wait: it has to have an answer at once, or to hold up the whole "
        "server. Begin it with `async def`.",
    )
    return asyncio.ensure_future(coroutine)


async def stay(house, first, last, *readers):
    """Require that those who have not left hear what was published since, numbers from first to last."""
    wanted = [*map(str, range(first, last + 1))]
    await until(lambda: all(reader.got[first:] == wanted for reader in readers))
    house.look()
    for reader in readers:
        require(
            reader.got[first:] == wanted,
            f"Ben left, and messages {first} to {last} were published. {reader.name}, who had stayed, got "
            f"{runs(reader.got[first:])}: your handler has taken out more than Ben. What it tidies up is its own: one "
            "queue, one task.",
        )


@exercise(
    "05-offer",
    hints=(
        "Three cases: there is room, there is none, and what do you return in each of them?",
        "`queue.full()` says whether there is room; `get_nowait()` takes the oldest message and returns it.",
        "`lost = queue.get_nowait() if queue.full() else None`; then `queue.put_nowait(message)`; then `return lost`.",
    ),
)
def offer_drops_the_oldest(offer):
    queue = asyncio.Queue(32)
    lost = []
    for number in range(1_000):
        given(
            f"The queue had 32 places and held {queue.qsize()} messages; message {number} was offered."
        )
        said = offer(queue, str(number))
        if inspect.iscoroutine(said):
            said.close()
            raise NotYet(
                "Your `offer` is async. While it waits for a place, everybody waits whose turn comes after this reader. "
                "A plain `def`: `put_nowait` and `get_nowait` never wait."
            )
        require(
            queue.qsize() == min(number + 1, 32),
            f"A queue of 32 places held {min(number, 32)}, and you were offered one more. Now it holds {queue.qsize()}, "
            f"not {min(number + 1, 32)}: one comes in, and one goes only if there is no room.",
        )
        if number >= 32 or said is not None:
            lost.append(said)
    held = [queue.get_nowait() for _ in range(32)]
    require(
        held == [str(n) for n in range(968, 1_000)],
        f"1,000 messages were offered to a queue of 32 places that nobody read. It holds {runs(held)}. This policy keeps "
        "the newest: a reader that wakes up wants to know how things are now.",
    )
    said = runs(lost) if any(text is not None for text in lost) else "None each time"
    require(
        lost == [str(n) for n in range(968)],
        f"1,000 were offered and 32 are held, so 968 were lost, 0 to 967. You returned {said}. Return "
        "the message that you have dropped: what nobody counts, nobody misses.",
    )
    given("Another queue had 2 places, and three messages were offered to it.")
    other = asyncio.Queue(2)
    for text in "abc":
        offer(other, text)
    return "1,000 offered, 32 kept, 968 returned: nothing is lost without a trace."


@exercise(
    "05-fan-out",
    hints=(
        "Who waits for a slow reader, and who must not? Which of the two is the task that runs `relay`?",
        "In `handler`: a queue with `self.limit` places, `relay` in a task, and then wait until the connection is closed. "
        "What belongs into `finally`?",
        "`queue = self.queues[connection] = asyncio.Queue(self.limit)`; `task = asyncio.create_task(relay(…))`; `try: await "
        "connection.wait_closed()`; in `finally` take it out of the dict, and `task.cancel()`. `publish` offers to each "
        "queue.",
    ),
    deadline=20.0,
)
async def fan_out_is_bounded(Broadcaster):
    house = House(Broadcaster(8))
    ann, ben, cem, dee = [await house.enter(name) for name in ("Ann", "Ben", "Cem", "Dee")]
    given("Four readers were in, and one message was published.")
    house.publish("0")
    await until(lambda: all(r.got for r in house.readers))
    house.look()
    require(
        all(r.got == ["0"] for r in house.readers),
        "Four readers were in, one message was published. They got: "
        f"{', '.join(f'{r.name} {len(r.got)}' for r in house.readers)}. Each of them has a queue of its own to be fed.",
    )
    await house.talk(ann)
    given("Cem stopped reading; the other three went on.")
    cem.stall()
    await house.feed(1, 1_000, cem)
    cem.wake()
    given("Cem woke up.")
    await until(lambda: len(cem.got) >= 10)
    house.publish("1000")
    await until(lambda: cem.got[-1] == "1000")
    late = cem.got[:-1]
    require(
        len(late) <= 2 + 8,
        f"Cem slept for 999 messages, with limit=8. On waking {len(late) - 2} of them came, beside the two that were on "
        "their way: all these had been waiting in your memory, and for ten thousand sleepers it would be ten thousand "
        "times as many.",
    )
    require(
        late == ["0", "1", *map(str, range(992, 1_000))],
        f"Cem slept from message 1 to 999, with limit=8, and then got {runs(late)}. The stated policy: drop the oldest, "
        "so that 992 to 999 are waiting.",
    )
    dropped = house.hall.dropped
    require(
        dropped == 1_000 - len(late),
        f"Cem got {len(late)} of 1,000, everybody else all of them, and `dropped` is {dropped}. Sent = delivered + "
        f"dropped: {1_000 - len(late)} were dropped.",
    )
    left = await house.leave(ben, "left, while nothing was being sent")
    require(
        left,
        "Ben left while nothing was being sent, and your handler has not noticed: it waits for the next message. Until "
        "one comes this reader is a ghost. `wait_closed` is what tells.",
    )
    cem.stall()
    house.publish("1001", "1002", "1003")
    await stay(house, 1_001, 1_003, ann, dee)
    await house.leave(cem, "hung up in the middle of a `send`")
    for reader in (ann, dee):
        await house.leave(reader)
    await turns()
    given("Everybody had left.")
    dropped = house.hall.dropped
    house.publish(*map(str, range(1_004, 1_024)))
    await turns(200)
    require(
        house.hall.dropped == dropped,
        f"Everybody had left, 20 messages were published, and you counted {house.hall.dropped - dropped} as dropped: there "
        "are queues left, and they fill up for nobody, until the server ends. What comes in at the start of a handler "
        "goes out in `finally`.",
    )
    require(
        not house.busy(),
        f"Everybody has left, and {len(house.busy())} tasks of yours still wait for messages. Each keeps its queue and its "
        "connection in memory: cancel it when its reader goes.",
    )
    await goodbye(Broadcaster(1), "dropped")
    rows = [
        {"reader": name, "delivered": got, "dropped": 1_000 - got}
        for name, got in {"who reads": 1_000, "who slept": len(late)}.items()
    ]
    show(table(rows, caption="1,000 messages, limit 8"))
    return "Nobody waited for the sleeper, who cost you 8 messages of memory and knows the newest. Nothing was left behind."


def awaited(task):
    """Return the names of the coroutines in which a task waits."""
    names, inner = [], getattr(task, "get_coro", lambda: None)()
    while inner is not None:
        names.append(getattr(inner, "__name__", ""))
        inner = getattr(inner, "cr_await", None)
    return names


@exercise(
    "05-latest",
    hints=(
        "What are the two things to remember: which keys wait, in which order? And what for each of them?",
        "Put a key into `due` only if it is not waiting already. The message of a key that waits is replaced where it is.",
        "In `put`: `if key in self.messages`, count it, `else: self.due.put_nowait(key)`; then `self.messages[key] = "
        "message`. In `get`: `return self.messages.pop(await self.due.get())`.",
    ),
)
async def latest_holds_one_of_each(Latest):
    latest = Latest()
    given("The check put A1, A2 and B1, and then called `get` twice.")
    for message in ("A1", "A2", "B1"):
        said = latest.put(message[0], message)
        if inspect.iscoroutine(said):
            said.close()
            raise NotYet(
                "Your `put` is async, and `publish`, a plain function, calls it: nothing was put, and `get` would wait for "
                "ever. A plain `def`: there is always room for one of each key."
            )
    got = [await asyncio.wait_for(started(latest.get(), "get"), patience()) for _ in range(2)]
    require(
        sorted(map(str, got)) == ["A2", "B1"],
        f"A1, A2 and B1 were put, with the keys A and B; `get` gave {runs(got)}, not A2, B1. Of each key the newest, "
        "once: A2 replaces A1.",
    )
    waiting = started(latest.get(), "get")
    await turns()
    error = waiting.exception() if waiting.done() else None
    require(
        error is None,
        f"Nothing was left, and `get` raised {type(error).__name__}: that ends the task that sends, and its reader hears "
        "nothing more. `await` something that only comes with the next `put`.",
    )
    require(
        not waiting.done(),
        "Nothing was left, and `get` gave an answer all the same. The task that sends would send it, again and again, as "
        "fast as it can: `await` something that only comes with the next `put`.",
    )
    require(
        "sleep" not in awaited(waiting),
        "Nothing was left, and your `get` sleeps, looks, and sleeps again. Ten thousand readers who look for nothing keep a "
        "server busy, and what comes lies there until the next look. `await` what `put` brings about: a queue's `get`, an "
        "event's `wait`.",
    )
    given(
        "`get` was waiting, and then A3 was put. `get` had returned A2 long ago, so A was not waiting any more."
    )
    latest.put("A", "A3")
    await asyncio.wait_for(waiting, patience())
    given("1,000 prices of ten stocks were put, and nobody called `get`.")
    before = latest.replaced
    for number in range(1_000):
        latest.put(f"S{number % 10}", str(number))
    got = [await asyncio.wait_for(started(latest.get(), "get"), patience()) for _ in range(10)]
    latest.put("end", "end")
    got.append(await asyncio.wait_for(started(latest.get(), "get"), patience()))
    require(
        sorted(map(str, got)) == [*map(str, range(990, 1_000)), "end"],
        f"1,000 prices of ten stocks, then one key more: `get` gave {runs(got)}. Ten were waiting at most, 990 to "
        "999, and then `end`.",
    )
    require(
        latest.replaced - before == 990,
        f"1,000 were put and 10 came out, so 990 were replaced. You counted {latest.replaced - before}.",
    )
    given("Ten keys waited; S0 changed before each `get`, and what came out was put again.")
    came = dict.fromkeys((f"S{number}" for number in range(10)), 0)
    for key in came:
        latest.put(key, key)
    for _ in range(30):
        latest.put("S0", "S0")
        key = await asyncio.wait_for(started(latest.get(), "get"), patience())
        came[key] += 1
        latest.put(key, key)
    require(
        set(came.values()) == {3},
        f"Ten keys, thirty turns, all of them busy, S0 most of all. They came {', '.join(map(str, came.values()))} times. "
        "A key that is replaced keeps its place in the line, and a new one goes to the end: else some are never told.",
    )
    return "However long the sleep, one message of each key waits, and each key gets its turn."


@exercise(
    "05-evict",
    hints=(
        "What is the first moment at which you know that a reader cannot keep up? And who waits for its goodbye?",
        "`close` waits for the client: give it a task of its own. Take the reader out at once, so that it is asked to "
        "leave once. And a handler that reads notices more than one that waits: `async for _ in connection: pass`.",
        "`if queue.full(): del self.queues[connection]`; `self.evicted += 1`; `task = "
        'asyncio.create_task(connection.close(1013, "too slow"))`; `self.leaving.add(task)`; '
        "`task.add_done_callback(self.leaving.discard)`. The handler takes out with `pop(connection, None)`.",
    ),
    deadline=20.0,
)
async def evict_those_who_stall(Evictor):
    house = House(Evictor(8))
    ann, ben, cem, dee = [await house.enter(name) for name in ("Ann", "Ben", "Cem", "Dee")]
    await house.talk(ann)
    given("Cem stopped reading, and as many messages were published as have room.")
    cem.stall()
    await house.feed(0, 9, cem)
    require(
        not cem.codes,
        "With limit=8 one message was on its way to Cem and 8 waited: all had room, and Cem was asked to leave already. "
        "A burst that fits is no reason: look for the first message without a place.",
    )
    house.publish("9")
    prompt = await until(lambda: cem.codes)
    await house.feed(10, 1_000, cem)
    require(
        cem.codes,
        "Cem has not read since message 0, 8 messages wait, and 991 came after them. Nobody has closed the connection: "
        "a client with a hole in its messages believes that it knows everything. (A coroutine that nobody awaits does "
        "not run: give `close` a task.)",
    )
    require(
        prompt,
        "With limit=8 one message was on its way to Cem, 8 waited, and for message 9 there was no room. You closed the "
        "connection, but later: what came in between you have kept beyond the limit, or dropped without a word. The first "
        "message without a place is the time to part.",
    )
    require(
        len(cem.codes) == 1,
        f"Your code called `close` on Cem's connection {len(cem.codes):,} times, once for each message that had no room. "
        "Who has been asked to leave gets no more messages: take the queue out of `queues` at once.",
    )
    require(
        cem.codes == [1013],
        f"You closed Cem's connection with {cem.codes[0]}, which does not say when to come back. 1013, try again later, "
        "does: the client returns, and asks for what it has missed.",
    )
    ben.stall()
    house.publish("1000", "1001")
    await turns()
    await house.leave(ben, "stopped reading, and hung up before there were too many")
    house.publish("1002")
    await stay(house, 1_000, 1_002, ann, dee)
    given("Cem, evicted long ago, woke up and said goodbye; then the others left.")
    cem.wake()
    for reader in (cem, ann, dee):
        await house.leave(reader)
    await turns()
    require(
        house.hall.evicted == 1,
        f"Cem was asked to leave, Ben hung up, Ann and Dee left. You counted {house.hall.evicted} evicted. It was "
        "Cem, once: no more and no less is what you want to see on a chart.",
    )
    house.publish(*map(str, range(1_003, 1_023)))
    await turns(200)
    require(
        house.hall.evicted == 1,
        f"Everybody had left, 20 messages were published, and you evicted {house.hall.evicted - 1} more: there are queues "
        "left, which fill up for nobody. What comes in at the start of a handler goes out in `finally`.",
    )
    require(
        not house.busy(),
        f"Everybody has left, and {len(house.busy())} tasks of yours still wait. Each keeps a queue of up to 8 messages "
        "and a connection in memory: cancel it when its reader goes.",
    )
    await goodbye(Evictor(1), "evicted")
    on_a_real_wire(Evictor)
    return (
        "Who reads gets everything, who stalls is asked to come back, and nobody, awake or asleep, costs you more than one "
        "queue."
    )


def on_a_real_wire(Evictor):
    """The same four kinds of readers, with clients: one more requirement, and the evidence."""
    hall = Evictor(32)
    joined, left = [], []

    async def lounge(connection):
        small_send_buffer(connection)
        joined.append(connection)
        try:
            await hall.handler(connection)
        finally:
            left.append(connection)

    async def publish(message):
        hall.publish(message)

    news = [f"{number:03d} " + "x" * 9_996 for number in range(200)]
    with (
        serve(lounge, name="lab 05") as server,
        crowd(server, 3) as readers,
        byhand.handshake(server.port) as sleeper,
    ):
        given("On a real server, a client sent 100 messages of its own, and hung up.")
        with byhand.handshake(server.port) as talker:
            happens(lambda: len(joined) == 5)
            talker.send(*(byhand.frame("me, me, me") for _ in range(100)))
        require(
            happens(lambda: left),
            "On a real server, a client sent 100 messages that nobody had asked for, and hung up. Your handler still "
            "waits: after about 16 messages that nobody takes the library stops reading from a client, and what it "
            "does not read is also the end of the connection. Take what comes and throw it away.",
        )
        given("On a real server, three clients read, and a fourth woke up after 200 messages.")
        readers.feed(publish, news, timeout=10)
        frames = [sleeper.read()]
        while frames[-1] is not None and frames[-1].opcode != byhand.CLOSE:
            frames.append(sleeper.read())
        *before, farewell = frames
        prefix = [frame.payload.decode() for frame in before] == news[: len(before)]
        sleeper.send(byhand.frame(farewell.payload, byhand.CLOSE))
    rows = [
        {"reader": "three that read", "got": f"{min(readers.counts)} of 200", "then": "left"},
        {
            "reader": "one that slept",
            "got": "the first ones, without a hole" if prefix else "some",
            "then": str(farewell),
        },
        {"reader": "one that flooded", "got": "nothing", "then": "was noticed when it left"},
    ]
    show(table(rows, caption="Your broadcaster on a real wire"))
