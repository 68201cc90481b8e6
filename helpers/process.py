"""Child processes that end with the kernel, whatever ends it, and that an interrupt of the kernel leaves alone.

The kernel interrupts its own process group, so a child gets a session of its own; and a session of its own would outlive a
kernel that is killed. So between the two stands a guard: this very file, run as a program. It starts the command and reads its
standard input, which the kernel holds open; when that ends, for whatever reason, the guard ends the command.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the guard starts without the package
    from .log import Log

_children: set[Child] = set()


class Child:
    """A command that runs until `stop`, or until this process ends in whatever way.

    What it writes goes to a log file. Treat it as a context manager to have it stopped.

    Args:
        command: the program and its arguments.
        name: what to call it in messages.
        env: variables to add to this process's environment.
        folder: files that only the command uses, deleted when it has ended, whatever ended it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.name = name
        self.asked = False
        """Whether somebody here has asked it to end, by `stop` or `kill`; set before it ends."""
        self._folder = folder
        handle, path = tempfile.mkstemp(prefix=f"workbook-{os.getpid()}-", suffix=".log")
        os.close(handle)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND)  # nginx opens it a second time
        self._log_path = Path(path)
        self.log: Log = _file_log(path)
        root = str(Path(__file__).resolve().parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            **(env or {}),
        }
        guard = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), path]
        guard.append(os.fspath(folder or ""))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                [*guard, *command],
                stdin=subprocess.PIPE,
                stdout=handle,
                stderr=handle,
                env=variables,
                start_new_session=True,
            )
            _children.add(self)
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(handle)

    @property
    def pid(self) -> int:
        """The id of the guard, which leads the child's process group."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the command still runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """What it ended with: 128 and the signal's number, if a signal ended it; None while it runs."""
        status = self._process.poll() if self._process is not None else None
        return status if status is None or status >= 0 else 128 - status

    def wait_until(self, ready: Callable[[], object], timeout: float = 30.0) -> None:
        """Wait until a condition is true.

        Args:
            ready: called again and again; true, or anything but a false value, ends the wait.
            timeout: seconds to wait.

        Raises:
            RuntimeError: the command ended before; the message holds the end of its log.
            TimeoutError: the condition did not come true in time.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.running and not ready():
                assert self._process is not None
                raise RuntimeError(
                    f"{self.name} ended with status {self._process.returncode} before it was ready. "
                    f"The end of its log:\n{self.tail()}"
                )
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{self.name} was not ready within {timeout:g} s. The end of its log:\n{self.tail()}"
                )
            time.sleep(0.005)

    def tail(self, lines: int = 20) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log[-lines:])

    def stop(self, timeout: float = 3.0) -> None:
        """End the command and everything that it started. The log can still be read. Stopping twice is safe.

        Args:
            timeout: seconds that the command gets to end by itself.
        """
        self.asked = True
        _children.discard(self)
        process = self._process
        if process is not None:
            if (process.poll() or 0) < 0 and process.stdin and not process.stdin.closed:
                # A guard that was killed guards nobody.
                with contextlib.suppress(ProcessLookupError):
                    _kill_group(process.pid, process)
            if process.stdin and not process.stdin.closed:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    _kill_group(process.pid, process)
                process.wait(timeout)
        self.log.close()
        self._log_path.unlink(missing_ok=True)  # unless it was killed, the guard has done it
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def kill(self) -> None:
        """End the command and everything that it started at once, with SIGKILL, as a crash would. Killing twice is safe."""
        import psutil  # type: ignore[import-untyped]

        self.asked = True
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for started in psutil.Process(process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        started.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3.0)  # the guard, which tidies up

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{self.name}: process {self.pid}, {'running' if self.running else 'ended'}>"


def stop_all() -> None:
    """Stop every child of this process, also those after one that cannot stop."""
    with contextlib.ExitStack() as stack:
        for child in list(_children):
            stack.callback(child.stop)


atexit.register(stop_all)


def _file_log(path: str) -> Log:
    from .log import Log

    class FileLog(Log):
        """The log of a process, read from its file, which the guard deletes at the end."""

        def __init__(self) -> None:
            super().__init__()
            self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
            self._rest = b""

        def _refresh(self) -> None:
            if not self._file.closed:
                *complete, self._rest = (self._rest + self._file.read()).split(b"\n")
                self._lines += [line.decode(errors="replace") for line in complete]

        def _wait(self, seen: int, seconds: float) -> None:
            time.sleep(min(seconds, 0.005))

        def close(self) -> None:
            self._refresh()
            self._file.close()
            if self._rest:  # the last words of a process that was cut off
                self._lines.append(self._rest.decode(errors="replace"))
                self._rest = b""

        def __len__(self) -> int:
            self._refresh()
            return super().__len__()

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            self._refresh()
            return super().__getitem__(index)

    return FileLog()


def _kill_group(leader: int, process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(leader, signal.SIGKILL)
    else:
        process.kill()


def _guard(log_path: str, folder: str, *command: str) -> int:
    """Run a command until it ends or standard input does, and then delete its log file and its folder."""

    def delete() -> None:
        with contextlib.suppress(OSError):
            os.unlink(log_path)  # whoever wants to read it has it open
        if folder:
            shutil.rmtree(folder, ignore_errors=True)

    # SIGTERM is sent to the whole group, of which this is the leader. Not SIG_IGN, which the command would inherit.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", flush=True)
        delete()
        return 127

    last = signal.SIGTERM

    def lifeline() -> None:
        nonlocal last
        os.read(0, 1)
        last = signal.SIGKILL if hasattr(signal, "SIGKILL") else last
        process.terminate()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()

    threading.Thread(target=lifeline, daemon=True).start()
    status = process.wait()
    delete()
    if hasattr(os, "killpg"):
        os.killpg(
            0, last
        )  # what the command started and left behind, and at the end this guard, too
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    os._exit(_guard(*sys.argv[1:]))
