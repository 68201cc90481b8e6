import socketio

from . import HEARTBEAT, NODE, QUEUE_URL

server = socketio.AsyncServer(
    async_mode="asgi",
    client_manager=socketio.AsyncRedisManager(QUEUE_URL) if QUEUE_URL else None,
    ping_interval=HEARTBEAT,
    ping_timeout=20,
)
app = socketio.ASGIApp(server)


@server.event
async def connect(sid: str, environ: object, auth: object = None) -> None:
    await server.emit("node", NODE, to=sid)


@server.event
async def say(sid: str, number: int) -> int:
    await server.emit("said", number)
    return number
