"""A page that shows what a WebSocket tells it, in two ways: as markup, and as text.

`/markup` and `/text` differ in one word of their script; `/guarded` is `/markup` with a content security policy.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

SCRIPT = (
    'new WebSocket(location.href.replace("http", "ws"))'
    '.onmessage = said => document.getElementById("wall").{way} = said.data;'
)
"""What the pages run, `{way}` being `innerHTML` or `textContent`."""

PAGES = {"/markup": "innerHTML", "/text": "textContent", "/guarded": "innerHTML"}
"""The paths of the pages, and how each shows a message."""


def page(path: str) -> str:
    """Return a page.

    Args:
        path: one of `PAGES`.
    """
    script = SCRIPT.format(way=PAGES[path])
    return f'<!doctype html><title>Wall</title><p id="wall"></p><script>{script}</script>'


def policy(path: str) -> str:
    """Return the content security policy that lets a page run its own script, and no other.

    Args:
        path: one of `PAGES`.
    """
    digest = hashlib.sha256(SCRIPT.format(way=PAGES[path]).encode()).digest()
    allowed = base64.b64encode(digest).decode()
    return f"default-src 'none'; connect-src 'self'; script-src 'sha256-{allowed}'"


def wall(message: str) -> Any:
    """Return an ASGI application with the pages, whose WebSocket tells everybody one message.

    Args:
        message: what to tell.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        path = "/" + scope["path"].rsplit("/", 1)[-1]
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": message})
            while (await receive())["type"] != "websocket.disconnect":
                pass
        elif scope["type"] == "http":
            found = path in PAGES
            headers = {"content-type": "text/html; charset=utf-8"}
            if path == "/guarded":
                headers["content-security-policy"] = policy(path)
            await send(
                {
                    "type": "http.response.start",
                    "status": 200 if found else 404,
                    "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
                }
            )
            body = page(path).encode() if found else b""
            await send({"type": "http.response.body", "body": body})

    return app
