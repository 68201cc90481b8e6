"""Which worker does what, when several share the tests: a plugin for pytest-xdist, which `make test` loads.

Work is handed out in portions, as it is by `--dist loadfile`: what a worker begins it also ends, so that servers and kernels
that tests share start once. But a portion may be smaller than a file, and the long ones come first, so that no worker waits at
the end for another.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

TWICE = "tests/test_notebooks.py::test_every_cell_"
"""What runs a notebook again: each notebook is a portion. All come first, one after the other, because they share a kernel."""

LONG = (
    "tests/test_browser",
    "tests/apps/",
    "tests/authoring/",
    "tests/test_faults",
    "tests/test_labs",
)
"""Where tests begin that are long, together or each: they start browsers, several processes, or environments."""

QUICK = (
    *("tests/test_background", "tests/test_claims", "tests/test_decode", "tests/test_draw"),
    *(
        "tests/test_history",
        "tests/test_lesson",
        "tests/test_log",
        "tests/test_panel",
        "tests/test_tap",
    ),
)
"""Where tests begin that are done in a moment: they fill the last gaps."""


def portion(test: str) -> str:
    """Return what one worker does in one go: a notebook's second run, a class of an application's tests, a lab, or a file."""
    file, *rest = test.split("::")
    if test.startswith(TWICE):
        return test
    if file.startswith("tests/apps/") and len(rest) > 1:
        return f"{file}::{rest[0]}"
    lab = re.search(r"\[(\d\d)[-_]", test)
    if file == "tests/test_labs.py" and lab:
        return f"{file}, lab {lab[1]}"
    return file


def turn(test: str) -> int:
    """Return when it is a test's turn: the smaller, the earlier."""
    if test.startswith(TWICE):
        return 0
    if test.startswith(LONG):
        return 1
    return 3 if test.startswith(QUICK) else 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests by their turn. Each worker does, and so all have them in the same order."""
    items.sort(key=lambda item: turn(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand the tests out in portions."""
    from xdist.scheduler import LoadScopeScheduling

    class Portions(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return portion(nodeid)

    config.option.loadscopereorder = False  # which would put first what has the most tests
    return Portions(config, log)
