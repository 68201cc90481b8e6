"""One Django a process: in the kernel configured once, and under `runserver` as a learner would start it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from conftest import eventually
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from helpers import project
from helpers.apps.rooms import settings as rooms

PRINTED = {"ROOT_URLCONF": "helpers.apps.rooms.urls", "INSTALLED_APPS": ["channels"]}
COMPLETE = {name: getattr(rooms, name) for name in dir(rooms) if name.isupper()}


def run(program: str) -> str:
    """Run a program in a process, which has a Django of its own, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_configuring_twice_is_safe_and_something_else_says_what_to_do():
    said = run("""
from helpers import project
project.configure()
project.configure()
project.configure(SECRET_KEY=project.DEFAULTS["SECRET_KEY"])
for other in ({"INSTALLED_APPS": ["channels"]}, {"SECRET_KEY": "other", "DEBUG": True}):
    try:
        project.configure(**other)
    except RuntimeError as error:
        print(error)
from channels.layers import get_channel_layer
print(type(get_channel_layer()).__name__)
""")
    apps, both, layer = said.splitlines()
    assert "other values of INSTALLED_APPS." in apps
    assert "other values of DEBUG, SECRET_KEY." in both
    assert "Kernel > Restart" in apps
    assert layer == "InMemoryChannelLayer"


def test_a_django_that_somebody_else_configured_says_what_to_do():
    said = run("""
from django.conf import settings
settings.configure()
from helpers import project
try:
    project.configure()
except RuntimeError as error:
    print(error)
""")
    assert "not by project.configure()" in said
    assert "Kernel > Restart" in said


def test_the_urls_are_those_of_the_notebook_and_are_read_anew():
    said = run("""
import httpx
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path
from helpers import project, serve

for word in ("first", "second"):
    async def say(request, word=word):
        return HttpResponse(word)
    urlpatterns = [path("", say)]
    project.configure()
    with serve(get_asgi_application(), name="pages") as server:
        print(httpx.get(server.url(), trust_env=False).text)
        print(httpx.get(server.url("/nowhere"), trust_env=False).status_code)
        server.wait_for("Not Found")
""")
    assert said.split() == ["first", "404", "second", "404"]


def test_runserver_is_djangos_and_knows_no_websocket():
    with project.runserver(PRINTED) as site:
        assert httpx.get(site.url(), trust_env=False).text == "Django, over WSGIRequest"
        with (
            pytest.raises(InvalidStatus, match="404"),
            connect(site.ws_url("/ws/rooms/tea/"), proxy=None),
        ):
            pass
        assert site.running
    assert not site.running
    with pytest.raises(httpx.ConnectError):
        httpx.get(site.url(), trust_env=False)


def test_with_daphne_installed_runserver_is_daphnes_and_a_room_hears_what_is_said():
    with project.runserver(COMPLETE, name="rooms") as site:
        assert "rooms" in repr(site)
        assert httpx.get(site.url(), trust_env=False).text == "Django, over ASGIRequest"
        tea, coffee = (site.ws_url(f"/ws/rooms/{room}/") for room in ("tea", "coffee"))
        with (
            connect(tea, proxy=None) as ann,
            connect(tea, proxy=None) as ben,
            connect(coffee, proxy=None) as cem,
        ):
            ann.send("hello")
            assert [client.recv(timeout=5) for client in (ann, ben)] == ["hello", "hello"]
            cem.send("alone")
            assert cem.recv(timeout=5) == "alone"


def test_a_runserver_that_refuses_to_start_says_why_and_leaves_nothing():
    with pytest.raises(RuntimeError, match="ASGI_APPLICATION"):
        project.runserver({**PRINTED, "INSTALLED_APPS": ["daphne", "channels"]})


def test_what_a_consumer_raises_is_in_the_log():
    without = {name: value for name, value in COMPLETE.items() if name != "CHANNEL_LAYERS"}
    with project.runserver(without) as site:
        with (
            pytest.raises(InvalidStatus, match="500"),
            connect(site.ws_url("/ws/rooms/tea/"), proxy=None),
        ):
            pass
        assert eventually(lambda: any("'group_add'" in line for line in site.log))


USERS = """
import asyncio
from helpers import project
project.configure(**project.WITH_USERS)
from django.contrib.auth.models import User
from django.db import connection
"""


def test_a_database_in_memory_is_one_for_all_threads_and_emptied_at_each_call():
    said = run(
        USERS
        + """
import threading

async def cell():
    project.empty_database()

for names in (["ada", "ben"], ["ada"]):
    asyncio.run(cell())
    for name in names:
        thread = threading.Thread(target=User.objects.create, kwargs={"username": name})
        thread.start()
        thread.join()
    print(User.objects.count())
    connection.close()
"""
    )
    assert said.split() == ["2", "1"]


def test_its_connections_are_closed_and_leave_the_database():
    said = run(
        USERS
        + """
project.empty_database()
User.objects.create(username="ada")
connection.close()
print(connection.connection, User.objects.count())
"""
    )
    assert said.split() == ["None", "1"]


def test_configuring_leaves_the_settings_as_they_were():
    said = run(
        USERS
        + 'print(project.WITH_USERS["DATABASES"]["default"])\nproject.configure(**project.WITH_USERS)'
    )
    assert "CONN_MAX_AGE" not in said
