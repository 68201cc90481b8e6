"""An ASGI application on Daphne: the program of the process that `serve(..., process=True, server="daphne")` starts.

Daphne runs on the reactor of Twisted, which a process can start once and never again, and which handles the signals of the
main thread. A kernel has other uses for both, so Daphne gets a process.
"""

from __future__ import annotations

import importlib
import os
import socket
import warnings
from typing import Any

from .log import Capture, Log

READY = "ready on port "
"""How the line begins that says that the server answers; the port follows."""


def run(target: str, options: dict[str, Any], port: int = 0) -> None:
    """Serve an application on a port of 127.0.0.1 until the process is told to end (SIGTERM).

    Args:
        target: `package.module:attribute`.
        options: what `daphne.server.Server` takes, for example `ping_interval`, `ping_timeout`, `websocket_timeout` and
            `websocket_connect_timeout`, all in seconds.
        port: the port; a free one by default.

    Raises:
        TypeError: what the name leads to cannot be called, or Daphne does not know an option.
    """
    from daphne.server import Server  # before anything else of Twisted: it chooses the reactor

    log = Log()
    log.echo(os.fdopen(os.dup(1), "w"))  # not sys.stdout: what is written there goes to the log
    with log.capturing():
        Capture().start()
        module, _, attribute = target.partition(":")
        application = getattr(importlib.import_module(module), attribute)
        if not callable(application):
            raise TypeError(
                f"Daphne runs an ASGI application (scope, receive, send), not {application!r}."
            )
        listener = socket.create_server(("127.0.0.1", port), backlog=2048)
        port = listener.getsockname()[1]
        show = warnings.showwarning

        def ready() -> None:
            warnings.showwarning = show  # which Daphne has just let Twisted take, and throw away
            log.add(f"{READY}{port}")

        server = Server(
            application,
            endpoints=[f"fd:fileno={listener.detach()}"],
            ready_callable=ready,
            **options,
        )
        server.run()
