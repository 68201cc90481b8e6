"""The voice of a lab: `check` tells learners what their code did, `hint` helps in steps, `solution` shows one way.

The checks themselves are in `labs/src/NN_name_checks.py`, plain functions with the decorator `exercise`. Whatever the
learner's code does, a check costs one message and a few seconds, never the kernel: it runs in a thread with a deadline.
"""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import gc
import html
import inspect
import json
import linecache
import re
import sys
import sysconfig
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import CodeType, FrameType, ModuleType, TracebackType
from typing import Any

from .log import Log, watching
from .server import prints_apart

ROOT = Path(__file__).resolve().parents[1]
LABS = ROOT / "labs"
HINTS_AFTER = 2
"""Tries after which hints are open."""
SOLUTION_AFTER = 3
"""Tries after which the solution is open."""
GRACE = 0.5
"""Seconds that code which is told to end gets for it."""

NOT_ATTEMPTED, NOT_YET, RAISED, NO_ANSWER, CORRECT = (
    "not attempted",
    "not yet",
    "raised",
    "no answer",
    "correct",
)

PATIENCE = 3.0
"""Seconds that a check waits for what a right answer makes happen."""

_patience = PATIENCE
_most = float("inf")
"""Seconds that no deadline exceeds: fewer in tests of answers that never come."""
_run: ContextVar[_Run | None] = ContextVar("workbook_check", default=None)


# For the authors of checks


class NotYet(Exception):
    """What the learner's code did that is not right yet.

    Args:
        message: what it did, what that causes on the wire, and a nudge; in whole sentences.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        run = _run.get()
        if run is not None:
            run.not_yet(self)


def require(condition: object, message: str) -> None:
    """Go on if a condition is true.

    Args:
        condition: what a right answer makes true.
        message: what `NotYet` says otherwise.

    Raises:
        NotYet: the condition is not true.
    """
    if not condition:
        raise NotYet(message)


def given(text: str) -> None:
    """Say what the check does next, as a sentence: it follows when the learner's code raises, or does not answer.

    Args:
        text: for example `The client sent {"text": "hi"}.`
    """
    run = _run.get()
    if run is not None:
        run.given = text


def show(thing: object) -> None:
    """Show something below the message of this check, right or wrong: a table, a chart, the ladder of a wire.

    Args:
        thing: an object with words (its `repr`) and, if it has one, an HTML form.
    """
    run = _run.get()
    if run is not None:
        run.shown.append(thing)


def patience() -> float:
    """Return the seconds that a check waits for something that a right answer makes happen: 3."""
    return _patience


async def until(condition: Callable[[], object]) -> bool:
    """Let the tasks of the loop go on until a right answer has made something happen, and return whether it has.

    Args:
        condition: what becomes true, asked again and again, for `patience()` seconds at most.
    """
    deadline, quick = time.monotonic() + patience(), 200
    while not condition():
        if time.monotonic() > deadline:
            return False
        quick -= 1
        await asyncio.sleep(0 if quick > 0 else 0.001)
    return True


def happens(condition: Callable[[], object]) -> bool:
    """Wait until a right answer has made something happen in a thread of its own, and return whether it has.

    Args:
        condition: what becomes true, asked again and again, for `patience()` seconds at most.
    """
    deadline = time.monotonic() + patience()
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


async def turns(count: int = 30) -> None:
    """Let each task of the loop go on so many times; what waits for nothing but its turn has then come to rest.

    Args:
        count: how many times, 30 by default.
    """
    for _ in range(count):
        await asyncio.sleep(0)


def runs(numbers: Iterable[object]) -> str:
    """Say what came, numbers that follow one another in short, and no more than six parts of it.

    >>> runs([0, 992, 993, 994, "late"])
    '0, 992 to 994, late'
    >>> runs([])
    'nothing'

    Args:
        numbers: numbers, as such or as text; anything else stands for itself.
    """
    found: list[list[str]] = []
    for text in map(str, numbers):
        last = found[-1][1] if found else ""
        if text.isdecimal() and last.isdecimal() and int(text) == int(last) + 1:
            found[-1][1] = text
        else:
            found.append([text, text])
        if len(found) > 6:
            break
    said = ", ".join(first if first == last else f"{first} to {last}" for first, last in found[:6])
    return (said or "nothing") + (" and more" if len(found) > 6 else "")


@dataclasses.dataclass(frozen=True)
class Exercise:
    """A check with what belongs to it."""

    id: str
    function: Callable[..., Any]
    hints: tuple[str, ...]
    deadline: float


def exercise(
    id: str, *, hints: tuple[str, ...], deadline: float = 8.0
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function the check of an exercise.

    The function gets what the learner hands to `check`, and nothing else. It may be `async`. It raises `NotYet` for the first
    thing that is not right, and returns what to say after "Correct.".

    Args:
        id: the number of the lab and a word: `02-encode`. The cell of the exercise has it as its id.
        hints: a question, a pointer, nearly the line.
        deadline: seconds that the check may take: at least five times what a right answer takes.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__globals__.setdefault("EXERCISES", {})[id] = Exercise(
            id, function, hints, deadline
        )
        return function

    return register


# For learners


@dataclasses.dataclass
class Result:
    """What a check found, in words and, where a notebook shows it, in colour as well."""

    exercise: str
    state: str
    message: str
    shown: list[object] = dataclasses.field(default_factory=list)
    printed: list[str] = dataclasses.field(default_factory=list)
    offer: str = ""
    at: tuple[str, int] | None = None
    """File and line of the requirement that was not met, for the tests of the checks."""
    seconds: float = 0.0

    _LABEL = {NOT_YET: "Not yet.", CORRECT: "Correct."}
    _COLOUR = {CORRECT: "success", NOT_ATTEMPTED: "info", NOT_YET: "warn"}

    @property
    def correct(self) -> bool:
        """Whether the exercise is solved."""
        return self.state == CORRECT

    def __repr__(self) -> str:
        said = " ".join(filter(None, [self._LABEL.get(self.state, ""), self.message]))
        if self.printed:
            said += "\nYour code printed:\n" + "\n".join(f"  {line}" for line in self.printed)
        for thing in self.shown:
            said += f"\n{thing!r}"
        return said + (f"\n{self.offer}" if self.offer else "")

    def _repr_html_(self) -> str:
        label = self._LABEL.get(self.state, "")
        said = f"<p style='{_TEXT}'><strong>{label}</strong> {_marked(self.message)}</p>"
        if self.printed:
            lines = "\n".join(self.printed)
            said += f"<p style='{_TEXT}'>Your code printed:</p>{_pre(lines)}"
        for thing in self.shown:
            form = getattr(thing, "_repr_html_", None)
            said += form() if form else _pre(repr(thing))
        if self.offer:
            said += f"<p style='{_TEXT}'>{_marked(self.offer)}</p>"
        return _box(said, f"Check of {self.exercise}", self._COLOUR.get(self.state, "error"))


class Words:
    """Something to read: a hint, or a solution."""

    def __init__(self, text: str, code: str = "") -> None:
        self.text = text
        self.code = code

    def __repr__(self) -> str:
        return self.text + (f"\n\n{self.code}" if self.code else "")

    def _repr_html_(self) -> str:
        said = f"<p style='{_TEXT}'>{_marked(self.text)}</p>"
        if self.code:
            said += _pre(self.code)
        return _box(said, "Help", "info")


_TEXT = "margin:.25em 0;max-width:56em"


def _marked(text: str) -> str:
    """Return text as HTML, with what stands between backquotes as code."""
    parts = html.escape(text).replace("\n", "<br>").split("`")
    if len(parts) % 2 == 0:
        return "`".join(parts)
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts))


def _pre(text: str) -> str:
    """Return lines as HTML that keeps them: JupyterLab by itself breaks long ones in the middle of a word."""
    return f'<pre style="white-space:pre;overflow-x:auto">{html.escape(text)}</pre>'


def _box(inside: str, label: str, colour: str) -> str:
    style = f"border-left:4px solid var(--jp-{colour}-color1, gray);padding:.25em 1em"
    return f'<section aria-label="{html.escape(label)}" style="{style}">{inside}</section>'


@dataclasses.dataclass
class _Progress:
    tries: int = 0
    hints: int = 0
    solved: bool = False


_progress: dict[str, _Progress] = {}
_latest: str | None = None
_modules: dict[Path, tuple[int, ModuleType]] = {}
REPLACED = -1


def find(id: str) -> Exercise:
    """Return the exercise with an id, from the checks of its lab as they are on the disk now.

    Raises:
        LookupError: there is none; the message names those that there are.
    """
    found: dict[str, Exercise] = {}
    for path in sorted((LABS / "src").glob(f"{id.partition('-')[0]}_*_checks.py")):
        found |= load(path)
    if id not in found:
        raise LookupError(
            f"There is no exercise {id!r}; this lab has {', '.join(found) or 'none'}."
        )
    return found[id]


def load(path: Path) -> dict[str, Exercise]:
    """Return the exercises of a file of checks, by their ids; the file is read again when it has changed."""
    changed = path.stat().st_mtime_ns
    if path not in _modules or _modules[path][0] not in (changed, REPLACED):
        _modules[path] = (changed, _executed(path, path.read_text(encoding="utf-8")))
    return dict(getattr(_modules[path][1], "EXERCISES", {}))


def replace(path: Path, source: str | None) -> None:
    """Use other text for a file of checks, as tests do that make one weaker; None goes back to the file."""
    if source is None:
        _modules.pop(path, None)
    else:
        _modules[path] = (REPLACED, _executed(path, source))


def _executed(path: Path, source: str) -> ModuleType:
    module = ModuleType(f"lab_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look for it
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


def check(id: str, *answers: Any) -> Result:
    """Try what the learner has written, and say what it did.

    Args:
        id: the exercise.
        answers: the objects to try, as they are now; nothing else of the notebook is looked at.

    Returns:
        The result: show it as the last value of a cell.

    Raises:
        LookupError: there is no such exercise.
    """
    global _latest
    result = _Run(find(id), answers).result()
    if result.state not in (CORRECT, NOT_ATTEMPTED):
        with warnings.catch_warnings():  # or what nobody awaited is warned of below some later cell
            warnings.simplefilter("ignore", RuntimeWarning)
            gc.collect()
    _latest = id
    progress = _progress.setdefault(id, _Progress())
    progress.solved |= result.correct
    progress.tries += result.state not in (CORRECT, NOT_ATTEMPTED)
    if not result.correct and progress.tries >= HINTS_AFTER:
        step = min(progress.hints + 1, len(find(id).hints))
        more = ", or `solution()`" if progress.tries >= SOLUTION_AFTER else ""
        result.offer = f"If you are stuck, type `hint({step})` in a cell{more}."
    return result


def hint(number: int = 1) -> Words:
    """Return a hint for the exercise that was checked last, after two tries.

    Args:
        number: 1 asks a question, 2 points, 3 is nearly the line; in this order.
    """
    closed = _closed(HINTS_AFTER, "Hints open")
    if closed is not None or _latest is None:
        return Words(closed or "")
    hints, progress = find(_latest).hints, _progress[_latest]
    if not 1 <= number <= len(hints):
        return Words(f"The hints of this exercise are {_listed(len(hints))}.")
    if number > progress.hints + 1:
        return Words(f"One after the other: type `hint({progress.hints + 1})` first.")
    progress.hints = max(progress.hints, number)
    more = f"\nThe next one is `hint({number + 1})`." if number < len(hints) else ""
    return Words(f"Hint {number} of {len(hints)}: {hints[number - 1]}{more}")


def solution() -> Words:
    """Return one way to solve the exercise that was checked last, after three tries."""
    closed = _closed(SOLUTION_AFTER, "The solution opens")
    if closed is not None or _latest is None:
        return Words(closed or "")
    for path in (LABS / "solutions").glob(f"{_latest.partition('-')[0]}_*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["id"] == _latest:
                return Words("One way to write it; yours may differ.", "".join(cell["source"]))
    return Words("There is no solution here: run `make labs` in the clone.")


def _listed(number: int) -> str:
    return ", ".join(f"`hint({n})`" for n in range(1, number + 1))


def _closed(tries: int, what: str) -> str | None:
    """Return why help is not open yet, or None."""
    if _latest is None:
        return "Run the check of an exercise first."
    progress = _progress[_latest]
    if progress.solved or progress.tries >= tries:
        return None
    counted = {0: "not tried yet", 1: "tried once", 2: "tried twice"}[progress.tries]
    return f"{what} after {tries} tries at {_latest}; you have {counted}."


# How a check is run


class _Stopped(BaseException):
    """Raised in a thread that has to end."""


class _Run:
    """One check, in a thread of its own."""

    def __init__(self, exercise: Exercise, answers: tuple[Any, ...]) -> None:
        self.exercise = exercise
        self.given = ""
        self.shown: list[object] = []
        self._answers = answers
        self._log = Log()
        self._lines: list[str] = []
        self._heard: list[BaseException] = []
        self._relevant: list[BaseException] | None = None
        self._not_yet: NotYet | None = None
        self._value: object = None
        self._error: BaseException | None = None
        self._late = False
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name=f"check {exercise.id}", daemon=True)
        self._busy_before = set(_threads_in_learners_code())

    def result(self) -> Result:
        """Run the check, and return what it found."""
        deadline = min(self.exercise.deadline, _most)
        begin = time.monotonic()
        hook, unraisable = threading.excepthook, sys.unraisablehook
        threading.excepthook = lambda failure: self._hear("", failure.exc_value)
        sys.unraisablehook = lambda lost: None if lost.exc_type is _Stopped else unraisable(lost)
        try:
            with prints_apart(), watching(self._hear):
                self._thread.start()
                if not self._joined(deadline):
                    self._late = True
                    self._fix()
                    self._end()
        except BaseException:  # the Stop button
            self._end()
            raise
        finally:
            threading.excepthook, sys.unraisablehook = hook, unraisable
        result = self._judged(deadline)
        result.seconds = time.monotonic() - begin
        return result

    def _joined(self, seconds: float) -> bool:
        # Not Thread.join: after an interrupt in it Python before 3.13 takes a living thread for dead (python/cpython#90882).
        deadline = time.monotonic() + seconds
        while not self._ended:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    def _work(self) -> None:
        _run.set(self)
        with self._log.capturing():
            try:
                function = self.exercise.function
                if inspect.iscoroutinefunction(function):
                    with asyncio.Runner() as runner:
                        self._loop = runner.get_loop()
                        self._loop.set_exception_handler(
                            lambda _, context: self._hear("", context.get("exception"))
                        )
                        self._value = runner.run(function(*self._answers))
                else:
                    self._value = function(*self._answers)
            except BaseException as error:
                self._error = error
            finally:
                self._ended = True

    def _hear(self, line: str, error: BaseException | None) -> None:
        """Take note of a line of any server's log, and of the exception that it tells of."""
        if error is None:
            if line:
                self._lines.append(line)
        elif not isinstance(error, _Stopped):
            self._heard.append(error)

    def not_yet(self, error: NotYet) -> None:
        """Take note that the check has seen enough: what goes wrong from here on is the end of its clients."""
        if self._not_yet is None:
            self._not_yet = error
            self._fix()
            self._release()

    def _fix(self) -> None:
        if self._relevant is None:
            self._relevant = [e for e in map(_leaf, self._heard) if _explains(e)]

    def _release(self) -> None:
        """End what the learner's code still does in threads that this check has brought it into, so that servers can stop."""
        held = self._held()
        for _ in range(5):
            if not held:
                return
            time.sleep(0.02)
            held &= self._held()
            self._insist(held)

    def _insist(self, threads: set[int]) -> None:
        """Raise once more where it was lost: what is raised in a finalizer, or a callback, goes nowhere."""
        for thread in threads.intersection(_threads_in_learners_code()):
            _raise_in(thread)

    def _held(self) -> set[int]:
        apart = {threading.get_ident(), self._thread.ident, threading.main_thread().ident}
        return set(_threads_in_learners_code()) - self._busy_before - apart

    def _end(self) -> None:
        """End the check, and what it has started."""
        self._release()
        if self._loop is not None and not self._ended:
            loop = self._loop

            def cancel() -> None:
                for task in asyncio.all_tasks(loop):
                    task.cancel()

            try:
                loop.call_soon_threadsafe(cancel)
            except RuntimeError:  # closed in between
                return
            if self._joined(GRACE):
                return
        if not self._ended and self._thread.ident is not None:
            _raise_in(self._thread.ident)
            deadline = time.monotonic() + GRACE
            while not self._joined(0.001) and time.monotonic() < deadline:
                self._insist({self._thread.ident})

    def _judged(self, deadline: float) -> Result:
        self._fix()
        relevant = self._relevant or []
        error = None if self._error is None else _leaf(self._error)
        untouched = [e for e in [*self._heard, error] if isinstance(e, NotImplementedError)]
        if not self._late and error is None:
            message = "" if self._value is None else str(self._value)
            return Result(self.exercise.id, CORRECT, message, self.shown)
        if untouched or any("NotImplementedError" in line for line in self._lines):
            place = _where(_leaf(untouched[0])) if untouched else None
            where = f" ({place.partition(':')[0]})" if place else ""
            return Result(
                self.exercise.id,
                NOT_ATTEMPTED,
                f"Not attempted yet: replace the TODO and the `raise` below it{where}, run that cell, then this one again.",
            )
        state, message = self._fault(error, relevant, deadline)
        if self._held() or (not self._ended and self._thread.ident in _threads_in_learners_code()):
            message += " It still runs, and nothing here can end it: Kernel > Restart, once you have mended it."
        result = Result(self.exercise.id, state, message, self.shown, self._printed())
        if self._not_yet is not None:
            path = inspect.getfile(self.exercise.function)
            for code, number in _frames(self._not_yet.__traceback__):
                if code.co_filename == path:
                    result.at = (path, number)
        return result

    def _fault(
        self, error: BaseException | None, relevant: list[BaseException], deadline: float
    ) -> tuple[str, str]:
        """Return the state and the message of a check that did not succeed."""
        after = f" {self.given}" if self.given else ""
        if self._not_yet is not None and not relevant:
            return NOT_YET, str(self._not_yet)
        if relevant:
            said = f"\nWhat the check saw: {self._not_yet}" if self._not_yet is not None else after
            return RAISED, _raised("Your handler", relevant[0]) + said
        if self._late:
            return NO_ANSWER, (
                f"No answer within {deadline:g} s. An endless loop, or a call that waits for ever, holds your code: "
                f"on a server everyone would be waiting too.{after}"
            )
        assert error is not None
        if _where(error):
            return RAISED, _raised("Your code", error) + after
        if isinstance(error, TimeoutError):
            return NO_ANSWER, f"Nothing came within {_patience:g} s.{after}"
        code = getattr(getattr(error, "rcvd", None), "code", None)
        if hasattr(error, "rcvd"):
            told = f"with code {code}" if code else "without a close frame (1006)"
            return NOT_YET, f"Your server ended the connection {told}.{after}"
        if isinstance(error, ConnectionError):
            return NOT_YET, f"The connection ended: {type(error).__name__}.{after}"
        if isinstance(error, TypeError) and "await" in str(error):
            return (
                RAISED,
                f"The check awaits your code, and found no coroutine: write `async def`.{after}",
            )
        return (
            RAISED,
            f"The check could not go on with your answer: {type(error).__name__}: {str(error).rstrip('.:')}.{after}",
        )

    def _printed(self, most: int = 12) -> list[str]:
        lines = [line for line in self._lines if "Enable tracemalloc" not in line]
        more = len(lines) - most
        return lines[:most] + ([f"… and {more} more lines"] if more > 0 else [])


def _raised(who: str, error: BaseException) -> str:
    where = _where(error)
    place = f" ({where})" if where else ""
    if isinstance(error, SystemExit):
        return f"{who} called sys.exit{place}: that would end the server, with everybody on it."
    if isinstance(error, RecursionError):
        return f"{who} calls itself without an end: RecursionError{place}."
    text = str(error)
    return f"{who} raised {type(error).__name__}{f': {text}' if text else ''}{place}."


def _leaf(error: BaseException) -> BaseException:
    """Return what a group of exceptions is about."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _explains(error: BaseException) -> bool:
    """Return whether an exception was the learner's, and not that of a connection that has ended."""
    ended = isinstance(error, (ConnectionError, asyncio.CancelledError)) or hasattr(error, "rcvd")
    return not ended and _where(error) is not None


_OTHERS = tuple(
    {
        str(Path(folder).resolve()) + "/"
        for folder in (
            *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
            str(ROOT / "helpers"),
            str(LABS / "src"),
        )
    }
)


def _is_learners(code: CodeType) -> bool:
    """Return whether code was written by the learner: it is no part of Python, of a library, of the workbook."""
    name = code.co_filename
    return not name.startswith(("<frozen", "<string", "<attrs", "<__array", *_OTHERS))


def _frames(traceback: TracebackType | None) -> Iterator[tuple[CodeType, int]]:
    while traceback is not None:
        yield traceback.tb_frame.f_code, traceback.tb_lineno
        traceback = traceback.tb_next


def _where(error: BaseException) -> str | None:
    """Say in which line of the learner's code an exception came up, or return None."""
    found = [(code, line) for code, line in _frames(error.__traceback__) if _is_learners(code)]
    if not found:
        return None
    code, line = found[-1]
    cell = code.co_filename.startswith("<") or re.search(r"[/\\]ipykernel_\d+", code.co_filename)
    place = "the cell" if cell else Path(code.co_filename).name
    source = linecache.getline(code.co_filename, line).strip()
    return f"line {line} of {place}" + (f": `{source}`" if source and "`" not in source else "")


def _threads_in_learners_code() -> dict[int, FrameType]:
    """Return the threads that are in the middle of the learner's code now."""
    found = {}
    for thread, top in sys._current_frames().items():
        frame: FrameType | None = top
        while frame is not None:
            if _is_learners(frame.f_code):
                found[thread] = top
                break
            frame = frame.f_back
    return found


def _raise_in(thread: int) -> None:
    """End what a thread does, at its next step in Python; a call that waits in C ends first."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_Stopped))
