"""The service on Channels: `/right/lobby` is as it should be, `/join/lobby` has the bug of that name, and so on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from typing import Any, ClassVar

import django
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.urls import path
from redis.asyncio import Redis

from ...project import DEFAULTS, configure
from . import BUGS, QUEUE_URL

if QUEUE_URL and not settings.configured:
    # No timeout of the socket: redis 8 gives up on a read after 5 s, and the core layer waits as long (redis/redis-py#4091).
    layer = {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [{"address": QUEUE_URL, "socket_timeout": None}]},
    }
    settings.configure(**{**DEFAULTS, "CHANNEL_LAYERS": {"default": layer}})
    django.setup()
elif not settings.configured:  # in a kernel
    configure()

store = Redis.from_url(QUEUE_URL) if QUEUE_URL else None
here = itertools.count(1)


class Room(AsyncJsonWebsocketConsumer):
    patience = 5.0
    bell: ClassVar[Any] = None

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.accept()

    async def receive_json(self, content: list[Any]) -> None:
        name, *arguments = content
        if name in ("join", "leave", "say", "ring", "answer", "mark"):
            await getattr(self, name)(*arguments)

    async def join(self) -> None:
        await self.channel_layer.group_add(self.room, self.channel_name)

    async def leave(self) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def say(self, text: str) -> None:
        number = await self.next_number()
        said = {"type": "said", "number": number, "text": text}
        await self.channel_layer.group_send(self.room, said)

    async def said(self, event: dict[str, Any]) -> None:
        await self.send_json(["said", event["number"], event["text"]])

    async def ring(self) -> None:
        bell = type(self).bell = asyncio.Event()
        await self.send_json(["ringing"])
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(bell.wait(), self.patience)
        await self.send_json(["rung", bell.is_set()])

    async def answer(self) -> None:
        self.bell.set()

    async def mark(self) -> None:
        await self.channel_layer.send(self.channel_name, {"type": "marked"})

    async def marked(self, event: dict[str, Any]) -> None:
        await self.send_json(["marked"])

    async def next_number(self) -> int:
        return int(await store.incr("number")) if store else next(here)

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)


class NotJoined(Room):
    async def join(self) -> None:
        pass


class NotLeft(Room):
    async def leave(self) -> None:
        pass


class WrongName(Room):
    async def say(self, text: str) -> None:
        number = await self.next_number()
        said = {"type": "siad", "number": number, "text": text}
        await self.channel_layer.group_send(self.room, said)


class Blocking(Room):
    patience = 0.2

    async def ring(self) -> None:
        bell = type(self).bell = threading.Event()
        await self.send_json(["ringing"])
        bell.wait(self.patience)
        await self.send_json(["rung", bell.is_set()])


class CountingAlone(Room):
    async def next_number(self) -> int:
        return next(here)


ROOMS: dict[str, type[Room]] = {
    "right": Room,
    "origin": Room,  # what it lacks is not in the consumer
    "join": NotJoined,
    "leave": NotLeft,
    "name": WrongName,
    "wait": Blocking,
    "count": CountingAlone,
}


def routes(bug: str) -> URLRouter:
    """Return the routes of one site, as its `routing.py` would hold them."""
    return URLRouter([path(f"{bug}/<room>", ROOMS[bug].as_asgi())])


def site(bug: str) -> Any:
    """Return what the `asgi.py` of one site would make of its routes."""
    return routes(bug) if bug == "origin" else AllowedHostsOriginValidator(routes(bug))


sites = {bug: site(bug) for bug in ["right", *BUGS]}


async def choose(scope: Any, receive: Any, send: Any) -> None:
    """Hand a connection to the site that the first part of its path names."""
    await sites[scope["path"].split("/")[1]](scope, receive, send)


app = ProtocolTypeRouter({"websocket": choose})
