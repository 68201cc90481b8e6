"""What is measured is all there, exact where it can be, and leaves nothing behind, however it ends."""

from __future__ import annotations

import _thread
import builtins
import contextlib
import re
import threading
import time

import h11
import IPython.display
import pytest

from helpers import measure
from helpers.apps.updates import update
from helpers.tap import Recording

COUNT = 40


@pytest.fixture(scope="module")
def one_way():
    return measure.updates(count=COUNT)


@pytest.fixture(scope="module")
def both_ways():
    return measure.round_trips(count=COUNT)


def sizes(run, sender):
    """Return the sizes of what one side said, without the ends of its streams."""
    return [m.size for m in run.messages if m.sender == sender and m.size]


# One way


def test_every_update_arrives_once_in_order_over_each_transport(one_way):
    assert tuple(one_way) == measure.TRANSPORTS
    for name, run in one_way.items():
        said = b" ".join(m.body for m in run.messages if m.sender == "server")
        numbers = [int(number) for number in re.findall(rb'\bid\\?": *(\d+)', said)]
        assert numbers == list(range(COUNT)), name
        assert run.updates == COUNT
        assert run.transport == name


def test_no_update_is_there_before_it_is_due(one_way):
    for name, run in one_way.items():
        assert min(run.latencies) > -5, name  # a clock may be a little early
        assert max(run.latencies) < 10_000, name
        assert min(run.latencies) <= run.p50 <= run.p99 <= max(run.latencies), name
        assert min(run.latencies) <= run.quiet <= max(run.latencies), name


def test_what_a_websocket_costs_is_its_frames_and_its_handshake(one_way):
    run = one_way["WebSocket"]
    handshake, *frames, close = sizes(run, "server")
    assert frames == [2 + 30] * COUNT
    assert close == 2 + 2
    assert run.down == handshake + 32 * COUNT + 4
    request, goodbye = sizes(run, "client")
    assert goodbye == 2 + 4 + 2
    assert run.up == request + goodbye


def test_what_sse_costs_is_its_fields_and_its_chunks(one_way):
    run = one_way["SSE"]
    events = [f"id: {number}\ndata: {update(number)}\n\n" for number in range(COUNT)]
    chunks = [len(f"{len(event):x}\r\n{event}\r\n") for event in events]
    head, *said, end = sizes(run, "server")
    assert said == chunks
    assert end == len("0\r\n\r\n")
    assert run.down == head + sum(chunks) + end
    assert sizes(run, "client") == [run.up]


def test_the_bytes_of_sse_and_websocket_are_the_same_in_every_run(one_way):
    again = measure.updates(["SSE", "WebSocket"], count=COUNT)
    for name, run in again.items():
        assert (run.up, run.down) == (one_way[name].up, one_way[name].down), name
        assert run.bytes_per_update == (run.up + run.down) / COUNT


def test_connections_and_requests(one_way):
    counted = {name: (run.connections, run.requests) for name, run in one_way.items()}
    for name in ("SSE", "WebSocket", "Socket.IO on websocket"):
        assert counted[name] == (1, 1), name
    for name in ("polling", "long polling"):
        assert counted[name][0] == 1, name
    assert 1 <= counted["polling"][1] <= COUNT
    assert 1 <= counted["long polling"][1] <= COUNT
    assert counted["Socket.IO on polling"][0] in (1, 2)  # two, if it says something while it asks
    assert counted["Socket.IO on polling"][1] > 3


def test_a_run_accounts_for_every_byte_by_its_messages(one_way):
    for run in one_way.values():
        assert sum(sizes(run, "client")) == run.up
        assert sum(sizes(run, "server")) == run.down
        assert run.messages is run.messages  # decoded once


# Both ways


def test_every_message_comes_back_once_in_order_over_each_transport(both_ways):
    assert tuple(both_ways) == measure.TRANSPORTS
    for name, run in both_ways.items():
        assert run.updates == COUNT
        for sender in ("client", "server"):
            said = b" ".join(m.body for m in run.messages if m.sender == sender)
            numbers = [int(number) for number in re.findall(rb"\b\d{30}\b", said)]
            assert numbers == list(range(COUNT)), f"{name}, from the {sender}"


def test_what_both_ways_cost(both_ways):
    websocket = both_ways["WebSocket"]
    request, *frames, goodbye = sizes(websocket, "client")
    assert (websocket.connections, websocket.requests) == (1, 1)
    assert (frames, goodbye) == ([2 + 4 + 30] * COUNT, 8)
    sse = both_ways["SSE"]
    posts = [m for m in sse.messages if m.data.startswith(b"POST ")]
    assert (sse.connections, sse.requests, len(posts)) == (2, 1 + COUNT, COUNT)
    assert len({post.size for post in posts}) == 1
    assert sum(sizes(sse, "client")) == sizes(sse, "client")[-1] * COUNT + min(
        m.size for m in sse.messages if m.data.startswith(b"GET ")
    )
    for name in ("polling", "long polling"):
        assert both_ways[name].connections == 2, name
    requests = [m for m in both_ways["polling"].messages if isinstance(m.parsed, h11.Request)]
    assert sum(m.parsed.method == b"POST" for m in requests) == COUNT


def test_what_a_client_says_of_itself_names_no_version(one_way, both_ways):
    for run in (*one_way.values(), *both_ways.values()):
        for message in run.messages:
            if isinstance(message.parsed, h11.Request):
                assert b"python" not in message.data.lower(), run.transport
                assert b"127.0.0.1:" in message.data, run.transport


# Errors and interrupts


@pytest.mark.parametrize("transports", [["carrier pigeon"], ["SSE", "carrier pigeon"], []])
def test_an_unknown_transport_is_refused_with_the_known_ones(transports, belongings):
    before = belongings()
    with pytest.raises(ValueError, match="choose from") as refused:
        measure.updates(transports)
    assert all(name in str(refused.value) for name in measure.TRANSPORTS)
    assert belongings().more_than(before) == []


@pytest.mark.parametrize("wrong", [{"count": 0}, {"rate": 0}, {"count": -5}])
def test_nothing_cannot_be_measured(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        measure.round_trips(**wrong)


def test_a_client_that_fails_says_why_and_leaves_nothing(monkeypatch, belongings):
    monkeypatch.setattr(measure, "TRANSPORTS", ("carrier pigeon",))
    before = belongings()
    with pytest.raises(RuntimeError, match="KeyError: 'carrier pigeon'"):
        measure.updates(["carrier pigeon"])
    assert belongings().more_than(before) == []


def test_an_interrupt_in_the_middle_leaves_nothing(monkeypatch, belongings, eventually):
    @contextlib.contextmanager
    def interrupted(label, total):
        threading.Timer(0.2, _thread.interrupt_main).start()
        yield lambda done: None

    monkeypatch.setattr(measure, "progress", interrupted)
    before, start = belongings(), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        measure.updates(["SSE"], count=1000, rate=10)
    assert time.monotonic() - start < 10
    assert eventually(lambda: belongings().more_than(before) == [])


# Percentiles and progress


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed():
    values = [(7 * number) % 101 for number in range(101)]  # 0 to 100, shuffled
    for percent in range(1, 101):
        found = measure.percentile(values, percent)
        assert sum(value <= found for value in values) >= percent / 100 * 101
        assert sum(value < found for value in values) < percent / 100 * 101
    assert measure.percentile([3], 50) == measure.percentile([3], 99) == 3
    assert measure.percentile([1] * 99 + [1000], 99) == 1
    assert measure.percentile([2, 1], 0) == 1


def test_a_busy_machine_does_not_change_the_quietest_tenth():
    calm = measure.Run("SSE", [1.0, 3.0, 2.0] * 40, Recording())
    busy = measure.Run("SSE", [*[500.0] * 100, *calm.latencies[:20]], Recording())
    assert calm.quiet == busy.quiet == 2.0
    assert busy.p50 == 500.0
    assert measure.Run("SSE", [7.0], Recording()).quiet == 7.0


def test_there_is_no_percentile_of_nothing():
    with pytest.raises(ValueError, match="no values"):
        measure.percentile([], 50)


def test_progress_shows_nothing_outside_a_notebook(capsys):
    with measure.progress("work", 3) as done:
        for step in range(3):
            done(step + 1)
    assert capsys.readouterr() == ("", "")


def test_progress_shows_one_bar_in_a_notebook_as_text_too(monkeypatch):
    shown = []

    class Handle:
        def update(self, bundle, raw):
            shown.append(bundle)

    def display(bundle, raw, display_id):
        shown.append(bundle)
        return Handle()

    monkeypatch.setattr(builtins, "get_ipython", object, raising=False)
    monkeypatch.setattr(IPython.display, "display", display)
    with measure.progress("a <b>", 2) as done:
        done(1)
        done(2)
    assert [bundle["text/plain"] for bundle in shown] == [
        "a <b>: 0 of 2",
        "a <b>: 1 of 2",
        "a <b>: 2 of 2",
    ]
    assert 'value="2" max="2"' in shown[-1]["text/html"]
    assert "<b>" not in shown[-1]["text/html"]
