"""With Flask-SocketIO's test client: no server, no network, and what is sent is there at once."""

from flask_chat import events, models
from flask_chat.extensions import socketio


def test_without_a_session_there_is_no_connection(app):
    assert not socketio.test_client(app).is_connected()


def test_who_connects_is_welcome(person):
    ((event, payload),) = person("bob").hears()
    assert (event, payload["name"]) == ("welcome", "bob")
    assert [room["room"] for room in payload["rooms"]] == ["lobby", "random"]


def test_a_message_reaches_the_room(person):
    ada, bob, eve = person("ada", "lobby"), person("bob", "lobby"), person("eve", "random")
    ada.hears()
    eve.hears()
    event, said = bob.ask("say", room="lobby", text=" hello ", ref=7)
    assert (event, said["text"], said["from"], said.pop("ref")) == ("said", "hello", "bob", 7)
    assert ada.hears() == [("said", said)]
    assert eve.hears() == []


def test_a_room_of_socketio_cannot_be_asked_for(person):
    ada, eve = person("ada", "staff"), person("eve")
    for room in ("staff", "#staff/0", "@ada", ada.connection.eio_sid):
        assert eve.ask("join", room=room)[1]["code"] in ("not_a_member", "bad_room", "unknown_room")
        assert eve.ask("say", room=room, text="x")[1]["code"] in ("not_joined", "bad_room")
    ada.ask("say", room="staff", text="among us")
    assert eve.hears() == []


def test_who_leaves_a_room_hears_no_more(person):
    ada, bob = person("ada", "lobby"), person("bob", "lobby")
    assert bob.ask("leave", room="lobby")[0] == "left"
    ada.ask("say", room="lobby", text="still there?")
    assert bob.hears() == []


def test_a_private_message_goes_to_one_name(person):
    ada, bob, eve = person("ada"), person("bob"), person("eve")
    for one in (ada, bob, eve):
        one.hears()
    whispered = ada.ask("whisper", to="bob", text="psst")
    assert bob.hears() == [whispered]
    assert eve.hears() == []
    assert ada.ask("whisper", to="dan", text="psst")[1]["code"] == "not_here"


def test_what_is_not_known_is_refused(person):
    assert person("ada").ask("dance", ref=1)[1] == {
        "v": 1,
        "code": "unknown_type",
        "message": "The events are join, leave, say and whisper.",
        "ref": 1,
    }


def test_who_disconnects_departs(person, eventually):
    ada, bob = person("ada", "lobby"), person("bob", "lobby")
    ada.hears()
    bob.connection.disconnect()
    heard = []
    eventually(lambda: heard.extend(ada.hears()) or heard)
    assert heard == [("departed", {"v": 1, "room": "lobby", "name": "bob"})]


def test_the_end_of_a_session_ends_its_connections(person):
    ada, bob = person("ada", "lobby"), person("bob")
    ada.browser.post("/logout")
    assert not ada.connection.is_connected()
    assert bob.connection.is_connected()


def test_what_a_process_that_died_has_left_behind_is_cleared_away(app, person):
    ada = person("ada", "lobby")
    with app.app_context():
        session = models.begin_session("bob")
        models.open_connection("nobody", "bob", session)
        models.enter("nobody", "lobby", 0)
        models.database().execute("UPDATE connection SET seen = 0 WHERE sid = 'nobody'")
        with models.transaction():
            events.beat_once()
    assert ada.hears()[-1] == ("departed", {"v": 1, "room": "lobby", "name": "bob"})
    assert ada.connection.is_connected()
