"""The deployment of lab 15, more often than a learner would wait for."""

from __future__ import annotations

from typing import Any

import pytest

from helpers import lab
from helpers.authoring import labs


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_twenty_restarts_under_load_lose_nothing_that_was_acknowledged() -> None:
    """The worked solution, restarted seven times three times."""
    notebook = labs.read(labs.LABS / "src" / "15_zero_loss_deploy.ipynb")
    names: dict[str, Any] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and not labs.tags(cell) & (labs.AUTHORS_ONLY | {"check"}):
            exec(labs.worked(cell.source, cell["id"]), names)
    result = lab.check("15-deploy", names["Node"], names["Client"], names["deploy"], 20)
    assert result.correct, repr(result)
    assert " 21 " in repr(result)
