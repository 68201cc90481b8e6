"""python-socketio's own ASGI server, without a web framework."""

from __future__ import annotations

import os

import socketio

QUEUE = os.environ.get("STACKS_QUEUE")

sio = socketio.AsyncServer(
    async_mode="asgi", client_manager=socketio.AsyncRedisManager(QUEUE) if QUEUE else None
)
app = socketio.ASGIApp(sio)


@sio.on("connect")
async def connect(sid: str, environ: object, auth: object = None) -> None:
    """Put everybody into one room."""
    await sio.enter_room(sid, "everybody")


@sio.on("say")
async def say(sid: str, text: str) -> None:
    """Echo, or emit to the room."""
    await sio.emit("said", text, to="everybody" if text.startswith("!") else sid)
