"""The pages: logging in, the chat itself, logging out."""

from flask import (
    Blueprint,
    current_app,
    redirect,
    render_template,
    request,
    send_from_directory,
    session,
)

from . import client, events, models, protocol

pages = Blueprint("pages", __name__)

# Redirects are relative, because behind a proxy's prefix the chat does not know its own address.


@pages.get("/")
def index():
    if not models.session_lives(session.get("key")):
        return redirect("login")
    return render_template(
        "index.html",
        name=session["name"],
        client=client,
        transports=",".join(current_app.config["CHAT_TRANSPORTS"]),
    )


@pages.get("/login")
def login_form():
    return render_template("login.html")


@pages.post("/login")
def log_in():
    name = protocol.person(request.form.get("name", ""))
    if name is None:
        problem = "A name has 1 to 30 letters, digits, and . _ -"
        return render_template("login.html", problem=problem), 400
    session.clear()
    session["name"] = name
    session["key"] = models.begin_session(name)
    return redirect("./")


@pages.post("/logout")
def log_out():
    events.end_session(session.get("key"))
    session.clear()
    return redirect("login")


@pages.get("/static/socket.io.min.js")
def socketio_client():
    return send_from_directory(client.FOLDER, client.FILE)
