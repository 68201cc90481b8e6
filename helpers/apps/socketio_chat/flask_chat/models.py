"""Sessions, rooms, what was said in them, and who is here: in SQLite, without more."""

import contextlib
import functools
import secrets
import sqlite3
import threading
import time
from datetime import UTC, datetime

from flask import current_app, g

MAX_AGE = 14 * 24 * 3600
"""Seconds that a session lasts."""

_turn = threading.Lock()
"""SQLite lets one write at a time. The threads of a process wait for their turn here; processes ask SQLite again and again."""


def init_app(app):
    """Make the tables that there are not yet, and the first rooms."""
    app.teardown_appcontext(close)
    with app.app_context(), current_app.open_resource("schema.sql", "r") as schema:
        database().executescript(schema.read())


def database():
    """Return the connection to the database that this request, or this event, has for itself."""
    if "database" not in g:
        g.database = sqlite3.connect(
            current_app.config["CHAT_DATABASE"], timeout=20, isolation_level=None
        )
        g.database.row_factory = sqlite3.Row
        g.database.executescript("PRAGMA foreign_keys = ON; PRAGMA synchronous = NORMAL;")
    return g.database


def close(_error=None):
    if "database" in g:
        g.pop("database").close()


@contextlib.contextmanager
def transaction():
    """Do all that a block does, or nothing of it, while nobody else writes; then what it has put off with `afterwards`."""
    with _turn:
        database().execute("BEGIN IMMEDIATE")
        g.afterwards = []
        try:
            yield
        except BaseException:
            database().rollback()
            raise
        database().commit()
        for call in g.pop(
            "afterwards"
        ):  # before the next turn: what is told has the order of what happened
            call()


def afterwards(function, *arguments, **options):
    """Call a function when the transaction has been kept: what somebody has been told cannot be taken back."""
    g.afterwards.append(functools.partial(function, *arguments, **options))


def select(sql, *values):
    return database().execute(sql, values).fetchall()


def alive():
    """Return since when those who live must have given a sign of life."""
    return time.time() - 3 * current_app.config["CHAT_HEARTBEAT"]


# Sessions. The cookie is signed, so nobody can make one up; but a copy of it stays good for ever. So this list says which
# ones there are.


def begin_session(name):
    """Return the key of a new session."""
    key = secrets.token_urlsafe(24)
    now = time.time()
    with transaction():
        database().execute("DELETE FROM session WHERE since < ?", (now - MAX_AGE,))
        database().execute("INSERT INTO session VALUES (?, ?, ?)", (key, name, now))
    return key


def session_lives(key):
    return bool(
        select("SELECT 1 FROM session WHERE key = ? AND since > ?", key, time.time() - MAX_AGE)
    )


def end_session(key):
    """Forget a session, and return the connections that it has."""
    database().execute("DELETE FROM session WHERE key = ?", (key,))
    return [row["sid"] for row in select("SELECT sid FROM connection WHERE session = ?", key)]


# Rooms


def rooms_open_to(name):
    """Return the rooms that a name may join: all public ones, and the private ones of which it is a member."""
    rows = select(
        "SELECT name, private FROM room WHERE NOT private"
        " OR name IN (SELECT room FROM member WHERE name = ?) ORDER BY name",
        name,
    )
    return [{"room": row["name"], "private": bool(row["private"])} for row in rows]


def room_exists(room):
    return bool(select("SELECT 1 FROM room WHERE name = ?", room))


def history(room, count=50):
    """Return the last messages, oldest first."""
    rows = select("SELECT * FROM message WHERE room = ? ORDER BY id DESC LIMIT ?", room, count)
    return [as_event(row) for row in reversed(rows)]


def store(room, author, text):
    """Keep a message under the room's next number, and return it."""
    (row,) = select(
        "INSERT INTO message SELECT ?, coalesce(max(id), 0) + 1, ?, ?, ? FROM message WHERE room = ?"
        " RETURNING *",
        room,
        author,
        text,
        datetime.now(UTC).isoformat(),
        room,
    )
    return as_event(row)


def as_event(row):
    return {
        "room": row["room"],
        "id": row["id"],
        "from": row["author"],
        "text": row["text"],
        "at": row["at"],
    }


# Who is here


def open_connection(sid, name, session):
    """Remember a connection, and return whether its session lives."""
    with transaction():
        if not session_lives(session):
            return False
        row = (sid, name, session, time.time())
        database().execute("INSERT INTO connection VALUES (?, ?, ?, ?)", row)
        return True


def is_connected(name):
    return bool(select("SELECT 1 FROM connection WHERE name = ? AND seen > ?", name, alive()))


def joined_since(sid, room):
    """Return the last message of the history that a connection was given in a room, or None if it is not there."""
    rows = select("SELECT since FROM presence WHERE sid = ? AND room = ?", sid, room)
    return rows[0]["since"] if rows else None


def here(room):
    """Return the names of those who are in a room, each once."""
    rows = select(
        "SELECT DISTINCT name FROM presence JOIN connection USING (sid) WHERE room = ? AND seen > ?",
        room,
        alive(),
    )
    return sorted(row["name"] for row in rows)


def enter(sid, room, since):
    """Let a connection into a room. A connection that has ended meanwhile is not let in: sqlite3.IntegrityError."""
    database().execute(
        "INSERT INTO presence VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET since = excluded.since",
        (sid, room, since),
    )


def leave(sid, room, name):
    """Let a connection out of a room, and return whether the name is gone from there."""
    database().execute("DELETE FROM presence WHERE sid = ? AND room = ?", (sid, room))
    return name not in here(room)


def points_of_entry(room):
    """Return each message after which somebody who is in a room has entered it."""
    rows = select("SELECT DISTINCT since FROM presence WHERE room = ?", room)
    return [row["since"] for row in rows]


def end_connection(sid):
    """Forget a connection, and return each (room, name) that is gone with it."""
    rows = select("SELECT room, name FROM presence JOIN connection USING (sid) WHERE sid = ?", sid)
    gone = [(row["room"], row["name"]) for row in rows if leave(sid, row["room"], row["name"])]
    database().execute("DELETE FROM connection WHERE sid = ?", (sid,))
    return gone


def beat(sids):
    """Note that connections live, and return those that somebody else has taken for dead."""
    now = time.time()
    database().executemany(
        "UPDATE connection SET seen = ? WHERE sid = ?", [(now, sid) for sid in sids]
    )
    return set(sids) - {row["sid"] for row in select("SELECT sid FROM connection")}


def sweep():
    """Forget what a process that died has left behind; return each (room, name) that is gone with it."""
    dead = select("SELECT sid FROM connection WHERE seen <= ?", alive())
    return [gone for row in dead for gone in end_connection(row["sid"])]
