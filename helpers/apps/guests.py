"""A Flask site with users, as short as it gets: log in by a name alone, log out, say who asks."""

from __future__ import annotations

import os

from flask import Flask, request, session


def site(name: str) -> Flask:
    """Return a new Flask application that knows its visitors by Flask's session, under the key `name`.

    Args:
        name: what to call the application.
    """
    app = Flask(name)
    app.secret_key = os.urandom(32)

    @app.post("/login")
    def log_in() -> str:
        session["name"] = request.form["name"]
        return "welcome"

    @app.post("/logout")
    def log_out() -> str:
        session.clear()
        return "goodbye"

    @app.get("/who")
    def who() -> str:
        return str(session.get("name", "a stranger"))

    return app
