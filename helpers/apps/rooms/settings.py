SECRET_KEY = "no secret: this project never leaves your machine"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "helpers.apps.rooms.urls"
INSTALLED_APPS = ["daphne", "channels"]
ASGI_APPLICATION = "helpers.apps.rooms.asgi.application"
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
LOGGING_CONFIG = None  # warnings go to the log of the server
