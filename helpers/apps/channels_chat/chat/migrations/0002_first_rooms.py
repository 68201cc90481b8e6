"""Two rooms for everyone, and one for two."""

from django.contrib.auth.hashers import make_password
from django.db import migrations

MEMBERS = {"lobby": None, "random": None, "staff": ["ada", "grace"]}


def open_rooms(apps, schema_editor):
    Room, User = apps.get_model("chat", "Room"), apps.get_model("auth", "User")
    for name, members in MEMBERS.items():
        room = Room.objects.create(name=name, private=members is not None)
        for member in members or []:
            user, _ = User.objects.get_or_create(
                username=member, defaults={"password": make_password(None)}
            )
            room.members.add(user)


class Migration(migrations.Migration):
    dependencies = [
        ("chat", "0001_initial"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]
    operations = [migrations.RunPython(open_rooms, migrations.RunPython.noop)]
