"""A live server, Daphne in a process of its own, and a client that knows nothing of Django."""

import json
from http.cookiejar import CookieJar
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, build_opener

from channels.testing import ChannelsLiveServerTestCase
from django.conf import settings
from websockets.sync.client import connect


class LiveTests(ChannelsLiveServerTestCase):
    serialized_rollback = True

    def log_in(self, name):
        """Fill in the form, and return the cookies."""
        jar = CookieJar()
        browser = build_opener(HTTPCookieProcessor(jar), ProxyHandler({}))
        browser.open(f"{self.live_server_url}/login", timeout=10).close()
        cookies = {cookie.name: cookie.value for cookie in jar}
        form = {"name": name, "csrfmiddlewaretoken": cookies[settings.CSRF_COOKIE_NAME]}
        browser.open(f"{self.live_server_url}/login", urlencode(form).encode(), timeout=10).close()
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)

    def connect(self, name):
        return connect(
            f"{self.live_server_ws_url}/ws/chat/",
            origin=self.live_server_url,
            additional_headers={"Cookie": self.log_in(name)},
            proxy=None,
        )

    def until(self, client, type):
        while True:
            event = json.loads(client.recv(timeout=10))
            if event["type"] == type:
                return event

    def test_two_people_talk(self):
        with self.connect("ada") as ada, self.connect("bob") as bob:
            for client in (ada, bob):
                client.send(json.dumps({"type": "join", "room": "lobby"}))
                self.until(client, "joined")
            bob.send(json.dumps({"type": "say", "room": "lobby", "text": "hello"}))
            self.assertEqual(self.until(ada, "message")["from"], "bob")
        with self.connect("eve") as eve:
            eve.send(json.dumps({"type": "join", "room": "lobby"}))
            history = self.until(eve, "joined")["history"]
            self.assertEqual([message["text"] for message in history], ["hello"])
