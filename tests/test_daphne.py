"""Daphne in a process of its own: it answers, says what it does, and ends with whoever started it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import DEADLINE, eventually
from test_server import open_websocket, over_http, over_websocket, refused
from websockets.exceptions import ConnectionClosedError

from helpers import serve
from helpers.server import DaphneServer

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")

APPLICATION = """
import logging, os, sys, warnings

print("imported")

async def app(scope, receive, send):
    if scope["type"] == "http":
        print("asked for", scope["path"], file=sys.stderr)
        if scope["path"] == "/fail":
            raise KeyError("m")
        body = f"{NONCE} {os.getpid()}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
    else:
        await receive()
        await send({"type": "websocket.accept"})
        while "text" in (message := await receive()):
            logging.getLogger("chat").warning("heard %s", message["text"])
            await send({"type": "websocket.send", "text": message["text"]})
        warnings.warn(f"closed with {message['code']}")
"""


def write(nonce: str = "one", source: str = APPLICATION) -> str:
    """Write the application where the notebook is, and return its name."""
    Path("daphne_module.py").write_text(f"NONCE = {nonce!r}\n{source}")
    return "daphne_module:app"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_answers_and_leaves_nothing_behind() -> None:
    with serve(write(), process=True, server="daphne", name="chat") as server:
        assert isinstance(server, DaphneServer)
        assert repr(server) == (
            f"<chat: an ASGI application on Daphne in another process, at {server.url()}>"
        )
        nonce, pid = over_http(server, "room").split()
        daphne = psutil.Process(int(pid))
        guard = psutil.Process(server.pid)
        assert nonce == "one"
        assert daphne.parent() == guard
        listening = [c for c in daphne.net_connections(kind="tcp") if c.status == "LISTEN"]
        assert [c.laddr for c in listening] == [("127.0.0.1", server.port)]
        assert over_websocket(server, "hello") == "hello"
        server.wait_for("closed with 1000")
        said = list(server.log)
        assert said[:3] == ["imported", "asked for /room", "chat: heard hello"]
        assert said[3].endswith("UserWarning: closed with 1000")
    assert not daphne.is_running()
    assert not guard.is_running()
    assert refused(server)
    assert server.log[0] == "imported"
    server.stop()


def test_an_exception_closes_the_connection_and_is_in_the_log() -> None:
    """Daphne looks for exceptions once a second."""
    with serve(write(), process=True, server="daphne") as server:
        assert "500 Internal Server Error" in over_http(server, "fail")
        server.wait_for("daphne.server: Exception inside application: 'm': KeyError: 'm'")
        assert len(server.log) == 3


def test_a_stop_cuts_the_clients_off_as_daphne_does() -> None:
    server = serve(write(), process=True, server="daphne")
    with open_websocket(server) as client:
        client.send("hello")
        client.recv(timeout=DEADLINE)
        server.stop()
        with pytest.raises(ConnectionClosedError) as caught:
            client.recv(timeout=DEADLINE)
    assert caught.value.rcvd is None, "no close frame"


def test_the_same_name_again_runs_the_new_code() -> None:
    first = serve(write("first"), process=True, server="daphne", name="chat")
    one = over_http(first, "").split()
    # Of another length: Python takes a file of the same second and size for the one that it has compiled.
    second = serve(write("second"), process=True, server="daphne", name="chat")
    two = over_http(second, "").split()
    assert (one[0], two[0]) == ("first", "second")
    assert not first.running
    assert not psutil.pid_exists(int(one[1]))


def test_options_reach_daphne() -> None:
    source = "async def app(scope, receive, send):\n    await receive()\n    await receive()"
    options = {"websocket_connect_timeout": 0, "ping_interval": 1, "server_name": "ours"}
    with serve(write(source=source), process=True, server="daphne", **options) as server:
        # Never accepted: refused by the first check, which comes within two seconds.
        assert over_handshake(server.port).startswith("HTTP/1.1 403 ")
    with pytest.raises(RuntimeError, match="unexpected keyword argument 'pong'"):
        serve(write(), process=True, server="daphne", pong=1)


def over_handshake(port: int) -> str:
    request = (
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
        client.sendall(request.encode())
        return client.recv(1000).decode()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this"),
        ("app = 5", "TypeError: Daphne runs an ASGI application (scope, receive, send), not 5."),
    ],
)
def test_what_cannot_start_tells_its_caller(source: str, said: str) -> None:
    with pytest.raises(RuntimeError, match="^The server 'chat' did not start: ") as caught:
        serve(write(source=source), process=True, server="daphne", name="chat")
    assert said in str(caught.value)
    assert not psutil.Process().children()


def test_a_process_of_its_own_is_asked_for() -> None:
    async def app(scope: object, receive: object, send: object) -> None: ...

    for wrong in (app, write()):
        with pytest.raises(ValueError, match="Twisted") as caught:
            serve(wrong, server="daphne")
        line = str(caught.value).split("\n")[-1]
        assert line == 'serve("package.module:app", process=True, server="daphne")'
        compile(line, "cell", "exec")
    with pytest.raises(ValueError, match=r"on 'uvicorn' or on 'daphne', .* none on 'hypercorn'\."):
        serve(write(), process=True, server="hypercorn")


OWNER = """
import json, sys
import psutil
from helpers import serve

server = serve("daphne_module:app", process=True, server="daphne")
print(json.dumps([process.pid for process in psutil.Process().children(recursive=True)]), flush=True)
sys.stdin.read()
"""


def test_it_ends_with_a_kernel_that_is_killed() -> None:
    write()
    with subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as owner:
        assert owner.stdout is not None
        processes = [psutil.Process(pid) for pid in json.loads(owner.stdout.readline())]
        assert len(processes) == 2
        os.killpg(owner.pid, signal.SIGKILL)
    assert eventually(lambda: not any(process.is_running() for process in processes))
