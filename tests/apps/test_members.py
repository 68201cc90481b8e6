"""The pages of a site with users: a name goes in once, and the cookie stands for it until the logout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

VISIT = """
import httpx
from helpers import project, serve
from helpers.apps import members

urlpatterns = members.urlpatterns
project.configure(**project.WITH_USERS)
project.empty_database()
from django.core.asgi import get_asgi_application

# It stops before the program ends: then Django could start no thread any more to close the files of its last request in.
with (
    serve(get_asgi_application(), name="site") as site,
    httpx.Client(base_url=site.url(), trust_env=False) as client,
):
    stranger, ada = {}, members.cookie_of(site, "ada")
    for headers in (stranger, ada, members.cookie_of(site, "ada")):
        print(client.get("who", headers=headers).text)
        client.cookies.clear()
    print(client.get("shelf?plate=old&other=1", headers=ada).text, client.get("shelf", headers=ada).text)
    print(client.post("logout", headers=ada).status_code, client.get("who", headers=ada).text)
"""


def test_a_name_is_known_by_its_cookie_until_the_logout():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", VISIT],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=Path(__file__).parents[2],
    )
    assert done.stderr == ""
    who, shelf, logged_out = done.stdout.split()[:3], *done.stdout.splitlines()[3:]
    assert who == ["AnonymousUser", "ada", "ada"]
    assert shelf == '{"plate": "old"} {"plate": "old"}'
    assert logged_out == "200 AnonymousUser"
