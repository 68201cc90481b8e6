"""What a server did, in order.

A server in a notebook lives in threads, and what a thread prints lands in whatever cell is newest, or in none
(ipython/ipykernel#1289). So nothing that runs for a server reaches the cells: its prints, its warnings and the exceptions
that its handlers raise become lines of its `Log`, and a cell prints that when it wants to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TextIO, overload

Watcher = Callable[[str, BaseException | None], object]

_current: ContextVar[Log | None] = ContextVar("workbook_log", default=None)
_watchers: list[Watcher] = []


class Log(Sequence[str]):
    """The lines that a server has written, oldest first.

    Treat it as a list of strings; `print(server.log)` shows one line each.
    """

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        """The exceptions that handlers raised, oldest first, each with its traceback."""
        self._lines: list[str] = []
        self._unfinished: dict[int, str] = {}
        self._echo: TextIO | None = None
        self._closed = False
        self._changed = threading.Condition()

    def add(self, line: str) -> None:
        """Append one line."""
        self._add(line, None)

    def _add(self, line: str, error: BaseException | None) -> None:
        with self._changed:
            if self._closed:
                return
            for watcher in tuple(_watchers):
                watcher(line, error)
            self._lines.append(line)
            if self._echo:
                print(line, file=self._echo, flush=True)
            self._changed.notify_all()

    def fail(self, where: str, error: BaseException) -> None:
        """Append the exception that a handler raised, and keep it in `failures`."""
        if not self._closed:
            self.failures.append(error)
        text = str(error)
        self._add(f"{where}: {type(error).__name__}" + (f": {text}" if text else ""), error)

    def take(self, start: str) -> str | None:
        """Remove and return the first line that starts with a text, or return None."""
        for line in self:
            if line.startswith(start):
                self._lines.remove(line)
                return line
        return None

    def echo(self, stream: TextIO) -> None:
        """Write every line to a stream as well, for a server that has a process of its own."""
        with self._changed:
            for line in self._lines:
                print(line, file=stream, flush=True)
            self._echo = stream

    def close(self) -> None:
        """Take no more lines: what follows is the noise of things being taken down."""
        self._closed = True

    def write(self, text: str) -> None:
        """Append what a server's thread printed, a line at a time."""
        thread = threading.get_ident()
        *complete, rest = (self._unfinished.pop(thread, "") + text).split("\n")
        for line in complete:
            self.add(line)
        if rest:
            self._unfinished[thread] = rest

    def wait_for(
        self, condition: str | Callable[[Log], object], *, count: int = 1, timeout: float = 10.0
    ) -> None:
        """Wait until the log meets a condition.

        Args:
            condition: a piece of text that a line must contain, or a function of this log that must return something true.
            count: how many lines must contain the text.
            timeout: seconds to wait, 10 by default.

        Raises:
            TimeoutError: the condition did not come true in time; the message holds the log.
        """
        if isinstance(condition, str):
            text, wanted = condition, f"{count} line(s) with {condition!r}"
            condition = lambda log: sum(text in line for line in log) >= count  # noqa: E731
        else:
            wanted = "the condition"
        deadline = time.monotonic() + timeout
        while True:
            seen = len(self)
            if condition(self):
                return
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                said = "\n".join(f"  {line}" for line in self) or "  (nothing)"
                raise TimeoutError(
                    f"The log did not show {wanted} within {timeout:g} s. It says:\n{said}"
                )
            self._wait(seen, min(remaining, 0.1))

    def _wait(self, seen: int, seconds: float) -> None:
        """Wait until there are more lines than were seen; a condition may depend on other things, so not for long."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._lines) != seen, seconds)

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """Make this the log of everything the current thread or task does, and of the tasks that it starts."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def is_current(self) -> bool:
        """Return whether the current thread or task runs for the server of this log."""
        return _current.get() is self

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._lines[index]

    def __str__(self) -> str:
        return "\n".join(self)

    def __repr__(self) -> str:
        return f"<Log: {len(self)} lines>"


@contextlib.contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Hear of each line of every log, whichever thread writes it.

    Args:
        watcher: gets the line, and the exception that it tells of or None; it must be quick, and must not write to a log.
    """
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def divert(record: logging.LogRecord) -> bool:
    """Take a warning of a server into its log; return whether it is somebody else's, as a filter of a logger does."""
    log = _current.get()
    if log is None or record.levelno < logging.WARNING:
        return True
    where = f"{record.name}: {record.getMessage().strip()}"
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        log.add(where)
    else:
        log.fail(where, error)
    return False


class _LastResort(logging.Handler):
    """What the logging module uses for loggers that nobody has configured: those of the applications."""

    def __init__(self, original: logging.Handler | None) -> None:
        super().__init__(logging.WARNING)
        self.original = original

    def emit(self, record: logging.LogRecord) -> None:
        if divert(record) and self.original is not None:
            self.original.handle(record)


LIBRARIES = (
    "asyncio",
    "daphne.http_protocol",
    "daphne.server",
    "daphne.ws_protocol",
    "uvicorn.asgi",
    "uvicorn.error",
    "websockets.server",
)
"""The loggers on which servers report what their handlers raised, whatever handlers a cell has given to the root logger."""


class Capture:
    """Send what the threads of servers print and log to their own logs.

    `start` puts the routes in place and `stop` removes them, so that a kernel without servers is as it was. Both can be called
    again and again.
    """

    def __init__(self) -> None:
        self._undo: contextlib.ExitStack | None = None

    def start(self) -> None:
        """Put the routes in place, if they are not."""
        if self._undo is not None:
            return
        self._undo = contextlib.ExitStack()
        for stream in (sys.stdout, sys.stderr):
            self._undo.callback(_route(stream))
        self._undo.callback(setattr, logging, "lastResort", logging.lastResort)
        logging.lastResort = _LastResort(logging.lastResort)
        for logger in map(logging.getLogger, LIBRARIES):
            logger.addFilter(divert)
            self._undo.callback(logger.removeFilter, divert)

    def stop(self) -> None:
        """Remove the routes."""
        if self._undo is not None:
            self._undo.close()
            self._undo = None


@dataclasses.dataclass(frozen=True)
class _Routed:
    """A stream's `write` for whoever has no log; what a server's thread writes goes into its log."""

    write: Callable[[str], Any]

    def __call__(self, text: str) -> int:
        log = _current.get()
        if log is None:
            return int(self.write(text) or 0)
        log.write(text)
        return len(text)


def _route(stream: Any) -> Callable[[], None]:
    """Shadow `stream.write` so that a server's threads write into their log; return what takes that back.

    The method is shadowed on the object, and `sys.stdout` is not replaced, because handlers of the logging module keep the
    stream that they were made with. IPython shadows it as well, for the time of each cell, and at the end of the cell it puts
    back what it found at the beginning: what a cell had put there would be gone. So the shadow is a property, of a class made
    for this one stream, which stays on top of whatever the attribute is set to.
    """
    if not hasattr(stream, "__dict__"):  # None, or nothing can shadow what it writes
        return lambda: None
    kind = type(stream)

    def inner(self: Any) -> _Routed:
        found = self.__dict__.get("write") or kind.write.__get__(self)
        return found if isinstance(found, _Routed) else _Routed(found)

    def put(self: Any, write: Any) -> None:
        self.__dict__["write"] = write.write if isinstance(write, _Routed) else write

    shadow = type(kind.__name__, (kind,), {"write": property(inner, put), "__slots__": ()})
    try:
        stream.__class__ = shadow
    except TypeError:  # a stream of a class written in C
        return _route_attribute(stream)

    def undo() -> None:
        stream.__class__ = kind

    return undo


def _route_attribute(stream: Any) -> Callable[[], None]:
    stream.write = _Routed(stream.write)

    def undo() -> None:
        with contextlib.suppress(AttributeError):
            del stream.write

    return undo
