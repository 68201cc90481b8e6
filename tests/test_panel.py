"""The panel drives the faults of a tap, tells what passes, leaves nothing behind, and says the same in words."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import socket
import sys
import time
import weakref

import nbformat
import pytest
from conftest import DEADLINE
from nbclient import NotebookClient
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from helpers import faults, panel, serve, tap
from helpers.authoring import refresh

module = sys.modules["helpers.panel"]


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def stream(connection):
    for number in range(10_000):
        await connection.send(str(number))
        await asyncio.sleep(0.01)


@pytest.fixture
def wire():
    with serve(echo) as server, tap(server) as wire:
        yield wire


def client(wire):
    return connect(wire.ws_url(), proxy=None, close_timeout=1)


def counts(shown):
    """Return the table of counts that a panel shows."""
    rows = re.findall(r"<th[^>]*>(.*?)</th><td[^>]*>(.*?)</td>", shown._counts.value)
    return {name: re.sub(r"<[^>]+>", "", value).replace("&quot;", '"') for name, value in rows}


def number(shown, name):
    return int(counts(shown)[name].replace(",", ""))


def acting(wire):
    return [str(fault) for fault in wire.faults]


def instances():
    from ipywidgets.widgets.widget import _instances

    return set(_instances)


EVERY = [
    (name, choice, call)
    for name, choices in module.CHOICES.items()
    for choice, call in choices.items()
    if call is not None
]


@pytest.mark.parametrize(("name", "choice", "call"), EVERY, ids=[choice for _, choice, _ in EVERY])
def test_a_list_begins_a_fault_says_it_in_code_and_ends_it(wire, eventually, name, choice, call):
    shown = panel(wire)
    control = shown.controls[name]
    before = control.value
    control.value = choice
    (acts,) = acting(wire)
    during = eval(str(call), {"faults": faults, "wire": wire})  # noqa: S307
    assert str(during.fault) == acts
    assert eventually(lambda: counts(shown)["Faults"] == acts)
    assert counts(shown)["In code"] == f"with {call}:"
    control.value = before
    assert acting(wire) == []
    assert eventually(lambda: counts(shown)["Faults"] == "none")
    assert "In code" not in counts(shown)


def test_there_is_a_control_for_every_fault_of_the_kit(wire):
    kit = {
        name
        for name, value in vars(faults).items()
        if getattr(value, "__annotations__", {}).get("return") == "During"
    }
    offered = {call.name for _, _, call in EVERY} | {"latency"}
    assert kit - offered == {"limit_data", "reset_peer"}  # the two buttons
    assert len(kit) == 9
    assert {"latency", "jitter", "cut", "reset", "heal"} <= set(panel(wire).controls)


def test_each_control_has_a_label(wire):
    for name, control in panel(wire).controls.items():
        if name not in ("latency slider", "jitter slider"):  # their fields have it
            assert control.description, name


def test_a_slider_replaces_its_fault_and_no_moment_is_without(wire):
    shown = panel(wire)
    shown.controls["latency slider"].value = 0.5
    assert acting(wire) == ["latency 500 ms"]
    assert shown.controls["latency"].value == 0.5
    shown.controls["jitter slider"].value = 0.1
    assert acting(wire) == ["latency 500 ms ± 100 ms"]
    shown.controls["latency"].value = 2
    assert acting(wire) == ["latency 2 s ± 100 ms"]
    assert shown.controls["latency slider"].value == 2
    said = [chunk.event for chunk in wire.recording if chunk.sender == "network"]
    assert said == [
        "begins: latency 500 ms",
        "begins: latency 500 ms ± 100 ms",
        "ends: latency 500 ms",
        "begins: latency 2 s ± 100 ms",
        "ends: latency 500 ms ± 100 ms",
    ]
    shown.controls["latency"].value = shown.controls["jitter"].value = 0
    assert acting(wire) == []


def test_a_black_hole_shows_in_the_counts_and_what_it_held_arrives(wire, eventually):
    shown = panel(wire)
    with client(wire) as user:
        user.send("before")
        assert user.recv(timeout=DEADLINE) == "before"
        assert eventually(lambda: number(shown, "Connections open") == 1)
        from_clients, from_server = wire.recording.bytes("client"), wire.recording.bytes("server")
        assert eventually(lambda: number(shown, "Bytes from clients") == from_clients)
        assert number(shown, "Bytes from the server") == from_server
        shown.controls["black hole"].value = "swallows what clients say"
        for _ in range(3):
            user.send("held")
        assert eventually(lambda: number(shown, "Bytes not arrived") == 3 * len("held") + 3 * 6)
        assert number(shown, "Bytes from the server") == from_server
        shown.controls["heal"].click()
        assert [user.recv(timeout=DEADLINE) for _ in range(3)] == ["held"] * 3
        assert eventually(lambda: number(shown, "Bytes not arrived") == 0)
    assert eventually(lambda: number(shown, "Connections open") == 0)
    assert number(shown, "Connections ever") == 1


@pytest.mark.parametrize("name", ["cut", "reset"])
def test_a_button_ends_what_is_open_and_nothing_later(wire, name):
    shown = panel(wire)
    with client(wire) as user:
        shown.controls[name].click()
        with pytest.raises(ConnectionClosedError):
            user.recv(timeout=DEADLINE)
    assert acting(wire) == []
    with client(wire) as user:
        user.send("again")
        assert user.recv(timeout=DEADLINE) == "again"
    assert name in [chunk.event for chunk in wire.recording]


def test_heal_all_sets_every_control_back_and_leaves_the_faults_of_others(wire):
    shown = panel(wire)
    with faults.slicer(wire, 7):
        shown.controls["slices"].value = "of 3 bytes"
        shown.controls["latency"].value = 1
        shown.controls["upgrade"].value = "are refused"
        assert len(acting(wire)) == 4
        shown.heal()
        assert acting(wire) == ["slices of 7 bytes"]
    assert shown.controls["slices"].value == "as they come"
    assert shown.controls["upgrade"].value == "pass"
    assert shown.controls["latency slider"].value == 0


def test_a_second_panel_replaces_the_first_which_heals(wire, eventually):
    before = instances()
    first = panel(wire)
    first.controls["black hole"].value = "swallows both"
    second = panel(wire)
    assert acting(wire) == []
    second.controls["slices"].value = "of 10 bytes"
    assert acting(wire) == ["slices of 10 bytes"]
    first.controls["slices"].value = "of 3 bytes"
    first.close()
    assert acting(wire) == ["slices of 10 bytes"]
    assert module.VIEW not in first._repr_mimebundle_()
    second.close()
    assert acting(wire) == []
    assert instances() == before
    assert eventually(lambda: first._task.done() and second._task.done())


def test_panels_of_two_taps_leave_each_other_alone(wire):
    with tap(wire.server) as other:
        one, two = panel(wire), panel(other)
        one.controls["slices"].value = "of 10 bytes"
        two.controls["slices"].value = "of 3 bytes"
        assert (acting(wire), acting(other)) == (["slices of 10 bytes"], ["slices of 3 bytes"])


def test_it_speaks_about_four_times_a_second_and_only_when_something_changes():
    with serve(stream) as server, tap(server) as wire:
        shown, told = panel(wire), []
        shown._counts.observe(lambda change: told.append(change), "value")
        time.sleep(3 * module.INTERVAL)
        assert told == []
        with client(wire) as user:
            until, heard = time.monotonic() + 6 * module.INTERVAL, 0
            while time.monotonic() < until:  # as a cell does that computes
                heard += bool(user.recv(timeout=DEADLINE))
            assert heard > 20
            assert 2 <= len(told) <= 9


def test_counting_looks_at_each_chunk_once(wire):
    shown = panel(wire)
    shown.close()
    summary = module._Summary(wire)
    with client(wire) as user:
        user.send("one")
        user.recv(timeout=DEADLINE)
        summary.look()
        seen = summary._seen
        assert seen == len(wire.recording)
        looked = []

        class Spied(list):
            def __getitem__(self, key):
                looked.append(key)
                return super().__getitem__(key)

        wire.recording._chunks = Spied(wire.recording._chunks)
        summary.look()
        assert looked == [slice(seen, None)]
        with faults.black_hole(wire):
            user.send("held")
            wire.wait_for(lambda recording: recording.lost() == 10)
            with socket.create_connection(("127.0.0.1", wire.port)) as silent:
                silent.shutdown(socket.SHUT_WR)
                wire.wait_for(lambda recording: recording[-1].end == "FIN")
            for _ in range(2):  # what still waits is counted again, and an end has no bytes
                summary.look()
                assert sum(chunk.lost for chunk in summary._lost) == wire.recording.lost() == 10
        user.recv(timeout=DEADLINE)
        summary.look()
        assert summary._lost == []
    assert summary.bytes["client"] + summary.bytes["server"] > 0


def test_when_the_tap_stops_the_last_counts_stay_and_the_rest_ends():
    with serve(echo) as server:
        wire = tap(server)
        shown = panel(wire)
        with client(wire) as user:
            user.send("hello")
            user.recv(timeout=DEADLINE)
        wire.stop()
        assert shown._task.done()
        assert all(control.disabled for control in shown.controls.values())
        assert "has stopped" in counts(shown)["Faults"]
        assert number(shown, "Bytes from clients") == wire.recording.bytes("client") > 0
        shown.controls["slices"].value = "of 3 bytes"
        shown.controls["cut"].click()
        shown.heal()
        widgets, gone = shown.controls, [weakref.ref(shown), weakref.ref(wire)]
        del shown, wire
        gc.collect()
        assert [reference() for reference in gone] == [None, None], "its widgets hold the recording"
        assert widgets


def test_a_panels_tap_ends_with_its_server(eventually):
    with serve(echo) as server:
        wire = tap(server)
        shown = panel(wire)
        with client(wire) as user:
            user.send("hello")
            user.recv(timeout=DEADLINE)
    assert eventually(lambda: not wire.running)
    assert eventually(lambda: "has stopped" in counts(shown)["Faults"])


def test_a_tap_that_has_stopped_gets_a_panel_that_says_so():
    with serve(echo) as server, tap(server) as wire:
        pass
    shown = panel(wire)
    assert "has stopped" in counts(shown)["Faults"]
    assert all(control.disabled for control in shown.controls.values())
    shown.close()


def test_the_words_say_what_is_offered_in_code_that_runs(wire):
    shown = panel(wire)
    bundle = shown._repr_mimebundle_()
    assert sorted(bundle) == sorted(["text/plain", "text/html", module.VIEW])
    assert bundle["text/plain"] == repr(shown)
    assert bundle[module.VIEW]["model_id"] == shown._box.model_id
    lines = re.findall(r"with faults.*:$", bundle["text/plain"], re.MULTILINE)
    assert len(lines) == 8
    for line in lines:
        exec(f"{line} pass", {"faults": faults, "wire": wire})
        assert line.replace('"', "&quot;") in bundle["text/html"]
    again = panel(wire)._repr_mimebundle_()
    assert again.pop(module.VIEW) != bundle.pop(module.VIEW)
    assert again == bundle


def test_without_ipywidgets_it_says_so_and_how_to_install(wire, monkeypatch, belongings):
    before = belongings()
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    shown = panel(wire)
    again = panel(wire)
    for words in shown._repr_mimebundle_().values():
        assert "faults.latency(wire, 0.5, jitter=0.1)" in words
        assert "python -m pip install" in words
    assert sorted(again._repr_mimebundle_()) == ["text/html", "text/plain"]
    again.cut()
    again.heal()
    again.close()
    assert belongings().more_than(before) == []


# In a real kernel

START = """
from websockets.sync.client import connect
from helpers import panel, serve, tap

async def echo(connection):
    async for message in connection:
        await connection.send(message)

wire = tap(serve(echo))
"""
TALK = """
import time
shown.controls["latency"].value = 0.05
with connect(wire.ws_url(), proxy=None) as client:
    until = time.monotonic() + 1
    while time.monotonic() < until:
        client.send("hello")
        client.recv()
shown.heal()
"""
TOLD = """
import json, threading
told = json.dumps([len(set(values)), [thread.name for thread in threading.enumerate() if "tap" in thread.name]])
"""


def test_no_cell_shows_what_a_panel_says():
    """Its messages come from another thread, while a cell runs and between two."""
    sources = [
        START,
        "shown = panel(wire)\nvalues = []\nshown._counts.observe(lambda c: values.append(c.new), 'value')\nshown",
        TALK,
        "shown = panel(wire)\nshown",
        TALK,
        "import time; time.sleep(0.5)",
        TOLD + "print(told)",
        "wire.stop()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    client = NotebookClient(notebook, timeout=60, kernel_name="python3")
    client.execute()
    outputs = [cell.outputs for cell in notebook.cells]
    assert [len(shown) for shown in outputs] == [0, 1, 0, 1, 0, 0, 1, 0]
    first, second = outputs[1][0], outputs[3][0]
    assert module.VIEW in first.data
    assert refresh.compared(first, []) == refresh.compared(second, [])
    changes, threads = json.loads(outputs[6][0].text)
    assert changes >= 3
    assert len(threads) == 1
