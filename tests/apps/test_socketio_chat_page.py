"""The page of the Socket.IO chat, with the JavaScript client that npm has brought, in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess

import pytest

pytest.register_assert_rewrite("chat_pages")

from chat_pages import ChatPages, needs_browser, windows  # noqa: E402

from helpers import serve  # noqa: E402
from helpers.apps import socketio_chat  # noqa: E402

CHAT = "helpers.apps.socketio_chat:app"
CLIENT = socketio_chat.FOLDER / "node_modules/socket.io-client/dist/socket.io.min.js"
if not CLIENT.exists() and os.environ.get("CI"):
    pytest.fail("CI needs Node's npm. Install it, and then run:\nmake setup", pytrace=False)

needs_client = pytest.mark.skipif(
    not CLIENT.exists(),
    reason="NOTICE: npm has not brought Socket.IO's client, so that chat is not tried in a browser",
)


@pytest.fixture(autouse=True)
def nothing_left():
    """A browser may take a while to end."""


@needs_browser
@needs_client
class TestPage(ChatPages):
    @pytest.fixture
    def chat(self):
        with serve(CHAT, process=True) as server:
            yield server
            assert list(server.log) == []


@needs_client
def test_the_digest_for_the_cdn_is_that_of_the_file_that_npm_brings():
    from flask_chat import client

    digest = base64.b64encode(hashlib.sha384(CLIENT.read_bytes()).digest()).decode()
    assert f"sha384-{digest}" == client.INTEGRITY
    assert f"Socket.IO v{client.VERSION}\n" in CLIENT.read_text()[:200]


IN_NODE = """
const { io } = require("socket.io-client");
const [address, cookie] = process.argv.slice(1);
const socket = io(address, { extraHeaders: { Cookie: cookie }, reconnection: false });
const heard = [];
socket.onAny((event, payload) => heard.push([event, payload.text ?? payload.name ?? payload.room]));
socket.on("welcome", () => socket.emit("join", { room: "lobby" }));
socket.on("joined", () => socket.emit("say", { room: "lobby", text: "from Node" }));
socket.on("said", () => { console.log(JSON.stringify(heard)); socket.disconnect(); });
socket.on("connect_error", (error) => { console.log(error.message); process.exit(1); });
"""


@needs_client
@pytest.mark.skipif(shutil.which("node") is None, reason="NOTICE: there is no Node here")
def test_the_official_client_talks_to_it_from_node_too():
    with serve(CHAT, process=True) as chat:
        cookie = socketio_chat.log_in(chat, "ada")["Cookie"]
        done = subprocess.run(
            ["node", "-e", IN_NODE, chat.url(), cookie],
            cwd=socketio_chat.FOLDER,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    heard = [["welcome", "ada"], ["joined", "lobby"], ["said", "from Node"]]
    assert json.loads(done.stdout) == heard


@needs_browser
def test_without_a_client_the_page_says_so():
    with serve(CHAT, process=True) as chat, windows(count=1) as (ada,):
        ada.page.route("**/socket.io.min.js", lambda route: route.abort())
        ada.page.goto(chat.url())
        ada.page.get_by_label("Your name").fill("ada")
        ada.page.get_by_role("button", name="Log in").click()
        ada.page.get_by_role("status").get_by_text("No client of Socket.IO").wait_for()
