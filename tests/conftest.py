"""What every test shares: a machine that is as it was, before and after."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from jupyter_core.utils import ensure_event_loop

from helpers import process, server
from helpers.broker import stop_all as stop_brokers

DEADLINE = 30.0
"""Seconds that anything may take in a test: far more than it needs, so that only a fault exceeds it."""


def pytest_sessionstart(session: pytest.Session) -> None:
    # A kernel's root logger has no handlers; pytest's own would hide what a server does about that.
    plugins = session.config.pluginmanager
    if plugins.has_plugin("logging-plugin"):
        plugins.unregister(name="logging-plugin").log_file_handler.close()
    # What is started in the background ignores interrupts, and so would all that it starts; a kernel does not.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Some of the clients in the tests would ask a proxy for the way to this machine itself.
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    # The clients of kernels share one for the rest of the process: whichever test came first would seem to leave it behind.
    ensure_event_loop()


def eventually(condition: Callable[[], object], timeout: float = DEADLINE) -> bool:
    """Wait until a condition is true, and return whether it came true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., bool]:
    return eventually


def open_files() -> dict[int, str]:
    """Return this process's file descriptors, sockets included, each with what it is."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one that reads this directory
            continue
    return found


class Belongings:
    """The threads, file descriptors, child processes and environment variables that this process has now."""

    def __init__(self) -> None:
        self.threads = set(threading.enumerate())
        self.files = open_files() if Path("/proc/self/fd").is_dir() else {}
        self.children = set(psutil.Process().children(recursive=True))
        self.variables = {name: os.environ[name] for name in os.environ if "PYTEST" not in name}

    def more_than(self, before: Belongings) -> list[str]:
        """Return what there is now and was not there before, in words."""
        return [
            *(f"thread {thread.name}" for thread in self.threads - before.threads),
            *(f"file {what}" for fd, what in self.files.items() if before.files.get(fd) != what),
            *(f"child {child}" for child in self.children - before.children),
            *(f"variable {n}" for n, v in self.variables.items() if before.variables.get(n) != v),
        ]


@pytest.fixture
def belongings() -> Callable[[], Belongings]:
    """What this process has now: to compare with what it has later."""
    return Belongings


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Stop every server and child after a test, and fail when it has left anything behind."""
    before = Belongings()
    yield
    server.stop_all()
    stop_brokers()
    process.stop_all()
    left: list[str] = []

    def clean() -> bool:
        left[:] = Belongings().more_than(before)
        return not left

    if not eventually(clean, 0.5):
        gc.collect()  # a socket in a cycle is closed with it, and warns
        assert eventually(clean), f"left behind: {', '.join(left)}"
