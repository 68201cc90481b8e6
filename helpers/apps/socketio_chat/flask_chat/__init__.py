"""The chat on Flask and Flask-SocketIO."""

from flask import Flask

from . import config, events, guard, models, views
from .extensions import socketio


def create_app(settings=None):
    """Make the application, with its database.

    Args:
        settings: what differs from the environment and the defaults of `config`.
    """
    app = Flask(__name__)
    app.config.from_mapping(config.from_environment())
    app.config.from_mapping(settings or {})
    app.json.sort_keys = False
    models.init_app(app)
    app.register_blueprint(views.pages)
    app.after_request(guard.content_security_policy)
    app.before_request(guard.refuse_foreign_forms)
    events.init_app(app, socketio)
    # Around everything, Socket.IO's own addresses too, which Flask never sees.
    app.wsgi_app = guard.TrustedHosts(app.wsgi_app, app.config["CHAT_HOSTS"])
    return app
