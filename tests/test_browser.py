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
    user.until(lambda: user.failed() is not None)
    assert user.failed().startswith(("CancelledError", "KeyboardInterrupt"))
    user.until_idle()
    user.page.evaluate(
        "() => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = 2 }"
    )
    user.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell') }")
    user.until(lambda: user.cells()[2]["outputs"])
    assert user.cells()[2]["outputs"][0]["data"]["text/plain"] == "42"


def test_a_learner_plays_with_the_network_while_a_page_talks(user, folder):
    start = (
        "from helpers import panel, serve, show, tap\nfrom helpers.apps import pulse\n"
        "server = serve(pulse.app, name='pulse')\nwire = tap(server)\n"
        "show(wire, title='There and back', height=140)"
    )
    healed = "lambda recording: any(chunk.event.startswith('ends') for chunk in recording)"
    busy = f"wire.wait_for({healed}, timeout=30)"
    notebook(folder / "panel.ipynb", start, "panel(wire)", busy)
    user.open("notebooks/panel.ipynb")
    user.run_all()
    user.page.click("summary:has-text('There and back')")
    talk = user.page.frame_locator("iframe[title='There and back']")
    counts = user.page.locator(".widget-html-content")

    def said(name):
        return int(talk.locator(f"#{name}").inner_text())

    def counted(name):
        return counts.locator(f"tr:has(th:text-is('{name}')) td").inner_text()

    # While the last cell runs, which ends only if what a learner does reaches the wire before
    user.until(lambda: said("back") > 4 and counted("Bytes not arrived") == "0")
    user.page.get_by_label("Black hole").select_option("swallows what the server says")
    user.until(lambda: said("away") > 4)
    stalled, lost = said("back"), int(counted("Bytes not arrived"))
    user.until(lambda: int(counted("Bytes not arrived")) > lost)
    assert said("back") == stalled
    assert counted("Faults") == "black hole, from the server"
    user.page.get_by_role("button", name="Heal all").click()
    user.until(lambda: said("away") < 3 and said("back") > stalled + 4)
    user.until_all_ran()
    assert user.failed() is None
    # Afterwards, with the keyboard: the field and its slider are one
    user.page.get_by_label("Latency, seconds").fill("0.4")
    user.page.keyboard.press("Tab")
    user.until(lambda: counted("Faults") == "latency 400 ms")
    assert user.page.locator(".noUi-handle").first.get_attribute("aria-valuenow") == "0.4"
    for _ in range(2):
        user.page.keyboard.press("ArrowRight")
    user.until(lambda: counted("Faults") == "latency 500 ms")
    user.until(lambda: said("took") >= 1000)
    user.page.get_by_role("button", name="Cut now").click()
    user.until(lambda: "closed with 1006" in talk.locator("#state").inner_text())
    user.until(lambda: said("number") == 2 and talk.locator("#state").inner_text() == "open")
    kinds = [
        [set(output.get("data", output)) for output in cell["outputs"]] for cell in user.cells()
    ]
    view = "application/vnd.jupyter.widget-view+json"
    words = {"text/plain", "text/html"}
    assert kinds == [[words], [words | {view}], []], "what a panel says is no output"
    assert (user.outside, user.faults) == (set(), [])
