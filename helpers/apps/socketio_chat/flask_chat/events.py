"""The Socket.IO side of the chat. What it does is written down in the README one folder above the project."""

import sqlite3
import threading

from flask import current_app, request, session
from flask_socketio import ConnectionRefusedError, join_room, leave_room

from . import guard, models, protocol
from .extensions import socketio
from .protocol import Refused

MAX_PACKET = 2**20
"""The longest packet, in bytes: who sends a longer one is disconnected."""

_starting = threading.Lock()


def init_app(app, socketio):
    """Give an application its Socket.IO, with the settings of this application."""
    heartbeat, hosts = app.config["CHAT_HEARTBEAT"], app.config["CHAT_HOSTS"]
    socketio.init_app(
        app,
        message_queue=app.config["CHAT_QUEUE"],
        transports=app.config["CHAT_TRANSPORTS"],
        cors_allowed_origins=lambda origin, environ: guard.origin_is_ours(origin, hosts),
        max_http_buffer_size=MAX_PACKET,
        ping_interval=heartbeat,
        ping_timeout=2 * heartbeat,
    )
    if app.config["CHAT_QUEUE"]:
        # Listen from now on, and not from the first connection, which would miss what is said before this has begun.
        socketio.server.manager_initialized = True
        socketio.server.manager.initialize()


# Who is told. Connections are gathered in rooms of Socket.IO: those of a name, and those in a room of the chat. An address that
# nobody can ask to enter: only this module chooses it.


def name_address(name):
    return f"@{name}"


def room_address(room, since):
    """Return the room of Socket.IO for those who have entered a room of the chat after one and the same message.

    One for everybody would do in one process. Between processes a message may still be on its way to this one when somebody
    who enters here has got it already, with the history; it would come twice. So message 7 goes to those who have entered after
    message 6 or before, and not to who enters after 7.
    """
    return f"#{room}/{since}"


def tell(to, event, skip=None, /, **payload):
    if to:  # to nobody would be to everybody
        socketio.emit(event, {"v": protocol.VERSION, **payload}, to=to, skip_sid=skip)


def tell_room(room, event, skip=None, /, **payload):
    """Tell everyone who is in a room at this point of a transaction, when it has been kept."""
    to = [room_address(room, since) for since in models.points_of_entry(room)]
    models.afterwards(tell, to, event, skip, **payload)


def reply(event, ref=None, /, **payload):
    """Send an event to this client."""
    tell(request.sid, event, None, **payload, **({} if ref is None else {"ref": ref}))


def dismiss(sid, code, message):
    """Say goodbye to a connection, in whatever process it is, and end it."""
    tell(sid, "ended", code=code, message=message)
    socketio.server.disconnect(sid)


# Connections


def is_open():
    """Tell whether this connection is open: then "connect" and "disconnect" are mere events, which the client has sent."""
    return socketio.server.manager.is_connected(request.sid, "/")


@socketio.on("connect")
def connect(auth=None):
    if is_open():
        unknown(*request.event["args"])
        return
    name = session.get("name")
    if not models.open_connection(request.sid, name, session.get("key")):
        raise ConnectionRefusedError("Log in first.", {"code": 4401})
    join_room(name_address(name))
    reply("welcome", name=name, rooms=models.rooms_open_to(name))
    start_beating(current_app._get_current_object())


@socketio.on("disconnect")
def disconnect(*reason):
    if is_open():
        unknown(*request.event["args"])
        return
    # In a thread of its own: a connection that has been silent for too long is ended by whoever sends to it, here in the
    # middle of a transaction.
    socketio.start_background_task(end, current_app._get_current_object(), request.sid)


def end(app, sid):
    """Tell that a connection has ended."""
    with app.app_context(), models.transaction():
        for room, name in models.end_connection(sid):
            tell_room(room, "departed", room=room, name=name)


def end_session(key):
    """End a session, and with it its connections."""
    with models.transaction():
        for sid in models.end_session(key):
            models.afterwards(dismiss, sid, 4401, "The session has ended.")


def start_beating(app):
    with _starting:
        beating = app.extensions.get("chat_beating")
        if beating is None or not beating.is_alive():
            app.extensions["chat_beating"] = socketio.start_background_task(beat, app)


def beat(app):
    """Show again and again which connections live, and clear away those whose process has died."""
    while True:
        socketio.sleep(app.config["CHAT_HEARTBEAT"])
        try:
            with app.app_context(), models.transaction():
                beat_once()
        except sqlite3.Error:
            app.logger.warning("No heartbeat this time", exc_info=True)


def beat_once():
    manager = socketio.server.manager
    known = [sid for sid, _ in manager.get_participants("/", None)]
    for sid in models.beat([sid for sid in known if manager.is_connected(sid, "/")]):
        models.afterwards(
            dismiss, sid, 4408, "This server slept so long that it was taken for dead."
        )
    for room, name in models.sweep():
        tell_room(room, "departed", room=room, name=name)


# What the client says


def answer(handler, arguments):
    """Run the handler of an event, with its payload and the client's reference; what is refused is said to the client."""
    ref = None
    try:
        payload = protocol.payload(arguments)
        ref = protocol.reference(payload)
        protocol.check_version(payload)
        handler(payload, ref)
    except Refused as refused:
        reply("error", ref, code=refused.code, message=refused.message)


def event(handler):
    """Make a function the handler of the event that has its name."""
    socketio.on_event(handler.__name__, lambda *arguments: answer(handler, arguments))
    return handler


@event
def join(payload, ref):
    name, room = session["name"], open_room(protocol.room_name(payload))
    with models.transaction():
        before = models.joined_since(request.sid, room)
        if before is not None:
            leave_room(room_address(room, before))
        new = name not in models.here(room)
        history = models.history(room)
        since = history[-1]["id"] if history else 0
        models.enter(request.sid, room, since)
        join_room(room_address(room, since))
        # Now, so that no message comes before it. Nobody else hears of it before it has been kept.
        reply("joined", ref, room=room, history=history, here=models.here(room))
        if new:
            tell_room(room, "arrived", request.sid, room=room, name=name)


@event
def leave(payload, ref):
    name, room = session["name"], joined_room(payload)
    with models.transaction():
        leave_room(room_address(room, models.joined_since(request.sid, room)))
        gone = models.leave(request.sid, room, name)
        models.afterwards(reply, "left", ref, room=room)
        if gone:
            tell_room(room, "departed", room=room, name=name)


@event
def say(payload, ref):
    room, text = joined_room(payload), protocol.text_of(payload)
    open_room(room)  # again, because who may be here can change
    with models.transaction():
        message = models.store(room, session["name"], text)
        tell_room(room, "said", request.sid, **message)
        models.afterwards(reply, "said", ref, **message)


@event
def whisper(payload, ref):
    name, to, text = session["name"], protocol.addressee(payload), protocol.text_of(payload)
    if not models.is_connected(to):
        raise Refused("not_here", "Nobody of that name is here.")
    whispered = {"from": name, "to": to, "text": text}
    tell([name_address(to), name_address(name)], "whisper", request.sid, **whispered)
    reply("whisper", ref, **whispered)


@socketio.on("*")
def other(name, *arguments):
    unknown(*arguments)


def unknown(*arguments):
    answer(refuse, arguments)


def refuse(payload, ref):
    raise Refused("unknown_type", "The events are join, leave, say and whisper.")


def joined_room(payload):
    room = protocol.room_name(payload)
    if models.joined_since(request.sid, room) is None:
        raise Refused("not_joined", "Join the room first.")
    return room


def open_room(room):
    """Return the room, if this name may join it."""
    if not models.room_exists(room):
        raise Refused("unknown_room", "There is no room of that name.")
    if room not in [one["room"] for one in models.rooms_open_to(session["name"])]:
        raise Refused("not_a_member", "This room is open to its members only.")
    return room
