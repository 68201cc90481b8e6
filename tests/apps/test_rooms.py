"""The rooms: they end at the border of a process, unless a broker carries them further."""

from __future__ import annotations

import pytest
from websockets.sync.client import ClientConnection, connect

from helpers import serve
from helpers.broker import broker
from helpers.server import Server

ROOMS = "helpers.apps.rooms.asgi:application"


def come(server: Server, room: str = "tea") -> ClientConnection:
    return connect(server.ws_url(f"/ws/rooms/{room}/"), proxy=None)


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_in_memory_another_process_is_another_room(server: str) -> None:
    one = serve(ROOMS, process=True, name="one", server=server)
    two = serve(ROOMS, process=True, name="two", server=server)
    with one, two, come(one) as ann, come(one) as ben, come(two) as cem:
        ann.send("hello")
        assert [client.recv(timeout=5) for client in (ann, ben)] == ["hello", "hello"]
        cem.send("alone")
        assert cem.recv(timeout=5) == "alone"


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_a_redis_that_the_environment_names_joins_the_processes(server: str) -> None:
    env = {"ROOMS_REDIS": broker("rooms").url}
    one = serve(ROOMS, process=True, name="one", server=server, env=env)
    two = serve(ROOMS, process=True, name="two", server=server, env=env)
    with one, two, come(one) as ann, come(two) as ben, come(two, "coffee") as cem:
        ann.send("hello")
        assert [client.recv(timeout=5) for client in (ann, ben)] == ["hello", "hello"]
        cem.send("alone")
        assert cem.recv(timeout=5) == "alone"
