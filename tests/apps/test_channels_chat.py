"""The Channels chat keeps the specification of the chats, under each server; and runs by itself, as its README says."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import struct
from collections.abc import Iterator
from typing import Any
from unittest import mock

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

pytest.register_assert_rewrite("chat_spec")

from chat_spec import DEADLINE, ChatSpec  # noqa: E402
from conftest import eventually  # noqa: E402

from helpers import serve  # noqa: E402
from helpers.apps import channels_chat  # noqa: E402
from helpers.server import Server  # noqa: E402

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


class ChannelsChat:
    """How the specification's tests reach the Channels chat."""

    def __init__(self, server: Server, opened: contextlib.ExitStack) -> None:
        self.server = server
        self._opened = opened

    def log_in(self, name: str) -> dict[str, str]:
        try:
            return channels_chat.log_in(self.server, name)
        except httpx.HTTPStatusError as error:
            raise ValueError(error.response.status_code) from error

    def connect(self, session: dict[str, str] | None, origin: str | None = None) -> ChannelsClient:
        headers = {"Origin": self.server.url().rstrip("/"), **(session or {})}
        if origin is not None:
            headers["Origin"] = origin
        try:
            client = connect(
                self.server.ws_url("/ws/chat/"),
                additional_headers=headers,
                proxy=None,
                legacy=True,
                max_size=None,
            )
        except InvalidStatus as refusal:
            raise OSError(f"refused with {refusal.response.status_code}") from refusal
        self._opened.callback(client.close)
        return ChannelsClient(client)

    def log_out(self, session: dict[str, str]) -> None:
        with httpx.Client(base_url=self.server.url(), headers=session, trust_env=False) as browser:
            token = browser.get("").text.split('csrfmiddlewaretoken" value="')[1].split('"')[0]
            answer = browser.post("logout", data={"csrfmiddlewaretoken": token})
        assert answer.status_code == 302

    def forget(self) -> None:
        """Wait until nobody is connected, and forget what was said."""
        with contextlib.closing(
            sqlite3.connect(os.environ["CHAT_DATABASE"], timeout=20)
        ) as database:
            assert eventually(
                lambda: database.execute("SELECT count(*) FROM chat_connection").fetchone() == (0,)
            )
            database.execute("DELETE FROM chat_message")
            database.commit()


@pytest.fixture(autouse=True)
def nothing_left():
    """A server here outlives a test: it takes a second to start."""


@pytest.fixture(scope="class", autouse=True)
def environment():
    """What a test configures, the next does not find."""
    with mock.patch.dict(os.environ):
        yield


@contextlib.contextmanager
def served(**options: Any) -> Iterator[Server]:
    channels_chat.configure(layer=options.pop("layer", "memory"))
    with serve(CHAT, process=True, **options) as server:
        yield server


class ChannelsSpec(ChatSpec):
    @pytest.fixture
    def chat(self, server):
        with contextlib.ExitStack() as opened:
            chat = ChannelsChat(server, opened)
            opened.callback(chat.forget)
            yield chat


class TestOnUvicorn(ChannelsSpec):
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls):
        with served(ws_max_size=2**20) as server:
            yield server
            assert not list(server.log), "it was silent"
