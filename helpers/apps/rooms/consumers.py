from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer


class Room(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        self.group = "room_" + self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(self, text_data: str) -> None:
        event = {"type": "room.said", "text": text_data}
        await self.channel_layer.group_send(self.group, event)

    async def room_said(self, event: dict[str, Any]) -> None:
        await self.send(event["text"])
