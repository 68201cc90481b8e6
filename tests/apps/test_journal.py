"""The journal keeps each entry once, says how it is, and a restart under load costs nothing that was acknowledged."""

from __future__ import annotations

import json
import sys

import httpx
import pytest
from conftest import eventually
from websockets.sync.client import connect

from helpers import broker, serve
from helpers.apps.journal import client
from helpers.apps.journal.client import writing
from helpers.cluster import Cluster, cluster
from helpers.history import History
from helpers.server import Server

APP = "helpers.apps.journal.app:app"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no Valkey for Windows")


def ask(where: Server, path: str) -> tuple[int, str]:
    answer = httpx.get(where.url(path), trust_env=False, timeout=30)
    return answer.status_code, answer.text


def people(where: Server) -> int:
    """Return how many connections a process has."""
    return int(
        dict(line.split() for line in ask(where, "/metrics")[1].splitlines())["journal_connections"]
    )


def test_it_keeps_once_tells_all_and_says_how_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "")
    monkeypatch.delenv("REDIS_URL")
    with broker("journal, broker") as store:
        env = {"QUEUE_URL": store.url}
        with serve(APP, name="journal", process=True, env=env, timeout=30) as server:
            assert ask(server, "/healthz") == (200, "ready")
            assert ask(server, "/x")[0] == 404
            with connect(server.ws_url("/?have=0"), proxy=None) as one:
                for number in (0, 1, 1):
                    one.send(json.dumps(["a", number]))
                came = [json.loads(one.recv(30)) for _ in range(5)]
                assert [said["entry"] for said in came if "entry" in said] == [["a", 0], ["a", 1]]
                assert [said["ack"] for said in came if "ack" in said] == [
                    ["a", 0],
                    ["a", 1],
                    ["a", 1],
                ]
                with connect(server.ws_url("/?have=1"), proxy=None) as two:
                    assert json.loads(two.recv(30)) == {"entry": ["a", 1]}
                    assert eventually(lambda: people(server) == 2)
            assert eventually(lambda: people(server) == 0)
            said = ask(server, "/metrics")[1].split()
            assert said[3::2] == ["2", "3"], "came, acknowledged"
            with store.stopped():
                assert ask(server, "/healthz") == (503, "no broker")
            assert eventually(lambda: ask(server, "/healthz")[0] == 200)
            assert_writers_go_on(server, env)


def assert_writers_go_on(server: Server, env: dict[str, str]) -> None:
    """A writer whose server ends comes back to the next at its address, and nothing is lost or twice."""
    history = History()
    with writing(server, history, 2) as writers:
        assert eventually(lambda: min(writer.written for writer in writers) > 2)
        before = [writer.written for writer in writers]
        port = server.port
        server.stop()
        assert eventually(lambda: all(1012 in writer.codes for writer in writers))
        with serve(APP, name="journal", process=True, env=env, port=port, timeout=30):
            assert eventually(
                lambda: all(w.written > b + 2 for w, b in zip(writers, before, strict=True))
            )
            for writer in writers:
                writer.finish()
            assert eventually(lambda: all(writer.finished for writer in writers))
            total = sum(writer.written for writer in writers)
            assert eventually(lambda: all(writer.heard == total for writer in writers))
    verdict = history.verdict()
    assert verdict.exactly_once, verdict
    assert verdict.in_order
    assert verdict.acked == verdict.sent == total
    assert all(0 <= pause <= client.JITTER for writer in writers for pause in writer.pauses)
    assert writers[0].pauses[0] != writers[1].pauses[0]


def replace(journal: Cluster, number: int) -> None:
    """Restart a node as notebook 15 does."""
    everybody = sum(map(people, journal.nodes))
    journal.balancer.reload(resting=journal.nodes[number])
    journal.restart(number)
    assert eventually(lambda: ask(journal.nodes[number], "/healthz")[0] == 200)
    journal.balancer.reload(journal.nodes)
    assert eventually(lambda: sum(map(people, journal.nodes)) == everybody)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_twenty_restarts_under_load_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "")
    monkeypatch.delenv("REDIS_URL")
    history = History()
    with (
        cluster(APP, queue="QUEUE_URL", name="journal") as journal,
        writing(journal, history, 6) as writers,
    ):
        assert eventually(lambda: sum(map(people, journal.nodes)) == 6)
        for restart in range(20):
            replace(journal, restart % 2)
    verdict = history.verdict()
    assert verdict.exactly_once, verdict
    assert verdict.in_order, verdict
    assert verdict.acked == verdict.sent
    assert {code for writer in writers for code in writer.codes} == {1012}
    assert all(len(writer.codes) in (19, 20) for writer in writers)
