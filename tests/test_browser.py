"""JupyterLab in a real browser: the first notebook runs as it was stored, and the Stop button stops."""

from __future__ import annotations

import os
import shutil

import nbformat
import pytest
from lab import CHROMIUM, ROOT, learner

from helpers.authoring.refresh import NOT_COMPARED, compared, patterns

if CHROMIUM is None:
    if os.environ.get("CI"):
        pytest.fail(
            "CI needs a browser. Install Chromium:\napt-get install -y chromium", pytrace=False
        )
    pytest.skip(
        "NOTICE: there is no Chromium here, so JupyterLab is not tried in a browser",
        allow_module_level=True,
    )

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def nothing_left():
    """JupyterLab, its kernels and the browser outlive a test here, and end with the module."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the notebooks, which JupyterLab may save."""
    copy = tmp_path_factory.mktemp("clone") / "notebooks"
    shutil.copytree(ROOT / "notebooks", copy)
    return copy


@pytest.fixture(scope="module")
def user(folder, tmp_path_factory):
    with learner(folder.parent, tmp_path_factory.mktemp("home")) as user:
        yield user


def notebook(path, *sources):
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    made.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
    }
    nbformat.write(made, path)


def test_the_first_notebook_shows_in_jupyterlab_what_is_stored(user, folder):
    stored = nbformat.read(folder / "00_start_here.ipynb", as_version=4)
    user.open("notebooks/00_start_here.ipynb")
    assert user.page.query_selector(".jp-Dialog") is None
    user.run_all()
    user.until_all_ran()
    assert user.failed() is None
    shown = {cell["id"]: cell for cell in user.cells()}
    replacements, same = patterns(), 0
    for cell in stored.cells:
        if cell.cell_type != "code" or NOT_COMPARED & set(cell.metadata.get("tags", [])):
            continue
        outputs = [nbformat.from_dict(output) for output in shown[cell["id"]]["outputs"]]
        seen = [compared(output, replacements) for output in outputs]
        assert seen == [compared(output, replacements) for output in cell.outputs], cell["id"]
        same += bool(cell.outputs)
    assert same >= 10
    user.page.click("summary:has-text('A page that talks to the server')")
    served = user.page.frame_locator("iframe[title='A page that talks to the server']")
    served.locator("input").fill("from a browser")
    served.locator("button").click()
    served.get_by_text("The server says: FROM A BROWSER!").wait_for()
    assert user.page.query_selector(".Toastify__toast") is None, "a prompt pops up"
    assert (user.outside, user.faults) == (set(), [])


def test_the_stop_button_ends_a_cell_that_waits_for_ever(user, folder):
    endless = "import asyncio\nawait asyncio.Event().wait()"
    notebook(folder / "wait.ipynb", "import helpers", endless, "6 * 7")
    user.open("notebooks/wait.ipynb")
    user.run_all()
    user.until(lambda: "*" in user.cells()[1]["prompt"] and user.cells()[0]["count"])
    user.page.click('.jp-NotebookPanel-toolbar [data-command="notebook:interrupt-kernel"]')
    user.until(lambda: user.failed() is not None, timeout=10)
    assert user.failed().startswith(("CancelledError", "KeyboardInterrupt"))
    user.until_idle()
    user.page.evaluate(
        "() => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = 2 }"
    )
    user.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell') }")
    user.until(lambda: user.cells()[2]["outputs"])
    assert user.cells()[2]["outputs"][0]["data"]["text/plain"] == "42"
