"""What an ASGI server runs: `helpers.apps.rooms.asgi:application`."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "helpers.apps.rooms.settings")
pages = get_asgi_application()  # makes Django ready, so it comes before the consumers

from .consumers import Room  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": pages,
        "websocket": URLRouter([path("ws/rooms/<slug:room>/", Room.as_asgi())]),
    }
)
