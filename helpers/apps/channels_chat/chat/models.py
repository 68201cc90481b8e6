"""Rooms, what was said in them, and who is here."""

from datetime import timedelta

from django.conf import settings
from django.db import models, transaction
from django.utils import timezone


class RoomQuerySet(models.QuerySet):
    def open_to(self, user):
        """Return the rooms that a user may join: all public ones, and the private ones of which it is a member."""
        return self.filter(models.Q(private=False) | models.Q(members=user)).distinct()


class Room(models.Model):
    """A room. A private one is open to its members only."""

    name = models.SlugField(max_length=50, unique=True)
    private = models.BooleanField(default=False)
    members = models.ManyToManyField(settings.AUTH_USER_MODEL, blank=True)

    objects = RoomQuerySet.as_manager()

    def __str__(self):
        return self.name

    @transaction.atomic
    def say(self, author, text):
        """Store a message under the room's next number."""
        Room.objects.select_for_update().get(pk=self.pk)  # one at a time, on other databases, too
        last = self.messages.order_by("number").last()
        return self.messages.create(author=author, text=text, number=last.number + 1 if last else 1)

    def history(self, count=50):
        """Return the last messages, oldest first."""
        latest = self.messages.select_related("author").order_by("-number")[:count]
        return [message.as_event() for message in reversed(latest)]

    def here(self):
        """Return the names of those who are in the room, each once."""
        users = self.connections.alive().values_list("user__username", flat=True)
        return sorted(set(users))


class Message(models.Model):
    """What somebody said in a room. The numbers of a room's messages are 1, 2, 3 and so on, and they are its order."""

    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="messages")
    number = models.PositiveBigIntegerField()
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    text = models.TextField()
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["room", "number"], name="number_in_room")]

    def __str__(self):
        return f"{self.room} {self.number}: {self.author}: {self.text}"

    def as_event(self):
        return {
            "room": self.room.name,
            "id": self.number,
            "from": self.author.username,
            "text": self.text,
            "at": self.at.isoformat(),
        }


class ConnectionQuerySet(models.QuerySet):
    def alive(self):
        """Return those that have given a sign of life lately."""
        return self.filter(seen__gt=timezone.now() - 3 * timedelta(seconds=settings.CHAT_HEARTBEAT))

    def sweep(self):
        """Delete what a process that died has left behind; return each (room, name) that is gone with it."""
        with transaction.atomic():
            dead = self.exclude(pk__in=self.alive()).select_related("user")
            return [(room, dying.user.username) for dying in list(dead) for room in dying.end()]


class Connection(models.Model):
    """An open WebSocket, in whatever process it is, so that all processes agree on who is here."""

    channel = models.CharField(max_length=100, unique=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    rooms = models.ManyToManyField(Room, related_name="connections")
    seen = models.DateTimeField(default=timezone.now, db_index=True)

    objects = ConnectionQuerySet.as_manager()

    def __str__(self):
        return f"{self.user} on {self.channel}"

    @transaction.atomic
    def join(self, room):
        """Enter a room, and return whether the name is new there: it may have another tab."""
        new = not room.connections.alive().filter(user=self.user).exists()
        self.rooms.add(room)
        return new

    @transaction.atomic
    def leave(self, room):
        """Leave a room, and return whether the name is gone from there."""
        self.rooms.remove(room)
        return not room.connections.alive().filter(user=self.user).exists()

    @transaction.atomic
    def end(self):
        """Delete the connection, and return the names of the rooms from which its user is gone with it."""
        gone = [room.name for room in self.rooms.all() if self.leave(room)]
        self.delete()
        return gone

    def beat(self):
        """Give a sign of life, and return whether the connection is still known."""
        return bool(type(self).objects.filter(pk=self.pk).update(seen=timezone.now()))
