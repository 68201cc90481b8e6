"""The chat on Django Channels: a project of its own (README.md beside this file), and what a notebook needs to serve it.

chat = serve("helpers.apps.channels_chat:application", process=True)
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...server import proxy_prefix

if TYPE_CHECKING:
    from ...server import Server

FOLDER = Path(__file__).resolve().parent

# The project's packages, `config` and `chat`, are imported by these names, as they are when it runs by itself.
if str(FOLDER) not in sys.path:
    sys.path.insert(0, str(FOLDER))


def environment(layer: str = "memory", redis_url: str | None = None) -> dict[str, str]:
    """Return the variables with which several processes are one chat: `serve(..., process=True, env=environment())`.

    They share a new, empty database, which ends with this process, and know the same sessions.

    Args:
        layer: the channel layer: `"memory"`, `"redis"` or `"pubsub"`.
        redis_url: where Redis is, for the latter two; by default what `REDIS_URL` says.
    """
    folder = tempfile.mkdtemp(prefix="workbook-chat-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    variables = {
        "CHAT_DATABASE": str(Path(folder) / "chat.sqlite3"),
        "CHAT_SECRET_KEY": os.urandom(32).hex(),
        "CHAT_CHANNEL_LAYER": layer,
    }
    return variables if redis_url is None else {**variables, "CHAT_REDIS_URL": redis_url}


def prepare() -> None:
    """Set Django up in this process, once, and bring the database up to date. Calling it again is safe, in a cell, too.

    Where the environment names no database, it is a new one, which ends with this process.

    Raises:
        RuntimeError: this process has a Django of its own already.
    """
    import django
    from django.conf import settings

    if settings.configured and settings.ROOT_URLCONF != "config.urls":
        raise RuntimeError(
            "This process has a Django of its own, and can have no second one. Give the chat a process:\n"
            'serve("helpers.apps.channels_chat:application", process=True)'
        )
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    if "CHAT_DATABASE" not in os.environ:
        os.environ.update({**environment(), **os.environ})
    if proxy_prefix() is not None:  # which name this machine has there, nobody says here
        os.environ.setdefault("CHAT_HOSTS", "*")
    django.setup()
    with ThreadPoolExecutor(
        1
    ) as thread:  # Django's database refuses to work in a thread with an event loop
        thread.submit(_migrate).result()


def _migrate() -> None:
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0)
    connection.close()


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
