"""JupyterLab as a learner meets it: started like `make lab` does, in a real browser."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
DEADLINE = 90.0
"""Seconds that the start of JupyterLab, or one notebook, may take."""

# What the models of the code cells say, whether or not a cell is in view.
CELLS = """() => window.jupyterapp.shell.currentWidget.content.widgets
  .filter(cell => cell.model.type === 'code')
  .map(cell => ({id: cell.model.id, count: cell.model.executionCount, running: cell.prompt === '*',
                 prompt: cell.node.querySelector('.jp-InputPrompt')?.textContent ?? '',
                 outputs: cell.model.outputs.toJSON()}))"""
READY = """async () => {
  await window.jupyterapp.restored;
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.context.ready; await panel.sessionContext.ready; await panel.sessionContext.session.kernel.info;
}"""
STATUS = "() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status"


HUB = "/user/ada/"
"""The prefix below which a hub has the JupyterLab of a user."""


@contextlib.contextmanager
def jupyterlab(folder: Path, home: Path, *, hub: bool = False) -> Iterator[str]:
    """Start JupyterLab with the workbook's settings over a folder, and yield its address with the token.

    Behind a hub it is told what a hub tells it: below which prefix it is, and to answer under any name.
    """
    prefix = HUB if hub else "/"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    private = {
        "JUPYTER_CONFIG_PATH": str(ROOT / "helpers" / "jupyter"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    told = ["--ServerApp.allow_remote_access=True", "--ServerApp.ip=127.0.0.1", "--allow-root"]
    if hub:
        private["JUPYTERHUB_SERVICE_PREFIX"] = prefix
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser"),
        *(
            f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={folder}",
        ),
        f"--IdentityProvider.token={token}",
        *(f"--ServerApp.base_url={prefix}", *(told if hub else [])),
    ]
    log = home / "jupyterlab.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **private}
        )
        try:
            deadline = time.monotonic() + DEADLINE
            while not _answers(f"http://127.0.0.1:{port}{prefix}api/status?token={token}"):
                assert process.poll() is None, f"JupyterLab ended:\n{log.read_text()}"
                assert time.monotonic() < deadline, f"JupyterLab did not answer:\n{log.read_text()}"
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}{prefix}lab/tree/{{}}?token={token}&reset"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        direct.open(url, timeout=5).read()
    except (urllib.error.URLError, OSError):
        return False
    return True


class Learner:
    """Somebody who sits before JupyterLab."""

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        self.address = address
        self.outside: set[str] = set()
        self.faults: list[str] = []
        page.on("request", self._request)
        page.on("pageerror", lambda error: self.faults.append(str(error)))

    def _request(self, request: Any) -> None:
        here = ("http://127.0.0.1:", "http://localhost:", "http://hub.test:", "data:", "blob:")
        if not request.url.startswith(here):
            self.outside.add(request.url)

    def open(self, name: str) -> None:
        """Open a notebook, and wait for its kernel."""
        self.page.goto(self.address.format(name))
        self.page.wait_for_selector(
            ".jp-NotebookPanel .jp-Notebook .jp-Cell", timeout=DEADLINE * 1000
        )
        self.page.evaluate(READY)  # before, Run All would ask which kernel to take
        self.until_idle()

    def run_all(self) -> None:
        """Choose Run > Run All Cells, without waiting for the end."""
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")

    def run(self, index: int) -> None:
        """Run one cell again, and wait for the end."""
        before = self.cells()[index]["count"]
        self.page.evaluate(
            f"() => {{ window.jupyterapp.shell.currentWidget.content.activeCellIndex = {index} }}"
        )
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell') }")
        self.until(lambda: self.cells()[index]["count"] not in (None, before))
        self.until_idle()

    def save(self) -> None:
        """Save the notebook."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")

    def cells(self) -> list[dict[str, Any]]:
        """Return the code cells as JupyterLab has them."""
        found: list[dict[str, Any]] = self.page.evaluate(CELLS)
        return found

    def until(self, condition: Any, timeout: float = DEADLINE) -> None:
        """Wait for a condition, with a deadline."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"JupyterLab did not get there within {timeout:g} s"
            self.page.wait_for_timeout(50)

    def until_all_ran(self) -> None:
        """Wait until every cell has run, or one has failed and the kernel is idle."""
        self.until(
            lambda: (
                all(c["count"] and "*" not in c["prompt"] for c in self.cells())
                or self.failed() is not None
            )
        )
        self.until_idle()

    def until_idle(self) -> None:
        """Wait until the kernel has nothing to do."""
        self.until(lambda: self.page.evaluate(STATUS) == "idle")

    def failed(self) -> str | None:
        """Return the first error output, if there is one."""
        errors = (o for c in self.cells() for o in c["outputs"] if o["output_type"] == "error")
        return next((f"{o['ename']}: {o['evalue']}" for o in errors), None)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser, for which `hub.test` is a name of this machine."""
    from playwright.sync_api import sync_playwright

    settings = [
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        "--host-resolver-rules=MAP hub.test 127.0.0.1",
        # One process for all sites: Playwright can lose a frame whose first load is replaced by one of another site.
        "--disable-site-isolation-trials",
        "--disable-features=IsolateOrigins,site-per-process",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=settings)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def learner(
    folder: Path, home: Path, *, dark: bool = False, height: int = 1000
) -> Iterator[Learner]:
    """Start JupyterLab over a folder, and a browser before it."""
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    if dark:
        (settings / "themes.jupyterlab-settings").write_text('{"theme": "JupyterLab Dark"}')
    with jupyterlab(folder, home) as address, chromium() as browser:
        yield Learner(browser.new_page(viewport={"width": 1280, "height": height}), address)
