"""What a server says is in its log, in order, and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from helpers.log import LIBRARIES, Capture, Log, watching


@pytest.fixture
def log() -> Log:
    return Log()


@contextlib.contextmanager
def living(log: Log) -> Iterator[None]:
    """Be a thread of a living server."""
    capture = Capture()
    capture.start()
    try:
        with log.capturing():
            yield
    finally:
        capture.stop()


def test_a_log_is_a_list_of_lines(log: Log) -> None:
    for line in ("one", "two", "three"):
        log.add(line)
    assert list(log) == ["one", "two", "three"]
    assert (len(log), log[0], log[-1], log[1:]) == (3, "one", "three", ["two", "three"])
    assert str(log) == "one\ntwo\nthree"
    assert repr(log) == "<Log: 3 lines>"
    assert "two" in log


def test_what_threads_print_is_joined_to_lines_for_each_of_them(log: Log) -> None:
    turns = [threading.Event() for _ in range(5)]
    turns[0].set()

    def say(first: int, *pieces: str) -> None:
        for turn, piece in zip(range(first, 5, 2), pieces, strict=True):
            assert turns[turn].wait(10)
            log.write(piece)
            if turn < 4:
                turns[turn + 1].set()

    threads = [
        threading.Thread(target=say, args=(0, "Hel", "lo, ", "world\nrest")),
        threading.Thread(target=say, args=(1, "a\nb", "c\n")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert list(log) == ["a", "bc", "Hello, world"]


def test_a_failure_is_a_line_and_keeps_its_exception(log: Log) -> None:
    errors = [KeyError("m"), RuntimeError()]
    for error in errors:
        log.fail("handler", error)
    assert list(log) == ["handler: KeyError: 'm'", "handler: RuntimeError"]
    assert log.failures == errors


def test_a_closed_log_takes_nothing_more(log: Log) -> None:
    log.add("before")
    log.close()
    log.add("after")
    log.write("after\n")
    log.fail("handler", ValueError())
    assert list(log) == ["before"]
    assert log.failures == []


def test_take_removes_the_first_line_that_starts_so(log: Log) -> None:
    for line in ("noise", "ready on port 1", "ready on port 2"):
        log.add(line)
    assert log.take("ready on port ") == "ready on port 1"
    assert log.take("ready on port 1") is None
    assert list(log) == ["noise", "ready on port 2"]


def test_echo_writes_what_was_said_and_what_follows(log: Log) -> None:
    stream = io.StringIO()
    log.add("before")
    log.echo(stream)
    log.add("after")
    assert stream.getvalue() == "before\nafter\n"


def test_wait_for_text_in_a_number_of_lines(log: Log) -> None:
    log.add("joined: ann")
    log.wait_for("joined")
    later = threading.Timer(0.01, lambda: [log.add("left: ann"), log.add("joined: bob")])
    later.start()
    log.wait_for("joined", count=2)
    assert len(log) == 3
    later.join()


def test_wait_for_a_condition_of_the_log(log: Log) -> None:
    later = threading.Timer(0.01, log.fail, ("handler", ValueError()))
    later.start()
    log.wait_for(lambda log: log.failures)
    assert len(log) == 1
    later.join()


def test_wait_for_a_condition_of_something_else(log: Log) -> None:
    happened = threading.Event()
    later = threading.Timer(0.01, happened.set)
    later.start()
    started = time.monotonic()
    log.wait_for(lambda _: happened.is_set())
    assert time.monotonic() - started < 4, "it is looked at again, without a line"
    later.join()


def test_a_line_ends_the_wait_at_once(log: Log) -> None:
    """A line that comes between the look and the wait is not overslept: twenty of those would be two seconds."""

    def twenty() -> float:
        started = time.monotonic()
        for number in range(len(log) + 1, len(log) + 21):

            def look(log: Log, number: int = number) -> bool:
                found = len(log) >= number
                if not found:  # exactly then
                    log.add("late")
                return found

            log.wait_for(look)
        return time.monotonic() - started

    assert min(twenty() for _ in range(3)) < 0.4
    assert len(log) == 60


def test_wait_for_tells_what_the_log_says_when_it_gives_up(log: Log) -> None:
    with pytest.raises(TimeoutError) as caught:
        log.wait_for("joined", timeout=0.01)
    assert str(caught.value) == (
        "The log did not show 1 line(s) with 'joined' within 0.01 s. It says:\n  (nothing)"
    )
    log.add("one")
    log.add("two")
    with pytest.raises(TimeoutError) as caught:
        log.wait_for(lambda _: False, timeout=0.01)
    assert str(caught.value) == (
        "The log did not show the condition within 0.01 s. It says:\n  one\n  two"
    )


def test_prints_go_to_the_log_of_the_thread_they_come_from(
    log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    other = Log()

    def serve(log: Log, name: str) -> None:
        with living(log):
            print(name, "out")
            print(name, "err", file=sys.stderr)
            both.wait(10)

    both = threading.Barrier(3)
    threads = [threading.Thread(target=serve, args=pair) for pair in [(log, "a"), (other, "b")]]
    for thread in threads:
        thread.start()
    print("a cell")
    both.wait(10)
    for thread in threads:
        thread.join(10)
    assert list(log) == ["a out", "a err"]
    assert list(other) == ["b out", "b err"]
    assert capfd.readouterr() == ("a cell\n", "")


def test_tasks_belong_to_the_log_of_the_task_that_starts_them(
    log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    async def child() -> None:
        await asyncio.sleep(0)
        await asyncio.to_thread(print, "worker")
        print("task")

    async def main() -> None:
        with living(Log()):
            with log.capturing():
                task = asyncio.create_task(child())
            await task

    asyncio.run(main())
    assert list(log) == ["worker", "task"]
    assert capfd.readouterr() == ("", "")


def test_warnings_go_to_the_log_and_their_exceptions_to_failures(
    log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not logging.root.handlers
    names = ("chat", *LIBRARIES)
    error = ValueError("bad")
    with living(log):
        for name in names:
            logging.getLogger(name).warning("%s is full", "the room")
            logging.getLogger(name).error("Exception in handler\n", exc_info=error)
            logging.getLogger(name).setLevel(logging.INFO)
            logging.getLogger(name).info("nobody asked")
            logging.getLogger(name).setLevel(logging.NOTSET)
    assert len(names) == 8
    assert list(log) == [
        f"{name}: {text}"
        for name in names
        for text in ("the room is full", "Exception in handler: ValueError: bad")
    ]
    assert log.failures == [error] * 8
    assert capfd.readouterr() == ("", "")


def test_warnings_of_cells_go_where_they_always_went(
    log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    def cell() -> None:
        for name in ("chat", *LIBRARIES):
            logging.getLogger(name).warning("to the cell")

    with living(log):
        thread = threading.Thread(target=cell)  # a thread begins without a log
        thread.start()
        thread.join(10)
    assert len(log) == 0
    assert capfd.readouterr() == ("", "to the cell\n" * 8)


def test_a_configured_root_logger_hides_no_failure(
    log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    """After logging.basicConfig() in a cell, the log still has what its server said."""
    logging.basicConfig(level=logging.INFO)
    try:
        with living(log):
            logging.getLogger("websockets.server").error("failed", exc_info=ValueError("bad"))
            logging.getLogger("chat").warning("from the application")
    finally:
        logging.root.removeHandler(logging.root.handlers[0])
        logging.root.setLevel(logging.WARNING)
    assert list(log) == [
        "websockets.server: failed: ValueError: bad",
        "WARNING:chat:from the application",
    ]
    assert len(log.failures) == 1
    assert capfd.readouterr() == ("", "")


def test_without_servers_the_interpreter_is_as_it_was() -> None:
    def routes() -> list[object]:
        return [
            sys.stdout.write,
            sys.stderr.write,
            logging.lastResort,
            *(list(logging.getLogger(name).filters) for name in LIBRARIES),
        ]

    before = routes()
    capture = Capture()
    for _ in range(2):  # and again: an ended capture can start anew
        capture.start()
        during = routes()
        assert len(during) == 10
        assert all(was != now for was, now in zip(before, during, strict=True))
        capture.start()
        assert routes() == during, "one route is enough"
        capture.stop()
        assert routes() == before
        capture.stop()
        assert routes() == before


def test_streams_that_cannot_be_shadowed_or_do_not_exist_are_left_alone(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fixed:
        __slots__ = ("said",)

        def __init__(self) -> None:
            self.said = ""

        def write(self, text: str) -> int:
            self.said += text
            return len(text)

        def flush(self) -> None: ...

    fixed = Fixed()
    monkeypatch.setattr(sys, "stdout", fixed)
    monkeypatch.setattr(sys, "stderr", None)
    capture = Capture()
    capture.start()
    with log.capturing():
        print("hello")
    capture.stop()
    assert fixed.said == "hello\n"
    assert len(log) == 0


def test_a_stream_replaced_while_a_server_lives_is_no_trouble(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    capture = Capture()
    capture.start()
    del stream.write  # somebody else took the shadow off
    capture.stop()
    print("still there")
    assert stream.getvalue() == "still there\n"


def test_the_route_outlives_the_cell_that_started_the_server(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IPython shadows `write` while a cell runs, and puts back what it found when the cell began."""

    class Stream(io.StringIO):
        """Written in Python, as the streams of a kernel are."""

    stream = Stream()
    monkeypatch.setattr(sys, "stdout", stream)
    capture = Capture()

    def cell(body: Callable[[], None]) -> None:
        found = stream.write
        stream.write = lambda text: found(text)  # type: ignore[method-assign]
        body()
        stream.write = found  # type: ignore[method-assign]

    def server_prints() -> None:
        with log.capturing():
            print("from the server")

    cell(capture.start)
    server_prints()
    cell(server_prints)
    cell(lambda: print("from a cell"))
    cell(capture.stop)
    cell(lambda: print("after the server"))
    assert list(log) == ["from the server"] * 2
    assert stream.getvalue() == "from a cell\nafter the server\n"
    assert type(stream) is Stream


def test_a_watcher_hears_of_every_line_of_every_log_with_its_exception() -> None:
    """Also of what another thread prints; and of nothing before and after."""
    first, second = Log(), Log()
    heard: list[tuple[str, BaseException | None]] = []
    first.add("before")
    with watching(lambda line, error: heard.append((line, error))):
        first.add("one")
        error = KeyError("room")
        second.fail("handler", error)
        second.write("two\nthree")
        second.close()
        second.add("noise")
    first.add("after")
    assert heard == [("one", None), ("handler: KeyError: 'room'", error), ("two", None)]
