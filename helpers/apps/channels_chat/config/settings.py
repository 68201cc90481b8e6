"""Settings of the chat. What differs from place to place comes from the environment (see README.md)."""

import os
from pathlib import Path

from django.core.management.utils import get_random_secret_key

BASE_DIR = Path(__file__).resolve().parent.parent


def listed(name: str, default: str = "") -> list[str]:
    """Return a comma-separated variable of the environment as a list."""
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


# Security

# A random key is safe, but new at each start: it ends all sessions, and a second process would not know them.
SECRET_KEY = os.environ.get("CHAT_SECRET_KEY") or get_random_secret_key()
DEBUG = os.environ.get("CHAT_DEBUG") == "1"

# The hosts that the chat answers for. AllowedHostsOriginValidator accepts WebSockets only from pages of these.
ALLOWED_HOSTS = listed("CHAT_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = listed("CHAT_ORIGINS")  # behind https: "https://chat.example.org"
FRAME_ANCESTORS = listed("CHAT_FRAME_ANCESTORS", "'self',http://localhost:*,http://127.0.0.1:*")

# Cookies know no ports: names of its own keep this chat apart from everything else on 127.0.0.1.
SESSION_COOKIE_NAME = "channels_chat_session"
CSRF_COOKIE_NAME = "channels_chat_csrf"

# The application

INSTALLED_APPS = [
    "daphne",  # first, so that `runserver` is an ASGI server
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "channels",
    "chat",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "chat.middleware.content_security_policy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }
]

STATIC_URL = "static/"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# The database

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("CHAT_DATABASE", BASE_DIR / "db.sqlite3"),
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",  # who is going to write waits for its turn at the beginning
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
        "TEST": {"NAME": BASE_DIR / "test.sqlite3"},  # a file, which a live server can open, too
    }
}

# The channel layer

REDIS_URL = (
    os.environ.get("CHAT_REDIS_URL") or os.environ.get("REDIS_URL") or "redis://127.0.0.1:6379"
)
# No timeout of the socket: by default redis 8 gives up on a read after 5 s, which is how long the layer lets Redis wait for a
# message, so whoever hears nothing for 5 s is disconnected (redis/redis-py#4091). And with any timeout at all it waits in a way
# that can swallow a cancellation before Python 3.12: a connection that has ended then stays in its rooms.
REDIS_HOSTS = [{"address": REDIS_URL, "socket_timeout": None}]
CHANNEL_LAYERS = {
    "default": {
        # Within one process. Other processes hear nothing of what is said here.
        "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
        # Messages wait in lists in Redis.
        "redis": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": REDIS_HOSTS},
        },
        # Messages go to whoever listens at that moment.
        "pubsub": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": REDIS_HOSTS},
        },
    }[os.environ.get("CHAT_CHANNEL_LAYER", "memory")]
}

# The chat

CHAT_HEARTBEAT = float(os.environ.get("CHAT_HEARTBEAT", "10"))
"""Seconds between two signs of life of a connection. One that misses three is taken for dead."""
