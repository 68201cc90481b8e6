"""The Channels chat keeps the specification of the chats, under each server; and runs by itself, as its README says."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
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
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

pytest.register_assert_rewrite("chat_spec")

from chat_spec import DEADLINE, ChatSpec, Person  # noqa: E402
from conftest import eventually  # noqa: E402

from helpers import serve  # noqa: E402
from helpers.apps import channels_chat  # noqa: E402
from helpers.broker import broker  # noqa: E402
from helpers.process import Child  # noqa: E402
from helpers.server import Server  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CHAT = "helpers.apps.channels_chat:application"


class ChannelsClient:
    """A plain WebSocket: an event is a JSON object in a text frame, its name is its `type`."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, event: str, **payload: Any) -> None:
        self.connection.send(json.dumps({"type": event, **payload}))

    def send_raw(self, data: str | bytes) -> None:
        with contextlib.suppress(ConnectionClosed):
            self.connection.send(data)

    def receive(self) -> Any:
        return json.loads(self.connection.recv(timeout=DEADLINE))

    def closed(self) -> int:
        for _ in self._events():
            pass
        return self.connection.close_code

    def _events(self) -> Iterator[Any]:
        with contextlib.suppress(ConnectionClosed):
            while True:
                yield self.receive()

    def close(self) -> None:
        self.connection.close()

    def vanish(self) -> None:
        reset = struct.pack("ii", 1, 0)
        self.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        self.connection.socket.shutdown(socket.SHUT_RD)
        self.connection.socket.close()


@dataclass(frozen=True)
class Served:
    """One chat, in one process or several."""

    servers: list[Server]
    database: str


UVICORN = {"ws_max_size": 2**20}
DAPHNE = {"server": "daphne"}
SENT_TOO_LATE = (
    "daphne.server: Exception inside application: Attempt to send on a closed protocol: "
    "Disconnected: Attempt to send on a closed protocol"
)
"""What Daphne says when an application sends between a client's close frame and the end of its TCP connection. It drops what is
sent after that, but not yet then (django/channels#1820). Nobody can know in time: what the chat sends comes from others."""


@contextlib.contextmanager
def served(*options: dict[str, Any], layer: str = "memory", **variables: str) -> Iterator[Served]:
    """Serve one chat from so many processes, each with its options."""
    with contextlib.ExitStack() as stack:
        url = None if layer == "memory" else stack.enter_context(broker()).url
        env = {**channels_chat.environment(layer, url), **variables}
        servers = [
            stack.enter_context(serve(CHAT, process=True, env=env, name=f"chat {number}", **option))
            for number, option in enumerate(options)
        ]
        yield Served(servers, env["CHAT_DATABASE"])
        for server, option in zip(servers, options, strict=True):
            unasked = [line for line in server.log if option != DAPHNE or line != SENT_TOO_LATE]
            assert unasked == []


class ChannelsChat:
    """How the specification's tests reach the Channels chat: where several processes serve it, by turns."""

    def __init__(self, where: Served, opened: contextlib.ExitStack) -> None:
        self._where = where
        self._turns = itertools.cycle(where.servers)
        self._opened = opened

    def log_in(self, name: str) -> dict[str, str]:
        try:
            return channels_chat.log_in(self._where.servers[0], name)
        except httpx.HTTPStatusError as error:
            raise ValueError(error.response.status_code) from error

    def connect(
        self, session: dict[str, str] | None, origin: str | None = None, path: str = "/ws/chat/"
    ) -> ChannelsClient:
        server = next(self._turns)
        headers = {"Origin": server.url().rstrip("/"), **(session or {})}
        if origin is not None:
            headers["Origin"] = origin
        try:
            client = connect(
                server.ws_url(path), additional_headers=headers, proxy=None, legacy=True
            )
        except InvalidStatus as refusal:
            raise OSError(f"refused with {refusal.response.status_code}") from refusal
        self._opened.callback(client.close)
        return ChannelsClient(client)

    def log_out(self, session: dict[str, str]) -> None:
        address = self._where.servers[0].url()
        with httpx.Client(base_url=address, headers=session, trust_env=False) as browser:
            token = browser.get("").text.split('csrfmiddlewaretoken" value="')[1].split('"')[0]
            answer = browser.post("logout", data={"csrfmiddlewaretoken": token})
        assert answer.status_code == 302

    def forget(self) -> None:
        """Wait until nobody is connected, and forget what was said."""
        with contextlib.closing(sqlite3.connect(self._where.database, timeout=20)) as database:
            assert eventually(
                lambda: database.execute("SELECT count(*) FROM chat_connection").fetchone() == (0,)
            )
            database.execute("DELETE FROM chat_message")
            database.commit()


@pytest.fixture(autouse=True)
def nothing_left():
    """A server here outlives a test: it takes a second to start."""


class ChannelsSpec(ChatSpec):
    @pytest.fixture
    def chat(self, where):
        with contextlib.ExitStack() as opened:
            chat = ChannelsChat(where, opened)
            opened.callback(chat.forget)
            yield chat

    def test_an_unknown_path_is_closed_and_not_an_internal_error(self, chat):
        assert chat.connect(chat.log_in("ada"), path="/ws/other/").closed() == 4404


class TestOnUvicorn(ChannelsSpec):
    @pytest.fixture(scope="class")
    @classmethod
    def where(cls):
        with served(UVICORN) as where:
            yield where


class TestOnDaphne(ChannelsSpec):
    @pytest.fixture(scope="class")
    @classmethod
    def where(cls):
        with served(DAPHNE) as where:
            yield where


class TestOnTwoProcessesWithRedis(ChannelsSpec):
    arrive_in_order = False

    @pytest.fixture(scope="class")
    @classmethod
    def where(cls):
        with served(UVICORN, UVICORN, layer="redis") as where:
            yield where


class TestOnTwoProcessesWithPubSub(ChannelsSpec):
    arrive_in_order = False

    @pytest.fixture(scope="class")
    @classmethod
    def where(cls):
        with served(UVICORN, DAPHNE, layer="pubsub") as where:
            yield where


# What is this chat's own


@contextlib.contextmanager
def people(where: Served, *names: str) -> Iterator[list[Person]]:
    with contextlib.ExitStack() as opened:
        chat = ChannelsChat(where, opened)
        found = [Person(chat.connect(chat.log_in(name))) for name in names]
        for person in found:
            person.next("welcome")
        yield found


def test_in_memory_two_processes_agree_on_who_is_here_and_hear_nothing_of_each_other():
    with served(UVICORN, UVICORN) as where, people(where, "ada", "bob") as (ada, bob):
        ada.ask("join", room="lobby")
        assert bob.ask("join", room="lobby")["here"] == ["ada", "bob"]
        bob.ask("say", room="lobby", text="can you hear me?")
        ada.hears_nothing_else()
        assert [m["from"] for m in ada.ask("join", room="lobby")["history"]] == ["bob"]


def test_who_was_in_a_process_that_is_killed_is_seen_to_leave():
    two = served(UVICORN, UVICORN, layer="redis", CHAT_HEARTBEAT="0.2")
    with two as where, people(where, "ada", "bob") as (ada, bob):
        ada.ask("join", room="lobby")
        bob.ask("join", room="lobby")
        ada.next("arrived")
        os.killpg(where.servers[1].pid, signal.SIGKILL)
        assert ada.next("departed")["name"] == "bob"
        assert ada.ask("join", room="lobby")["here"] == ["ada"]


def test_who_was_taken_for_dead_is_told():
    with (
        served(UVICORN, CHAT_HEARTBEAT="0.1") as where,
        people(where, "ada") as (ada,),
        contextlib.closing(sqlite3.connect(where.database, timeout=20)) as database,
    ):
        database.execute("DELETE FROM chat_connection")
        database.commit()
        assert ada.client.closed() == 4408


def run(*command: str, folder: Path = channels_chat.FOLDER, **variables: str) -> str:
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


def test_the_projects_own_tests_pass():
    said = run(sys.executable, "-W", "error::RuntimeWarning", "manage.py", "test")
    ran = re.search(r"Ran (\d+) tests", said)
    assert ran, said
    assert int(ran[1]) >= 15
    assert "skipped" not in said


def test_no_migration_is_missing():
    run(sys.executable, "manage.py", "makemigrations", "--check", "--dry-run")


IN_THE_KERNEL = """
import asyncio, threading
from helpers import serve

async def cell():
    from helpers.apps import channels_chat
    channels_chat.prepare()
    return channels_chat

channels_chat = asyncio.run(cell())  # twice, as a cell that is run again
for _ in range(2):
    from helpers.apps.channels_chat import application
    with serve(application, name="chat") as chat:
        print(sorted(channels_chat.log_in(chat, "ada")))
print(threading.active_count())
"""


def test_it_can_be_served_in_the_kernel_too():
    said = run(sys.executable, "-c", IN_THE_KERNEL, folder=ROOT)
    assert said.splitlines() == ["['Cookie', 'Origin']"] * 2 + ["1"]


ANOTHER_DJANGO = """
from helpers import project
project.configure()
from helpers.apps.channels_chat import prepare
try:
    prepare()
except RuntimeError as error:
    print(error)
"""


def test_a_process_that_has_a_django_already_says_what_to_do():
    said = run(sys.executable, "-c", ANOTHER_DJANGO, folder=ROOT)
    assert said.splitlines()[-1] == f'serve("{CHAT}", process=True)'


# The commands of its README


def commands() -> list[str]:
    """Return the commands of the README, in order."""
    text = (channels_chat.FOLDER / "README.md").read_text()
    blocks = [
        block for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S) if not kind
    ]
    return [line for block in blocks for line in block.splitlines()]


def test_the_readme_has_the_commands_that_are_tried_here():
    first = [command.split()[0:3] for command in commands()]
    assert [" ".join(words) for words in first] == [
        "python manage.py migrate",
        "python manage.py runserver",
        "daphne config.asgi:application",
        "uvicorn config.asgi:application --ws-max-size",
        "python manage.py test",
    ]


@pytest.mark.parametrize(
    ("number", "port"), [(1, "--noreload 127.0.0.1:{}"), (2, "-p {}"), (3, "--port {}")]
)
def test_each_start_command_of_the_readme_starts_it(tmp_path, number, port):
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {"CHAT_DATABASE": str(tmp_path / "chat.sqlite3"), "PATH": tools}
    run("sh", "-c", commands()[0], **variables)
    with socket.create_server(("127.0.0.1", 0)) as free:
        there = free.getsockname()[1]
    start = f"cd '{channels_chat.FOLDER}' && exec {commands()[number]} {port.format(there)}"
    with Child(["sh", "-c", start], name="the chat", env=variables) as child:
        child.wait_until(lambda: answers(there))
        server = Started(there)
        where = Served([server], variables["CHAT_DATABASE"])
        with people(where, "ada", "bob") as (ada, bob):
            ada.ask("join", room="lobby")
            bob.ask("join", room="lobby")
            bob.ask("say", room="lobby", text="hello")
            assert ada.next("message")["text"] == "hello"
        for file in ("chat.css", "chat.js", "icon.svg"):
            assert httpx.get(server.url(f"/static/chat/{file}"), trust_env=False).status_code == 200


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


AT_A_HUB = {"Host": "hub.test", "Origin": "https://hub.test", "X-Forwarded-Proto": "https"}


def test_it_answers_under_any_name_behind_a_hub():
    """Which name that is, nobody says; who comes, the hub has asked."""
    with (
        serve(CHAT, process=True, env={"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/"}) as chat,
        httpx.Client(base_url=chat.url(), headers=AT_A_HUB, trust_env=False) as browser,
    ):
        form = {"name": "ada"}
        if browser.get("login").is_success:
            form["csrfmiddlewaretoken"] = browser.cookies["channels_chat_csrf"]
        assert browser.post("login", data=form).status_code == 302
