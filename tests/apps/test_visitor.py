"""A client that says what a browser would, to servers that tell what they heard."""

from __future__ import annotations

import json

import httpx
import pytest
from flask import session
from flask_socketio import SocketIO, disconnect, emit
from websockets.exceptions import ConnectionClosed, InvalidStatus

from helpers import serve
from helpers.apps import guests
from helpers.apps.visitor import SOCKET_IO, log_in, next_event, status, visit


async def listener(scope, receive, send):
    """Tell a WebSocket its own headers; refuse those at `/no`."""
    if scope["type"] != "websocket":
        return
    await receive()
    if scope["path"] == "/no":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
    await send({"type": "websocket.send", "text": json.dumps(headers)})
    if (await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.close"})


@pytest.fixture(scope="module")
def server():
    with serve(listener) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_left():
    """The server of this module lives on from test to test."""


def told(server, **page):
    with visit(server, "/tell", **page) as connection:
        heard = json.loads(connection.recv(5))
    names = [name for name, _ in heard]
    assert len(names) == len(set(names))
    return {
        name: value
        for name, value in heard
        if not name.startswith("sec-") and name not in ("connection", "upgrade")
    }


def test_a_script_names_nothing_but_the_host(server):
    assert told(server) == {"host": f"127.0.0.1:{server.port}"}


def test_a_page_names_its_host_and_origin_and_brings_its_cookie(server):
    page = {"host": "evil.example", "origin": "https://evil.example", "headers": {"Cookie": "a=b"}}
    assert told(server, **page) == {
        "host": "evil.example",
        "origin": "https://evil.example",
        "cookie": "a=b",
    }


def test_the_status_of_a_handshake(server):
    assert status(server, "/yes", origin="https://evil.example") == 101
    assert status(server, "/no") == 403
    with pytest.raises(InvalidStatus):
        visit(server, "/no").close()


def test_who_logged_in_is_known_over_http_and_to_the_next_event_until_the_end():
    site = guests.site("site")
    io = SocketIO(site, async_mode="threading")
    io.on_event("name", lambda: emit("named", session.get("name", "a stranger")))
    with serve(site) as server:
        ada = log_in(server, "ada")
        for headers, name in ((ada, "ada"), ({}, "a stranger")):
            assert httpx.get(server.url("/who"), headers=headers, trust_env=False).text == name
            with visit(server, SOCKET_IO, headers=headers) as page:
                page.send("40")
                page.send('42["name"]')
                assert next_event(page) == ["named", name]
                page.send("41")
                page.send("1")
                assert next_event(page) is None
        ended = httpx.post(server.url("/logout"), headers=ada, trust_env=False)
        assert "session=;" in ended.headers["set-cookie"]


def test_a_server_that_refuses_or_ends_is_noticed():
    site = guests.site("strict")
    io = SocketIO(site, async_mode="threading")
    io.on_event("connect", lambda auth=None: "name" in session)
    io.on_event("leave", lambda: disconnect())
    with serve(site) as server:
        for headers in ({}, log_in(server, "ada")):
            with visit(server, SOCKET_IO, headers=headers) as page:
                page.send("40")
                page.send('42["leave"]')
                assert next_event(page) is None


def test_an_answer_that_comes_when_a_send_has_failed_is_no_error_of_a_cell(
    server, monkeypatch, capsys
):
    """What websockets reports of its own threads is read by nobody: the end of the connection says it all."""

    answers = []

    def too_late(data):
        answers.append(data)
        raise EOFError("stream ended")

    with visit(server, "/tell") as connection:
        connection.recv(5)
        monkeypatch.setattr(connection.protocol, "receive_data", too_late)
        connection.send("the server ends, and answers with a close frame")
        with pytest.raises(ConnectionClosed):
            connection.recv(5)
    assert len(answers) == 1
    assert capsys.readouterr().err == ""
