"""One service on four stacks: the same is said and heard on each, and measured where it says."""

from __future__ import annotations

import select

import pytest

from helpers import broker, serve, stacks

NAMES = ["websockets", "Channels", "Flask-SocketIO", "python-socketio"]


def test_there_are_four():
    assert list(stacks.STACKS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_stack_is_one_service(name):
    stack = stacks.STACKS[name]
    with stacks.start(stack) as server:
        with stacks.clients(stack, server, 20) as everybody:
            ada, bob, *_ = everybody
            assert len(stacks.echo(ada, 5)) == 5
            ada.say("!and this to all")
            assert {client.hear() for client in everybody} == {"!and this to all"}
            ada.say("early")
            with pytest.raises(RuntimeError, match="Said 'late', and heard 'early'"):
                stacks.echo(ada, 1, "late")
            assert ada.hear() == "late"
            assert len(stacks.fan_out(everybody, 3)) == 3
            assert 10e6 < stacks.memory(server) < 500e6
        plain = (11, 7)  # two bytes of frame each way, and the four of a mask
        assert stacks.message_bytes(stack, server, "hello") == (
            plain if name in NAMES[:2] else (23, 20)
        )
    assert list(server.log) == []


async def deaf(connection):
    await connection.wait_closed()


def test_a_message_that_does_not_reach_everybody_is_told():
    stack = stacks.STACKS["websockets"]
    with (
        stacks.start(stack) as server,
        serve(deaf, compression=None) as elsewhere,
        stacks.clients(stack, server, 3) as everybody,
        stacks.Client(stack, elsewhere) as stranger,
        pytest.raises(TimeoutError, match=r"3 of 4 clients had message 0 after 1 s"),
    ):
        stacks.fan_out([*everybody, stranger], 1, timeout=1)


def test_a_server_of_this_process_has_no_memory_of_its_own():
    with serve(deaf) as server, pytest.raises(TypeError, match="start it with process=True"):
        stacks.memory(server)


def test_a_server_that_hangs_up_is_named():
    async def leaves(connection):
        await connection.recv()

    with (
        serve(leaves, compression=None) as server,
        stacks.Client(stacks.STACKS["websockets"], server) as client,
    ):
        client.say("anybody?")
        with pytest.raises(ConnectionError, match="websockets closed the connection"):
            client.hear()
        client.close()
        client.close()


@pytest.mark.parametrize(
    ("name", "layer"),
    [("Channels", "core"), ("Channels", "pubsub"), ("Flask-SocketIO", ""), ("python-socketio", "")],
)
def test_two_processes_share_a_queue(name, layer):
    stack = stacks.STACKS[name]
    with broker() as queue:
        env = {"STACKS_QUEUE": queue.url, "STACKS_LAYER": layer}
        with (
            stacks.start(stack, name="one", env=env) as one,
            stacks.start(stack, name="two", env=env) as two,
            stacks.Client(stack, one) as ada,
            stacks.Client(stack, two) as bob,
        ):
            for number in range(200):  # until the second process listens
                ada.say(f"!{number}")
                assert ada.hear() == f"!{number}"
                if select.select([bob], [], [], 0.05)[0]:
                    break
            assert bob.hear().startswith("!")
