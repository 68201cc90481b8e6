"""The Socket.IO chat keeps the specification of the chats, over each transport; and runs by itself, as its README says."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import socketio

pytest.register_assert_rewrite("chat_spec")

from chat_spec import DEADLINE, ChatSpec, Person  # noqa: E402
from conftest import eventually  # noqa: E402
from engineio.payload import Payload  # noqa: E402

from helpers import inorder, serve  # noqa: E402
from helpers.apps import socketio_chat  # noqa: E402
from helpers.broker import broker  # noqa: E402
from helpers.process import Child  # noqa: E402
from helpers.server import Server  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CHAT = "helpers.apps.socketio_chat:app"
WEBSOCKET = ["websocket"]
POLLING = ["polling"]


Payload.max_decode_packets = 1000
"""What comes at once over long-polling: at more than 16, the Python client would give up."""


class SocketIOClient:
    """Socket.IO's client, in order. An event has a name and one object as argument; `message`, which is reserved, is `said`."""

    def __init__(self, server: Server, headers: dict[str, str], transports: list[str]) -> None:
        self.headers = headers
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._code = 1006  # no word of the server, only the end
        self.sio = inorder.Client(
            handle_sigint=False,
            reconnection=False,
            # For a WebSocket it would name an origin by itself, beside the one in the headers.
            websocket_extra_options={"suppress_origin": True},
        )
        self.sio.on("*", self._heard)
        self.sio.on("disconnect", lambda reason: self._events.put(None))
        self.sio.on("connect_error", self._refused)
        try:
            self.sio.connect(server.url(), headers=headers, transports=transports)
        except socketio.exceptions.ConnectionError as error:
            self.close()
            if self._events.empty():
                raise OSError(f"refused: {error}") from error

    def _heard(self, event: str, payload: dict[str, Any]) -> None:
        if event == "ended":
            self._code = payload["code"]
        else:
            self._events.put({"type": {"said": "message"}.get(event, event), **payload})

    def _refused(self, why: Any) -> None:
        if isinstance(why, dict) and "data" in why:
            self._code = why["data"]["code"]
            self._events.put(None)

    def send(self, event: str, **payload: Any) -> None:
        self.sio.emit(event, payload)

    def send_raw(self, data: str | bytes) -> None:
        """Send what Socket.IO's own client would not: whatever this is, in a packet of Engine.IO."""
        self.sio.eio.send(data)

    def receive(self) -> Any:
        event = self._events.get(timeout=DEADLINE)
        assert event is not None, "the connection has ended"
        return event

    def closed(self) -> int:
        while self._events.get(timeout=DEADLINE) is not None:
            pass
        return self._code

    def close(self) -> None:
        self.sio.disconnect()
        if self.sio.eio.ws is not None:  # left open where the server was the first to close
            self.sio.eio.ws.shutdown()

    def vanish(self) -> None:
        sock = self.sio.eio.ws.sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RD)
        sock.close()


@dataclass(frozen=True)
class Served:
    """One chat, in one process or several."""

    servers: list[Server]
    database: str


TOLD = re.compile("is not an accepted origin")
"""What a chat may say of itself in its log."""


@contextlib.contextmanager
def served(count: int = 1, *, redis: bool = False, **variables: str) -> Iterator[Served]:
    """Serve one chat from so many processes."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(broker()).url if redis else None
        env = {**socketio_chat.environment(url), **variables}
        servers = [
            stack.enter_context(serve(CHAT, process=True, env=env, name=f"chat {number}"))
            for number in range(count)
        ]
        yield Served(servers, env["CHAT_DATABASE"])
        said = [line for server in servers for line in server.log if not TOLD.search(line)]
        assert said == []


class SocketIOChat:
    """How the specification's tests reach the Socket.IO chat: where several processes serve it, by turns."""

    def __init__(
        self, where: Served, opened: contextlib.ExitStack, transports: list[str] | None = None
    ) -> None:
        self._where = where
        self._turns = itertools.cycle(where.servers)
        self._opened = opened
        self._transports = transports or WEBSOCKET

    def log_in(self, name: str) -> dict[str, str]:
        try:
            return socketio_chat.log_in(self._where.servers[0], name)
        except httpx.HTTPStatusError as error:
            raise ValueError(error.response.status_code) from error

    def connect(self, session: dict[str, str] | None, origin: str | None = None) -> SocketIOClient:
        server = next(self._turns)
        headers = {"Origin": origin or server.url().rstrip("/"), **(session or {})}
        client = SocketIOClient(server, headers, self._transports)
        self._opened.callback(client.close)
        return client

    def log_out(self, session: dict[str, str]) -> None:
        answer = httpx.post(self._where.servers[0].url("/logout"), headers=session, trust_env=False)
        assert answer.status_code == 302

    def forget(self) -> None:
        """Wait until nobody is connected, and forget what was said."""
        with contextlib.closing(sqlite3.connect(self._where.database, timeout=20)) as database:
            assert eventually(
                lambda: database.execute("SELECT count(*) FROM connection").fetchone() == (0,)
            )
            database.execute("DELETE FROM message")
            database.commit()


@pytest.fixture(autouse=True)
def nothing_left():
    """A server here outlives a test: it takes a second to start."""


def event(*data: Any) -> str:
    """Return the packet of Socket.IO with which a client sends an event."""
    return "2" + json.dumps(data)


NO_EVENTS = [
    (event("join"), "not_an_object"),
    (event("join", "lobby"), "not_an_object"),
    (event("join", None), "not_an_object"),
    (event("join", ["lobby"]), "not_an_object"),
    (event("join", {"room": "lobby"}, {}), "not_an_object"),
    (event("say", "x" * 70_000), "too_big"),
    (event("join", {"room": "lobby", "more": "x" * 70_000}), "too_big"),
    (event("message", {"room": "lobby", "text": "x"}), "unknown_type"),
    (event("json", {}), "unknown_type"),
    (event("connect", {}), "unknown_type"),
    (event("disconnect", {}), "unknown_type"),
    (event("join_room", {}), "unknown_type"),
]
"""What a client of Socket.IO may send instead of an event of ours, each with the code."""


class SocketIOSpec(ChatSpec):
    transports = WEBSOCKET

    @pytest.fixture
    def chat(self, where):
        with contextlib.ExitStack() as opened:
            chat = SocketIOChat(where, opened, self.transports)
            opened.callback(chat.forget)
            yield chat

    def test_what_is_no_event_is_said_too(self, person):
        """Not with the specification's NO_EVENTS: what is no JSON, Socket.IO itself drops, with no answer. What comes through
        instead is anything that can stand in the place of an event's one object."""
        ada = person("ada", "lobby")
        for number, (data, code) in enumerate(NO_EVENTS, 1):
            ada.client.send_raw(data)
            assert (ada.next("error")["code"], ada.before) == (code, []), data[:40]
            assert ada.ask("say", room="lobby", text="still here")["id"] == number
        ada.client.sio.emit("say", {"room": "lobby", "text": b"\0\1"})
        assert (ada.next("error")["code"], ada.before) == ("binary", [])
        ada.client.sio.emit("say", b"")
        assert (ada.next("error")["code"], ada.before) == ("binary", [])

    def test_who_sends_the_event_of_an_end_is_still_here(self, person):
        """The trap: a client can send an event that is called disconnect, and the server's handler of that name runs."""
        ada, bob = person("ada", "lobby"), person("bob", "lobby")
        ada.next("arrived")
        bob.send("disconnect")
        assert bob.next("error")["code"] == "unknown_type"
        assert ada.ask("join", room="lobby")["here"] == ["ada", "bob"]
        bob.ask("say", room="lobby", text="still here")
        assert ada.next("message")["from"] == "bob"
        assert ada.before == []


class TestOverWebSocket(SocketIOSpec):
    @pytest.fixture(scope="class")
    @classmethod
    def where(cls):
        with served() as where:
            yield where


class TestOnTwoProcesses(SocketIOSpec):
    arrive_in_order = False

    @pytest.fixture(scope="class")
    @classmethod
    def where(cls):
        with served(2, redis=True) as where:
            yield where


# What is this chat's own


@contextlib.contextmanager
def people(
    where: Served, *names: str, transports: list[str] | None = None
) -> Iterator[list[Person]]:
    with contextlib.ExitStack() as opened:
        chat = SocketIOChat(where, opened, transports)
        found = [Person(chat.connect(chat.log_in(name))) for name in names]
        for person in found:
            person.next("welcome")
        yield found


def test_it_works_over_long_polling_too():
    with (
        served() as where,
        people(where, "ada", transports=POLLING) as (ada,),
        people(where, "bob") as (bob,),
    ):
        assert (ada.client.sio.transport(), bob.client.sio.transport()) == ("polling", "websocket")
        ada.ask("join", room="lobby")
        bob.ask("join", room="lobby")
        assert ada.next("arrived")["name"] == "bob"
        for number in range(20):
            ada.send("say", room="lobby", text=f"{number}")
        assert [bob.next("message")["text"] for _ in range(20)] == [str(n) for n in range(20)]
        assert [ada.next("message")["id"] for _ in range(20)] == list(range(1, 21))
        httpx.post(where.servers[0].url("/logout"), headers=ada.client.headers, trust_env=False)
        assert ada.client.closed() == 4401
        assert bob.next("departed")["name"] == "ada"


def test_a_client_that_starts_with_polling_goes_on_with_websocket():
    with served() as where, people(where, "ada", transports=[*POLLING, *WEBSOCKET]) as (ada,):
        assert ada.client.sio.transport() == "websocket"
        assert ada.ask("join", room="lobby")["here"] == ["ada"]


def test_without_a_queue_two_processes_agree_on_who_is_here_and_hear_nothing_of_each_other():
    with served(2) as where, people(where, "ada", "bob") as (ada, bob):
        ada.ask("join", room="lobby")
        assert bob.ask("join", room="lobby")["here"] == ["ada", "bob"]
        bob.ask("say", room="lobby", text="can you hear me?")
        ada.hears_nothing_else()
        assert [m["from"] for m in ada.ask("join", room="lobby")["history"]] == ["bob"]


def test_who_was_in_a_process_that_is_killed_is_seen_to_leave():
    two = served(2, redis=True, CHAT_HEARTBEAT="1")
    with two as where, people(where, "ada", "bob") as (ada, bob):
        ada.ask("join", room="lobby")
        bob.ask("join", room="lobby")
        ada.next("arrived")
        os.killpg(where.servers[1].pid, signal.SIGKILL)
        assert ada.next("departed")["name"] == "bob"
        assert ada.ask("join", room="lobby")["here"] == ["ada"]


def test_who_was_taken_for_dead_is_told():
    with (
        served(CHAT_HEARTBEAT="1") as where,
        people(where, "ada") as (ada,),
        contextlib.closing(sqlite3.connect(where.database, timeout=20)) as database,
    ):
        database.execute("DELETE FROM connection")
        database.commit()
        assert ada.client.closed() == 4408


NO_PACKETS = ["", "9", "2", "2{", "2[", "2[]", '2[["join"]]', "2" + "[" * 60_000, "4{}"]
"""What a packet of Engine.IO may hold that is no packet of Socket.IO."""


def test_what_is_no_packet_costs_nobody_anything():
    noise = re.compile("message handler error")
    env = socketio_chat.environment()
    with serve(CHAT, process=True, env=env, name="chat") as server:
        where = Served([server], env["CHAT_DATABASE"])
        with people(where, "ada", "bob") as (ada, bob):
            ada.ask("join", room="lobby")
            bob.ask("join", room="lobby")
            ada.next("arrived")
            for number, data in enumerate(NO_PACKETS, 1):
                bob.client.send_raw(data)
                assert bob.ask("say", room="lobby", text="still here")["id"] == number, data[:20]
            assert [ada.next("message")["id"] for _ in NO_PACKETS] == list(
                range(1, len(NO_PACKETS) + 1)
            )
            assert [line for line in server.log if not noise.search(line)] == []


def test_who_sends_no_packet_of_engine_io_is_seen_to_leave():
    """The trap: the handler of a WebSocket raises then, and nobody tells of the end; only the missing heartbeat does."""
    env = {**socketio_chat.environment(), "CHAT_HEARTBEAT": "1"}
    with serve(CHAT, process=True, env=env, name="chat") as server:
        where = Served([server], env["CHAT_DATABASE"])
        with people(where, "ada", "bob") as (ada, bob):
            ada.ask("join", room="lobby")
            bob.ask("join", room="lobby")
            bob.client.sio.eio.ws.send("x")
            assert ada.next("departed")["name"] == "bob"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "x@127.0.0.1"])
def test_what_is_meant_for_another_host_is_refused(chat_app, host):
    client = chat_app.test_client()
    for path in ("/", "/login", "/socket.io/?EIO=4&transport=polling"):
        assert client.get(path, headers={"Host": host}).status_code == 400
        assert client.get(path, headers={"Host": "localhost:8000"}).status_code in (200, 302)
        assert client.get(path, headers={"Host": "[::1]:8000"}).status_code in (200, 302)


@pytest.fixture
def chat_app(tmp_path):
    socketio_chat.environment()  # makes the project importable
    from flask_chat import create_app

    return create_app({"CHAT_DATABASE": str(tmp_path / "chat.sqlite3")})


def run(*command: str, folder: Path = socketio_chat.FOLDER, **variables: str) -> str:
    """Run a command in the project's folder, and return what it said."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


IN_THE_KERNEL = """
import threading, socketio
from helpers import serve
from helpers.apps import socketio_chat

for _ in range(2):
    from helpers.apps.socketio_chat import app
    with serve(app, name="chat") as chat:
        client = socketio.Client(handle_sigint=False, reconnection=False)
        welcome = threading.Event()
        client.on("welcome", lambda event: welcome.set())
        client.connect(chat.url(), headers=socketio_chat.log_in(chat, "ada"))
        print(welcome.wait(5), client.transport())
        client.disconnect()
    client = socketio.Client(handle_sigint=False, reconnection=False)
    with serve(app, name="chat") as chat:  # stops beneath a client
        client.connect(chat.url(), headers=socketio_chat.log_in(chat, "ada"))
    client.wait()
    print(list(chat.log))
print([thread.name for thread in threading.enumerate()])
"""


def test_it_can_be_served_in_the_kernel_too():
    said = run(sys.executable, "-c", IN_THE_KERNEL, folder=ROOT)
    assert said.splitlines() == ["True websocket", "[]"] * 2 + ["['MainThread']"]


# The commands of its README


def test_the_projects_own_tests_pass():
    said = run("sh", "-c", commands()["pytest"], PATH=TOOLS)
    ran = re.search(r"(\d+) passed in", said)
    assert ran, said
    assert int(ran[1]) >= 15
    assert "skipped" not in said


TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def commands() -> dict[str, str]:
    """Return the commands of the README, each under its first word."""
    text = (socketio_chat.FOLDER / "README.md").read_text()
    blocks = [
        block for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S) if not kind
    ]
    return {line.split()[0]: line for block in blocks for line in block.splitlines()}


def test_the_readme_has_the_commands_that_are_tried_here():
    assert list(commands()) == ["npm", "flask", "gunicorn", "pytest"]


class Started(Server):
    """What the README's command has started."""

    def __init__(self, port: int) -> None:
        super().__init__("the chat")
        self.port = port


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("command", "port"), [("flask", "--port {}"), ("gunicorn", "--bind 127.0.0.1:{}")]
)
def test_each_start_command_of_the_readme_starts_it(tmp_path, command, port):
    with socket.create_server(("127.0.0.1", 0)) as free:
        there = free.getsockname()[1]
    variables = {"CHAT_DATABASE": str(tmp_path / "chat.sqlite3"), "PATH": TOOLS}
    start = f"cd '{socketio_chat.FOLDER}' && exec {commands()[command]} {port.format(there)}"
    with Child(["sh", "-c", start], name="the chat", env=variables) as child:
        child.wait_until(lambda: answers(there))
        where = Served([Started(there)], variables["CHAT_DATABASE"])
        with (
            people(where, "ada", transports=[*POLLING, *WEBSOCKET]) as (ada,),
            people(where, "bob") as (bob,),
        ):
            assert ada.client.sio.transport() == "websocket"
            ada.ask("join", room="lobby")
            bob.ask("join", room="lobby")
            bob.ask("say", room="lobby", text="hello")
            assert ada.next("message")["text"] == "hello"
            bob.client.close()
            assert ada.next("departed")["name"] == "bob"
        for file in ("chat.css", "chat.js", "icon.svg"):
            address = where.servers[0].url(f"/static/{file}")
            assert httpx.get(address, trust_env=False).status_code == 200
        assert "Traceback" not in child.tail(100)


AT_A_HUB = {"Host": "hub.test", "Origin": "https://hub.test", "X-Forwarded-Proto": "https"}


def test_it_answers_under_any_name_behind_a_hub():
    """Which name that is, nobody says; who comes, the hub has asked."""
    with (
        serve(CHAT, process=True, env={"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/"}) as chat,
        httpx.Client(base_url=chat.url(), headers=AT_A_HUB, trust_env=False) as browser,
    ):
        handshake = browser.get("socket.io/?EIO=4&transport=polling")
        form = browser.post("login", data={"name": "ada"})
        assert [handshake.status_code, form.status_code] == [200, 302]
