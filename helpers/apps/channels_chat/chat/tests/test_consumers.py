"""The consumer alone, without a server, through Channels' WebsocketCommunicator."""

from channels.db import database_sync_to_async
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator
from chat.consumers import ChatConsumer
from chat.models import Connection, Room
from config.asgi import application
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client, SimpleTestCase, TransactionTestCase


class ConsumerTests(TransactionTestCase):
    serialized_rollback = True  # the rooms of the first migration are there again for each test

    def setUp(self):
        channel_layers.backends.clear()

    async def open(self, name, *rooms, consumer=None):
        user, _ = await User.objects.aget_or_create(username=name)
        communicator = WebsocketCommunicator(consumer or ChatConsumer.as_asgi(), "/ws/chat/")
        communicator.scope["user"] = user
        await communicator.connect()
        await communicator.receive_json_from()
        for room in rooms:
            await communicator.send_json_to({"type": "join", "room": room})
            await communicator.receive_json_from()
        return communicator

    async def test_a_message_reaches_both(self):
        ada, bob = await self.open("ada", "lobby"), await self.open("bob", "lobby")
        self.assertEqual((await ada.receive_json_from())["type"], "arrived")
        await bob.send_json_to({"type": "say", "room": "lobby", "text": "hello", "ref": 7})
        said = await bob.receive_json_from()
        self.assertEqual(said.pop("ref"), 7)
        self.assertEqual(await ada.receive_json_from(), said)
        await ada.disconnect()
        await bob.disconnect()

    async def test_who_is_no_member_any_more_cannot_speak(self):
        ada = await self.open("ada", "staff")
        room = await Room.objects.aget(name="staff")
        await room.members.aclear()
        await ada.send_json_to({"type": "say", "room": "staff", "text": "hello"})
        self.assertEqual((await ada.receive_json_from())["code"], "not_a_member")
        await ada.disconnect()

    async def test_a_client_that_leaves_while_a_handler_is_at_work_does_not_stay(self):
        """What uvicorn does then: send() raises, and disconnect() is never called."""

        async def gone(scope, receive, send):
            async def broken(message):
                if "joined" in message.get("text", ""):
                    raise OSError
                await send(message)

            await ChatConsumer()(scope, receive, broken)

        bob = await self.open("bob", consumer=gone)
        await bob.send_json_to({"type": "join", "room": "lobby"})
        with self.assertRaises(OSError):
            await bob.receive_output(timeout=5)
        self.assertEqual(await Connection.objects.acount(), 0)
        self.assertEqual(channel_layers["default"].groups, {})


class ApplicationTests(TransactionTestCase):
    """The whole application: the origin, the session, the addresses."""

    serialized_rollback = True

    async def open(self, path="/ws/chat/", origin="http://localhost", session=None):
        headers = [(b"origin", origin.encode())]
        if session:
            headers.append((b"cookie", f"{settings.SESSION_COOKIE_NAME}={session}".encode()))
        communicator = WebsocketCommunicator(application, path, headers)
        accepted, _ = await communicator.connect()
        return communicator, accepted

    async def test_a_page_from_elsewhere_is_refused(self):
        _, accepted = await self.open(origin="https://evil.example")
        self.assertFalse(accepted)

    async def test_without_a_session_the_reason_is_told(self):
        communicator, accepted = await self.open()
        self.assertTrue(accepted)
        self.assertEqual((await communicator.receive_output())["code"], 4401)

    async def test_an_unknown_path_is_told(self):
        communicator, _ = await self.open(path="/ws/elsewhere/")
        self.assertEqual((await communicator.receive_output())["code"], 4404)

    async def test_the_session_of_http_gives_the_name(self):
        browser = Client()
        await database_sync_to_async(browser.post)("/login", {"name": "bob"})
        session = browser.cookies[settings.SESSION_COOKIE_NAME].value
        communicator, _ = await self.open(session=session)
        self.assertEqual((await communicator.receive_json_from())["name"], "bob")
        await communicator.disconnect()


class SettingsTests(SimpleTestCase):
    def test_the_socket_of_redis_has_no_timeout(self):
        """With one, an idle connection ends after 5 s, and a cancellation can be lost."""
        for host in settings.REDIS_HOSTS:
            self.assertIsNone(host["socket_timeout"])
