"""Clients of the announcements, over a WebSocket, for Channels and for Socket.IO: they read only when they are asked to."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

if TYPE_CHECKING:
    from ...cluster import Cluster

SOCKETIO = "/socket.io/?EIO=4&transport=websocket"


class Client:
    """One connection to one process, or to a balancer. Treat it as a context manager to have it hang up.

    Args:
        where: what has a `ws_url`: a server, a cluster, a tap.
        socketio: whether to speak Socket.IO.
        patience: seconds for which it tries again when it is refused; none by default. A server of Channels may find out only
            by the first client that its connection to the broker is an old one.

    Raises:
        ConnectionError: the server refuses the connection.
    """

    def __init__(self, where: Any, *, socketio: bool = False, patience: float = 0.0) -> None:
        self.heard: list[int] = []
        """The numbers that were announced to it, in order."""
        self.node = ""
        """The number of the process that it is connected to."""
        self._socketio = socketio
        self._address = where.ws_url(SOCKETIO if socketio else "/")
        deadline = time.monotonic() + patience
        while True:
            try:
                self._connection = self._connect()
                return
            except ConnectionError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.05)

    def _connect(self) -> ClientConnection:
        try:
            connection = connect(
                self._address,
                proxy=None,
                compression=None,
                max_queue=None,  # or it would not see the answer to its goodbye behind what it has not read
                close_timeout=1,
                legacy=True,
            )
        except (InvalidHandshake, OSError) as error:
            raise ConnectionError(f"refused: {error}") from None
        if self._socketio:
            connection.send("40")
        try:
            while not self.node:
                self._take(connection.recv(5))
        except BaseException:
            connection.close()
            raise
        return connection

    def _take(self, frame: str | bytes) -> int | None:
        """Take note of what a frame says, and return the number of a receipt."""
        text = frame.decode() if isinstance(frame, bytes) else frame
        if not self._socketio:
            (kind, value), *_ = json.loads(text).items()
        elif text.startswith("42"):
            kind, value = json.loads(text[2:])
        elif text.startswith("43"):
            kind, value = "receipt", json.loads(text[text.index("[") :])[0]
        else:  # Engine.IO's ping, which may wait for 20 s, and its first words
            return None
        if kind == "said":
            self.heard.append(value)
        elif kind == "node":
            self.node = value
        return value if kind == "receipt" else None

    def say(self, number: int, timeout: float = 10.0) -> bool:
        """Announce a number, and return whether a receipt came: if not, the connection has ended, or it was refused.

        A client whose connection has ended tries to connect once more.

        Args:
            number: what to announce, another one each time.
            timeout: seconds to wait for the receipt.
        """
        try:
            if self.ended:
                self.node = ""
                self._connection = self._connect()
            packet = f"42{number}{json.dumps(['say', number])}" if self._socketio else str(number)
            self._connection.send(packet)
            while self._take(self._connection.recv(timeout)) != number:
                pass
            return True
        except (ConnectionClosed, ConnectionError):
            return False

    def hears(self, number: int, timeout: float = 10.0) -> bool:
        """Read until a number was announced, and return whether it was: if not, time is over, or the connection has ended.

        Args:
            number: what to wait for.
            timeout: seconds to wait.
        """
        deadline = time.monotonic() + timeout
        try:
            while number not in self.heard:
                self._take(self._connection.recv(max(0.0, deadline - time.monotonic())))
            return True
        except (TimeoutError, ConnectionClosed):
            return False

    @property
    def ended(self) -> bool:
        """Whether the connection has ended."""
        return self._connection.close_code is not None

    def close(self) -> None:
        """Hang up. Closing twice is safe."""
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def listening(where: Cluster, timeout: float = 30.0) -> None:
    """Wait until every node listens to one channel of the broker.

    A node of Socket.IO begins to listen when its first client comes, and does not wait for it; the pub/sub layer of Channels
    asks to be told of a group, and does not wait for the answer either. What is announced before is lost.

    Args:
        where: the cluster; each of its nodes has a client.
        timeout: seconds to wait.

    Raises:
        TimeoutError: some node does not listen.
    """
    import redis

    deadline = time.monotonic() + timeout
    with redis.Redis.from_url(where.broker.url) as store:
        while True:
            channels = store.pubsub_channels()
            counts = [count for _, count in store.pubsub_numsub(*channels)] if channels else []
            if max(counts, default=0) >= len(where.nodes):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"After {timeout:g} s the nodes of {where.name} do not all listen."
                )
            time.sleep(0.005)
