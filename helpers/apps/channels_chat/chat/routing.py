"""The addresses that answer WebSocket."""

from django.urls import path, re_path

from . import consumers

websocket_urlpatterns = [
    path("ws/chat/", consumers.ChatConsumer.as_asgi()),
    # Without a route URLRouter raises, and the client gets the HTTP status 500.
    re_path(r"", consumers.NotFound.as_asgi()),
]
