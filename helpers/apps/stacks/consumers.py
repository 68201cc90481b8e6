"""Django Channels: a consumer and a group."""

from __future__ import annotations

import os
from typing import Any

import django
from django.conf import settings

QUEUE = os.environ.get("STACKS_QUEUE")
LAYER = (
    "core.RedisChannelLayer"
    if os.environ.get("STACKS_LAYER") == "core"
    else "pubsub.RedisPubSubChannelLayer"
)

if not settings.configured:
    layer = (
        {
            "BACKEND": f"channels_redis.{LAYER}",
            # socket_timeout: with redis-py 8 the core layer fails after five quiet seconds (redis/redis-py#4091).
            "CONFIG": {"hosts": [{"address": QUEUE, "socket_timeout": None}]},
        }
        if QUEUE
        else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    )
    settings.configure(
        SECRET_KEY="no secret", CHANNEL_LAYERS={"default": layer}, LOGGING_CONFIG=None
    )
    django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter  # noqa: E402


class Everybody(AsyncWebsocketConsumer):
    """Echo, or send to the group that everybody is in."""

    groups = ("everybody",)

    async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
        if text_data.startswith("!"):
            await self.channel_layer.group_send("everybody", {"type": "said", "text": text_data})
        else:
            await self.send(text_data=text_data)

    async def said(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


app = ProtocolTypeRouter({"websocket": Everybody.as_asgi()})
