"""Two workers share the tests in portions, the long ones first, and no portion is torn apart."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.authoring.schedule import (
    LONG,
    QUICK,
    TWICE,
    portion,
    pytest_collection_modifyitems,
    pytest_xdist_make_scheduler,
    turn,
)

ROOT = Path(__file__).parents[2]
TESTS = [
    *(f"tests/test_decode.py::test_{letter}" for letter in "ab"),
    *(f"tests/test_other.py::test_{letter}" for letter in "abcdef"),
    *(f"tests/apps/test_chat.py::Test{name}::test_{letter}" for name in "XY" for letter in "ab"),
    "tests/apps/test_chat.py::test_alone",
    *(f"{TWICE}runs_twice[{number}]" for number in range(5)),
    "tests/test_notebooks.py::test_links[0]",
]


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (f"{TWICE}runs_twice[03_it]", f"{TWICE}runs_twice[03_it]"),
        ("tests/test_notebooks.py::test_links[03_it]", "tests/test_notebooks.py"),
        ("tests/apps/test_chat.py::TestOne::test_a[x::y]", "tests/apps/test_chat.py::TestOne"),
        ("tests/apps/test_chat.py::test_alone", "tests/apps/test_chat.py"),
        ("tests/test_log.py::TestIt::test_a", "tests/test_log.py"),
        ("notebooks/03_it.ipynb::Cell 4", "notebooks/03_it.ipynb"),
        ("tests/test_labs.py::test_wrong[07-name-is [02-odd]]", "tests/test_labs.py, lab 07"),
        ("tests/test_labs.py::test_fresh[07_name]", "tests/test_labs.py, lab 07"),
        ("tests/test_labs.py::test_readme", "tests/test_labs.py"),
        ("tests/test_lab.py::test_it[07-name]", "tests/test_lab.py"),
    ],
)
def test_a_portion_is_a_file_or_less(test: str, expected: str) -> None:
    assert portion(test) == expected


def test_what_is_named_here_is_there() -> None:
    for start in (TWICE.partition("::")[0], *LONG, *QUICK):
        assert list(ROOT.glob(f"{start}*")), start


class Worker:
    """A worker as the scheduler sees it."""

    def __init__(self) -> None:
        self.gateway = SimpleNamespace(id="one of two")
        self.queue: list[int] = []
        self.shutting_down = False

    def send_runtest_some(self, indices: list[int]) -> None:
        self.queue += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def test_each_portion_is_done_by_one_worker_and_the_long_ones_come_first() -> None:
    items = [SimpleNamespace(nodeid=test) for test in TESTS]
    pytest_collection_modifyitems(items)  # type: ignore[arg-type]
    tests = [item.nodeid for item in items]
    assert sorted(tests) == sorted(TESTS)
    option = SimpleNamespace(loadscopereorder=True)
    config: Any = SimpleNamespace(option=option, getvalue=lambda name: ["popen", "popen"])
    scheduler = pytest_xdist_make_scheduler(config, None)
    workers = [Worker(), Worker()]
    for worker in workers:
        scheduler.add_node(worker)
        scheduler.add_node_collection(worker, tests)
    scheduler.schedule()
    done: dict[Worker, list[str]] = {worker: [] for worker in workers}
    while not scheduler.tests_finished or any(worker.queue for worker in workers):
        for worker in workers:
            if worker.queue:
                index = worker.queue.pop(0)
                done[worker].append(tests[index])
                scheduler.mark_test_complete(worker, index)
    one, two = done.values()
    assert sorted(one + two) == sorted(tests)
    assert len(one) >= 4 <= len(two)
    assert not {*map(portion, one)} & {*map(portion, two)}
    for mine in (one, two):
        assert mine[0].startswith(TWICE)
        assert [turn(test) for test in mine] == sorted(map(turn, mine))
