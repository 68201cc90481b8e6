"""Whatever a learner's code does, its check costs one message."""

from __future__ import annotations

import asyncio
import contextlib
import linecache
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import lab

ROOT = Path(__file__).resolve().parents[1]

CHECKS = """
import asyncio
import threading

from websockets.sync.client import connect

from helpers import serve, table
from helpers.lab import NotYet, exercise, given, patience, require, show

HINTS = ("Which number is next?", "Look at what comes in.", "return number + 1")


@exercise("99-next", hints=HINTS)
def next_number(function):
    given("The check called it with 1.")
    found = function(1)
    require(found == 2, f"You returned {found!r} for 1, so `everyone` <counts> wrong.")
    show(table([{"n": 1, "next": found}], caption="Counted"))
    return "Two follows one."


@exercise("99-await", hints=HINTS)
async def awaited_number(function):
    given("The check awaited it.")
    require(await function(1) == 2, "It was another number.")


@exercise("99-echo", hints=HINTS)
def echo(handler):
    with serve(handler, name="probe") as server, connect(server.ws_url(), proxy=None) as client:
        given('The client sent "hi".')
        client.send("hi")
        try:
            answer = client.recv(timeout=patience())
        except TimeoutError:
            raise NotYet("You took the message and said nothing.") from None
        require(answer == "hi", f"You answered {answer!r}.")


@exercise("99-waits", hints=HINTS)
def waits(handler):
    with serve(handler, name="probe") as server, connect(server.ws_url(), proxy=None) as client:
        given('The client sent "hi".')
        client.send("hi")
        client.recv(timeout=patience())


@exercise("99-thread", hints=HINTS)
def in_a_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()
    raise NotYet("Nothing came of it.")
"""

SOLUTION = (
    '{"cells": [{"id": "99-next", "source": ["def answer(number):\\n", "    return number + 1"]}]}'
)


@pytest.fixture(autouse=True)
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A lab with three exercises, and a learner who has not begun."""
    for folder in ("src", "solutions"):
        (tmp_path / folder).mkdir()
    checks = tmp_path / "src" / "99_probe_checks.py"
    checks.write_text(CHECKS)
    (tmp_path / "solutions" / "99_probe.ipynb").write_text(SOLUTION)
    monkeypatch.setattr(lab, "LABS", tmp_path)
    monkeypatch.setattr(lab, "_OTHERS", (*lab._OTHERS, f"{tmp_path}/"))
    monkeypatch.setattr(lab, "_progress", {})
    monkeypatch.setattr(lab, "_latest", None)
    yield checks
    lab._modules.pop(checks, None)


@contextlib.contextmanager
def soon(*, patience: float = lab.PATIENCE, deadline: float = float("inf")) -> Iterator[None]:
    """Let checks wait less, for what never comes."""
    lab._patience, lab._most = patience, deadline
    try:
        yield
    finally:
        lab._patience, lab._most = lab.PATIENCE, float("inf")


cells = 0


def cell(source: str) -> dict[str, Any]:
    """Run a cell as a kernel does, and return its names."""
    global cells
    cells += 1
    name, source = f"<cell {cells}>", textwrap.dedent(source).strip() + "\n"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    scope: dict[str, Any] = {}
    exec(compile(source, name, "exec"), scope)
    return scope


def answer(source: str) -> Any:
    return cell(source)["answer"]


def try_it(exercise: str, source: str) -> lab.Result:
    return lab.check(exercise, answer(source))


WRONG = "def answer(number):\n    return 3"
RIGHT = "def answer(number):\n    return number + 1"


def test_a_right_answer_is_correct_with_words_and_evidence() -> None:
    result = try_it("99-next", RIGHT)
    assert result.correct
    assert repr(result).startswith("Correct. Two follows one.\nCounted\n")
    assert "<strong>Correct.</strong> Two follows one." in result._repr_html_()
    assert "<table" in result._repr_html_()


def test_an_untouched_exercise_is_not_attempted_and_no_try() -> None:
    for _ in range(3):
        result = try_it("99-next", "def answer(number):\n    raise NotImplementedError")
    assert result.state == lab.NOT_ATTEMPTED
    assert repr(result) == (
        "Not attempted yet: replace the TODO and the `raise` below it (line 2 of the cell), run that cell, then this one again."
    )
    assert "not tried yet" in repr(lab.hint(1))


def test_a_wrong_answer_hears_what_it_did() -> None:
    result = try_it("99-next", WRONG)
    assert result.state == lab.NOT_YET
    assert repr(result) == "Not yet. You returned 3 for 1, so `everyone` <counts> wrong."
    shown = result._repr_html_()
    assert "<strong>Not yet.</strong>" in shown
    assert "<code>everyone</code> &lt;counts&gt;" in shown
    assert result.at is not None
    assert "require(found == 2" in CHECKS.splitlines()[result.at[1] - 1]


def test_the_object_that_is_handed_over_is_checked_and_no_other() -> None:
    first = answer(WRONG)
    assert not lab.check("99-next", first).correct
    assert lab.check("99-next", answer(RIGHT)).correct
    assert not lab.check("99-next", first).correct


def test_changed_checks_are_read_again(probe: Path) -> None:
    assert try_it("99-next", RIGHT).correct
    probe.write_text(CHECKS.replace("found == 2", "found == 3"))
    later = probe.stat().st_mtime_ns + 1_000_000_000
    os.utime(probe, ns=(later, later))
    assert try_it("99-next", WRONG).correct


def test_an_exercise_that_does_not_exist_is_named() -> None:
    with pytest.raises(
        LookupError, match="no exercise '99-nothing'; this lab has 99-next, 99-await"
    ):
        lab.check("99-nothing", len)
    with pytest.raises(LookupError, match="this lab has none"):
        lab.check("98-nothing", len)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "def answer(number):\n    room = {}\n    return room['lobby']",
            "Your code raised KeyError: 'lobby' (line 3 of the cell: `return room['lobby']`). The check called it with 1.",
        ),
        (
            "import sys\n\ndef answer(number):\n    sys.exit(3)",
            "Your code called sys.exit (line 4 of the cell: `sys.exit(3)`): that would end the server, with everybody on it.",
        ),
        (
            "def answer(number):\n    return answer(number)",
            "Your code calls itself without an end: RecursionError (line 2 of the cell: `return answer(number)`).",
        ),
        (
            "def answer():\n    return 2",
            "The check could not go on with your answer: TypeError: answer() takes 0 positional arguments but 1 was given.",
        ),
    ],
    ids=["KeyError", "sys.exit", "recursion", "signature"],
)
def test_what_the_code_raises_is_told_with_its_line(source: str, said: str) -> None:
    result = try_it("99-next", source)
    assert result.state == lab.RAISED
    assert repr(result).startswith(said)


def test_what_the_code_prints_is_shown_with_a_failure_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = try_it("99-next", "def answer(number):\n    print('got', number)\n    return 3")
    assert repr(result).endswith("\nYour code printed:\n  got 1")
    assert ">got 1</pre>" in result._repr_html_()
    result = try_it("99-next", "def answer(number):\n    print('got', number)\n    return 2")
    assert "got" not in repr(result)
    assert capsys.readouterr().out == ""
    print("a cell still prints")
    assert capsys.readouterr().out == "a cell still prints\n"


ENDLESS = {
    "a loop": "def answer(number):\n    while True:\n        pass",
    "a loop that catches": (
        "import time\n\ndef answer(number):\n    while True:\n        try:\n            time.sleep(0.01)\n"
        "        except Exception:\n            pass"
    ),
    "a loop that loses what is raised in it": (
        "class Sleep:\n    def __del__(self):\n        for _ in range(5):\n            pass\n\n"
        "def answer(number):\n    while True:\n        Sleep()"
    ),
}


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_an_endless_loop_is_ended(
    source: str, eventually: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab, "GRACE", 20.0)  # as long as it takes, on a machine as busy as you like
    with soon(deadline=0.3):
        result = try_it("99-next", source)
    assert result.state == lab.NO_ANSWER
    assert repr(result).startswith("No answer within 0.3 s. An endless loop, or a call that waits")
    assert repr(result).endswith("The check called it with 1.")
    assert eventually(lambda: "check 99-next" not in {t.name for t in threading.enumerate()})
    assert try_it("99-next", RIGHT).correct


FORGETFUL = """
import asyncio, gc
from helpers import lab

async def nothing(own):
    pass

def event(id, data):
    asyncio.sleep(0)
    cycle = []
    cycle.append((cycle, nothing(cycle)))
    return "nothing"

print(lab.check("01-event", event))
gc.collect()
"""


def test_what_nobody_awaited_is_told_now_and_not_below_a_later_cell() -> None:
    kernel = subprocess.run(
        [sys.executable, "-c", FORGETFUL], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert kernel.stdout.startswith("Not yet.")
    assert "RuntimeWarning: coroutine 'sleep' was never awaited" in kernel.stdout
    assert "tracemalloc" not in kernel.stdout
    assert kernel.stderr == ""


def test_a_call_that_blocks_in_c_is_left_and_said_so(eventually: Callable[..., bool]) -> None:
    scope = cell(
        "import threading\n\nhold = threading.Event()\n\ndef answer(number):\n    hold.wait()\n    return 2"
    )
    try:
        with soon(deadline=0.3):
            result = lab.check("99-next", scope["answer"])
        assert "It still runs, and nothing here can end it: Kernel > Restart" in repr(result)
        assert try_it("99-next", RIGHT).correct
    finally:
        scope["hold"].set()


def test_an_await_that_never_ends_is_cancelled() -> None:
    source = "import asyncio\n\nasync def answer(number):\n    await asyncio.Event().wait()"
    with soon(deadline=0.3):
        result = try_it("99-await", source)
    assert result.state == lab.NO_ANSWER
    assert "The check awaited it." in repr(result)
    assert "It still runs" not in repr(result)
    assert try_it("99-await", "async def answer(number):\n    return 2").correct


def test_a_function_that_is_not_async_is_told_so() -> None:
    said = "The check awaits your code, and found no coroutine: write `async def`. The check awaited it."
    assert repr(try_it("99-await", RIGHT)) == said


def test_a_handler_that_raises_is_told_with_its_line() -> None:
    result = try_it(
        "99-echo",
        "async def answer(connection):\n    message = await connection.recv()\n    {}['room']",
    )
    assert result.state == lab.RAISED
    assert repr(result).startswith(
        "Your handler raised KeyError: 'room' (line 3 of the cell: `{}['room']`)."
    )
    assert 'The client sent "hi".' in repr(result)


def test_an_exception_in_a_group_is_told_as_itself() -> None:
    source = """
import asyncio

async def fail():
    raise KeyError("room")

async def answer(number):
    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
"""
    said = "Your code raised KeyError: 'room' (line 4 of the cell: `raise KeyError(\"room\")`)."
    assert repr(try_it("99-await", source)).startswith(said)


def test_the_end_of_a_connection_in_a_handler_explains_nothing() -> None:
    source = """
async def answer(connection):
    await connection.recv()
    await connection.send("ho")
    await connection.wait_closed()
    raise ConnectionResetError("gone")
"""
    assert repr(try_it("99-echo", source)) == "Not yet. You answered 'ho'."
    source = source.replace("await connection.wait_closed()", "await connection.close()")
    early = source.replace('await connection.send("ho")', "pass")
    said = 'Not yet. Your server ended the connection with code 1000. The client sent "hi".'
    assert repr(try_it("99-echo", early)).startswith(said)


def test_an_untouched_program_in_a_process_of_its_own_is_not_attempted() -> None:
    source = """
async def answer(connection):
    print("handler: NotImplementedError")  # what the log of a process says
    await connection.close()
"""
    assert try_it("99-echo", source).state == lab.NOT_ATTEMPTED


def test_an_untouched_handler_is_not_attempted() -> None:
    result = try_it("99-echo", "async def answer(connection):\n    raise NotImplementedError")
    assert result.state == lab.NOT_ATTEMPTED


def test_a_handler_that_waits_for_ever_is_not_yet() -> None:
    source = "import asyncio\n\nasync def answer(connection):\n    await asyncio.Event().wait()"
    with soon(patience=0.2):
        assert repr(try_it("99-echo", source)) == "Not yet. You took the message and said nothing."
        result = try_it("99-waits", source)
    assert repr(result) == 'Nothing came within 0.2 s. The client sent "hi".'


def test_a_handler_that_hangs_up_is_told_its_code() -> None:
    result = try_it("99-echo", "async def answer(connection):\n    await connection.close(4001)")
    assert repr(result) == (
        'Not yet. Your server ended the connection with code 4001. The client sent "hi".'
    )


@pytest.mark.parametrize(
    ("exercise", "deadline"),
    [("99-echo", 30.0), ("99-waits", 1.0)],
    ids=["when the check has seen enough", "at the deadline"],
)
def test_a_handler_that_holds_the_loop_of_its_server_is_ended(
    exercise: str, deadline: float, eventually: Callable[..., bool]
) -> None:
    source = "async def answer(connection):\n    while True:\n        pass"
    with soon(patience=0.2, deadline=deadline):
        result = try_it(exercise, source)
    assert "still runs" not in repr(result)
    assert result.seconds < 7  # at 8 it would have been ended anyway; it takes a third of one
    assert eventually(lambda: not any("probe" in t.name for t in threading.enumerate()))
    assert result.state in (lab.NOT_YET, lab.NO_ANSWER)
    right = "async def answer(connection):\n    await connection.send(await connection.recv())"
    assert try_it(exercise, right).correct


def test_an_exception_in_a_thread_is_told_and_reaches_no_cell(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hook = threading.excepthook
    result = try_it("99-thread", "def answer():\n    raise LookupError('nobody here')")
    assert repr(result) == (
        "Your handler raised LookupError: nobody here (line 2 of the cell: `raise LookupError('nobody here')`).\n"
        "What the check saw: Nothing came of it."
    )
    assert capsys.readouterr().err == ""
    assert threading.excepthook is hook


@pytest.mark.skipif(sys.platform == "win32", reason="sends real signals")
def test_the_stop_button_ends_a_check(eventually: Callable[..., bool]) -> None:
    main = threading.main_thread().ident
    assert main is not None
    # A shell that starts the tests with & has them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        press = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))
        press.start()
        with pytest.raises(KeyboardInterrupt):
            try_it("99-next", ENDLESS["a loop"])
        press.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert eventually(lambda: "check 99-next" not in {t.name for t in threading.enumerate()})


def test_help_opens_after_tries() -> None:
    assert repr(lab.hint(1)) == "Run the check of an exercise first."
    assert "stuck" not in repr(try_it("99-next", WRONG))
    assert repr(lab.hint(1)) == "Hints open after 2 tries at 99-next; you have tried once."
    assert repr(try_it("99-next", WRONG)).endswith("If you are stuck, type `hint(1)` in a cell.")
    assert repr(lab.hint(2)) == "One after the other: type `hint(1)` first."
    assert repr(lab.hint(1)) == "Hint 1 of 3: Which number is next?\nThe next one is `hint(2)`."
    assert repr(lab.hint(2)).startswith("Hint 2 of 3: Look at what comes in.")
    assert repr(lab.hint(3)) == "Hint 3 of 3: return number + 1"
    assert repr(lab.hint(4)) == "The hints of this exercise are `hint(1)`, `hint(2)`, `hint(3)`."
    assert (
        repr(lab.solution()) == "The solution opens after 3 tries at 99-next; you have tried twice."
    )
    assert repr(try_it("99-next", WRONG)).endswith("type `hint(3)` in a cell, or `solution()`.")
    assert repr(lab.solution()) == (
        "One way to write it; yours may differ.\n\ndef answer(number):\n    return number + 1"
    )
    assert 'overflow-x:auto">def answer(number):' in lab.solution()._repr_html_()


def test_help_is_open_once_an_exercise_is_solved() -> None:
    try_it("99-next", RIGHT)
    assert repr(lab.hint(1)).startswith("Hint 1 of 3")
    assert "return number + 1" in repr(lab.solution())


def test_a_solution_that_was_not_made_yet_names_the_cure(tmp_path: Path) -> None:
    (tmp_path / "solutions" / "99_probe.ipynb").unlink()
    try_it("99-next", RIGHT)
    assert repr(lab.solution()) == "There is no solution here: run `make labs` in the clone."


def test_every_state_has_its_words_and_a_colour_of_its_own() -> None:
    colours = {}
    for state in (lab.CORRECT, lab.NOT_ATTEMPTED, lab.NOT_YET, lab.RAISED, lab.NO_ANSWER):
        shown = lab.Result("99-next", state, "words")._repr_html_()
        assert "words" in shown
        assert 'aria-label="Check of 99-next"' in shown
        colours[state] = shown.partition("var(--jp-")[2].partition("-")[0]
    assert colours == {
        lab.CORRECT: "success",
        lab.NOT_ATTEMPTED: "info",
        lab.NOT_YET: "warn",
        lab.RAISED: "error",
        lab.NO_ANSWER: "error",
    }


def test_until_lets_tasks_go_on_and_says_whether_it_came_true(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def look() -> None:
        task = asyncio.create_task(asyncio.sleep(0.01))
        assert await lab.until(task.done)
        monkeypatch.setattr(lab, "_patience", 0.01)
        assert not await lab.until(lambda: False)

    asyncio.run(look())


def test_happens_waits_for_another_thread_and_says_whether_it_came_true(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = threading.Event()
    threading.Timer(0.01, done.set).start()
    assert lab.happens(done.is_set)
    monkeypatch.setattr(lab, "_patience", 0.01)
    assert not lab.happens(lambda: False)


def test_turns_let_each_task_go_on_so_often() -> None:
    async def look() -> int:
        seen = 0

        async def count() -> None:
            nonlocal seen
            while True:
                seen += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(count())
        await lab.turns(7)
        task.cancel()
        return seen

    assert asyncio.run(look()) == 7


def test_runs_of_numbers_are_short_and_the_rest_is_left_out() -> None:
    assert lab.runs(["1", 2, 3, "5", None, 7]) == "1 to 3, 5, None, 7"
    assert lab.runs(range(0, 12, 2)) == "0, 2, 4, 6, 8, 10"
    assert lab.runs(range(0, 1_000, 2)) == "0, 2, 4, 6, 8, 10 and more"
