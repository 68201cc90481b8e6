"""The page of a chat in a real browser, for whichever chat: two people, each in a window of their own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from lab import jupyterlab

from helpers import faults, tap

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
if CHROMIUM is None and os.environ.get("CI"):
    pytest.fail("CI needs a browser. Install Chromium:\napt-get install -y chromium", pytrace=False)

needs_browser = pytest.mark.skipif(
    CHROMIUM is None,
    reason="NOTICE: there is no Chromium here, so the chat is not tried in a browser",
)


ARRIVE = """numbers => {
  for (const id of numbers) add(messageItem({ id, from: "bob", text: `${id}`, at: "2026-01-01T00:00:00Z" }));
}"""
"""What the page does with messages that arrive, whatever their order."""


class Window:
    """A browser window with cookies of its own, before the chat."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._console)

    def _console(self, message: Any) -> None:
        if message.type == "error" and "WebSocket connection to" not in message.text:
            self.faults.append(message.text)

    def enter(self, address: str, name: str, room: str) -> None:
        self.page.goto(address)
        self.log_in(name)
        self.join(room)

    def log_in(self, name: str) -> None:
        self.page.get_by_label("Your name").fill(name)
        self.page.get_by_role("button", name="Log in").click()

    def join(self, room: str) -> None:
        self.connected()
        self.page.get_by_role("button", name=room).click()
        self.page.get_by_role("heading", name=room).wait_for()

    def connected(self) -> None:
        self.page.get_by_role("status").get_by_text("Connected", exact=True).wait_for()

    def say(self, text: str, to: str | None = None) -> None:
        if to:
            self.page.get_by_label("To").select_option(to)
        self.page.get_by_label("Message").fill(text)
        self.page.get_by_label("Message").press("Enter")

    def sees(self, text: str) -> None:
        """Wait until a line of the room is this, whatever the time beside it."""
        line = re.compile(rf"^{re.escape(text)}(\d\d:\d\d.*)?$")
        self.page.get_by_role("log").get_by_role("listitem").filter(has_text=line).wait_for()

    def lines(self) -> list[str]:
        """Return the room's lines, without the times."""
        texts = self.page.get_by_role("log").get_by_role("listitem").all_inner_texts()
        return [re.sub(r"\s*\d\d:\d\d( [AP]M)?$", "", text) for text in texts]

    def here(self) -> list[str]:
        found: list[str] = (
            self.page.get_by_role("complementary").get_by_role("listitem").all_inner_texts()
        )
        return found


@contextlib.contextmanager
def windows(*, count: int = 2, dark: bool = False) -> Iterator[list[Window]]:
    """Open so many windows that share nothing."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            opened = [
                browser.new_context(
                    color_scheme="dark" if dark else "light",
                    viewport={"width": 900, "height": 620},
                ).new_page()
                for _ in range(count)
            ]
            for page in opened:
                page.set_default_timeout(30_000)
            yield [Window(page) for page in opened]
        finally:
            browser.close()


@pytest.mark.timeout(240)
class ChatPages:
    """What holds for every chat's page.

    A subclass has a fixture `chat`: a chat that is being served, in which nobody is, and nothing was said.
    """

    def test_two_people_talk(self, chat):
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

    def test_a_page_that_is_cut_off_comes_back_to_its_room(self, chat):
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
            ada.page.evaluate(ARRIVE, [9, 7, 8])
            assert ada.lines()[2:] == ["bob: 7", "bob: 8", "bob: 9"], (
                "as the ids are, and no other way"
            )
            ada.page.close()

    def test_it_works_behind_the_prefix_of_a_proxy(self, chat, tmp_path):
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
