"""Settings of the chat. What differs from place to place comes from the environment (see README.md)."""

import os
import secrets
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def listed(name, default=""):
    """Return a comma-separated variable of the environment as a list."""
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


def from_environment():
    """Return the settings."""
    return {
        # A random key is safe, but new at each start: it ends all sessions, and a second process would not know them.
        "SECRET_KEY": os.environ.get("CHAT_SECRET_KEY") or secrets.token_hex(32),
        # Cookies know no ports: a name of its own keeps this chat apart from everything else on 127.0.0.1.
        "SESSION_COOKIE_NAME": "socketio_chat_session",
        "SESSION_COOKIE_SAMESITE": "Lax",
        "CHAT_DATABASE": os.environ.get("CHAT_DATABASE", str(PROJECT / "chat.sqlite3")),
        # The hosts that the chat answers for, and whose pages may connect.
        "CHAT_HOSTS": listed("CHAT_HOSTS", "localhost,127.0.0.1,[::1]"),
        "CHAT_FRAME_ANCESTORS": listed(
            "CHAT_FRAME_ANCESTORS", "'self',http://localhost:*,http://127.0.0.1:*"
        ),
        # Where several processes are one chat: the address of the Redis through which they tell each other.
        "CHAT_QUEUE": os.environ.get("CHAT_QUEUE"),
        # Long-polling needs a balancer that brings a client back to the same process. WebSocket alone does not.
        "CHAT_TRANSPORTS": listed("CHAT_TRANSPORTS", "polling,websocket"),
        # Seconds between two signs of life of a connection. One that misses three is taken for dead.
        "CHAT_HEARTBEAT": float(os.environ.get("CHAT_HEARTBEAT", "10")),
    }
