import sqlite3

import pytest
from flask_chat import models


@pytest.fixture
def context(app):
    with app.app_context():
        yield


@pytest.fixture
def ada(context):
    key = models.begin_session("ada")
    assert models.open_connection("sid", "ada", key)
    return key


def test_each_room_numbers_its_messages(context):
    said = [models.store(room, "ada", "x")["id"] for room in ("lobby", "lobby", "random", "lobby")]
    assert said == [1, 2, 1, 3]
    assert [message["id"] for message in models.history("lobby", count=2)] == [2, 3]


def test_a_session_that_has_ended_opens_no_connection(ada):
    with models.transaction():
        assert models.end_session(ada) == ["sid"]
    assert not models.open_connection("other", "ada", ada)
    assert not models.open_connection("other", None, None)


def test_a_connection_that_has_ended_enters_no_room(ada):
    models.enter("sid", "lobby", 0)
    assert models.end_connection("sid") == [("lobby", "ada")]
    with pytest.raises(sqlite3.IntegrityError):
        models.enter("sid", "lobby", 0)
    assert models.here("lobby") == []


def test_who_gives_no_sign_of_life_is_not_here(app, ada):
    models.enter("sid", "lobby", 0)
    assert models.here("lobby") == ["ada"]
    app.config["CHAT_HEARTBEAT"] = 0.0
    assert models.here("lobby") == []
    assert models.sweep() == [("lobby", "ada")]
    assert models.beat(["sid"]) == {"sid"}


def test_a_transaction_that_fails_leaves_nothing(context):
    def fail():
        with models.transaction():
            models.store("lobby", "ada", "x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert models.history("lobby") == []
