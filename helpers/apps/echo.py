"""An ASGI application that sends every message back, and says in its server's log how each connection ended.

For servers that run in a process of their own, and so cannot serve a function of a cell.
"""

from __future__ import annotations

from typing import Any


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Echo text and binary messages until the client has gone; then print `disconnect` and the close code."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] != "websocket.disconnect":
        message = {kind: event[kind] for kind in ("text", "bytes") if event.get(kind) is not None}
        await send({"type": "websocket.send", **message})
    print("disconnect", event["code"])
