"""A client that sends the headers that a browser would, for knocking at one's own servers as a page from elsewhere.

A script in a page cannot set these headers: the browser writes `Host` and `Origin`, and adds the cookies of the server. So what
a client says here is true of a page only where a browser would say the same.
"""

from __future__ import annotations

import json
import logging
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from websockets.sync.client import ClientConnection

    from ..server import Server

SOCKET_IO = "/socket.io/?EIO=4&transport=websocket"
"""The path and query at which a Socket.IO server takes a WebSocket."""

QUIET = logging.getLogger(__name__)
"""Where the clients report, and nobody reads. When a send fails while the other thread has an answer in its hand, websockets
17.4 reports "unexpected internal error" to stderr; the connection ends as it would have (`recv_events` in its
`sync/connection.py`). That happens now and then with a message that is too big for its server."""

QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False


def visit(
    server: Server,
    path: str = "/",
    *,
    host: str | None = None,
    origin: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> ClientConnection:
    """Open a WebSocket as a page would, and return the connection, for a `with` block.

    Args:
        server: whom to visit; the connection goes there, whatever the host says.
        path: the path and the query.
        host: the name in the page's address, with its port: what `Host` says. The server's own by default.
        origin: where the page came from; without one there is no such header, as from a script.
        headers: the cookie, and what a proxy would add.

    Raises:
        websockets.exceptions.InvalidStatus: the server refused.
    """
    from websockets.sync.client import connect
    from websockets.typing import Origin

    name = host or f"127.0.0.1:{server.port}"
    return connect(
        f"ws://{name}{path}",
        sock=socket.create_connection(("127.0.0.1", server.port), timeout=15),
        origin=Origin(origin) if origin else None,
        additional_headers=headers,
        user_agent_header=None,
        compression=None,
        proxy=None,
        logger=QUIET,
    )


def status(server: Server, path: str = "/", **page: Any) -> int:
    """Return the HTTP status with which a server answers such a handshake: 101 if it lets the page in.

    Args:
        server: whom to visit.
        path: the path and the query.
        page: what else `visit` takes.
    """
    from websockets.exceptions import InvalidStatus

    try:
        with visit(server, path, **page):
            return 101
    except InvalidStatus as refusal:
        return refusal.response.status_code


def log_in(server: Server, name: str) -> dict[str, str]:
    """Send a name to a site's `/login`, and return the header with the cookie that it gives.

    Args:
        server: the site.
        name: who to be.

    Raises:
        httpx.HTTPStatusError: the site refused.
    """
    import httpx

    answer = httpx.post(server.url("/login"), data={"name": name}, timeout=15, trust_env=False)
    cookies = answer.raise_for_status().cookies
    return {"Cookie": "; ".join(f"{cookie.name}={cookie.value}" for cookie in cookies.jar)}


def next_event(page: ClientConnection, timeout: float = 15.0) -> list[Any] | None:
    """Return the next Socket.IO event that a connection brings, its name first, or None when the server ends or refuses it.

    Args:
        page: an open connection to a Socket.IO server; the packet `40` has been sent.
        timeout: seconds to wait for each packet, 15 by default.

    Raises:
        TimeoutError: no packet came in time.
    """
    from websockets.exceptions import ConnectionClosed

    try:
        while True:
            packet = str(page.recv(timeout))
            if packet.startswith(("41", "44")):
                return None
            if packet.startswith("42"):
                return list(json.loads(packet[2:]))
    except ConnectionClosed:
        return None
