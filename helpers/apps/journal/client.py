"""Writers of the journal, who go on through every restart: they come back with jitter, try again, and say what they have."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from ...history import History

JITTER = 0.2
"""Seconds over which the clients of a process that ends spread their return."""


PAUSE = 0.04
"""Seconds between an acknowledgement and a writer's next entry."""


class Writer:
    """Writes entries, one when the last is acknowledged, and reads everybody's, until `finish` and `stop`.

    Args:
        name: the writer's name; it is part of each entry.
        where: what has a `ws_url`: a cluster, a server.
        history: where to write down what is sent, acknowledged and received.
        seed: for the jitter: the same seed, the same pauses.
    """

    def __init__(self, name: str, where: Any, history: History, seed: int) -> None:
        self.name = name
        self.heard = 0
        """How many entries have come; the number with which it comes back."""
        self.written = 0
        """How many entries were acknowledged."""
        self.codes: list[int] = []
        """The close codes of the connections that have ended, in order."""
        self.pauses: list[float] = []
        """Seconds waited before each return, in order."""
        self.connected = threading.Event()
        """Set while it has a connection on which the server has answered."""
        self._address = where.ws_url
        self._history = history
        self._chance = random.Random(seed)
        self._finishing = threading.Event()
        self._stopping = threading.Event()
        self._entry: list[Any] | None = None
        self._thread = threading.Thread(target=self.live, name=name)
        self._thread.start()

    def finish(self) -> None:
        """Begin no new entry; the one that is not acknowledged is tried until it is."""
        self._finishing.set()

    @property
    def finished(self) -> bool:
        """Whether it was told to finish, and all that it sent is acknowledged."""
        return self._finishing.is_set() and self._entry is None

    def stop(self) -> None:
        """Hang up. Stopping twice is safe."""
        self._stopping.set()
        self._thread.join()

    def live(self) -> None:
        while not self._stopping.is_set():
            try:
                with connect(
                    self._address(f"/?have={self.heard}"),
                    proxy=None,
                    compression=None,
                    user_agent_header=None,
                    close_timeout=1,
                ) as connection:
                    self._write(connection)
            except ConnectionClosed as error:
                self.codes.append(error.rcvd.code if error.rcvd else 1006)
            except (InvalidHandshake, OSError):  # nobody there yet
                self.codes.append(0)
            finally:
                self.connected.clear()
            if not self._stopping.is_set():
                self.pauses.append(self._chance.uniform(0, JITTER))
                self._stopping.wait(self.pauses[-1])

    def _write(self, connection: ClientConnection) -> None:
        self.connected.set()
        while not self._stopping.is_set():
            if self._entry is None and not self._finishing.is_set():
                self._entry = [self.name, self.written]
                self._history.sent(tuple(self._entry), by=self.name)
            if self._entry is not None:
                connection.send(json.dumps(self._entry))
                while self._entry is not None:
                    self._read(connection, 10.0)
            self._rest(connection, PAUSE)

    def _rest(self, connection: ClientConnection, seconds: float) -> None:
        """Read what comes in the meantime."""
        until = time.monotonic() + seconds
        try:
            while (left := until - time.monotonic()) > 0:
                self._read(connection, left)
        except TimeoutError:
            pass

    def _read(self, connection: ClientConnection, timeout: float) -> None:
        ((kind, entry),) = json.loads(connection.recv(timeout)).items()
        if kind == "entry":
            self.heard += 1
            self._history.received(tuple(entry), by=self.name)
        elif entry == self._entry:
            self._history.acked(tuple(entry))
            self.written += 1
            self._entry = None


@contextmanager
def writing(where: Any, history: History, count: int) -> Iterator[list[Writer]]:
    """Let so many writers write, one after the other connected; at the end each hears everything, and hangs up.

    Args:
        where: what has a `ws_url`: a cluster, a server.
        history: where they write down what they do.
        count: how many.

    Yields:
        The writers, all connected.

    Raises:
        TimeoutError: a writer did not connect, was not acknowledged, or did not hear everything within thirty seconds.
    """
    writers: list[Writer] = []
    try:
        for seed in range(count):
            writers.append(Writer(f"writer {seed}", where, history, seed))
            _wait(writers[-1].connected.is_set, "connected")
        yield writers
        for writer in writers:
            writer.finish()
        _wait(lambda: all(writer.finished for writer in writers), "acknowledged")
        total = sum(writer.written for writer in writers)
        _wait(lambda: all(writer.heard >= total for writer in writers), "told everything")
    finally:
        for writer in writers:
            writer.stop()


def _wait(condition: Callable[[], object], what: str, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Not everybody was {what} within {timeout:g} s.")
        time.sleep(0.002)
