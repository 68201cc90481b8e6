"""The service on Flask-SocketIO: the namespace `/right` is as it should be, `/join` has the bug of that name, and so on."""

from __future__ import annotations

import itertools
import threading
from typing import Any, ClassVar
from urllib.parse import parse_qs

from flask import Flask
from flask_socketio import SocketIO, emit, join_room, leave_room
from redis import Redis

from . import BUGS, QUEUE_URL

store: Any = Redis.from_url(QUEUE_URL) if QUEUE_URL else None
here = itertools.count(1)


class Room:
    events = ("join", "leave", "say", "ring", "answer", "mark")
    patience = 5.0
    bell: ClassVar[Any] = None

    def join(self, room: str) -> None:
        join_room(room)

    def leave(self, room: str) -> None:
        leave_room(room)

    def say(self, room: str, text: str) -> None:
        emit("said", (self.next_number(), text), to=room)

    def ring(self) -> None:
        bell = type(self).bell = threading.Event()
        emit("ringing")
        emit("rung", bell.wait(self.patience))

    def answer(self) -> None:
        self.bell.set()

    def mark(self) -> None:
        emit("marked")

    def next_number(self) -> int:
        return int(store.incr("number")) if store else next(here)


class NotJoined(Room):
    def join(self, room: str) -> None:
        pass


class NotLeft(Room):
    def leave(self, room: str) -> None:
        pass


class WrongName(Room):
    events = ("join", "leave", "sya", "ring", "answer", "mark")
    sya = Room.say


class HoldingALock(Room):
    patience = 0.2
    lock = threading.Lock()

    def ring(self) -> None:
        with self.lock:
            super().ring()

    def answer(self) -> None:
        with self.lock:
            super().answer()


class CountingAlone(Room):
    def next_number(self) -> int:
        return next(here)


ROOMS: dict[str, type[Room]] = {
    "right": Room,
    "origin": Room,  # what it lacks is not in the handlers
    "join": NotJoined,
    "leave": NotLeft,
    "name": WrongName,
    "wait": HoldingALock,
    "count": CountingAlone,
}


def allowed(origin: str | None, environ: dict[str, Any]) -> bool:
    """Say whether a page from there may connect: only the site's own, but for the bug `origin`, which lets in any."""
    if parse_qs(environ["QUERY_STRING"]).get("site") == ["origin"]:
        return True
    return origin == f"http://{environ['HTTP_HOST']}"


def build() -> tuple[Flask, SocketIO]:
    """Return an application with all the sites, and its SocketIO. A test client changes them for good: make others to serve."""
    app = Flask("planted")
    io = SocketIO(
        app,
        async_mode="threading",
        async_handlers=False,  # so that the events of one client are handled in order
        cors_allowed_origins=allowed,
        message_queue=QUEUE_URL,
    )
    for bug in ["right", *BUGS]:
        room = ROOMS[bug]()
        for name in room.events:
            io.on_event(name, getattr(room, name), namespace=f"/{bug}")
    return app, io


app, socketio = build()
