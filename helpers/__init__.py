"""Real servers, recorded wires and honest measurements, for the notebooks of the real-time web workbook."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decode import decode
    from .draw import chart, ladder, table
    from .lesson import expect, predict
    from .server import serve
    from .tap import tap

_HOME = {
    "chart": "draw",
    "decode": "decode",
    "expect": "lesson",
    "ladder": "draw",
    "predict": "lesson",
    "serve": "server",
    "table": "draw",
    "tap": "tap",
}

__all__ = ["chart", "decode", "expect", "ladder", "predict", "serve", "table", "tap"]


def __getattr__(name: str) -> Any:
    """Import a name's module when the name is first used, so that a kernel pays for no more than it needs."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def _let_stop_reach_await() -> None:
    """Make the Stop button reach a cell that hangs in an `await` (ipython/ipykernel#881).

    The kernel's interrupt handler asks its event loop to cancel the cell, but from a signal handler that call does not wake a
    loop that waits for the network. A loop with any signal handler of its own is woken by every signal.
    """
    import asyncio
    import signal

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # not in a cell
        return
    if hasattr(signal, "SIGUSR2"):
        loop.add_signal_handler(signal.SIGUSR2, lambda: None)
    else:  # Windows: look for an interrupt four times a second

        def tick() -> None:
            loop.call_later(0.25, tick)

        tick()


if "ipykernel" in sys.modules:
    _let_stop_reach_await()
