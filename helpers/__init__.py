"""Real servers, recorded wires and honest measurements, for the notebooks of the real-time web workbook."""

from __future__ import annotations

import sys
from typing import Any

# Everything at once, and not when first used: `tap` and `decode` are functions here and modules below, and whoever imports
# one of these modules first would otherwise decide which of the two a notebook gets.
try:
    from .balancer import balancer
    from .broker import broker
    from .decode import decode
    from .draw import chart, ladder, show, table
    from .lesson import expect, predict
    from .panel import panel
    from .server import serve
    from .tap import tap
except ModuleNotFoundError as error:
    if str(error.name).startswith(__name__):
        raise
    _missing = error.name

    def __getattr__(name: str) -> Any:  # so that `python -m helpers.doctor` still starts
        if name in __all__:
            raise ImportError(
                f"The package {_missing!r} is missing here. To see what else is, and what to do, run:\n"
                "python -m helpers.doctor"
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
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
