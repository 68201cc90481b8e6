"""What nbval leaves open, closed: a plugin for pytest, loaded by the options in pyproject.toml.

nbval passes a cell that was never run without comparing it, and a cell tagged `raises-exception` that raises nothing; and it
waits five seconds, no more, for an output.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

OUTPUT_TIMEOUT = 15.0
"""Seconds to wait for the outputs of a cell that has ended."""


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
