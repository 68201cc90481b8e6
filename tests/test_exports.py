"""What a notebook gets when it says `from helpers import …`, and what importing does to its kernel."""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE
from jupyter_client.manager import KernelManager

import helpers

ROOT = Path(__file__).parent.parent

NAMES = [
    "balancer",
    "broker",
    "chart",
    "decode",
    "expect",
    "ladder",
    "panel",
    "predict",
    "serve",
    "show",
    "table",
    "tap",
]

MODULES = [module.name for module in pkgutil.iter_modules(helpers.__path__)]


def run(program: str, *arguments: str) -> Any:
    """Run a program in an interpreter of its own; it prints JSON."""
    child = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.stderr == ""
    return json.loads(child.stdout)


def test_a_notebook_gets_exactly_these_names() -> None:
    assert helpers.__all__ == NAMES == sorted(NAMES)
    for name in NAMES:
        assert callable(getattr(helpers, name))
    scope: dict[str, object] = {}
    exec("from helpers import *", scope)
    assert sorted(scope.keys() - {"__builtins__"}) == NAMES


IMPORTS = """
import importlib, json, sys

names = sys.argv[1].split()
seen = {}
for module in sys.argv[2:]:
    for loaded in [name for name in sys.modules if name.partition(".")[0] == "helpers"]:
        del sys.modules[loaded]
    importlib.import_module(f"helpers.{module}")
    import helpers
    seen[module] = [type(getattr(helpers, name)).__name__ for name in names]
print(json.dumps(seen))
"""


def test_a_name_is_the_function_whichever_module_is_imported_first() -> None:
    """`tap` and `decode` are functions of the package, and modules in it."""
    seen = run(IMPORTS, " ".join(NAMES), *MODULES)
    assert list(seen) == MODULES
    kinds = ["type" if name == "expect" else "function" for name in NAMES]
    assert seen == {module: kinds for module in MODULES}
    assert len(MODULES) >= 9
    assert {"decode", "tap"} <= set(MODULES) & set(NAMES)


def test_importing_the_package_starts_nothing_and_prints_nothing() -> None:
    program = """
import json, os, sys, threading
interval = sys.getswitchinterval()
import helpers, psutil
process = psutil.Process()
print(json.dumps([
    threading.active_count(),
    len(process.children()),
    len(process.net_connections()),
    sys.getswitchinterval() == interval,
    [name for name in ("django", "flask", "socketio", "uvicorn", "IPython") if name in sys.modules],
]))
"""
    assert run(program) == [1, 0, 0, True, []]


MISSING = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
said = []
for attempt in ("from helpers import serve", "import helpers; helpers.tap", "import helpers.nothing"):
    try:
        exec(attempt)
    except Exception as error:
        said.append([type(error).__name__, str(error)])
try:
    helpers.unknown
except AttributeError as error:
    said.append(str(error))
import helpers.doctor
print(json.dumps(said))
"""


@pytest.mark.parametrize("package", ["h11", "websockets"])
def test_a_package_that_is_missing_is_named_with_the_cure(package: str) -> None:
    message = (
        f"The package {package!r} is missing here. To see what else is, and what to do, run:\n"
        "python -m helpers.doctor"
    )
    first, second, nothing, unknown = run(MISSING, package)
    assert first == second == ["ImportError", message]
    assert nothing == ["ModuleNotFoundError", "No module named 'helpers.nothing'"]
    assert unknown == "module 'helpers' has no attribute 'unknown'"


def test_a_module_of_the_package_that_is_missing_is_no_missing_package() -> None:
    program = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "helpers.tap":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
try:
    import helpers
except ModuleNotFoundError as error:
    print(json.dumps(str(error)))
"""
    assert run(program) == "No module named 'helpers.tap'"


# In a real kernel


class Kernel:
    """A kernel as JupyterLab starts it, and a client that runs cells in it."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager(kernel_name="python3")
        assert self.manager.kernel_spec is not None
        self.manager.kernel_spec.argv[0] = sys.executable
        folders = dict.fromkeys(("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"), str(folder))
        self.manager.start_kernel(cwd=str(ROOT), env={**os.environ, **folders})
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def start(self, cell: str) -> str:
        """Start a cell, and return its id once it has printed something."""
        self.recover()
        cell_id = self.client.execute(cell)
        while True:
            message = self.client.get_iopub_msg(timeout=60)
            if (
                message["parent_header"].get("msg_id") == cell_id
                and message["msg_type"] == "stream"
            ):
                return str(cell_id)

    def recover(self) -> None:
        """Wait until the kernel runs cells: for a moment after an error it aborts what comes."""
        deadline = time.monotonic() + DEADLINE
        while self.result(self.client.execute("None"), DEADLINE) != "ok":
            assert time.monotonic() < deadline, "the next cell must run"

    def result(self, cell_id: str, timeout: float) -> str | None:
        """Return "ok" or the name of the error with which a cell ends, or None when it does not."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                reply = self.client.get_shell_msg(timeout=left)
                if reply["parent_header"]["msg_id"] == cell_id:
                    content = reply["content"]
                    return str(content.get("ename", content["status"]))
        return None

    def run(self, cell: str) -> list[dict[str, Any]]:
        """Run a cell, and return its outputs."""
        cell_id, outputs = self.client.execute(cell), []
        while True:
            message = self.client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != cell_id:
                outputs.append({"not of this cell": message["msg_type"], **message["content"]})
            elif message["msg_type"] in ("stream", "error", "execute_result", "display_data"):
                outputs.append(message["content"])
            elif message["content"].get("execution_state") == "idle":
                assert self.result(cell_id, DEADLINE) is not None
                return outputs


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    kernel = Kernel(tmp_path)
    yield kernel
    kernel.close()


HANG = "print('waiting', flush=True)\nimport asyncio\nawait asyncio.Event().wait()"


@pytest.mark.skipif(sys.platform == "win32", reason="sends real signals")
def test_the_stop_button_reaches_a_cell_that_awaits(kernel: Kernel) -> None:
    """A real SIGINT to a real kernel: the cell ends, the next one runs, and so with cells that do not await."""
    assert kernel.run("import helpers") == []
    for cell in (HANG, "print('waiting', flush=True)\nimport time\ntime.sleep(60)", HANG):
        cell_id = kernel.start(cell)
        kernel.manager.interrupt_kernel()
        assert kernel.result(cell_id, 2) in ("CancelledError", "KeyboardInterrupt")
        kernel.recover()


@pytest.mark.skipif(sys.platform == "win32", reason="sends real signals")
def test_the_stop_button_still_needs_our_help(kernel: Kernel) -> None:
    """When this fails, ipykernel has mended ipython/ipykernel#881, and `helpers` need no longer do it."""
    ended = []
    for _ in range(5):  # anything else that wakes the loop at that moment makes up for it
        cell_id = kernel.start(HANG)
        kernel.manager.interrupt_kernel()
        ended.append(kernel.result(cell_id, 1))
        if ended[-1] is None:
            break
    assert None in ended


def test_no_cell_shows_what_a_server_says(kernel: Kernel) -> None:
    """Not the cell that starts it, nor the one that asks it, nor one that is newest when it speaks."""
    start = """
import logging, sys, threading, urllib.request, warnings
from helpers import serve

async def chat(scope, receive, send):
    if scope["type"] == "http":
        print("printed")
        print("to stderr", file=sys.stderr)
        logging.getLogger("chat").warning("logged")
        warnings.warn("warned")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})
        raise KeyError("m")

server = serve(chat)
"""
    ask = "urllib.request.urlopen(server.url()).read()"
    again = "asked = threading.Timer(0.05, urllib.request.urlopen, [server.url()]); asked.start()"
    newest = "asked.join(); server.wait_for('KeyError', count=2)"
    assert kernel.run(start) == []
    assert [out["data"]["text/plain"] for out in kernel.run(ask)] == ["b'answer'"]
    assert kernel.run(again) == []
    assert kernel.run(newest) == []
    (shown,) = kernel.run("print(server.log)\nprint(server.log.failures)")
    said = shown["text"].splitlines()
    for line in ("printed", "to stderr", "chat: logged"):
        assert said.count(line) == 2
    assert any("UserWarning: warned" in line for line in said)
    assert said[-1] == "[KeyError('m'), KeyError('m')]"
    assert kernel.run("server.stop()") == []
