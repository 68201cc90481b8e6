"""Make ``.venv``, and mend it: what ``make`` runs before anything else.

The state of ``.venv`` is told by two stamp files inside it. A stamp is written last, and taken
away first, so a stamp that is there and names the locks of today means a finished set-up. Anything
else (a Ctrl-C, a ``kill -9``, a changed lock, another Python) means: begin again from nothing.

Where there is npm, it then gets the JavaScript client of Socket.IO, which the page of a chat uses.

This file runs before anything is installed, so it uses the standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = {"lab": ROOT / "requirements.lock", "test": ROOT / "requirements-dev.lock"}


class SetupError(Exception):
    """The set-up cannot go on; the text says why, and what to do."""


class Environment:
    """The virtual environment of a clone: ready, or made ready.

    Args:
        root: The clone. ``.venv`` is made in it, from the two locks in it.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.path = root / ".venv"
        self.python = self.path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.locks = {kind: root / lock.name for kind, lock in LOCKS.items()}

    def stamp(self, kind: str) -> Path:
        """Return the file that says that the set-up of this kind is finished."""
        return self.path / f".ready-{kind}"

    def expected(self, kind: str) -> str:
        """Return what that file must hold: this Python, and the digests of the locks."""
        lines = [f"python {sys.version_info[0]}.{sys.version_info[1]}"]
        for name in ["lab"] if kind == "lab" else ["lab", "test"]:
            digest = hashlib.sha256(self.locks[name].read_bytes()).hexdigest()
            lines.append(f"{self.locks[name].name} {digest}")
        return "\n".join(lines) + "\n"

    def found(self, kind: str) -> str | None:
        """Return what that file holds, or None."""
        try:
            return self.stamp(kind).read_text()
        except OSError:
            return None

    def ready(self, kind: str) -> bool:
        """Tell whether this kind of set-up is finished and up to date."""
        return self.found(kind) == self.expected(kind)

    def make(self, kind: str) -> None:
        """Install what this kind of set-up needs, from nothing unless all that is there is known.

        Args:
            kind: ``lab``, what a learner needs; or ``test``, the same and the tools of the authors.

        Raises:
            SetupError: When a step fails.
        """
        on_top = kind == "test" and self.ready("lab") and self.found("test") is None
        for name in LOCKS:  # first of all: from here on, nothing counts as finished
            self.stamp(name).unlink(missing_ok=True)
        if not on_top:
            self._create()
            self._install(self.locks["lab"])
        if kind == "test":
            self._install(self.locks["test"])
        self._link()
        for name in ["lab"] if kind == "lab" else ["lab", "test"]:
            self._write_stamp(name)

    @property
    def wheels(self) -> Path | None:
        """The folder with every package, which ``make wheels`` fills for rooms without a network; None where there is none."""
        folder = self.root / "wheels"
        return folder if any(folder.glob("*.whl")) else None

    def _source(self, lock: Path) -> list[str]:
        if self.wheels is None or lock != self.locks["lab"]:  # it holds no tools of authors
            return []
        return ["--no-index", "--find-links", str(self.wheels)]

    def _create(self) -> None:
        try:
            import ensurepip  # noqa: F401
            import venv  # noqa: F401
        except ImportError as error:
            raise SetupError(
                f"{sys.executable} cannot make virtual environments ({error}): install its venv "
                "module (Debian and Ubuntu: apt install python3-venv) and run make again."
            ) from None
        # The Python below a virtual environment, should that be what runs this: --clear might
        # otherwise take away the very Python that is at work.
        base = getattr(sys, "_base_executable", sys.executable)
        self._run([base, "-I", "-m", "venv", "--clear", str(self.path)], "making .venv")
        with tempfile.TemporaryDirectory() as folder:
            pin = Path(folder, "uv.txt")
            pin.write_text(pinned(self.locks["lab"].read_text(), "uv"))
            command = [str(self.python), "-I", "-m", "pip", "install", "--quiet", "--no-deps"]
            command += [*self._source(self.locks["lab"]), "--require-hashes", "-r", str(pin)]
            self._run(command, "installing uv")

    def _install(self, lock: Path) -> None:
        command = [str(self.python), "-I", "-m", "uv", "pip", "install", "--quiet"]
        command += ["--python", str(self.python), *self._source(lock)]
        command += ["--require-hashes", "-r", str(lock)]
        self._run(command, f"installing {lock.name}")

    def _link(self) -> None:
        """Let every Python of ``.venv`` import ``helpers``, whatever its working directory."""
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site = subprocess.run(
            [str(self.python), "-I", "-c", where], check=True, capture_output=True, text=True
        ).stdout.strip()
        # Relative to site-packages, which Python allows here: a clone that moves goes on working.
        Path(site, "workbook.pth").write_text(os.path.relpath(self.root, site) + "\n")

    def _write_stamp(self, kind: str) -> None:
        unfinished = self.path / f".unfinished-{kind}"
        unfinished.write_text(self.expected(kind))
        unfinished.replace(self.stamp(kind))

    def _needs(self) -> str:
        if self.wheels is None:
            return "The first set-up needs the network."
        return (
            "It installs from the folder wheels/, which fits one system and one version of Python. "
            "To use the network instead, remove the folder."
        )

    def _run(self, command: Sequence[str], doing: str) -> None:
        env = {
            **os.environ,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_USER": "0",  # some people set it, and pip refuses it inside a .venv
            "UV_PYTHON_DOWNLOADS": "never",
        }
        status = subprocess.run(command, env=env, cwd=self.root, close_fds=False).returncode
        if status != 0:
            raise SetupError(
                f"{doing} failed with status {status}; the lines above say why. "
                f"{self._needs()} Run make again: it begins anew."
            )


def npm() -> str | None:
    """Return the path of npm, or None where there is none."""
    return shutil.which("npm")


class Client:
    """The JavaScript client of Socket.IO, for the page of a chat: got by npm, where there is npm.

    Without it, nothing but this page needs the internet. So it is tried once, and not again before something has changed.

    Args:
        root: The clone. The client is put into the chat's ``node_modules``, as its lock file says.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.folder = root / "helpers" / "apps" / "socketio_chat"
        self.file = self.folder / "node_modules/socket.io-client/dist/socket.io.min.js"
        self.stamp = root / ".venv" / ".ready-client"
        self.cache = root / "wheels" / "npm"

    def expected(self) -> str:
        """Return what the stamp must begin with: the digest of the lock."""
        return hashlib.sha256((self.folder / "package-lock.json").read_bytes()).hexdigest()

    def ready(self) -> bool:
        """Tell whether there is nothing to do: it is here and up to date, cannot be had, or could not."""
        if npm() is None:
            return True
        try:
            digest, _, outcome = self.stamp.read_text().partition(" ")
        except OSError:
            return False
        return digest == self.expected() and (outcome == "failed" or self.file.exists())

    def make(self) -> bool:
        """Get it, by the digests in the lock file, and return whether that worked; if not, say what follows from it."""
        self.stamp.unlink(missing_ok=True)
        command = [npm() or "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        command += ["--fetch-retries=1"]  # without a network, 10 s and not 70
        if self.cache.is_dir():
            command += ["--offline", "--cache", str(self.cache)]
        env = {**os.environ, "npm_config_update_notifier": "false", "npm_config_loglevel": "error"}
        status = subprocess.run(
            command, cwd=self.folder, env=env, stdout=subprocess.DEVNULL, close_fds=False
        ).returncode
        self.stamp.write_text(f"{self.expected()} {'failed' if status else 'here'}")
        if status:
            print(
                f"npm could not get Socket.IO's JavaScript client (status {status}); the lines above say why. Only the page of "
                "the Socket.IO chat uses it, and takes it from the internet now. To try again: make setup, after rm "
                ".venv/.ready-client",
                flush=True,
            )
        return status == 0


def pinned(lock: str, name: str) -> str:
    """Return the entry of one package, with its hashes, from the text of a lock.

    Args:
        lock: The text of a requirements file with hashes.
        name: The package.

    Raises:
        SetupError: When the lock does not hold it.
    """
    entry = re.search(rf"^{re.escape(name)}==.*(?:\n[ \t]+--hash=.*)+\n", lock, re.MULTILINE)
    if entry is None:
        raise SetupError(f"requirements.lock does not hold {name}: run `git checkout` on it.")
    return entry[0]


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Let one set-up at a time work in a clone; a second one waits.

    The lock is on an open file, so it ends with the process, however that ends. Children inherit
    the file: an installer that outlives its parent is waited for too.

    Args:
        root: The clone.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two set-ups at once are then not told apart
        yield
        return
    with open(root / "pyproject.toml", "rb") as file:
        os.set_inheritable(file.fileno(), True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another set-up is at work in this clone: waiting for its end.", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str]) -> int:
    """Run ``setup.py [--ready] lab|test`` and return the exit status.

    Args:
        arguments: ``--ready`` only asks: status 0 when there is nothing to do.
    """
    kind = arguments[-1]
    environment = Environment()
    client = Client(environment.root)
    if "--ready" in arguments:
        return 0 if environment.ready(kind) and client.ready() else 1
    try:
        with alone(environment.root):
            begin = time.monotonic()
            if not environment.ready(kind):
                version = ".".join(map(str, sys.version_info[:3]))
                print(f"Setting up .venv with Python {version}, once: a minute or so.", flush=True)
                environment.make(kind)
            elif client.ready():
                return 0
            if not client.ready():
                client.make()
            print(f"Ready after {time.monotonic() - begin:.0f} s.", flush=True)
    except SetupError as error:
        print(f"Set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run make again: it begins anew.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
