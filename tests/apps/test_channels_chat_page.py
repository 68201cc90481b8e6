"""The page of the Channels chat, in a real browser, in two windows at once."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("chat_pages")

from chat_pages import ChatPages, needs_browser  # noqa: E402

from helpers import serve  # noqa: E402

CHAT = "helpers.apps.channels_chat:application"


@pytest.fixture(autouse=True)
def nothing_left():
    """A browser may take a while to end."""


@needs_browser
class TestPage(ChatPages):
    @pytest.fixture
    def chat(self):
        with serve(CHAT, process=True) as server:
            yield server
            assert list(server.log) == []
