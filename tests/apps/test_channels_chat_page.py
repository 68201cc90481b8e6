"""The page of the Channels chat, in a real browser, in two windows at once."""

from __future__ import annotations

import re

import pytest

pytest.register_assert_rewrite("chat_pages")

from chat_pages import needs_browser, windows  # noqa: E402
from lab import jupyterlab  # noqa: E402

from helpers import faults, serve, tap  # noqa: E402

CHAT = "helpers.apps.channels_chat:application"

pytestmark = [needs_browser, pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def nothing_left():
    """A browser may take a while to end."""


@pytest.fixture
def chat():
    with serve(CHAT, process=True) as server:
        yield server
        assert list(server.log) == []


def test_two_people_talk(chat):
    with windows() as (ada, bob):
        ada.enter(chat.url(), "ada", "lobby")
        bob.enter(chat.url(), "bob", "lobby")
        ada.sees("bob has arrived")
        assert ada.here() == bob.here() == ["ada", "bob"]
        html = "<b>hello</b> <img src=x onerror=alert(1)>"
        ada.say(html)
        bob.sees(f"ada: {html}")
        bob.say("only you", to="ada")
        ada.sees("bob: (to ada only) only you")
        bob.sees("bob: (to ada only) only you")
        bob.page.get_by_role("button", name="random").click()
        ada.sees("bob has left")
        bob.page.get_by_role("button", name="lobby").click()
        bob.sees(f"ada: {html}")
        assert bob.lines() == [f"ada: {html}"], "the history, and no private message"
        bob.page.get_by_role("button", name="Log out").click()
        bob.page.get_by_label("Your name").wait_for()
        ada.page.get_by_role("complementary").get_by_text("bob").wait_for(state="detached")
        assert (ada.faults, bob.faults) == ([], [])


def test_a_page_that_is_cut_off_comes_back_to_its_room(chat):
    with tap(chat) as wire, windows(count=1) as (ada,):
        ada.enter(wire.url(), "ada", "lobby")
        ada.say("before")
        ada.sees("ada: before")
        with faults.reset_peer(wire):
            ada.page.get_by_role("status").get_by_text(re.compile("Not connected")).wait_for()
        ada.connected()
        ada.page.get_by_role("heading", name="lobby").wait_for()
        ada.say("after")
        ada.sees("ada: after")
        assert ada.lines() == ["ada: before", "ada: after"]
        ada.page.close()


def test_it_works_behind_the_prefix_of_a_proxy(chat, tmp_path):
    (tmp_path / "home").mkdir()
    with jupyterlab(tmp_path, tmp_path / "home") as lab, windows() as (ada, bob):
        base, token = lab.split("/lab/")[0], lab.split("token=")[1].split("&")[0]
        for window, name in ((ada, "ada"), (bob, "bob")):
            window.enter(f"{base}/proxy/{chat.port}/?token={token}", name, "lobby")
        ada.sees("bob has arrived")
        bob.say("through the proxy")
        ada.sees("bob: through the proxy")
        assert f"/proxy/{chat.port}/" in ada.page.url
        assert (ada.faults, bob.faults) == ([], [])
