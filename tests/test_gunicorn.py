"""gunicorn in processes of its own: it answers, says what it does, and ends with whoever started it."""

from __future__ import annotations

from pathlib import Path

import httpx
import psutil
import pytest
import socketio
from conftest import DEADLINE, eventually

from helpers import serve
from helpers.server import GunicornServer

pytest.importorskip("gunicorn", reason="there is no gunicorn for this system")

APPLICATION = """
import os
from flask import Flask
from flask_socketio import SocketIO, emit

app = Flask("chat")
sio = SocketIO(app, async_mode="threading")

@app.get("/")
def pid():
    print("asked")
    return str(os.getpid())

@app.get("/fail")
def fail():
    raise KeyError("m")

@sio.event
def say(text):
    emit("said", text)
"""

TARGET = "gunicorn_module:app"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gunicorn_module.py").write_text(APPLICATION)


def test_it_answers_and_leaves_nothing_behind() -> None:
    with serve(TARGET, process=True, server="gunicorn", name="chat") as server:
        assert isinstance(server, GunicornServer)
        assert repr(server) == (
            f"<chat: a Flask application on gunicorn in another process, at {server.url()}>"
        )
        with httpx.Client(base_url=server.url(), trust_env=False) as web:
            worker = psutil.Process(int(web.get("/").text))
            assert web.get("/fail").status_code == 500
        server.wait_for("KeyError: 'm'")
        family = psutil.Process(server.pid).children(recursive=True)
        assert len(family) == 2, "the one that forks, and one worker"
        assert worker in family
        with socketio.SimpleClient(handle_sigint=False, reconnection=False) as client:
            client.connect(server.url(), transports=["websocket"])
            client.emit("say", "hello")
            assert client.receive(DEADLINE) == ["said", "hello"]
        port = server.port
    assert eventually(lambda: not any(process.is_running() for process in family))
    assert "asked" in server.log
    again = serve(TARGET, process=True, server="gunicorn", name="chat", port=port)
    assert again.port == port, "where it was, although connections to it have just been closed"
    again.stop()


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("gunicorn_module:nobody", {}, "has no attribute 'nobody'"),
        (TARGET, {"colour": "red"}, "No configuration setting for: colour"),
    ],
    ids=["application", "setting"],
)
def test_what_cannot_start_says_why(target: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        serve(target, process=True, server="gunicorn", **options)


def test_it_needs_processes_of_its_own() -> None:
    with pytest.raises(ValueError, match="processes of its own") as caught:
        serve(TARGET, server="gunicorn")
    assert str(caught.value).endswith(
        'serve("package.module:app", process=True, server="gunicorn")'
    )
