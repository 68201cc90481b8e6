import os

SECRET_KEY = "no secret: this project never leaves your machine"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "helpers.apps.rooms.urls"
INSTALLED_APPS = ["daphne", "channels"]
ASGI_APPLICATION = "helpers.apps.rooms.asgi.application"
LOGGING_CONFIG = None  # warnings go to the log of the server

# In memory, unless the environment names a Redis: each process then has rooms of its own.
ROOMS_REDIS = os.environ.get("ROOMS_REDIS")
IN_MEMORY = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
IN_REDIS = {
    "BACKEND": "channels_redis.core.RedisChannelLayer",
    # No timeout of the socket: redis 8 gives up on a read after 5 s, and the layer waits as long (redis/redis-py#4091).
    "CONFIG": {"hosts": [{"address": ROOMS_REDIS, "socket_timeout": None}]},
}
CHANNEL_LAYERS = {"default": IN_REDIS if ROOMS_REDIS else IN_MEMORY}
