from flask import Flask
from flask_socketio import SocketIO, emit

from . import HEARTBEAT, NODE, QUEUE_URL

app = Flask("announce")
socketio = SocketIO(
    app, async_mode="threading", message_queue=QUEUE_URL, ping_interval=HEARTBEAT, ping_timeout=20
)


@app.get("/")
def node() -> str:
    return f"node {NODE}"


@socketio.event
def connect(auth: object = None) -> None:
    emit("node", NODE)


@socketio.event
def say(number: int) -> int:
    emit("said", number, broadcast=True)
    return number
