"""The WebSocket side of the chat. What it does is written down in the README one folder above the project."""

import asyncio
import json
import logging
from math import inf

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import DatabaseError

from . import protocol
from .models import Connection, Room
from .protocol import Refused

logger = logging.getLogger(__name__)

# Group names are limited to ASCII letters, digits, hyphens, underscores and periods, so users go by number.


def user_group(user):
    return f"user.{user.pk}"


def room_group(name):
    return f"room.{name}"


class ChatConsumer(AsyncWebsocketConsumer):
    """One connection of somebody who is logged in."""

    async def __call__(self, scope, receive, send):
        self.connection = None  # its row in the database, once it is accepted
        self.rooms = {}  # each room it has joined, with the last message of the history it was given
        # Not in disconnect(): that is not called when the client leaves while a handler is at work, and the handler's
        # next send() fails (django/channels#1466). The name would stay in its rooms for ever.
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.end()

    async def connect(self):
        # To refuse before accept() is an HTTP status 403, whose reason no browser tells the page.
        await self.accept()
        self.user = self.scope["user"]
        if not self.user.is_authenticated:
            await self.close(4401)
            return
        self.connection = await Connection.objects.acreate(
            channel=self.channel_name, user_id=self.user.pk
        )
        self.beating = asyncio.create_task(self.beat())
        await self.channel_layer.group_add(user_group(self.user), self.channel_name)
        await self.reply("welcome", name=self.user.username, rooms=await self.open_rooms())

    async def end(self):
        if self.connection is None:
            return
        self.beating.cancel()
        for group in [user_group(self.user), *map(room_group, self.rooms)]:
            await self.channel_layer.group_discard(group, self.channel_name)
        for room in await database_sync_to_async(self.connection.end)():
            await self.tell(room, "departed", self.user.username)

    # What the client says

    async def receive(self, text_data=None, bytes_data=None):
        if self.connection is None:  # refused, and the client has not yet heard of it
            return
        ref = None
        try:
            event = protocol.parse(text_data)
            ref = protocol.reference(event)
            handler = getattr(self, protocol.kind(event, ("join", "leave", "say", "whisper")))
            await handler(event, ref)
        except Refused as refused:
            await self.reply("error", ref, code=refused.code, message=refused.message)

    async def join(self, event, ref):
        name = protocol.room_name(event)
        room = await self.find(name)
        # What is said from here on waits in this consumer's channel until the handler is done: nothing falls between the
        # history and the first live message. What was stored meanwhile is in both, so room_message() leaves that out.
        self.rooms[name] = inf
        await self.channel_layer.group_add(room_group(name), self.channel_name)
        new = await database_sync_to_async(self.connection.join)(room)
        history = await database_sync_to_async(room.history)()
        self.rooms[name] = history[-1]["id"] if history else 0
        here = await database_sync_to_async(room.here)()
        await self.reply("joined", ref, room=name, history=history, here=here)
        if new:
            await self.tell(name, "arrived", self.user.username, but=self.channel_name)

    async def leave(self, event, ref):
        name = self.joined_room(event)
        await self.channel_layer.group_discard(room_group(name), self.channel_name)
        del self.rooms[name]
        room = await Room.objects.aget(name=name)
        gone = await database_sync_to_async(self.connection.leave)(room)
        await self.reply("left", ref, room=name)
        if gone:
            await self.tell(name, "departed", self.user.username)

    async def say(self, event, ref):
        name, text = self.joined_room(event), protocol.text_of(event)
        room = await self.find(name)  # again, because who may be here can change
        message = await database_sync_to_async(room.say)(self.user, text)
        await self.channel_layer.group_send(
            room_group(name),
            {
                "type": "room.message",
                "message": message.as_event(),
                "sender": self.channel_name,
                "ref": ref,
            },
        )

    async def whisper(self, event, ref):
        to, text = protocol.addressee(event), protocol.text_of(event)
        present = Connection.objects.alive().filter(user__username=to).select_related("user")
        found = await present.afirst()
        if found is None:
            raise Refused("not_here", "Nobody of that name is here.")
        whispered = {"from": self.user.username, "to": to, "text": text}
        for group in {user_group(found.user), user_group(self.user)}:
            await self.channel_layer.group_send(
                group,
                {
                    "type": "user.whisper",
                    "whisper": whispered,
                    "sender": self.channel_name,
                    "ref": ref,
                },
            )

    # What other consumers tell this one, through the channel layer

    async def room_message(self, event):
        message = event["message"]
        if message["id"] > self.rooms.get(message["room"], inf):
            await self.reply("message", self.own_ref(event), **message)

    async def room_presence(self, event):
        if event["room"] in self.rooms and event["but"] != self.channel_name:
            await self.reply(event["what"], room=event["room"], name=event["name"])

    async def user_whisper(self, event):
        await self.reply("whisper", self.own_ref(event), **event["whisper"])

    async def session_ended(self, event):
        if event["session"] == self.scope["session"].session_key:
            await self.close(4401)

    # Helpers

    async def reply(self, type, ref=None, **payload):
        """Send an event to this client."""
        event = {"v": protocol.VERSION, "type": type, **payload}
        if ref is not None:
            event["ref"] = ref
        await self.send(json.dumps(event))

    async def tell(self, room, what, name, but=None):
        """Tell everyone in a room, but one, that somebody has arrived or departed."""
        await self.channel_layer.group_send(
            room_group(room),
            {"type": "room.presence", "what": what, "room": room, "name": name, "but": but},
        )

    def own_ref(self, event):
        return event["ref"] if event["sender"] == self.channel_name else None

    def joined_room(self, event):
        name = protocol.room_name(event)
        if name not in self.rooms:
            raise Refused("not_joined", "Join the room first.")
        return name

    @database_sync_to_async
    def find(self, name):
        """Return a room that this user may join."""
        room = Room.objects.filter(name=name).first()
        if room is None:
            raise Refused("unknown_room", "There is no room of that name.")
        if not Room.objects.open_to(self.user).filter(pk=room.pk).exists():
            raise Refused("not_a_member", "This room is open to its members only.")
        return room

    @database_sync_to_async
    def open_rooms(self):
        rooms = Room.objects.open_to(self.user).order_by("name")
        return [{"room": room.name, "private": room.private} for room in rooms]

    async def beat(self):
        """Show again and again that this connection lives, and clear away those whose process has died."""
        while True:
            await asyncio.sleep(settings.CHAT_HEARTBEAT)
            try:
                known = await database_sync_to_async(self.connection.beat)()
                for room, name in await database_sync_to_async(Connection.objects.sweep)():
                    await self.tell(room, "departed", name)
            except DatabaseError:
                logger.warning("No heartbeat this time", exc_info=True)
                continue
            if not known:  # this process slept so long that another took it for dead
                await self.close(4408)
                return


class NotFound(AsyncWebsocketConsumer):
    """The answer at every other address."""

    async def connect(self):
        await self.accept()
        await self.close(4404)
