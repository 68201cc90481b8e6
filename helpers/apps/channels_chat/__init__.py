"""The chat on Django Channels: a project of its own (README.md beside this file), and what a notebook needs to serve it.

chat = serve("helpers.apps.channels_chat:application", process=True)
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...server import Server

FOLDER = Path(__file__).resolve().parent

_database: tempfile.TemporaryDirectory[str] | None = None

# The project's packages, `config` and `chat`, are imported by these names, as they are when it runs by itself.
if str(FOLDER) not in sys.path:
    sys.path.insert(0, str(FOLDER))


def configure(layer: str = "memory", redis_url: str | None = None) -> None:
    """Choose the channel layer, and a new empty database, for the chats that start from here on: they share it.

    Without this, a chat in a process of its own has a database of its own, which ends with the process.

    Args:
        layer: `"memory"`, `"redis"` or `"pubsub"`.
        redis_url: where Redis is, for the latter two; by default what `REDIS_URL` says.
    """
    global _database
    _database = tempfile.TemporaryDirectory(prefix="workbook-chat-", ignore_cleanup_errors=True)
    os.environ["CHAT_DATABASE"] = str(Path(_database.name) / "chat.sqlite3")
    os.environ["CHAT_SECRET_KEY"] = os.urandom(32).hex()  # so that all know the same sessions
    os.environ["CHAT_CHANNEL_LAYER"] = layer
    if redis_url is not None:
        os.environ["REDIS_URL"] = redis_url


def prepare() -> None:
    """Set Django up in this process, once, and bring the database up to date. Calling it again is safe, in a cell, too."""
    import django
    from django.core.management import call_command

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    if "CHAT_DATABASE" not in os.environ:
        configure(os.environ.get("CHAT_CHANNEL_LAYER", "memory"))
    django.setup()
    # Not here: Django's database refuses to work where an event loop runs, as it does in a cell.
    migrating = threading.Thread(target=call_command, args=("migrate",), kwargs={"verbosity": 0})
    migrating.start()
    migrating.join()


def log_in(server: Server, name: str) -> dict[str, str]:
    """Log in through the form of a chat, as a browser does, and return the headers that a WebSocket handshake needs.

    Args:
        server: the chat.
        name: who to be.

    Returns:
        The cookie of the session and the page's origin.
    """
    import httpx

    with httpx.Client(base_url=server.url(), trust_env=False, follow_redirects=True) as browser:
        browser.get("login")
        token = browser.cookies["channels_chat_csrf"]
        browser.post("login", data={"name": name, "csrfmiddlewaretoken": token}).raise_for_status()
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in browser.cookies.jar)
    return {"Cookie": cookies, "Origin": server.url().rstrip("/")}


def __getattr__(name: str) -> Any:
    if name == "application":  # only now, because it takes the one Django of a process
        prepare()
        return importlib.import_module("config.asgi").application
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
