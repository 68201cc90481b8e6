"""A crowd reads all that comes, in order, is fed no faster than it reads, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import resource
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from websockets.exceptions import InvalidHandshake

from helpers import serve, tap
from helpers.crowd import crowd, raise_file_limit, small_send_buffer


@pytest.fixture
def room():
    """Serve a room whose members are at hand."""
    members: set[Any] = set()

    async def room(connection):
        members.add(connection)
        print("joined")
        try:
            await connection.wait_closed()
        finally:
            members.discard(connection)
            print("left", connection.close_code)

    async def publish(message):
        for member in list(members):
            await member.send(message)

    with serve(room) as server:
        yield server, publish, members


def test_each_client_gets_every_message_in_order(room):
    server, publish, _ = room
    messages = [str(number) for number in range(50)]
    with crowd(server, 3) as clients:
        server.wait_for("joined", count=3)
        clients.feed(publish, messages, burst=7)
        assert clients.received == [messages] * 3
        assert clients.counts == [50] * 3
        clients.feed(publish, ["one more"])
        assert clients.counts == [51] * 3


def test_a_burst_waits_until_the_one_before_has_arrived(room):
    server, publish, _ = room
    ahead = []
    with crowd(server, 2) as clients:
        server.wait_for("joined", count=2)

        async def noting(message):
            ahead.append(int(message) - min(clients.counts))
            await publish(message)

        clients.feed(noting, [str(number) for number in range(50)], burst=5)
        clients.feed(noting, [str(number) for number in range(50, 100)], burst=5)
    assert len(ahead) == 100
    assert max(ahead) < 5


def test_a_publisher_that_waits_too_long_is_given_up(room):
    server, _, _ = room

    async def stall(message):
        await asyncio.Event().wait()

    with crowd(server, 1) as clients:
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            clients.feed(stall, ["x"], timeout=0.05)
        assert time.monotonic() - start < 5


def test_waiting_for_what_never_comes_names_the_counts(room):
    server, publish, _ = room
    with crowd(server, 2) as clients:
        server.wait_for("joined", count=2)
        clients.feed(publish, ["x"])
        with pytest.raises(TimeoutError, match=r"\[1, 1\]"):
            clients.wait(2, timeout=0.05)


def test_they_say_goodbye_and_their_thread_ends(room):
    server, _, members = room
    before = threading.active_count()
    clients = crowd(server, 5)
    server.wait_for("joined", count=5)
    clients.stop()
    clients.stop()
    server.wait_for("left 1000", count=5)
    assert not members
    assert threading.active_count() == before


def test_a_server_that_leaves_first_is_no_error(room):
    server, publish, _ = room
    with crowd(server, 2) as clients:
        server.wait_for("joined", count=2)
        clients.feed(publish, ["x"])
        server.stop()
    assert clients.counts == [1, 1]


def test_through_a_tap_it_reads_but_cannot_publish(room):
    server, publish, _ = room
    with tap(server) as wire, crowd(wire, 2) as clients:
        server.wait_for("joined", count=2)
        server.run(publish("hello"))
        clients.wait(1)
        with pytest.raises(TypeError, match="tap"):
            clients.feed(publish, ["x"])
    assert wire.recording.connections == 2


def test_without_a_server_there_is_no_crowd(room):
    server, _, _ = room
    before = threading.active_count()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        crowd(server, 2)
    assert threading.active_count() < before


def test_a_refused_handshake_leaves_nothing_open():
    def refuse(connection, request):
        return connection.respond(403, "no")

    async def unreached(connection): ...

    with serve(unreached, process_request=refuse) as server, pytest.raises(InvalidHandshake):
        crowd(server, 2)


def test_a_small_send_buffer_is_smaller(room):
    server, _, members = room
    sizes = []
    with crowd(server, 1):
        server.wait_for("joined")
        [member] = members
        sock = member.transport.get_extra_info("socket")
        for _ in range(2):
            sizes.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))
            small_send_buffer(member, 8_192)
    assert sizes[1] < sizes[0]
    assert 8_192 <= sizes[1] <= 2 * 8_192


def test_the_limit_of_files_is_raised_as_far_as_it_goes():
    # In a process of its own: a hard limit cannot be raised again.
    program = """
import resource
from helpers.crowd import raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
print(raise_file_limit(50), resource.getrlimit(resource.RLIMIT_NOFILE))
print(raise_file_limit(200), resource.getrlimit(resource.RLIMIT_NOFILE))
try:
    raise_file_limit(400)
except RuntimeError as error:
    print("300" in str(error), "400" in str(error))
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert said.splitlines() == ["100 (100, 300)", "200 (200, 300)", "True True", "(200, 300)"]


def test_a_limit_that_is_high_enough_stays():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert raise_file_limit(1) == before[0]
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
