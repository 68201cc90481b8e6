"""A cluster comes up or says what did not; what ends by itself is named; and nothing outlives anything."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from conftest import DEADLINE, eventually
from redis import Redis
from websockets.sync.client import connect

from helpers import tap
from helpers.broker import program as valkey
from helpers.cluster import Cluster, cluster

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no Valkey for Windows")

APPLICATION = """
import os
import sys

async def app(scope, receive, send):
    if scope["type"] == "http":
        told = f"{os.environ['NODE']} {os.getpid()} {os.environ.get('QUEUE')} {os.environ.get('WORD')}"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": told.encode()})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": os.environ["NODE"]})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        print("somebody has left")
"""

APP = "cluster_module:app"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of one's own, with an application, and without a REDIS_URL."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", "")  # so that it is put back, whatever a test sets
    monkeypatch.delenv("REDIS_URL")
    Path("cluster_module.py").write_text(APPLICATION)
    return tmp_path


def ask(started: Cluster, times: int = 1, **headers: str) -> list[list[str]]:
    """Return the answers to so many requests, in order: the node, its process, its queue and its word."""
    with httpx.Client(trust_env=False, headers=headers, timeout=DEADLINE) as web:
        return [web.get(started.url()).text.split() for _ in range(times)]


def answering(started: Cluster, times: int = 4) -> list[str]:
    """Return the numbers of the nodes that answer so many requests, in order."""
    return [answer[0] for answer in ask(started, times)]


def processes(guard: int) -> list[psutil.Process]:
    """Return a guard and all that it guards."""
    parent = psutil.Process(guard)
    return [parent, *parent.children(recursive=True)]


def everything() -> list[psutil.Process]:
    """Return all processes below this one."""
    return psutil.Process().children(recursive=True)


def gone(these: list[psutil.Process]) -> bool:
    """Whether none of them runs. One whose parent was killed may still wait for the system to take note."""

    def ended(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        return True

    return eventually(lambda: all(map(ended, these)))


def test_it_answers_as_one_server_and_leaves_nothing_behind(folder: Path) -> None:
    with cluster(APP, queue="QUEUE", env={"WORD": "given"}) as started:
        assert answering(started) == ["0", "1", "0", "1"], "each node in turn"
        told = {answer[1]: answer[2:] for answer in ask(started, 2)}
        assert list(told.values()) == [[started.broker.url, "given"]] * 2
        alive = everything()
        assert {int(pid) for pid in told} < {process.pid for process in alive}
        with Redis.from_url(started.broker.url) as redis:
            assert redis.ping()
        with tap(started) as wire, connect(wire.ws_url(), proxy=None) as client:
            assert client.recv(DEADLINE) in ("0", "1")
        assert wire.recording.connections == 1
        assert started.browser_url("/room") == f"http://127.0.0.1:{started.port}/room"
        assert repr(started) == f"<cluster: 2 nodes behind nginx, at {started.url()}>"
        assert f"127.0.0.1:{started.nodes[1].port}" in started.balancer.config
        started.wait_for("GET / 200", count=6)
        assert started.processes == {"nodes": 2, "broker": 1, "balancer": 2}
        assert eventually(
            lambda: sum("somebody has left" in node.log for node in started.nodes) == 1
        )
    assert gone(alive)
    assert repr(started) == "<cluster: 2 nodes behind nginx, stopped>"
    assert {path.name for path in folder.iterdir()} <= {"cluster_module.py", "__pycache__"}
    started.stop()
    with pytest.raises(RuntimeError, match="is stopped"):
        started.restart(0)


def test_sticky_clients_stay_where_they_are() -> None:
    with cluster(APP, policy="sticky") as started:
        clients = [answering(started), answering(started)]
        assert [set(client) for client in clients] in ([{"0"}, {"1"}], [{"1"}, {"0"}])
        with pytest.raises(RuntimeError, match="has no broker") as caught:
            _ = started.broker
        assert str(caught.value).endswith('cluster("package.module:app", queue="QUEUE_URL")')


def test_a_node_is_killed_and_comes_back_where_it_was() -> None:
    with cluster(APP, name="pair") as started:
        port = started.nodes[0].port
        killed = processes(started.nodes[0].pid)
        with connect(started.nodes[0].ws_url(), proxy=None) as client:
            client.recv(DEADLINE)
            started.kill(0)
            with pytest.raises(Exception, match="no close frame"):
                client.recv(DEADLINE)
        assert gone(killed)
        assert not started.nodes[0].running
        started.kill(0)
        assert answering(started) == ["1"] * 4, "nginx goes on to the other"
        started.check()
        started.restart(0)
        assert started.nodes[0].port == port
        assert sorted(answering(started)) == ["0", "0", "1", "1"]
        before = processes(started.nodes[1].pid)
        started.restart(1)  # one that runs
        assert gone(before)
        assert sorted(answering(started)) == ["0", "0", "1", "1"]


def test_the_broker_goes_and_comes_back() -> None:
    with cluster(APP, nodes=1, queue="QUEUE") as started:
        url = started.broker.url
        with started.broker.stopped():
            started.check()
            assert answering(started, 1) == ["0"]
        assert started.broker.url == url
        with Redis.from_url(url) as redis:
            assert redis.ping()


PARTS = {"Node 0": ".restart(0)", "The broker": "cluster(…)", "The balancer": "cluster(…)"}


@contextlib.contextmanager
def one_node() -> Iterator[tuple[Cluster, dict[str, list[psutil.Process]]]]:
    with cluster(APP, nodes=1, queue="QUEUE", name="shop") as started:
        guards = (started.nodes[0].pid, started.broker._child.pid, started.balancer._child.pid)
        yield started, dict(zip(PARTS, map(processes, guards), strict=True))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("which", [0, 1], ids=["guard", "server"])
def test_what_ends_by_itself_is_named_and_takes_nothing_with_it(part: str, which: int) -> None:
    status = f"with status {128 + signal.SIGKILL}"
    alive: list[psutil.Process] = []
    asked: list[str] = []

    def block() -> None:
        with one_node() as (started, found):
            alive.extend(everything())
            found[part][which].kill()
            assert eventually(lambda: started._obituary())
            for ask_for in (started.url, started.ws_url, started.browser_url):
                with pytest.raises(RuntimeError) as error:
                    ask_for()
                asked.append(str(error.value))

    with pytest.raises(RuntimeError) as caught:
        block()
    for said in (str(caught.value), *asked):
        assert said.startswith(f"{part} of shop has ended, {status}, and nobody here has asked")
        assert PARTS[part] in said
        assert said.count("has ended") == 1, "and nothing else is blamed"
    assert gone(alive)


def test_the_error_that_it_caused_is_kept_beside_it() -> None:
    """A connection breaks the moment its server dies, and the guard needs another one to notice."""

    def block() -> None:
        with one_node() as (started, found), connect(started.ws_url(), proxy=None) as client:
            client.recv(DEADLINE)
            found["Node 0"][1].kill()
            client.recv(DEADLINE)

    with pytest.raises(RuntimeError, match="^Node 0 of shop has ended") as caught:
        block()
    assert "ConnectionClosed" in type(caught.value.__cause__).__name__
    assert gone(everything())


def test_other_errors_and_interrupts_pass() -> None:
    def block(error: type[BaseException]) -> None:
        with one_node() as (_, found):
            if error is KeyboardInterrupt:
                found["Node 0"][1].kill()
            raise error

    for error in (KeyError, KeyboardInterrupt):
        with pytest.raises(error):
            block(error)
    assert gone(everything())


NAMES = ["guard", "broker", "guard", "node", "guard", "balancer"]


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_process_that_is_killed_while_it_starts_is_named(number: int) -> None:
    """The first process that appears, the second, and so on, each as soon as it is there."""
    killed: list[psutil.Process] = []
    stopping = threading.Event()

    def kill() -> None:
        seen: list[int] = []
        while not stopping.is_set() and not killed:
            for process in psutil.Process().children(recursive=True):
                if process.pid not in seen:
                    seen.append(process.pid)
                    if len(seen) == number + 1:
                        process.kill()
                        killed.append(process)

    def block() -> None:
        with cluster(APP, nodes=1, queue="QUEUE", name="shop") as started:
            killer.join(DEADLINE)
            eventually(lambda: started._obituary())

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(RuntimeError) as caught:
            block()
    finally:
        stopping.set()
        killer.join()
    assert killed
    assert "shop" in str(caught.value)
    assert "status" in str(caught.value)
    assert gone([*killed, *everything()])


def test_what_cannot_start_says_why_and_leaves_nothing() -> None:
    with pytest.raises(RuntimeError) as caught:
        cluster("cluster_module:nobody", name="shop")
    said = str(caught.value)
    assert "'shop, node 0' did not start" in said
    assert "'shop, node 1' did not start" in said
    assert "has no attribute 'nobody'" in said
    assert everything() == []
    with pytest.raises(ValueError, match="at least one node"):
        cluster(APP, nodes=0)


def test_the_same_name_again_replaces_it() -> None:
    first = cluster(APP, nodes=1)
    alive = everything()
    second = cluster(APP, nodes=1)
    assert gone(alive)
    assert not first.running
    assert answering(second) == ["0"] * 4
    with pytest.raises(httpx.ConnectError):
        answering(first)
    second.stop()
    assert everything() == []


KILLED = """
import os, signal
import psutil
from helpers.cluster import cluster

started = cluster("cluster_module:app", queue="QUEUE")
print(*[process.pid for process in psutil.Process().children(recursive=True)], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_outlives_a_kernel_that_is_killed() -> None:
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    kernel = subprocess.run(
        [sys.executable, "-c", KILLED],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert kernel.returncode == -signal.SIGKILL, kernel.stderr
    pids = [int(pid) for pid in kernel.stdout.split()]
    assert len(pids) >= 8, f"two nodes, {valkey()}, nginx and its worker, and the guards"

    def lives(pid: int) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        return False

    assert eventually(lambda: not any(map(lives, pids)))


def test_an_interrupt_while_the_nodes_start_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads that start them go on for a moment; what they have started is stopped, too."""
    started = []

    class Interrupted(ThreadPoolExecutor):
        def __exit__(self, *exc_info: object) -> None:
            super().__exit__(None, None, None)
            if not started:
                started.extend(psutil.Process().children())
                raise KeyboardInterrupt

    monkeypatch.setattr("helpers.cluster.ThreadPoolExecutor", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        cluster(APP)
    assert len(started) == 2
    assert eventually(lambda: not any(process.is_running() for process in started))


def test_who_ends_because_it_was_asked_to_is_not_blamed_in_the_meantime() -> None:
    with cluster(APP, nodes=1) as started:
        child = started.nodes[0]._child
        assert child is not None
        child.stop()  # it has ended, and its server has not noticed yet, as in the middle of a restart
        started.check()
