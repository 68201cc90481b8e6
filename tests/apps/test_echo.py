"""The application that echoes, on both servers that run it."""

from __future__ import annotations

import pytest
from websockets.sync.client import connect

from helpers import serve


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_it_echoes_text_and_binary_and_says_how_a_connection_ended(server):
    with serve("helpers.apps.echo:app", process=True, server=server) as echo:
        with connect(echo.ws_url(), proxy=None) as client:
            for message in ("héllo", b"\x00\xff"):
                client.send(message)
                assert client.recv(timeout=5) == message
        echo.wait_for("disconnect")
        assert list(echo.log) == ["disconnect 1000"]
