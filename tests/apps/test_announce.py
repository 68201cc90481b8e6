"""Announcements reach everybody who is connected, on every stack, and the client tells a receipt from none."""

from __future__ import annotations

import sys

import pytest
from conftest import DEADLINE

from helpers import serve
from helpers.apps.announce.client import Client, listening
from helpers.cluster import cluster

APPS = "helpers.apps.announce."


@pytest.mark.parametrize("app", ["channels_app", "flask_app", "asgi_app"])
def test_what_one_says_all_hear_and_who_said_it_gets_a_receipt(app: str) -> None:
    speaks = {"socketio": app != "channels_app"}
    with serve(f"{APPS}{app}:app", process=True, env={"NODE": "7"}) as server:
        with Client(server, **speaks) as ann, Client(server, **speaks) as ben:
            assert (ann.node, ben.node) == ("7", "7")
            assert ann.say(1)
            assert ben.say(2)
            assert ann.hears(2)
            assert ben.hears(2)
            assert ann.heard == ben.heard == [1, 2]
            assert not ben.hears(3, timeout=0.01)
            assert not ben.ended
            ben._connection.close()
            assert ben.ended
            assert not ben.hears(3)
            assert ben.say(3), "who was cut off comes back"
            assert ann.hears(3)
        silent = Client(server, **speaks)
        server.stop()
        assert not silent.hears(4, timeout=DEADLINE)
        assert silent.ended
        assert not silent.say(4), "nobody is there"
        silent.close()
    with pytest.raises(ConnectionError, match="refused"):
        Client(server, **speaks)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no Valkey for Windows")
def test_listening_waits_until_every_node_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    with cluster(f"{APPS}asgi_app:app", queue="QUEUE_URL", name="joint") as joint:
        with Client(joint.nodes[0], socketio=True) as ann:
            with pytest.raises(TimeoutError, match="nodes of joint do not all listen"):
                listening(joint, timeout=0.1)
            with Client(joint.nodes[1], socketio=True) as ben:
                listening(joint)
                ann.say(1)
                assert ben.hears(1)
        assert joint.processes == {"nodes": 2, "broker": 1, "balancer": 2}
