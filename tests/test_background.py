"""A thread with an event loop: ready or the exception, and gone whatever ends it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from helpers.background import Background
from helpers.log import Log

ROOT = Path(__file__).parent.parent


class Resource:
    """Something to keep open, that notes what happens to it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.threads: set[str] = set()

    async def __aenter__(self) -> str:
        self._note("enter")
        return "value"

    async def __aexit__(self, *exc_info: object) -> None:
        self._note("exit")

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.threads.add(threading.current_thread().name)


class Failing(Resource):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    async def __aenter__(self) -> str:
        await asyncio.sleep(0)
        raise self.error


@pytest.fixture
def resource() -> Resource:
    return Resource()


@pytest.fixture
def background(resource: Resource) -> Iterator[Background[str]]:
    background = Background(resource, name="the thread", log=Log()).start()
    yield background
    background.stop()


def threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_it_is_ready_when_it_exists(background: Background[str], resource: Resource) -> None:
    assert background.value == "value"
    assert background.running
    assert resource.events == ["enter"]
    assert resource.threads == {"the thread"}
    assert [thread.daemon for thread in threads_named("the thread")] == [True]


def test_stop_leaves_the_resource_on_its_own_loop_and_ends_the_thread(
    background: Background[str], resource: Resource
) -> None:
    background.stop()
    assert resource.events == ["enter", "exit"]
    assert resource.threads == {"the thread"}
    assert not background.running
    assert threads_named("the thread") == []
    background.stop()
    assert resource.events == ["enter", "exit"], "stopping twice is safe"


def test_an_exception_while_entering_reaches_the_caller() -> None:
    error = LookupError("nothing there")
    with pytest.raises(LookupError) as caught:
        Background(Failing(error), name="the thread", log=Log()).start()
    assert caught.value is error
    assert threads_named("the thread") == []


def test_a_system_exit_while_entering_reaches_the_caller() -> None:
    """uvicorn ends a thread that cannot start with sys.exit(), which nobody would see."""
    with pytest.raises(RuntimeError, match=r"^the thread gave up with exit status 3\.$"):
        Background(Failing(SystemExit(3)), name="the thread", log=Log()).start()
    assert threads_named("the thread") == []


def test_entering_that_takes_too_long_is_given_up() -> None:
    begun, cancelled = threading.Event(), threading.Event()

    @contextlib.asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        yield

    with pytest.raises(TimeoutError, match=r"^the thread was not ready within 0\.05 s\.$"):
        Background(slow(), name="the thread", log=Log()).start(timeout=0.05)
    assert cancelled.is_set() or not begun.is_set()
    assert threads_named("the thread") == []


def test_an_exception_while_leaving_reaches_whoever_stops_it() -> None:
    class Stuck(Resource):
        async def __aexit__(self, *exc_info: object) -> None:
            raise LookupError("cannot leave")

    background = Background(Stuck(), name="the thread", log=Log()).start()
    with pytest.raises(LookupError, match="cannot leave"):
        background.stop()
    assert not background.running


def test_what_never_started_can_be_stopped(resource: Resource) -> None:
    background = Background(resource, name="the thread", log=Log())
    assert not background.running
    background.stop()
    with pytest.raises(RuntimeError, match="was stopped before it was ready"):
        background.start()
    assert resource.events == []
    assert threads_named("the thread") == []


def test_run_returns_what_a_coroutine_returns_or_raises(background: Background[str]) -> None:
    async def where() -> str:
        return threading.current_thread().name

    async def fail() -> None:
        raise LookupError("from the loop")

    assert background.run(where()) == "the thread"
    with pytest.raises(LookupError, match="from the loop"):
        background.run(fail())


def test_run_cancels_what_takes_too_long(background: Background[str]) -> None:
    cancelled = threading.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        background.run(slow(), timeout=0.05)
    assert cancelled.wait(10)


def test_run_after_stop_says_so(background: Background[str]) -> None:
    background.stop()
    with pytest.raises(RuntimeError, match=r"^the thread cannot run this: it has stopped\.$"):
        background.run(asyncio.sleep(0))


def test_run_from_its_own_loop_would_wait_for_itself(background: Background[str]) -> None:
    async def inside() -> None:
        background.run(asyncio.sleep(0))

    with pytest.raises(RuntimeError) as caught:
        background.run(inside())
    assert str(caught.value) == (
        "the thread cannot run this: write `await` here, you are on its loop."
    )


def test_what_runs_there_can_stop_it(
    background: Background[str], eventually: Callable[..., bool]
) -> None:
    async def stop() -> str:
        background.stop()
        return "asked"

    assert background.run(stop()) == "asked"
    assert eventually(lambda: not background.running)


def test_a_call_that_blocks_holds_the_loop_and_stop_says_so(
    background: Background[str], resource: Resource, eventually: Callable[..., bool]
) -> None:
    release, blocked = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        release.wait(10)

    background.loop.call_soon_threadsafe(block)
    assert blocked.wait(10)
    with pytest.raises(TimeoutError) as caught:
        background.stop(timeout=0.05)
    assert str(caught.value) == (
        "the thread did not stop within 0.05 s: a call that blocks holds its event loop. "
        "It ends with the kernel: Kernel > Restart."
    )
    release.set()
    assert eventually(lambda: not background.running), "it stops once it can"
    assert resource.events == ["enter", "exit"]


def test_prints_and_warnings_of_the_loop_are_in_the_log(
    capfd: pytest.CaptureFixture[str],
) -> None:
    from helpers.log import Capture

    log, capture = Log(), Capture()

    async def shout() -> None:
        print("from the loop")
        asyncio.get_running_loop().call_exception_handler({"message": "nobody awaited it"})

    capture.start()
    try:
        background = Background(Resource(), name="the thread", log=log).start()
        background.run(shout())
        background.stop()
    finally:
        capture.stop()
    assert list(log) == ["from the loop", "asyncio: nobody awaited it"]
    assert capfd.readouterr() == ("", "")


INTERRUPTED = """
import asyncio, contextlib, json, os, signal, sys, threading, time
from helpers.background import Background
from helpers.log import Log

@contextlib.asynccontextmanager
async def resource():
    await asyncio.sleep(DURATION)
    yield

def start():
    global made
    made = None
    made = Background(resource(), name="the thread", log=Log())
    made.start()

def wait():
    made.run(asyncio.sleep(60), timeout=60)

def stop():
    made.stop()

def interrupted(action, delay):
    main = threading.main_thread().ident
    killer = threading.Timer(delay, signal.pthread_kill, (main, signal.SIGINT))
    killer.daemon = True
    try:
        killer.start()
        action()
        killer.join(60)
        time.sleep(1)  # only for the interrupt to arrive
    except BaseException as error:
        while not isinstance(error, KeyboardInterrupt):  # which a lock of threading may fail over
            if error.__context__ is None:
                raise
            error = error.__context__
        return True  # but Python ignores what is raised in some callbacks, this too
    finally:
        killer.cancel()

def settled(threads):
    deadline = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.002)
    return [thread.name for thread in threading.enumerate()][threads:]

DURATION = 0.01
seen = {"interrupted": 0, "left": [], "half": 0}
start(), stop()  # what is imported late is imported now
for number in range(20):
    DURATION = 0.01
    delay = number * 0.001
    seen["interrupted"] += bool(interrupted(start, delay))
    if made is not None and hasattr(made, "value"):  # ready before the interrupt came
        stop()
    else:
        seen["half"] += 1
    seen["left"] += settled(1)

    DURATION = 0
    start()
    seen["interrupted"] += bool(interrupted(wait, delay / 10))
    assert made.run(asyncio.sleep(0, "alive"), timeout=5) == "alive"
    seen["interrupted"] += bool(interrupted(stop, delay / 40))
    stop()
    seen["left"] += settled(1)
print(json.dumps(seen))
"""


def test_an_interrupt_at_any_moment_leaves_no_thread() -> None:
    """A real SIGINT at sixty moments of starting, waiting and stopping."""
    child = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "Exception in thread" not in child.stderr
    seen = json.loads(child.stdout)
    assert 55 <= seen["interrupted"] <= 60
    assert seen["left"] == []
    assert 3 <= seen["half"] <= 20, "some of the interrupts must come while it starts"


def test_it_is_quick() -> None:
    """A start and a stop take no longer than the loop needs; each is under a millisecond here."""

    def twenty() -> float:
        started = time.monotonic()
        for _ in range(20):
            Background(Resource(), name="the thread", log=Log()).start().stop()
        return time.monotonic() - started

    assert min(twenty() for _ in range(3)) < 1
