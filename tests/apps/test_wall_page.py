"""What only a real browser shows: whose script runs, and with whose cookie a page opens a WebSocket."""

from __future__ import annotations

import contextlib

import pytest

pytest.register_assert_rewrite("chat_pages")

from chat_pages import needs_browser, windows  # noqa: E402

from helpers import serve  # noqa: E402
from helpers.apps.wall import PAGES, wall  # noqa: E402

MESSAGE = """<b>hello</b><img src="x" onerror="this.replaceWith('Eve was here')">"""
OPEN = """
address => new Promise(tell => {
    const socket = new WebSocket(address);
    socket.onmessage = said => tell(said.data);
    socket.onclose = () => tell("closed");
})
"""


@pytest.fixture(autouse=True)
def nothing_left():
    """A browser may take a while to end."""


async def teller(scope, receive, send):
    """Give a page a cookie, and tell a WebSocket with which cookie it came, and from where."""
    if scope["type"] == "websocket":
        headers = dict(scope["headers"])
        await receive()
        await send({"type": "websocket.accept"})
        text = f"{headers.get(b'cookie', b'none').decode()} {headers[b'origin'].decode()}"
        await send({"type": "websocket.send", "text": text})
        await receive()
    elif scope["type"] == "http":
        cookie = (b"set-cookie", b"seen=yes; SameSite=Lax")
        await send({"type": "http.response.start", "status": 200, "headers": [cookie]})
        await send({"type": "http.response.body", "body": b"hello"})


async def elsewhere(scope, receive, send):
    """Serve an empty page."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@needs_browser
def test_a_script_in_a_message_runs_where_messages_are_markup_and_nothing_forbids_it():
    with serve(wall(MESSAGE), name="wall") as server, windows(count=1) as (window,):
        page = window.page
        shown = {}
        for path in PAGES:
            refused = (
                page.expect_console_message(lambda message: "event handler" in message.text)
                if path == "/guarded"
                else contextlib.nullcontext()
            )
            with refused:
                page.goto(server.url(path))
                page.locator("#wall").get_by_text("hello").wait_for()
            if path == "/markup":
                page.get_by_text("Eve was here").wait_for()
            shown[path] = page.locator("#wall").inner_text()
        assert shown == {"/markup": "helloEve was here", "/text": MESSAGE, "/guarded": "hello"}


@needs_browser
def test_a_browser_names_the_origin_and_sends_a_lax_cookie_to_its_own_site_whatever_the_port():
    with serve(teller) as server, serve(elsewhere) as other, windows(count=1) as (window,):
        page = window.page
        page.goto(server.url())
        seen = {}
        for host in ("127.0.0.1", "localhost"):
            origin = f"http://{host}:{other.port}"
            page.goto(origin)
            seen[host] = page.evaluate(OPEN, server.ws_url()) == f"seen=yes {origin}"
        assert seen == {"127.0.0.1": True, "localhost": False}
        assert page.evaluate(OPEN, server.ws_url()) == f"none {origin}"
