"""Events come in the order in which they were sent, and so does the end; the library's own client lets them overtake."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import socketio
from conftest import DEADLINE
from flask import Flask
from flask_socketio import SocketIO

from helpers import serve
from helpers.inorder import Client, SimpleClient
from helpers.server import Server

COUNT = 10


@pytest.fixture
def counter() -> Iterator[Server]:
    """A server that counts when it is asked to, answers, and ends the connection when it is asked to."""
    app = Flask("counter")
    sio = SocketIO(app, async_mode="threading", async_handlers=False)

    @sio.on("count")
    def count(how_many: int) -> str:
        for number in range(how_many):
            sio.emit("number", number)
        return "counted"

    @sio.on("end")
    def end() -> None:
        from flask_socketio import disconnect

        sio.emit("number", -1)
        disconnect()

    with serve(app) as server:
        yield server
        assert list(server.log) == []


def heard(client: socketio.Client, server: Server, transport: str) -> list[int]:
    """Return the numbers in the order in which their handlers ended; the first one is slow."""
    numbers: list[int] = []
    ended = threading.Event()

    def number(this: int) -> None:
        if this == 0:
            time.sleep(0.1)
        numbers.append(this)

    client.on("number", number)
    client.on("disconnect", lambda reason: ended.set())
    client.connect(server.url(), transports=[transport], wait_timeout=DEADLINE)
    assert client.call("count", COUNT, timeout=DEADLINE) == "counted"
    client.emit("end")
    assert ended.wait(DEADLINE)
    client.eio.wait()
    if client.eio.ws is not None:
        client.eio.ws.shutdown()
    return numbers


@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_a_slow_handler_is_not_overtaken(counter: Server, transport: str) -> None:
    client = Client(handle_sigint=False, reconnection=False)
    assert heard(client, counter, transport) == [*range(COUNT), -1]


def test_the_library_lets_it_be_overtaken(counter: Server) -> None:
    """If this fails, this module is no longer needed."""
    client = socketio.Client(handle_sigint=False, reconnection=False)
    assert heard(client, counter, "websocket") != [*range(COUNT), -1]


def test_the_simple_client_receives_in_order_too(counter: Server) -> None:
    with SimpleClient(handle_sigint=False, reconnection=False) as client:
        client.connect(counter.url(), transports=["websocket"], wait_timeout=DEADLINE)
        client.emit("count", COUNT)
        got = [client.receive(DEADLINE) for _ in range(COUNT)]
    assert got == [["number", number] for number in range(COUNT)]
    assert isinstance(client.client_class, type)
    assert issubclass(client.client_class, Client)
