import time

import pytest
from flask_chat import create_app
from flask_chat.extensions import socketio


@pytest.fixture
def app(tmp_path):
    return create_app(
        {
            "TESTING": True,
            "SECRET_KEY": "for tests",
            "CHAT_DATABASE": str(tmp_path / "chat.sqlite3"),
            "CHAT_HEARTBEAT": 10.0,
        }
    )


class Person:
    """Somebody in a browser: a session over HTTP, and a connection of Socket.IO that knows its cookie."""

    def __init__(self, app, name):
        self.browser = app.test_client()
        assert self.browser.post("/login", data={"name": name}).status_code == 302
        self.connection = self.connect(app)

    def connect(self, app):
        return socketio.test_client(app, flask_test_client=self.browser)

    def hears(self):
        """Return what has come since the last time: the names of the events, each with its payload."""
        return [(event["name"], event["args"][0]) for event in self.connection.get_received()]

    def ask(self, event, **payload):
        """Send an event and return the last thing that comes back."""
        self.connection.emit(event, payload)
        return self.hears()[-1]


@pytest.fixture
def person(app):
    def connected(name, *rooms):
        person = Person(app, name)
        for room in rooms:
            assert person.ask("join", room=room)[0] == "joined"
        return person

    return connected


@pytest.fixture
def eventually():
    """What a thread of its own does, is done a little later."""

    def wait(condition):
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    return wait
