from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import parse_qs

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from django.conf import settings
from redis.asyncio import Redis
from redis.exceptions import RedisError

QUEUE_URL = os.environ.get("QUEUE_URL", "")  # none for those who only read this

if QUEUE_URL and not settings.configured:
    # No timeout of the socket: redis 8 gives up on a read after 5 s, and the core layer waits as long (redis/redis-py#4091).
    layer = {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [{"address": QUEUE_URL, "socket_timeout": None}]},
    }
    settings.configure(LOGGING_CONFIG=None, CHANNEL_LAYERS={"default": layer})
    get_channel_layer()  # now, and not while the first client waits

store: Any = Redis.from_url(QUEUE_URL) if QUEUE_URL else Redis()

# In one step, and only the first time: a retry changes nothing.
KEEP = """\
if redis.call('SADD', 'seen', ARGV[1]) == 1 then redis.call('RPUSH', 'journal', ARGV[1]) end
"""

counters = {"connections": 0, "connected_total": 0, "acked_total": 0}


class Journal(AsyncJsonWebsocketConsumer):
    groups = ["journal"]  # joined before connect() runs, so that no news is missed

    async def connect(self) -> None:
        self.told = int(parse_qs(self.scope["query_string"])[b"have"][0])
        await self.accept()
        counters["connections"] += 1
        counters["connected_total"] += 1
        await self.news({})

    async def disconnect(self, code: int) -> None:
        counters["connections"] -= 1

    async def receive_json(self, content: list[Any]) -> None:
        await store.eval(KEEP, 0, json.dumps(content))
        await self.channel_layer.group_send("journal", {"type": "news"})
        counters["acked_total"] += 1
        await self.send_json({"ack": content})

    async def news(self, event: dict[str, Any]) -> None:
        for entry in await store.lrange("journal", self.told, -1):
            self.told += 1
            await self.send_json({"entry": json.loads(entry)})


async def healthz() -> tuple[int, str]:
    try:
        await store.ping()
    except (RedisError, OSError):
        return 503, "no broker"
    return 200, "ready"


async def metrics() -> tuple[int, str]:
    return 200, "".join(f"journal_{name} {value}\n" for name, value in counters.items())


consumer = Journal.as_asgi()
PAGES = {"/healthz": healthz, "/metrics": metrics}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Hand sockets to the consumer, and answer requests.

    By hand, because `channels.routing` imports Django's ORM, and a node that starts twice as fast is back twice as soon.
    """
    if scope["type"] == "websocket":
        await consumer(scope, receive, send)
        return
    page = PAGES.get(scope["path"])
    status, text = await page() if page else (404, "not found")
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
