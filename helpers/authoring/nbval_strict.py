"""What nbval leaves open, closed: a plugin for pytest, loaded by the options in pyproject.toml.

It also gives each worker of pytest-xdist a loopback interface of its own. Jupyter chooses the ports of a kernel a second before
the kernel takes them, and a server of the other worker may come in between.

nbval passes a cell that was never run without comparing it, and a cell tagged `raises-exception` that raises nothing; and it
waits five seconds, no more, for an output.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from typing import Any

import pytest

from .offline import CLONE_NEWNET, bring_up_loopback, unshare

OUTPUT_TIMEOUT = 15.0
"""Seconds to wait for the outputs of a cell that has ended."""


def pytest_configure(config: Any) -> None:
    """Leave the other workers' network, where `make test` has made one and the system allows it again."""
    if hasattr(config, "workerinput") and os.environ.get("WORKBOOK_OFFLINE") == "namespace":
        with contextlib.suppress(PermissionError):  # not root: the workers share the network
            unshare(CLONE_NEWNET)
            bring_up_loopback()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: Any) -> Generator[None, Any, Any]:
    """Hold each cell of a notebook to what its stored form says."""
    if not hasattr(item, "cell"):
        return (yield)
    item.output_timeout = OUTPUT_TIMEOUT
    tags = item.cell.metadata.get("tags", [])
    if item.cell.execution_count is None and item.cell.source.strip():
        pytest.fail(
            "This cell was never run, so there is nothing to compare. Run:\nmake refresh",
            pytrace=False,
        )
    result = yield
    raised = any(output.get("output_type") == "error" for output in item.test_outputs or [])
    if "raises-exception" in tags and not raised:
        pytest.fail("This cell is tagged raises-exception and raised nothing.", pytrace=False)
    return result
