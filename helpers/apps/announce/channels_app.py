import os
from typing import Any

import django
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter
from django.conf import settings

from . import NODE, QUEUE_URL

LAYERS = {
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}
# No timeout of the socket: redis 8 gives up on a read after 5 s, and the core layer waits as long (redis/redis-py#4091).
IN_REDIS = {
    "BACKEND": LAYERS[os.environ.get("LAYER", "pubsub")],
    "CONFIG": {"hosts": [{"address": QUEUE_URL, "socket_timeout": None}]},
}
IN_MEMORY = {"BACKEND": "channels.layers.InMemoryChannelLayer"}

if not settings.configured:
    settings.configure(
        LOGGING_CONFIG=None, CHANNEL_LAYERS={"default": IN_REDIS if QUEUE_URL else IN_MEMORY}
    )
    django.setup()
    get_channel_layer()  # now, and not while the first client waits


class Everybody(AsyncJsonWebsocketConsumer):
    groups = ["everybody"]

    async def connect(self) -> None:
        await self.accept()
        await self.send_json({"node": NODE})

    async def receive_json(self, number: int) -> None:
        await self.channel_layer.group_send("everybody", {"type": "said", "number": number})
        await self.send_json({"receipt": number})

    async def said(self, event: dict[str, Any]) -> None:
        await self.send_json({"said": event["number"]})


app = ProtocolTypeRouter({"websocket": Everybody.as_asgi()})
