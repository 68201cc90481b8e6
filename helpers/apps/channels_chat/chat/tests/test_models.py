"""Rooms, what was said in them, and who is here."""

from datetime import timedelta

from chat.models import Connection, Room
from django.conf import settings
from django.contrib.auth.models import User
from django.test import TestCase
from django.utils import timezone


class RoomTests(TestCase):
    def setUp(self):
        self.lobby = Room.objects.get(name="lobby")
        self.ada = User.objects.get(username="ada")
        self.bob = User.objects.create_user("bob")

    def test_a_private_room_is_open_to_its_members(self):
        def names(user):
            return [room.name for room in Room.objects.open_to(user).order_by("name")]

        self.assertEqual(names(self.ada), ["lobby", "random", "staff"])
        self.assertEqual(names(self.bob), ["lobby", "random"])

    def test_each_room_numbers_its_messages_from_1(self):
        random = Room.objects.get(name="random")
        said = [room.say(self.ada, "x").number for room in (self.lobby, self.lobby, random)]
        self.assertEqual(said, [1, 2, 1])

    def test_the_history_is_the_end_of_what_was_said(self):
        for number in range(5):
            self.lobby.say(self.ada, str(number))
        self.assertEqual([event["id"] for event in self.lobby.history(3)], [3, 4, 5])


class PresenceTests(TestCase):
    def setUp(self):
        self.lobby = Room.objects.get(name="lobby")
        bob = User.objects.create_user("bob")
        self.first, self.second = (
            Connection.objects.create(channel=channel, user=bob) for channel in "ab"
        )

    def age(self, *connections):
        old = timezone.now() - 4 * timedelta(seconds=settings.CHAT_HEARTBEAT)
        keys = [connection.pk for connection in connections]
        Connection.objects.filter(pk__in=keys).update(seen=old)

    def test_a_name_comes_with_its_first_connection_and_goes_with_its_last(self):
        self.assertEqual([self.first.join(self.lobby), self.second.join(self.lobby)], [True, False])
        self.assertEqual(self.lobby.here(), ["bob"])
        self.assertEqual(self.first.leave(self.lobby), False)
        self.assertEqual(self.second.end(), ["lobby"])
        self.assertEqual(self.lobby.here(), [])

    def test_who_gives_no_sign_of_life_is_not_here(self):
        self.first.join(self.lobby)
        self.age(self.first)
        self.assertEqual(self.lobby.here(), [])
        self.assertTrue(self.first.beat())
        self.assertEqual(self.lobby.here(), ["bob"])

    def test_a_sweep_tells_once_who_is_gone(self):
        self.first.join(self.lobby)
        self.second.join(self.lobby)
        self.age(self.first)
        self.assertEqual(Connection.objects.sweep(), [])
        self.age(self.second)
        self.assertEqual(Connection.objects.sweep(), [("lobby", "bob")])
        self.assertEqual(Connection.objects.sweep(), [])
        self.assertFalse(self.second.beat())
