"""The checks of lab 13. Attackers come with the headers that a browser would send for them, or that a script can write."""

import json
import random
import time
from contextlib import ExitStack, suppress

from websockets.exceptions import ConnectionClosed, InvalidStatus

from helpers import serve, table
from helpers.apps.visitor import status, visit
from helpers.lab import NotYet, exercise, given, happens, patience, require, show

HOST = "chat.example"
OWN = ["https://chat.example", "https://www.chat.example"]
FORGED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}
AT_HOME = {"host": HOST, "origin": OWN[0]}
FOREIGN = {"host": HOST, "origin": "https://evil.example"}
BEHIND = {**FOREIGN, "headers": FORGED}


def rebound(server):
    """The page of a name that leads to this machine now: it says the same name twice."""
    name = f"evil.example:{server.port}"
    return {"host": name, "origin": f"http://{name}"}


def at_home(origin):
    return {"host": HOST, "origin": origin}


@exercise(
    "13-origin",
    hints=(
        "What does the visitor choose, what does her browser write, and what do you know without asking either?",
        "Only `origins` is yours. Look the value of `origin` up in it, as a whole; `headers.get` returns None when there "
        "is none.",
        '`if headers.get("origin") in origins: await app(scope, receive, send)`, `else: await send({"type": '
        '"websocket.close"})`.',
    ),
)
def only_own_pages_come_in(own_pages):
    entered = []

    async def app(scope, receive, send):
        entered.append(scope["path"])
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    given(f"The check called `own_pages(app, {OWN})`.")
    guarded = own_pages(app, list(OWN))
    with serve(guarded, name="guarded") as server:
        visitors = {
            "your own page": (at_home(OWN[0]), ""),
            "a foreign page": (FOREIGN, "its browser has told you where it comes from."),
            "DNS rebinding": (
                rebound(server),
                "its Host and its Origin agree, and neither is yours. Compare with your list, not with each other.",
            ),
            "a forged X-Forwarded-Host": (
                BEHIND,
                "anybody can write that header. What your pages are called, you know better.",
            ),
            "a look-alike": (
                at_home("https://chat.example.evil.example"),
                "its name begins like yours, and belongs to somebody else. Compare whole origins.",
            ),
            "a page from another port": (
                at_home("https://chat.example:8443"),
                "the name is yours, the port is somebody else's. An origin is scheme, name and port.",
            ),
            "a page whose name ends like yours": (
                at_home("https://not-chat.example"),
                "anybody can buy a name that ends like that. Compare whole origins.",
            ),
            "your page without TLS": (
                at_home("http://chat.example"),
                "whoever sits on the wire between can write what comes over http. An origin is scheme, name and port.",
            ),
            "a visitor without an origin": (
                {"host": HOST},
                "every browser names one. Who does not is a script, and the exercise keeps those out.",
            ),
            "your other page": (at_home(OWN[1]), ""),
        }
        seen = []
        for who, (page, why) in visitors.items():
            she = f"{who[0].upper()}{who[1:]}"
            entered.clear()
            given(f"The visitor was {who}: {said_by(page)}.")
            code = status(server, **page)
            seen.append({"visitor": who, "says": said_by(page), "gets": code})
            require(
                code < 500,
                f"{she} got {code}: your application returned, and had answered nothing, so the server reported an error "
                "of yours. Hand a visitor on with `await app(scope, receive, send)`; a refusal is an answer, too: send "
                '{"type": "websocket.close"}.',
            )
            if not why:
                require(
                    code == 101,
                    f"{she}, at {page['origin']}, got {code}. A lock that keeps out its owner will "
                    "be taken off. Look at how the headers are written in `headers`, and compare with each of your origins.",
                )
                require(
                    entered,
                    f"{she} got 101, and your application has not heard of her: your guard accepted, and nobody is behind "
                    "it. Who comes in is accepted by the application: `await app(scope, receive, send)`, and nothing else.",
                )
                continue
            require(not (code == 101 and entered), f"{she} got in: {why}")
            require(
                code != 101,
                f"{she} was let in, and closed afterwards: the handshake said 101. For that page the service is there, and "
                "your server has paid for a connection. Close instead of accepting.",
            )
        entered.clear()
        given(
            "The check called your application with the Origin https://evil.example, without a server."
        )
        server.run(called_by_a_foreign_page(guarded))
        require(
            not entered,
            "A foreign page was refused, and then your application was called for it all the same: `await app(…)` stands "
            "behind the refusal. Whoever is refused gets nowhere: `return`, or `else`.",
        )
    show(table(seen, caption="Who comes in"))
    return "Both of your own pages came in, and eight others did not."


async def called_by_a_foreign_page(guarded):
    events = iter([{"type": "websocket.connect"}])

    async def receive():
        return next(events, {"type": "websocket.disconnect", "code": 1006})

    async def send(message):
        pass

    headers = [(b"host", HOST.encode()), (b"origin", FOREIGN["origin"].encode())]
    await guarded({"type": "websocket", "path": "/", "headers": headers}, receive, send)


def said_by(page):
    origin = page.get("origin", "no Origin")
    if page["host"] != HOST:  # a port that is another one each time
        origin = origin.replace(page["host"].rpartition(":")[2], "…")
    said = [origin]
    return ", ".join(said + [f"{name}: {value}" for name, value in page.get("headers", {}).items()])


# A client of the chat


def tell(client, kind, **fields):
    """Send a message; whether the server has hung up is seen by what comes."""
    with suppress(ConnectionClosed):
        client.send(json.dumps({"type": kind, **fields}))


def answer(client):
    """The next message; or the code of the end, as if it were one."""
    try:
        return json.loads(client.recv(patience()))
    except ConnectionClosed as end:
        return {"type": "closed", "code": end.rcvd.code if end.rcvd else 1006}


def until(client, text):
    """The messages up to the one with this text, without it; or up to the end, with it."""
    found = []
    while True:
        message = answer(client)
        if message.get("text") == text:
            return found
        found.append(message)
        if message["type"] == "closed":
            return found


def texts(messages, **fields):
    """What was said in some messages: those with these fields."""
    return [
        f"{message['from']}: {message['text']}"
        for message in messages
        if message["type"] == "said" and all(message[name] == fields[name] for name in fields)
    ]


@exercise(
    "13-rooms",
    hints=(
        "Eve sends whatever she likes. Which of these do you know by yourself: her name, the room, her membership?",
        "`self.name in self.members.get(room, ())` answers for every text; a list cannot be looked up in a dict. "
        "`super().join(said)` does what the chat did.",
        "In `join` and `say`: `if not self.may(said.get('room')): return await self.refuse()`. In `say`: `await "
        "super().say({**said, 'name': self.name})`.",
    ),
)
def rooms_are_for_their_members(Guarded):
    members = {"lobby": {"ada", "grace", "eve"}, "staff": {"ada", "grace"}}
    given("The check made a subclass of yours, in which the path of a connection says its name.")

    class Known(Guarded):
        async def connect(self):
            self.members, self.name = members, self.scope["path"].strip("/")
            await self.accept()

    with serve(Known.as_asgi(), name="rooms") as server, ExitStack() as open_now:
        ada, grace, eve = (
            open_now.enter_context(visit(server, f"/{name}")) for name in ("ada", "grace", "eve")
        )
        members_come_in(ada, grace, eve)
        an_outsider_listens(ada, eve)
        an_outsider_speaks(ada, eve)
        what_is_no_room(eve)
        a_name_is_forged(ada, eve)
        a_membership_ends(members, ada, grace)
    return (
        "Members heard each other; Eve heard nothing, was heard nowhere but in the lobby, and under her own name; and "
        "Grace's membership ended while she sat in the room."
    )


def members_come_in(ada, grace, eve):
    for who, client, room in (
        ("Ada", ada, "staff"),
        ("Grace", grace, "staff"),
        ("Eve", eve, "lobby"),
        ("Ada", ada, "lobby"),
        ("Grace", grace, "lobby"),
    ):
        given(f"{who} asked to join {room}, of which she is a member.")
        tell(client, "join", room=room, name=who.lower())
        got = answer(client)
        require(
            got["type"] == "joined",
            f"{who} is a member of {room} and asked to join it; she got {got['type']}. Compare `self.name` with the "
            "names in `self.members[room]`, and let members in as before.",
        )


def an_outsider_listens(ada, eve):
    for claim in ({}, {"name": "ada"}):
        given('Eve sent {"type": "join", "room": "staff"}, and she is no member.')
        tell(eve, "join", room="staff", **({"name": "eve"} | claim))
        tell(eve, "say", room="lobby", text="still here", name="eve")
        got = until(eve, "still here")
        require(
            not got or got[-1]["type"] != "closed",
            f"Eve asked to join staff, and her connection was closed{code_of(got)}. So is that of a member who mistypes "
            "a room, with all that she had joined. `refuse` answers, and the connection stays.",
        )
        require(
            got,
            "Eve asked for something that is not for her, and got no answer: her page waits for ever, and so would "
            "that of a member who has mistyped a room. Call `refuse`.",
        )
        given('Eve said "still here" in the lobby, where Ada and she are members.')
        until(ada, "still here")
        given('Ada said "rises for all" in staff; Eve had been refused there.')
        tell(ada, "say", room="staff", text="rises for all", name="ada")
        until(ada, "rises for all")
        tell(eve, "say", room="lobby", text="and now", name="eve")
        heard = texts(until(eve, "and now"), room="staff")
        until(ada, "and now")
        kinds = [message["type"] for message in got]
        if "joined" in kinds and "error" not in kinds:
            raise NotYet(
                "Eve wrote into her message that she was Ada, and was believed: she got joined. What a message claims is a "
                "wish; who somebody is says `self.name`."
                if claim
                else f"Eve is no member of staff, asked to join it, and got joined. She {heard_of(heard)}. Joining gives an "
                "ear: ask before."
            )
        require(
            not heard,
            "Eve was refused, and heard all the same what Ada said in staff: after the refusal your `join` went on. "
            "`return` there.",
        )


def what_is_no_room(eve):
    for named in ({"room": "attic"}, {"room": ["staff"]}, {"room": None}, {}):
        for kind in ("join", "say"):
            message = {"type": kind, **named, **({"text": "?"} if kind == "say" else {})}
            given(f"Eve sent {json.dumps(message)}.")
            tell(eve, **{"kind" if key == "type" else key: value for key, value in message.items()})
            got = answer(eve)
            require(
                got["type"] != "closed",
                f"Eve sent {json.dumps(message)}, and her connection ended{code_of([got])}. What is no room wants the same "
                "answer as a room that is not hers: `refuse`.",
            )
            require(
                got["type"] != "joined",
                f"Eve sent {json.dumps(message)}, and got joined: no list names that room, and so none names her. Rooms that "
                "anybody can invent are rooms without a door, and each of them costs memory: `refuse`.",
            )


def code_of(messages):
    return f" with code {messages[-1]['code']}" if messages and "code" in messages[-1] else ""


def heard_of(heard):
    return (
        f'heard "{heard[0]}"'
        if heard
        else "did not hear what Ada said then; her page shows the room"
    )


def an_outsider_speaks(ada, eve):
    given('Eve sent {"type": "say", "room": "staff", "text": "hello, staff", "name": "ada"}.')
    tell(eve, "say", room="staff", text="hello, staff", name="ada")
    tell(eve, "say", room="lobby", text="done", name="eve")
    got = until(eve, "done")
    heard = texts(until(ada, "done"), text="hello, staff")
    require(
        not heard,
        f'Eve has not joined staff, and is no member. She said something there, and Ada heard it: "{(heard or [""])[0]}". To '
        "publish one need not listen: ask at this door, too.",
    )
    require(
        got,
        "Eve said something in staff, which is not her room, and nothing came back: she cannot tell that from a text that "
        "all have read, nor could a member who mistypes a room. `await self.refuse()` at this door, too.",
    )


def a_name_is_forged(ada, eve):
    given('Eve sent {"type": "say", "room": "lobby", "text": "I resign", "name": "ada"}.')
    tell(eve, "say", room="lobby", text="I resign", name="ada")
    until_said = answer(ada)
    require(
        until_said.get("from") == "eve",
        f"Eve said something in the lobby and claimed to be Ada: the others read that {until_said.get('from')} said it. "
        "Pass on the name that you know.",
    )
    until(eve, "I resign")


def a_membership_ends(members, ada, grace):
    given("Grace had joined staff, and was taken off the list of its members.")
    tell(grace, "say", room="lobby", text="hello", name="grace")
    until(ada, "hello")
    until(grace, "hello")
    members["staff"].discard("grace")
    tell(grace, "say", room="staff", text="what I think", name="grace")
    tell(grace, "say", room="lobby", text="good night", name="grace")
    heard = texts(until(ada, "good night"), text="what I think")
    require(
        not heard,
        "Grace had joined staff, then lost her membership. She said something there, and Ada heard it. Who has joined says "
        "what was true then: ask `self.members` at each message.",
    )
    tell(grace, "join", room="lobby", name="grace")
    until_joined(grace)
    tell(ada, "say", room="staff", text="about Grace", name="ada")
    until(ada, "about Grace")
    tell(ada, "say", room="lobby", text="the end", name="ada")
    heard = texts(until(grace, "the end"), text="about Grace")
    require(
        not heard,
        "Grace had joined staff, then lost her membership. Ada said something there, and Grace heard it: she sits in the "
        "group still. `pass_on` runs for each listener, so ask there, too.",
    )


def until_joined(client):
    while (got := answer(client))["type"] != "joined":
        if got["type"] == "closed":
            return


# Tokens


class Connection:
    """What the desk sees of one: it leaves, as Channels makes it, when it is closed, and some pages come back at once."""

    def __init__(self, desk, token, comes_back=False):
        self.desk, self.token, self.comes_back = desk, token, comes_back
        self.codes, self.back_as = [], None

    def __repr__(self):
        return "<a connection>"

    async def close(self, code=None, reason=None):
        self.codes.append(code)
        if self.comes_back:
            self.back_as = self.desk.admit(self.token, Connection(self.desk, self.token))
        self.desk.leave(self.token, self)


@exercise(
    "13-token",
    hints=(
        "What does somebody have in hand who has copied a token, and what of it is still there after your `log_out`?",
        "`self.opened.pop(token, ())` takes the whole set away, so that nobody changes it while you go through it. "
        "`secrets` makes what cannot be guessed.",
        "`self.names.pop(token, None)`; then `for connection in self.opened.pop(token, ()): await connection.close(4401)`.",
    ),
)
async def tokens_end(Desk):
    desk = Desk()
    given('The check called `log_in("ada")` three times, then `log_in("eve")`.')
    tokens = [desk.log_in("ada") for _ in range(3)] + [desk.log_in("eve")]
    first, phone, tablet, _ = tokens
    require(
        all(isinstance(token, str) and len(token) >= 16 for token in tokens)
        and len(set(tokens)) == 4,
        f"Three times `log_in` for Ada, and once for Eve, returned {[short(token) for token in tokens]!r}. "
        + (
            "Ada's devices share a token: who logs out on one is out on all of them. Make a new one each time."
            if isinstance(phone, str) and len(phone) >= 16
            else f"Eve would write {phone}, and be Ada. A token is a long random text, and new each time; `secrets` makes "
            "them."
            if isinstance(phone, str)
            else "A page gets what you `return`, and has to send it back: a text."
        ),
    )
    state = random.getstate()
    try:
        random.seed(6455)
        once = Desk().log_in("ada")
        random.seed(6455)
        require(
            once != Desk().log_in("ada"),
            "Ada logged in at two new desks, with `random` in the same state, and got the same token. Whoever has seen some "
            "tokens can work out the next one, from `random` as from a name and a number. The module `secrets` is made for "
            "this.",
        )
    finally:
        random.setstate(state)
    given("Ada opened two connections with one token, and one with another.")
    page, other, gone = Connection(desk, first, comes_back=True), *two(desk, first)
    telephone, eve = Connection(desk, phone), Connection(desk, tokens[3])
    for connection in (page, other, gone, telephone, eve):
        name = desk.admit(connection.token, connection)
        require(
            name in ("ada", "eve"),
            f"Ada has logged in, and `admit` returned {name!r} for her token. The chat has to know who she is: return "
            "her name.",
        )
    for odd in ("guess", "", None, 7, ["guess"]):
        worthless(desk, odd, "that nobody had given out")
    desk.leave(first, gone)
    desk.leave(first, gone)
    given(
        "Ada reloaded the page on a third device: a connection left, another came with its token."
    )
    desk.admit(tablet, before := Connection(desk, tablet))
    desk.leave(tablet, before)
    name = desk.admit(tablet, Connection(desk, tablet))
    require(
        name == "ada",
        f"Ada reloaded a page: its only connection left, another came with the same token, and `admit` returned {name!r}. "
        "She would have to log in again after each tunnel. `leave` forgets a connection; the token ends with `log_out`.",
    )
    given("Ada logged out: the check awaited `log_out(token)`, with two connections open.")
    await desk.log_out(first)
    still = [c for c in (page, other) if not c.codes]
    require(
        not still,
        f"After the logout {len(still)} of the 2 connections that were opened with that token are still open. Nobody "
        "asks for a token again on an open connection: close each of them, and `await` it.",
    )
    require(
        page.codes == other.codes == [4401],
        f"At the logout the two connections were closed with {page.codes[0]!r} and {other.codes[0]!r}. A page cannot tell "
        "that from a network that is gone, and comes back again and again: say 4401.",
    )
    require(
        not gone.codes,
        "A connection had left before the logout, and you closed it again: the desk still holds it. One that never forgets "
        "those who have left grows until the server ends.",
    )
    require(
        not (telephone.codes or eve.codes),
        "Ada logged out on one device, and the other one was closed, too: her telephone has a token of its own. End "
        "what was opened with this token.",
    )
    worthless(desk, first, "after the logout")
    given("Ada's telephone, which has a token of its own, connected anew.")
    name = desk.admit(phone, Connection(desk, phone))
    require(
        name == "ada",
        f"Ada logged out on one device, and her telephone's token is worthless, too: `admit` returned {name!r} for it. "
        "`log_out` takes back one token, not a name.",
    )
    require(
        page.back_as is None,
        "While you were closing, the page came back with the same token and was let in: its new connection is open, "
        "and on no list that you will look at. End the token before you close anything.",
    )
    given("The check called `log_out` a second time with the same token.")
    await desk.log_out(first)
    return "Tokens nobody can guess, an end that closes what they had opened, and Ada's telephone that stays."


def short(token):
    return token[:8] + "…" if isinstance(token, str) and len(token) >= 16 else token


def two(desk, token):
    return Connection(desk, token), Connection(desk, token)


def worthless(desk, token, when):
    secret = isinstance(token, str) and token not in ("guess", "")
    given(f"The check called `admit({'…' if secret else token!r}, connection)`.")
    name = desk.admit(token, Connection(desk, token))
    require(
        name is None,
        f"A token {when}: `admit` returned {name!r}. "
        + (
            "Whoever has copied it is still Ada; return"
            if name
            else "The chat will look for None: return"
        )
        + " None for what is no token now.",
    )


# Limits


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@exercise(
    "13-limits",
    hints=(
        "For the bucket: which two numbers of a name do you have to keep, so that you need no timer?",
        "Keep the level and the time of the last look. First add what has dripped since, at most up to `burst`; then look "
        "whether there is a whole drop.",
        "`level = min(self.burst, level + (now - last) * self.per_second)`, then keep `(level - 1, now)` or, if `level < "
        "1`, `(level, now)`.",
    ),
)
def limits_are_met(Meter):
    clock = Clock()
    meter = Meter(size=2000, burst=5, per_second=1, connections=3, clock=clock)
    for text, what, big in (
        ("x" * 2000, "A text of 2,000 bytes fits into size=2000", False),
        ("é" * 1001, "1,001 times é are 2,002 bytes", True),
    ):
        given(f"The check called `too_big({text[0]!r} * {len(text)})`, with size=2000.")
        found = bool(meter.too_big(text))
        require(
            found == big,
            f"{what}{'' if not big else ', and with size=2000'}{', and ' if not big else ' '}`too_big` returned {found}. "
            "Memory and wires count bytes, `len` of a text counts characters: encode it.",
        )
    bucket_drips(meter, clock)
    places_are_counted(meter)
    limits_are_its_own(Meter, clock)
    return "Bytes, drops and places: each is counted for the one who used it, and nobody pays for being refused."


def bucket_drips(meter, clock):
    given("The check called `too_fast('eve')` six times at the same moment, with burst=5.")
    fast = [bool(meter.too_fast("eve")) for _ in range(6)]
    require(
        True not in fast[:5],
        f"With burst=5, message number {(fast + [True]).index(True) + 1} of a quick person was too fast. The bucket is "
        "full at first.",
    )
    require(
        fast[5],
        "With burst=5, six messages came at the same moment, and `too_fast` returned False for the last of them. "
        "Nothing has dripped in between: there is no sixth drop.",
    )
    given("Ada sent her first message, when Eve's bucket was empty.")
    require(
        not meter.too_fast("ada"),
        "Eve had emptied her bucket, and then Ada was too fast, at her first message. One bucket for all lets one attacker "
        "silence everybody: keep one for each name.",
    )
    for _ in range(5):
        meter.too_fast("grace")
    clock.now += 2
    given("Grace sent five messages, and 2 s went by on the check's clock; per_second is 1.")
    fast = [bool(meter.too_fast("grace")) for _ in range(3)]
    require(
        fast[:2] == [False, False],
        f"Grace sent five messages, and 2 s later there are 2 drops again, and `too_fast` returned {True in fast[:2]}. "
        "With per_second=1 one comes back each second, by `self.clock()`: a bucket that stays empty is a ban.",
    )
    require(
        fast[2],
        "Grace sent five messages, and 2 s later there are 2 drops again, and a third message passed, too. Add what has "
        "dripped in the time since the last look, and no more.",
    )
    for _ in range(10):
        meter.too_fast("eve")
    clock.now += 1
    require(
        not meter.too_fast("eve"),
        "Eve asked ten times with an empty bucket, waited a second, and was refused again: being refused cost her "
        "drops that she did not have. A program that tries again in a loop would never come back.",
    )
    given("Hedy emptied her bucket, and asked again each half second; per_second is 1.")
    for _ in range(5):
        meter.too_fast("hedy")
    fast = []
    for _ in range(4):
        clock.now += 0.5
        fast.append(bool(meter.too_fast("hedy")))
    require(
        fast == [True, False] * 2,
        f"Hedy emptied her bucket, and asked each half second; the answers were {', '.join(map(str, fast))}. Half a drop "
        "is half a drop: keep it, and with the next half one message passes.",
    )
    clock.now += 3600
    passed = [meter.too_fast("eve") for _ in range(6)].count(False)
    require(
        passed == 5,
        f"After an hour of silence {passed} messages passed at the same moment, with burst=5. A bucket holds what it "
        "holds; otherwise patience is a weapon.",
    )


def places_are_counted(meter):
    given(
        "The check called `enter('eve')` five times, with connections=3, then once `enter('ada')`."
    )
    answers = [meter.enter("eve") for _ in range(5)] + [meter.enter("ada")]
    require(
        [bool(found) for found in answers] == [True] * 3 + [False] * 2 + [True],
        f"With connections=3, the answers to five times `enter` were {', '.join(map(str, answers[:5]))}, and to Ada's "
        f"first {answers[5]}. Three places a name: return True for them, and False for every other.",
    )
    given("One of Eve's three connections left.")
    meter.leave("eve")
    again = [bool(meter.enter("eve")), bool(meter.enter("eve"))]
    require(
        again == [True, False],
        "One of the three left, and nobody could take her place: those that you had refused are counted as well, and "
        "they will never leave. Count who comes in."
        if not again[0]
        else "One of the three left, and two came in.",
    )
    given("Eve's bucket was empty; all her connections left.")
    for _ in range(3):
        meter.leave("eve")
    require(
        meter.too_fast("eve"),
        "Eve emptied her bucket, all her connections left, and at the same moment a message passed: leaving had filled it. A "
        "flood would come in portions, with a new connection for each. A bucket belongs to a name; only time fills it.",
    )


def limits_are_its_own(Meter, clock):
    meter = Meter(size=10, burst=2, per_second=4, connections=1, clock=clock)
    limits = "size=10, burst=2, per_second=4, connections=1"
    given(f"The check made a second meter, with {limits}.")
    now = [meter.too_big("x" * 11), *(meter.too_fast("eve") for _ in range(3))]
    clock.now += 0.25
    then = [*(meter.too_fast("eve") for _ in range(2)), meter.enter("eve"), meter.enter("eve")]
    for what, answers, right in (
        ("`too_big`, with 11 bytes,", now[:1], [True]),
        ("`too_fast`, three times at a moment,", now[1:], [False, False, True]),
        ("`too_fast`, twice a quarter of a second later,", then[:2], [False, True]),
        ("`enter`, twice,", then[2:], [True, False]),
    ):
        said = ", ".join(str(bool(answer)) for answer in answers)
        require(
            [bool(answer) for answer in answers] == right,
            f"The check made a second meter, with {limits}. {what} returned {said}, and not "
            f"{', '.join(map(str, right))}. Its limits and its counts are its own: ask `self` for them, and no number, and "
            "keep nothing on the class.",
        )


# All twelve


def enter(stack, server, name, token, page):
    """Open a connection, say hello on it, and return it with the answer."""
    try:
        client = stack.enter_context(visit(server, **page))
    except InvalidStatus as refusal:
        return None, {"type": "refused", "code": refusal.response.status_code}
    tell(client, "hello", name=name, token=token)
    return client, answer(client)


class Battery:
    """Twelve attackers at one application. What each one got is noted, with whether that is a success."""

    def __init__(self, server, desk):
        self.server, self.desk = server, desk
        self.got = {}

    def token(self, name):
        return self.desk.log_in(name) if self.desk else f"a token of {name}"

    def log_out(self, token):
        if self.desk:
            self.server.run(self.desk.log_out(token))

    def note(self, attack, works, got):
        self.got[attack] = (bool(works), got)

    def come(self, stack, name, *rooms):
        """Let somebody honest in, from your own page."""
        token = self.token(name)
        given(f"{name.title()} came from your own page, and said hello with a good token.")
        client, got = enter(stack, self.server, name, token, AT_HOME)
        for room in rooms if got["type"] == "welcome" else ():
            given(f"{name.title()} had said hello with a good token, and asked to join {room}.")
            tell(client, "join", room=room)
            got = answer(client)
            if got["type"] != "joined":
                break
        require(
            got["type"] in ("welcome", "joined"),
            f"{name.title()} came from your own page with a good token and asked to join {(*rooms, 'nothing')[0]}; she got "
            f"{outcome(got)}. Before anybody is kept out, those who belong there have to come in.",
        )
        return client, token

    def run(self):
        with ExitStack() as stack:
            ada, _ = self.come(stack, "ada", "staff", "lobby")
            grace, _ = self.come(stack, "grace", "staff", "lobby")
            self.pages()
            self.rooms(ada, grace)
            self.tokens(grace)
        self.strangers()
        self.limits()
        return self.got

    def pages(self):
        for attack, page in (
            ("a foreign page", FOREIGN),
            ("DNS rebinding", rebound(self.server)),
            ("a forged X-Forwarded-Host", BEHIND),
        ):
            given(f"The attack was {attack}.")
            code = status(self.server, **page)
            self.note(attack, code == 101, code)

    def rooms(self, ada, grace):
        with ExitStack() as stack:
            given("Eve came from your own page with a token of hers, and claimed to be Ada.")
            eve, _ = enter(stack, self.server, "ada", self.token("eve"), AT_HOME)
            tell(eve, "join", room="lobby", name="ada")
            answer(eve)
            given("The attack was: an outsider listens.")
            tell(eve, "join", room="staff", name="ada")
            self.settle(eve, ada)
            tell(ada, "say", room="staff", text="rises for all", name="ada")
            until(ada, "rises for all")
            heard = texts(self.settle(eve, ada), room="staff")
            self.note("an outsider listens", heard, heard_as(heard))
            given("The attack was: an outsider speaks.")
            tell(eve, "say", room="staff", text="hello, staff", name="ada")
            self.settle(eve, ada)
            tell(ada, "say", room="staff", text="only us?", name="ada")
            heard = texts(until(grace, "only us?"), text="hello, staff")
            until(ada, "only us?")
            self.note("an outsider speaks", heard, heard_as(heard))
            given("The attack was: a forged name.")
            tell(eve, "say", room="lobby", text="I resign", name="ada")
            self.settle(eve, ada)
            tell(ada, "say", room="lobby", text="quiet", name="ada")
            until(ada, "quiet")
            heard = texts(until(grace, "quiet"), text="I resign")
            self.note("a forged name", heard[:1] == ["ada: I resign"], heard_as(heard))

    def settle(self, eve, ada):
        """Come back with what Eve has heard when all that she has sent was handled."""
        tell(eve, "say", room="lobby", text="settled", name="eve")
        found = until(eve, "settled")
        tell(ada, "say", room="lobby", text="noted", name="ada")
        until(ada, "noted")
        return found

    def tokens(self, grace):
        for attack, token in (("a guessed token", "guess"), ("a token after the logout", None)):
            with ExitStack() as stack:
                given(f"The attack was {attack}.")
                if token is None:
                    token = self.token("ada")
                    self.log_out(token)
                _, got = enter(stack, self.server, "ada", token, AT_HOME)
                self.note(attack, got["type"] == "welcome", outcome(got))
        with ExitStack() as stack:
            page, token = self.come(stack, "ada", "staff")
            given(
                "The attack was: a connection open at the logout. Ada logged out, and Grace said something."
            )
            self.log_out(token)
            tell(grace, "say", room="staff", text="after the logout", name="grace")
            until(grace, "after the logout")
            got = answer(page)
            heard = texts([got])
            self.note(
                "a connection open at the logout", heard, heard_as(heard) if heard else outcome(got)
            )

    def limits(self):
        with ExitStack() as stack:
            page, _ = self.come(stack, "eve", "notes")
            eve, _ = self.come(stack, "eve", "notes")
            given("The attack was an oversize message: a text of 64 KiB.")
            tell(eve, "say", room="notes", text="x" * 65_536, name="eve")
            got = answer(eve)
            tell(page, "say", room="notes", text="small", name="eve")
            heard = texts(until(page, "small"))
            self.note(
                "an oversize message",
                heard or got["type"] == "said",
                f"taken: {len(got['text']) >> 10} KiB"
                if "text" in got
                else f"{outcome(got)}, and the others in the room got it"
                if heard
                else outcome(got),
            )
        given("The attack was a flood: 60 messages, 20 on each of three connections.")
        got = [message for _ in range(3) for message in self.flood()]
        said, end = len(texts(got)), got[-1]
        works = said >= 40
        few = "60" if said == 60 else "40 or more" if works else "fewer than 40"
        few += " of 60 said"
        self.note(
            "a flood",
            works,
            few if works or end["type"] == "said" else f"{few}, {outcome(end)}",
        )
        self.crowd()

    def flood(self):
        """Say twenty things on a new connection, and return what came."""
        with ExitStack() as stack:
            eve, got = enter(stack, self.server, "eve", self.token("eve"), AT_HOME)
            found = [got]
            tell(eve, "join", room="notes")
            for number in range(20):
                tell(eve, "say", room="notes", text=str(number), name="eve")
            while found[-1]["type"] != "closed" and len(found) < 22:
                found.append(answer(eve))
            return found

    def strangers(self):
        with ExitStack() as stack:
            stranger = stack.enter_context(visit(self.server, **AT_HOME))
            given("A stranger sent 60 messages, and had not said hello.")
            for _ in range(60):
                tell(stranger, "join", room="notes")
            got = [answer(stranger)]
            while got[-1]["type"] != "closed" and len(got) < 60:
                got.append(answer(stranger))
            for name in ("ada", "grace"):
                _, got = enter(stack, self.server, name, self.token(name), AT_HOME)
                require(
                    got["type"] == "welcome",
                    f"A stranger sent 60 messages and never said hello. Then {name.title()} came with a good token, and got "
                    f"{outcome(got)}. Who has no name has no bucket: one for all of them lets one stranger lock out "
                    "everybody. Before hello only the size counts.",
                )

    def crowd(self):
        token = self.token("mallory")
        with ExitStack() as stack:
            given("The attack was a crowd: ten connections with one token of Mallory's.")
            came = [enter(stack, self.server, "mallory", token, AT_HOME) for _ in range(10)]
            inside = [client for client, got in came if got["type"] == "welcome"]
            many = len(inside)
            got = (
                f"{many} of 10 in"
                if many in (3, 10)
                else f"{'more' if many > 3 else 'fewer'} than 3 of 10 in"
            )
            self.note("a crowd of connections", many > 3, got)
            if many > 3:
                return
            for client in inside[:1]:
                client.close()
            deadline = time.monotonic() + patience()
            while enter(stack, self.server, "mallory", token, AT_HOME)[1]["type"] != "welcome":
                require(
                    time.monotonic() < deadline,
                    "Mallory had three connections and closed one. She came again, and was refused: her place was "
                    "never given back. Who reconnects three times, as every telephone does, is out for ever.",
                )
                time.sleep(0.05)
            _, got = enter(stack, self.server, "mallory", token, AT_HOME)
            require(
                got["type"] != "welcome",
                "Mallory had three connections and closed one, and two came in for it: its place was given back twice. She "
                "goes on like that until all are hers. `give_back` runs in the `finally` already; nobody else calls it.",
            )


def heard_as(heard):
    return f"heard: {heard[0]}" if heard else "heard: nothing"


def outcome(got):
    """Say in a word what a message came to."""
    if got["type"] in ("closed", "refused"):
        return f"{got['type']}: {got['code']}"
    return f"welcome, {got['name']}" if got["type"] == "welcome" else got["type"]


WHY = {
    "a foreign page": "Does `own_pages` stand in front of everything, with the right list?",
    "DNS rebinding": "Does `own_pages` stand in front of everything?",
    "a forged X-Forwarded-Host": "Does `own_pages` stand in front of everything?",
    "an outsider listens": "`Guarded` asks for `self.name`: whose name is it now?",
    "an outsider speaks": "`Guarded` asks for `self.name`: whose name is it now?",
    "a forged name": "Eve had a token of her own and wrote Ada's name beside it. Only the desk knows whose a token is.",
    "a guessed token": "The desk returned None for it. What does your `hello` do then?",
    "a token after the logout": "Ask the desk at each hello.",
    "a connection open at the logout": "The desk closes what it knows of: `admit` has to be told which connection this is.",
    "an oversize message": "Ask `too_big` before anything reads the text, and stop there.",
    "a flood": "Ask `too_fast` at each message, once there is a name, and for this name: it has one bucket "
    "for all its connections.",
    "a crowd of connections": "One meter counts for all connections; a place is given back once, by who had it.",
}


def watched(desk):
    """Return a set of what the desk has let in and nobody has told it to forget."""
    held, admit, leave, log_out = set(), desk.admit, desk.leave, desk.log_out

    def admits(token, connection):
        name = admit(token, connection)
        if name is not None:
            held.add((token, connection))
        return name

    def leaves(token, connection):
        held.discard((token, connection))
        return leave(token, connection)

    async def logs_out(token):
        held.difference_update([one for one in held if one[0] == token])
        await log_out(token)

    desk.admit, desk.leave, desk.log_out = admits, leaves, logs_out
    return held


@exercise(
    "13-twelve",
    hints=(
        "For each of your three methods: what has happened on this connection before, and what if it has not?",
        "In `hello` the order is desk, meter, name. `give_back` looks at what `hello` has kept: a token, a name, or neither.",
        "`name = self.desk.admit(said.get('token'), self)`; where that is `None`, `close(4401)`; `self.token = …`; `if not "
        "self.meter.enter(name)`, `close(1008)`; `self.name = name`; `await super().hello({'name': name})`.",
    ),
    deadline=30.0,
)
def twelve_attacks_are_met(Chat, secured, Desk):
    given("The check called `secured(origins, desk)`.")
    desk = Desk()
    held = watched(desk)
    app = secured([OWN[0]], desk)
    require(
        callable(app),
        f"`secured` returned {app!r}. A server calls what it gets: return the application, behind your pages.",
    )
    with serve(app, name="secured") as server:
        after = Battery(server, desk).run()
        happens(lambda: not held)
    with serve(Chat.as_asgi(), name="chat") as server:
        before = Battery(server, None).run()
    show(
        table(
            [
                {"attack": attack, "before": before[attack][1], "after": got}
                for attack, (_, got) in after.items()
            ],
            caption="Twelve attacks, on the chat as it was and on yours",
        )
    )
    for attack, (works, got) in after.items():
        require(
            not works,
            f'{12 - sum(w for w, _ in after.values())} of the 12 attacks are met; {attack} still works. It got "{got}". '
            f"{WHY[attack]}",
        )
    welcome = any(getattr(connection, "name", None) is not None for _, connection in held)
    require(
        not held,
        f"Everybody has left, and the desk still holds {len(held)} connections"
        + (
            ", of people whom you had welcomed: it would close them at a logout, and they are gone. `give_back` calls "
            "`self.desk.leave`, with the token that this connection came with."
            if welcome
            else ": the meter had no place for them, but the desk had let them in already. `give_back` returns each by "
            "itself, the line at the desk and the place."
        ),
    )
    met = sum(works for works, _ in before.values())
    return f"{met} attacks had worked on the chat as it was, and none works on yours; Ada and Grace did not notice anything."
