"""The chat on Flask-SocketIO: a project of its own (README.md beside this file), and what a notebook needs to serve it.

chat = serve("helpers.apps.socketio_chat:app", process=True)
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...server import proxy_prefix

if TYPE_CHECKING:
    from flask import Flask

    from ...server import Server

FOLDER = Path(__file__).resolve().parent

# The project's package, `flask_chat`, is imported by this name, as it is when it runs by itself.
if str(FOLDER) not in sys.path:
    sys.path.insert(0, str(FOLDER))

_app: Flask | None = None


def environment(redis_url: str | None = None) -> dict[str, str]:
    """Return the variables with which several processes are one chat: `serve(..., process=True, env=environment(url))`.

    They share a new, empty database, which ends with this process, and know the same sessions.

    Args:
        redis_url: the Redis through which they tell each other; without one they hear nothing of each other.
    """
    folder = tempfile.mkdtemp(prefix="workbook-chat-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    variables = {
        "CHAT_DATABASE": str(Path(folder) / "chat.sqlite3"),
        "CHAT_SECRET_KEY": os.urandom(32).hex(),
    }
    if redis_url is not None:
        # No client must come back to the process that knows it, which only a balancer could see to.
        variables.update(CHAT_QUEUE=redis_url, CHAT_TRANSPORTS="websocket")
    return variables


def application() -> Flask:
    """Return the application of this process: the same each time, so that a cell can be run again.

    Where the environment names no database, it is a new one, which ends with this process.
    """
    global _app
    if _app is None:
        settings: dict[str, Any] = {}
        if "CHAT_DATABASE" not in os.environ:
            settings["CHAT_DATABASE"] = environment()["CHAT_DATABASE"]
        if proxy_prefix() is not None and "CHAT_HOSTS" not in os.environ:
            settings["CHAT_HOSTS"] = ["*"]  # which name this machine has there, nobody says here
        _app = importlib.import_module("flask_chat").create_app(settings)
    return _app


def log_in(server: Server, name: str) -> dict[str, str]:
    """Log in through the form of a chat, as a browser does, and return the headers that a Socket.IO client needs.

    Args:
        server: the chat.
        name: who to be.

    Returns:
        The cookie of the session. No origin: Socket.IO's Python client names one by itself, and two are refused.
    """
    import httpx

    origin = server.url().rstrip("/")
    with httpx.Client(base_url=origin, headers={"Origin": origin}, trust_env=False) as browser:
        answer = browser.post("/login", data={"name": name})
        if answer.is_error:
            answer.raise_for_status()
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in browser.cookies.jar)
    return {"Cookie": cookies}


def __getattr__(name: str) -> Any:
    if name == "app":  # only now, because it makes a database
        return application()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
