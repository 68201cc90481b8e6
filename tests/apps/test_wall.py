"""The wall as its server tells it; what a browser makes of it is in test_wall_page.py."""

from __future__ import annotations

import httpx
from websockets.sync.client import connect

from helpers import serve
from helpers.apps.wall import PAGES, page, policy, wall


def test_its_pages_differ_in_one_word_and_one_has_a_policy():
    with serve(wall("<b>hi</b>"), name="wall") as server:
        with connect(server.ws_url("/proxy/8000/text"), proxy=None) as client:
            assert client.recv(timeout=5) == "<b>hi</b>"
        with httpx.Client(base_url=server.url(), trust_env=False) as browser:
            for path in PAGES:
                answer = browser.get(path)
                assert answer.text == page(path)
                guarded = answer.headers.get("content-security-policy")
                assert guarded == (policy(path) if path == "/guarded" else None)
            assert browser.get("/x").status_code == 404
    assert ".textContent = " in page("/text")
    assert page("/text").replace("textContent", "innerHTML") == page("/markup") == page("/guarded")
