"""Run a command with the network cut down to loopback: ``python -m helpers.authoring.offline CMD``.

On Linux the command gets a network namespace of its own, which holds the loopback interface and
nothing else: whatever it starts (kernels, servers, a browser) can reach nothing but this machine.
Where the system denies that, an audit hook refuses every other address in every Python process
instead. It sees neither other programs nor what a C extension does by itself, so continuous
integration (``CI=true``) does not accept it.

``WORKBOOK_OFFLINE`` tells the command which of the two it got: ``namespace`` or ``audit``.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

AUDIT = Path(__file__).with_name("audit")
PROXIES = {"http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy", "no_proxy"}

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1


def unshare(flags: int) -> None:
    """Leave the namespaces that this process shares with its parent.

    Args:
        flags: Which ones, as in ``unshare(2)``.

    Raises:
        OSError: When the system denies it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def bring_up_loopback() -> None:
    """Switch ``lo`` on: in a new namespace it is off, and even 127.0.0.1 cannot be reached.

    Raises:
        OSError: When the system denies it.
    """
    import fcntl  # not on Windows, which never comes here

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, request)
        flags = struct.unpack("16sh14x", answer)[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def enter_namespace() -> None:
    """Move this process into a network namespace that holds loopback only.

    Raises:
        OSError: When the system denies it. The process may then have no network at all.
    """
    user, group = os.getuid(), os.getgid()
    try:
        unshare(CLONE_NEWNET)
        bring_up_loopback()
        return
    except OSError:
        # Not root, or half a root, as in a container: then inside a user namespace, if at all.
        unshare(CLONE_NEWUSER | CLONE_NEWNET)
    Path("/proc/self/setgroups").write_text("deny")  # the kernel asks for this before gid_map
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    bring_up_loopback()


def refusal() -> str | None:
    """Return why this system denies such a namespace, or None: a child process tries it."""
    if sys.platform != "linux":
        return f"{sys.platform} has no network namespaces"
    attempt = f"import runpy; runpy.run_path({__file__!r})['enter_namespace']()"
    command = [sys.executable, "-I", "-c", attempt]
    result = subprocess.run(command, capture_output=True, text=True)
    return None if result.returncode == 0 else result.stderr.strip().splitlines()[-1]


def environment(mode: str) -> dict[str, str]:
    """Return the environment of the command.

    Args:
        mode: ``namespace`` or ``audit``.
    """
    # A proxy is out of reach now. What a proxy does to loopback traffic has tests of its own.
    env = {name: value for name, value in os.environ.items() if name.lower() not in PROXIES}
    env["WORKBOOK_OFFLINE"] = mode
    if mode == "audit":  # Python imports sitecustomize from here, in every process
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(AUDIT), env.get("PYTHONPATH")]))
    return env


def main(arguments: Sequence[str]) -> int:
    """Run a command offline and return its exit status.

    Args:
        arguments: The command; ``--audit`` before it asks for the audit hook.

    Raises:
        SystemExit: When the network cannot be cut as it must be.
    """
    audit = arguments[:1] == ["--audit"]
    command = list(arguments[1:] if audit else arguments)
    if not command:
        raise SystemExit("usage: python -m helpers.authoring.offline [--audit] COMMAND...")
    reason = "it was asked for" if audit else refusal()
    if reason is None:
        enter_namespace()
        os.execvpe(command[0], command, environment("namespace"))
    if os.environ.get("CI") == "true" and not audit:
        raise SystemExit(
            f"The network cannot be cut down to loopback here ({reason}), and with CI=true it "
            "must be. Run as root with CAP_SYS_ADMIN, or allow unprivileged user namespaces."
        )
    if not audit:
        print(f"Offline by audit hook, for Python processes only: {reason}.", file=sys.stderr)
    return subprocess.run(command, env=environment("audit")).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
