"""The specification of the chats (helpers/apps/README.md), as tests over real sockets.

Each chat brings an adapter of a few lines and inherits these tests. The numbers are those of the specification.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from typing import Any, Protocol

import pytest

DEADLINE = 30.0
"""Seconds that any one event may take: far more than it needs, so that only a fault exceeds it."""

WRONG = [
    ("dance", {}, "unknown_type"),
    ("join", {"room": "lobby", "v": 2}, "bad_version"),
    ("join", {}, "bad_room"),
    ("join", {"room": 7}, "bad_room"),
    ("join", {"room": ["lobby"]}, "bad_room"),
    ("join", {"room": "Lobby"}, "bad_room"),
    ("join", {"room": "lobby\n"}, "bad_room"),
    ("join", {"room": "../etc"}, "bad_room"),
    ("join", {"room": "a" * 51}, "bad_room"),
    ("join", {"room": "nowhere"}, "unknown_room"),
    ("say", {"room": "random", "text": "x"}, "not_joined"),
    ("say", {"room": "lobby"}, "missing_text"),
    ("say", {"room": "lobby", "text": " \n"}, "missing_text"),
    ("say", {"room": "lobby", "text": 7}, "missing_text"),
    ("say", {"room": "lobby", "text": {"a": 1}}, "missing_text"),
    ("say", {"room": "lobby", "text": "x" * 2001}, "too_long"),
    ("say", {"room": "lobby", "text": "nul \0"}, "bad_text"),
    ("say", {"room": "lobby", "text": "half \ud800"}, "bad_text"),
    ("say", {"room": "lobby", "text": "x" * 70_000}, "too_big"),
    ("whisper", {"to": "ada", "text": ""}, "missing_text"),
    ("whisper", {"to": {"name": "ada"}, "text": "x"}, "missing_to"),
    ("whisper", {"to": "half \ud800", "text": "x"}, "missing_to"),
]
"""Events that are refused, each with the code."""

NO_EVENTS = [
    ("", "bad_json"),
    ("{", "bad_json"),
    ("[" * 200_000, "too_big"),
    ("[" * 60_000, "bad_json"),
    ("9" * 5000, "bad_json"),
    ("[1]", "not_an_object"),
    ('"join"', "not_an_object"),
    ("null", "not_an_object"),
    ('{"type": ["join"]}', "unknown_type"),
    (json.dumps({"room": "lobby"}), "unknown_type"),
    (b"\x00\x01", "binary"),
    (b"", "binary"),
]
"""What else may be in a frame, each with the code."""


class Client(Protocol):
    """Somebody who is connected."""

    def send(self, event: str, **payload: Any) -> None:
        """Say something."""

    def send_raw(self, data: str | bytes) -> None:
        """Send what may be no event at all."""

    def receive(self) -> dict[str, Any]:
        """Return the next event, within the deadline: its payload, and its name as `type`."""

    def closed(self) -> int:
        """Wait until the server has closed the connection, and return with which code."""

    def close(self) -> None:
        """Leave as one should."""

    def vanish(self) -> None:
        """Leave without a word: the TCP connection is reset."""


class Chat(Protocol):
    """A chat that is being served. Its clients are closed when the test ends."""

    def log_in(self, name: str) -> Any:
        """Get a session through HTTP."""

    def connect(self, session: Any, origin: str | None = None) -> Client:
        """Open a connection with a session, or with none; OSError when the server refuses the page's origin."""

    def log_out(self, session: Any) -> None:
        """End a session through HTTP."""


class Person:
    """A client that the tests talk about."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.before: list[dict[str, Any]] = []
        """What came before the event that was last waited for."""
        self._waiting: deque[dict[str, Any]] = deque()
        self._refs = itertools.count(1)

    def send(self, event: str, **payload: Any) -> None:
        self.client.send(event, **payload)

    def next(self, event: str, **payload: Any) -> dict[str, Any]:
        """Return the next event of a type; with a payload, the next that holds it."""
        self.before = []
        while True:
            got = self._waiting.popleft() if self._waiting else self.client.receive()
            assert got["v"] == 1
            if got["type"] == event and payload.items() <= got.items():
                return got
            self.before.append(got)

    def ask(self, event: str, **payload: Any) -> dict[str, Any]:
        """Send an event and return the answer to it, whatever that is."""
        ref = next(self._refs)
        self.send(event, ref=ref, **payload)
        self.before = []
        while True:
            got = self.client.receive()
            if got.get("ref") == ref:
                return got
            self.before.append(got)

    def code(self, event: str, **payload: Any) -> str:
        """Send an event and return the code of the error that answers it."""
        answer = self.ask(event, **payload)
        assert answer["type"] == "error", answer
        assert answer["message"]
        return str(answer["code"])

    def hears_nothing_else(self) -> None:
        """Assert that no event is on its way. What this provokes comes after everything that was."""
        assert self.code("say", room="no such room!", text="x") == "bad_room"
        assert (self.before, list(self._waiting)) == ([], [])


class ChatSpec:
    """What holds for every chat.

    A subclass has a fixture `chat`: a Chat in which nobody is, and nothing was said.
    """

    arrive_in_order = True
    """Whether messages arrive in the order of their ids, which several processes do not promise."""

    @pytest.fixture
    def person(self, chat: Chat):
        def connected(name: str, *rooms: str, session: Any = None) -> Person:
            person = Person(chat.connect(session or chat.log_in(name)))
            person.next("welcome")
            for room in rooms:
                assert person.ask("join", room=room)["type"] == "joined"
            return person

        return connected

    # 1 Who you are

    def test_a_name_comes_from_the_session(self, chat, person):
        ada = Person(chat.connect(chat.log_in("ada")))
        assert ada.next("welcome")["name"] == "ada"
        ada.ask("join", room="lobby")
        said = ada.ask("say", room="lobby", text="hello", name="grace", **{"from": "grace"})
        assert said["from"] == "ada"

    def test_without_a_session_nobody_gets_in(self, chat):
        assert chat.connect(None).closed() == 4401

    def test_a_name_that_is_not_allowed_gets_no_session(self, chat):
        for name in ("", "two words", "<b>", "a" * 31):
            with pytest.raises(ValueError, match="400"):
                chat.log_in(name)

    def test_the_end_of_a_session_ends_its_connections(self, chat, person):
        session, other = chat.log_in("ada"), chat.log_in("ada")
        first, second = person("ada", session=session), person("ada", "lobby", session=other)
        chat.log_out(session)
        assert first.client.closed() == 4401
        second.hears_nothing_else()
        assert chat.connect(session).closed() == 4401

    # 2 Origins

    def test_a_page_from_elsewhere_is_refused(self, chat):
        session = chat.log_in("ada")
        for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example"):
            with pytest.raises(OSError, match="refused"):
                chat.connect(session, origin=origin)

    # 3 to 5 Rooms

    def test_the_rooms_one_may_join_are_told(self, chat):
        ada = Person(chat.connect(chat.log_in("ada"))).next("welcome")
        eve = Person(chat.connect(chat.log_in("eve"))).next("welcome")
        public = [{"room": "lobby", "private": False}, {"room": "random", "private": False}]
        assert eve["rooms"] == public
        assert ada["rooms"] == [*public, {"room": "staff", "private": True}]

    def test_a_private_room_is_open_to_its_members_only(self, person):
        ada, eve = person("ada", "staff"), person("eve")
        assert eve.code("join", room="staff") == "not_a_member"
        assert eve.code("say", room="staff", text="hello") == "not_joined"
        ada.ask("say", room="staff", text="among us")
        eve.hears_nothing_else()
        ada.hears_nothing_else()

    def test_who_joins_and_who_leaves_is_told(self, person):
        ada = person("ada")
        assert ada.ask("join", room="lobby")["here"] == ["ada"]
        bob = person("bob")
        assert bob.ask("join", room="lobby")["here"] == ["ada", "bob"]
        assert ada.next("arrived")["name"] == "bob"
        assert bob.ask("leave", room="lobby")["type"] == "left"
        assert ada.next("departed") == {
            "v": 1,
            "type": "departed",
            "room": "lobby",
            "name": "bob",
        }
        bob.hears_nothing_else()

    def test_after_leaving_a_room_nothing_of_it_arrives(self, person):
        ada, bob = person("ada", "lobby"), person("bob", "lobby")
        bob.ask("leave", room="lobby")
        ada.ask("say", room="lobby", text="still there?")
        bob.hears_nothing_else()
        assert bob.code("say", room="lobby", text="yes") == "not_joined"
        assert bob.code("leave", room="lobby") == "not_joined"

    def test_joining_twice_is_joining_once(self, person):
        ada, bob = person("ada", "lobby"), person("bob", "lobby", "lobby")
        assert ada.next("arrived")["name"] == "bob"
        bob.ask("say", room="lobby", text="one")
        assert ada.next("message")["text"] == "one"
        assert ada.before == []
        ada.hears_nothing_else()

    # 6 Messages

    def test_a_message_reaches_everyone_in_the_room_once(self, person):
        people = [person(name, "lobby") for name in ("ada", "bob", "bob", "eve")]
        for other in people[:3]:
            other.next("arrived", name="eve")  # which another process may tell after what is said
        outside = person("dan", "random")
        said = people[0].ask("say", room="lobby", text="  hello <b>you</b> \U0001f600 ")
        assert said.pop("ref")
        assert (said["id"], said["text"]) == (1, "hello <b>you</b> \U0001f600")
        for other in people[1:]:
            assert other.next("message") == said
            other.hears_nothing_else()
        outside.hears_nothing_else()

    def test_the_numbers_of_a_room_have_no_gap_and_are_its_order(self, person):
        ada, bob, eve = (person(name, "lobby", "random") for name in ("ada", "bob", "eve"))
        for number in range(10):
            ada.send("say", room="lobby", text=f"ada {number}")
            bob.send("say", room="lobby", text=f"bob {number}")
            bob.send("say", room="random", text=f"bob {number}")
        heard = [[person.next("message") for _ in range(30)] for person in (ada, bob, eve)]
        for messages in heard:
            lobby = sorted(
                (m["id"], m["from"], m["text"]) for m in messages if m["room"] == "lobby"
            )
            assert [number for number, _, _ in lobby] == list(range(1, 21))
            for name in ("ada", "bob"):
                assert [text for _, who, text in lobby if who == name] == [
                    f"{name} {number}" for number in range(10)
                ]
            assert sorted(m["id"] for m in messages if m["room"] == "random") == list(range(1, 11))

    # 7 History

    def test_who_joins_gets_the_last_50_messages(self, person):
        ada = person("ada", "lobby")
        for number in range(1, 53):
            ada.send("say", room="lobby", text=f"message {number}")
        said = sorted((ada.next("message") for _ in range(52)), key=lambda message: message["id"])
        bob = person("bob")
        history = bob.ask("join", room="lobby")["history"]
        keys = ("room", "id", "from", "text", "at")
        assert history == [{key: message[key] for key in keys} for message in said[2:]]
        bob.hears_nothing_else()

    def test_nothing_is_missing_or_twice_between_the_history_and_the_first_live_message(
        self, person
    ):
        ada, bob = person("ada", "lobby"), person("bob")
        for _ in range(40):
            ada.send("say", room="lobby", text="x")
        bob.send("join", room="lobby")
        history = [message["id"] for message in bob.next("joined")["history"]]
        assert history == list(range(1, len(history) + 1))
        arrived = [bob.next("message")["id"] for _ in range(40 - len(history))]
        heard = [ada.next("message")["id"] for _ in range(40)]
        if not self.arrive_in_order:
            arrived, heard = sorted(arrived), sorted(heard)
        assert history + arrived == heard == list(range(1, 41))
        bob.hears_nothing_else()

    # 8 Presence

    def test_a_name_is_here_once_until_its_last_connection_ends(self, person):
        ada = person("ada", "lobby")
        first, second = person("bob", "lobby"), person("bob", "lobby")
        assert ada.next("arrived")["name"] == "bob"
        assert person("eve").ask("join", room="lobby")["here"] == ["ada", "bob", "eve"]
        assert ada.next("arrived")["name"] == "eve"
        assert ada.before == []
        first.client.close()
        second.ask("say", room="lobby", text="I am still here")
        assert ada.next("message")["text"] == "I am still here"
        second.client.close()
        assert ada.next("departed")["name"] == "bob"
        assert [event["type"] for event in ada.before if event["name"] == "bob"] == []

    def test_who_vanishes_is_seen_to_leave(self, person):
        ada, bob = person("ada", "lobby"), person("bob", "lobby")
        ada.next("arrived")
        bob.client.vanish()
        assert ada.next("departed")["name"] == "bob"

    def test_who_vanishes_while_handlers_are_at_work_does_not_stay(self, person):
        """The trap: the server learns it when it sends, in the middle of a handler."""
        ada, bob = person("ada", "lobby"), person("bob", "lobby")
        ada.next("arrived")
        for _ in range(30):
            bob.send("join", room="lobby")
            bob.send("say", room="lobby", text="x")
        bob.client.vanish()
        assert ada.next("departed")["name"] == "bob"
        assert ada.ask("join", room="lobby")["here"] == ["ada"]

    # 9 Private messages

    def test_a_private_message_reaches_all_of_one_name_and_nobody_else(self, person):
        ada, bob, tab, eve = (person(name) for name in ("ada", "bob", "bob", "eve"))
        copy = ada.ask("whisper", to="bob", text="psst", **{"from": "eve"})
        assert copy.pop("ref")
        expected = {"v": 1, "type": "whisper", "from": "ada", "to": "bob", "text": "psst"}
        assert [copy, bob.next("whisper"), tab.next("whisper")] == [expected] * 3
        for other in (ada, bob, tab, eve):
            other.hears_nothing_else()
        assert ada.code("whisper", to="nobody", text="psst") == "not_here"
        assert ada.code("whisper", text="psst") == "missing_to"

    # 10 and 11 What is wrong

    def test_what_is_wrong_is_said_and_costs_nobody_the_connection(self, person):
        ada, bob = person("ada", "lobby"), person("bob", "lobby")
        ada.next("arrived")
        for number, (event, payload, code) in enumerate(WRONG, 1):
            bob.send(event, **payload)
            error = bob.next("error")
            assert (error["code"], bob.before) == (code, []), (event, payload)
            assert error["message"]
            bob.ask("say", room="lobby", text="still here")
            assert (ada.next("message")["id"], ada.before) == (number, [])

    def test_the_longest_text_passes(self, person):
        assert len(person("ada", "lobby").ask("say", room="lobby", text="é" * 2000)["text"]) == 2000

    def test_what_is_no_event_is_said_too(self, person):
        ada = person("ada", "lobby")
        for number, (data, code) in enumerate(NO_EVENTS, 1):
            ada.client.send_raw(data)
            assert (ada.next("error")["code"], ada.before) == (code, []), data[:20]
            assert ada.ask("say", room="lobby", text="still here")["id"] == number

    def test_only_who_is_far_too_big_is_disconnected(self, person):
        ada, bob = person("ada", "lobby"), person("bob", "lobby")
        bob.client.send_raw("x" * (2**20 + 1))
        assert bob.client.closed() in (1009, 1006)  # 1006: no close frame, only the end
        assert ada.next("departed")["name"] == "bob"
        ada.hears_nothing_else()
