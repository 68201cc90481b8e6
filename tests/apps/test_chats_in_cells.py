"""The pages of both chats in the cells of a notebook, in a real JupyterLab, on this machine and behind a hub."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pytest
from lab import HUB, Learner, chromium, jupyterlab

pytest.register_assert_rewrite("chat_pages")

from chat_pages import Window, needs_browser  # noqa: E402

from helpers.apps import socketio_chat  # noqa: E402

CLIENT = socketio_chat.FOLDER / "node_modules/socket.io-client/dist/socket.io.min.js"
if not CLIENT.exists() and os.environ.get("CI"):
    pytest.fail("CI needs Node's npm. Install it, and then run:\nmake setup", pytrace=False)

pytestmark = [needs_browser, pytest.mark.timeout(240)]

IN_THE_KERNEL = """\
from helpers import serve, show
from helpers.apps import channels_chat, socketio_chat
---
channels = serve(channels_chat.application, name="channels")
---
flask = serve(socketio_chat.app, name="socketio")
"""
IN_PROCESSES = """\
from helpers import serve, show
from helpers.apps import channels_chat, socketio_chat
one, other = channels_chat.environment(), socketio_chat.environment()
---
channels = serve("helpers.apps.channels_chat:application", process=True, name="channels", env=one, timeout=60)
---
flask = serve("helpers.apps.socketio_chat:app", process=True, name="socketio", env=other, timeout=60)
"""
PAGES = """\
---
show(channels, "/", title="channels, one", height=420)
---
show(channels, "/", title="channels, two", height=420)
---
show(flask, "/", title="socketio, one", height=420)
---
show(flask, "/", title="socketio, two", height=420)
"""
SERVED_BY = {"channels": 1, "socketio": 2}
"""The number of the cell that serves each chat."""


@pytest.fixture(autouse=True)
def nothing_left():
    """JupyterLab, its kernel and the browser outlive a test here, and end with the module."""


@dataclass
class Room:
    """A notebook that shows both chats."""

    ada: Learner
    """Who has run its cells."""
    bob: Callable[[str], Window]
    """Somebody at another browser opens the page of a chat."""
    places: list[str]
    """How the addresses of a page begin: ada's, and bob's."""


@contextlib.contextmanager
def opened(cells: str, folder: Path, *, hub: bool) -> Iterator[Room]:
    """Run the cells of a notebook in a browser, and give somebody another one.

    On this machine ada has JupyterLab at 127.0.0.1, and bob the same notebook at localhost. A hub has a name of its own, and
    bob opens the page in a tab.
    """
    home = folder / "home"
    home.mkdir()
    code = [nbformat.v4.new_code_cell(cell.strip()) for cell in (cells + PAGES).split("---\n")]
    made = nbformat.v4.new_notebook(cells=code)
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
    nbformat.write(made, folder / "chats.ipynb")
    with jupyterlab(folder, home, hub=hub) as lab, chromium() as browser:
        names = ["hub.test", "hub.test"] if hub else ["127.0.0.1", "localhost"]
        ada, bob = [
            Learner(
                browser.new_page(viewport={"width": 1280, "height": 1400}),
                lab.replace("127.0.0.1", name),
            )
            for name in names
        ]
        for learner in (ada, bob):
            learner.page.set_default_timeout(30_000)
        ada.open("chats.ipynb")
        ada.run_all()
        ada.until_all_ran()
        assert ada.failed() is None
        if hub:
            root = ada.address.split(HUB)[0]
            token = lab.split("token=")[1].split("&")[0]
            yield Room(ada, partial(in_a_tab, ada, bob, root, token), [f"{root}{HUB}proxy/"] * 2)
        else:
            ada.save()
            bob.open("chats.ipynb")
            yield Room(ada, partial(in_a_cell, bob), [f"http://{name}:" for name in names])
        for learner in (ada, bob):
            assert (learner.faults, learner.outside) == ([], set())


@pytest.fixture(scope="module", params=["on this machine", "behind a hub"])
def room(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    hub = request.param == "behind a hub"
    cells = IN_PROCESSES if hub else IN_THE_KERNEL
    with opened(cells, tmp_path_factory.mktemp("room"), hub=hub) as room:
        yield room


class Frame(Window):
    """A page in a cell."""

    def __init__(self, learner: Learner, title: str) -> None:
        learner.page.click(f"summary:has-text('{title}')")
        self.page = learner.page.locator(f"iframe[title='{title}']").content_frame


def in_a_cell(learner: Learner, chat: str) -> Window:
    """Unfold the page in its cell, and wait until it is where JupyterLab is."""
    frame = Frame(learner, f"{chat}, one")
    name = learner.page.evaluate("() => location.hostname")
    learner.until(lambda: f"//{name}:" in address(frame))
    return frame


def in_a_tab(shown: Learner, learner: Learner, root: str, token: str, chat: str) -> Window:
    """Follow the link below the page, logged in to JupyterLab."""
    link = shown.page.get_by_role("link", name=f"Open in a tab: {chat}, one")
    learner.page.goto(f"{root}{link.get_attribute('href')}?token={token}")
    return Window(learner.page)


def address(window: Window) -> str:
    found: str = window.page.locator(":root").evaluate("() => location.href")
    return found


MARK = (
    """() => document.querySelectorAll("[role=log] li").forEach(line => line.dataset.old = "yes")"""
)
"""Mark what was said, until the page joins its room again and shows what it is told then."""


@pytest.mark.parametrize("chat", SERVED_BY)
def test_pages_in_cells_talk_and_come_back_when_their_server_is_served_again(
    room: Room, chat: str
) -> None:
    if chat == "socketio" and not CLIENT.exists():
        pytest.skip("NOTICE: npm has not brought Socket.IO's client")
    ada = in_a_cell(room.ada, chat)
    ada.log_in("ada")
    ada.join("lobby")
    too = Frame(room.ada, f"{chat}, two")  # the same browser, so the same cookies: ada, too
    too.join("lobby")
    bob = room.bob(chat)
    bob.log_in("bob")
    bob.join("lobby")
    windows, seen = [ada, too, bob], 0
    for window, place in zip(windows, [room.places[0], *room.places], strict=True):
        assert address(window).startswith(place)
    ada.say("before")
    bob.say("before, too")
    for window in windows:
        window.sees("ada: before")
        window.sees("bob: before, too")
        window.page.locator(":root").evaluate(MARK)
        seen += 1
    room.ada.run(SERVED_BY[chat])
    assert room.ada.failed() is None
    for window in windows:
        window.page.locator("[role=log]:has(li):not(:has([data-old]))").wait_for()
    ada.say("after")
    bob.say("after, too")
    for window in windows:
        window.sees("ada: after")
        window.sees("bob: after, too")
        seen += 1
    assert seen == 6
