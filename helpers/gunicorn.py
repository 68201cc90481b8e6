"""A Flask application on gunicorn: the program of the process that `serve(..., process=True, server="gunicorn")` starts.

gunicorn forks, and handles the signals of the main thread. A kernel is no place for either, so gunicorn gets a process.
"""

from __future__ import annotations

import importlib
import socket
from typing import Any

from .daphne import READY

SETTINGS = {
    "workers": 1,  # a second one would not know the sessions of the first: one worker a process, and a balancer in front
    "worker_class": "gthread",
    "threads": 100,  # each WebSocket holds one as long as it lives
    "graceful_timeout": 1,
    "loglevel": "warning",
    "control_socket_disable": True,  # no file outside, and no thread for it
}
"""How Flask-SocketIO is deployed on gunicorn without eventlet or gevent, according to its documentation."""


def run(target: str, options: dict[str, Any], port: int = 0) -> None:
    """Serve an application on a port of 127.0.0.1 until the process is told to end (SIGTERM).

    Args:
        target: `package.module:attribute`.
        options: settings of gunicorn, beside and instead of `SETTINGS`.
        port: the port; a free one by default.

    Raises:
        ValueError: gunicorn does not know a setting, or not its value.
    """
    from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    port = listener.getsockname()[1]

    class Application(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            settings = {
                **SETTINGS,
                "bind": f"fd://{listener.fileno()}",
                "post_worker_init": lambda worker: print(f"{READY}{port}", flush=True),
                **options,
            }
            for name, value in settings.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            module, _, attribute = target.partition(":")
            return getattr(importlib.import_module(module), attribute)

    Application().run()
