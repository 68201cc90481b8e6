"""The page that talks all the time, and its echo."""

from __future__ import annotations

import httpx
from websockets.sync.client import connect

from helpers import serve, show, tap
from helpers.apps import pulse


def test_it_serves_its_page_and_sends_back_what_the_page_says():
    with serve(pulse.app, name="pulse") as server, tap(server) as wire:
        answer = httpx.get(wire.url(), headers={"Connection": "close"}, trust_env=False)
        assert answer.text == pulse.PAGE
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        with connect(wire.ws_url(), proxy=None) as client:
            client.send("7")
            assert client.recv(timeout=5) == "7"
        assert wire.browser_url() in repr(show(wire, title="There and back"))
