"""Flask-SocketIO, in threads."""

from __future__ import annotations

import os

from flask import Flask
from flask_socketio import SocketIO, emit, join_room

app = Flask(__name__)
sio = SocketIO(app, async_mode="threading", message_queue=os.environ.get("STACKS_QUEUE"))


@sio.on("connect")
def connect() -> None:
    """Put everybody into one room."""
    join_room("everybody")


@sio.on("say")
def say(text: str) -> None:
    """Echo, or emit to the room."""
    if text.startswith("!"):
        emit("said", text, to="everybody")
    else:
        emit("said", text)
