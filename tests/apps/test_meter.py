"""The server that tells what it takes tells the truth, and takes no more than it is given."""

from __future__ import annotations

import contextlib

import pytest

from helpers import serve
from helpers.byhand import frame, handshake


@pytest.fixture
def meter():
    with serve("helpers.apps.meter:app", process=True, name="meter") as server:
        yield server


def ask(peer, text):
    peer.send(frame(text))
    return peer.read().payload.decode()


def test_it_echoes_and_counts_its_files(meter):
    with handshake(meter.port) as first:
        assert ask(first, "hello") == "hello"
        alone = int(ask(first, "files"))
        with handshake(meter.port) as second:
            assert ask(second, "hello") == "hello"
            assert int(ask(first, "files")) == alone + 1


def test_its_memory_is_that_of_a_process_with_python(meter):
    with handshake(meter.port) as first:
        assert 5e6 < int(ask(first, "memory")) < 500e6


def test_it_keeps_to_its_limit_to_the_last_file(meter):
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(handshake(meter.port))
        assert ask(first, "limit 40") == "limit 40"
        room = 40 - int(ask(first, "files"))
        for _ in range(room):
            stack.enter_context(handshake(meter.port))
        with pytest.raises(TimeoutError):
            handshake(meter.port, timeout=0.5)
        assert ask(first, "hello") == "hello"
