"""The network is really cut: asserted from the inside, in a child, for both ways to cut it."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence

import pytest

from helpers.authoring import offline

# What a command sees, as JSON: TEST-NET-1 (RFC 5737) is no one's address, so nothing is asked of
# anybody even where the cut fails; the deadline then ends the attempt.
LOOK = """
import json, os, socket, subprocess, sys

def attempt(action):
    try:
        action()
    except OSError as error:
        return error.errno
    return "done"

def loopback(family, host):
    with socket.create_server((host, 0), family=family) as server:
        with socket.create_connection(server.getsockname()[:2], timeout=5) as client:
            peer, _ = server.accept()
            client.sendall(b"hi")
            assert peer.recv(2) == b"hi"
            peer.close()

def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        any_socket.sendto(b"hi", ("192.0.2.1", 9))

def tcp():
    socket.create_connection(("192.0.2.1", 80), timeout=2).close()

def raw_connect():
    with socket.socket() as any_socket:
        any_socket.settimeout(2)
        any_socket.connect(("192.0.2.1", 80))

def by_name():
    socket.gethostbyname("workbook.invalid")

seen = {
    "mode": os.environ.get("WORKBOOK_OFFLINE"),
    "proxy": os.environ.get("http_proxy"),
    "loopback": attempt(lambda: loopback(socket.AF_INET, "127.0.0.1")),
    "localhost": attempt(lambda: socket.getaddrinfo("localhost", 80)),
    "tcp": attempt(tcp),
    "connect": attempt(raw_connect),
    "udp": attempt(udp),
    "name": attempt(by_name),
}
if "child" not in sys.argv:
    child = subprocess.run([sys.executable, __file__, "child"], capture_output=True, text=True)
    seen["child"] = json.loads(child.stdout)
print(json.dumps(seen))
"""


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the module as its users do."""
    return subprocess.run(
        [sys.executable, "-m", "helpers.authoring.offline", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "CI": "", **env},
    )


@pytest.fixture(
    params=[
        pytest.param(
            ("namespace", []),
            id="namespace",
            marks=pytest.mark.skipif(
                offline.refusal() is not None and os.environ.get("CI") != "true",
                reason=f"no namespace here: {offline.refusal()}",
            ),
        ),
        pytest.param(("audit", ["--audit"]), id="audit"),
    ]
)
def way(request: pytest.FixtureRequest) -> tuple[str, Sequence[str]]:
    """Give the name of each way to cut the network, and the option that asks for it."""
    return request.param


def test_a_command_and_its_children_reach_loopback_and_nothing_else(way, tmp_path):
    """TCP, UDP and names: refused at once, in the process and in its child; loopback works."""
    mode, option = way
    script = tmp_path / "look.py"
    script.write_text(LOOK)

    result = run(*option, sys.executable, str(script), http_proxy="http://192.0.2.1:3128")

    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    child = seen.pop("child")
    assert child == seen  # what holds for the command holds for what it starts
    # Without a network a resolver fails in a way of its own; the audit hook does not ask it.
    unknown = {
        "namespace": {socket.EAI_NONAME, socket.EAI_AGAIN},
        "audit": {errno.ENETUNREACH},
    }
    assert seen.pop("name") in unknown[mode]
    assert seen == {
        "mode": mode,
        "proxy": None,
        "loopback": "done",
        "localhost": "done",
        "tcp": errno.ENETUNREACH,
        "connect": errno.ENETUNREACH,
        "udp": errno.ENETUNREACH,
    }


def test_the_exit_status_passes_through(way):
    """The status of the command is the status of the run."""
    _, option = way
    assert run(*option, sys.executable, "-c", "raise SystemExit(7)").returncode == 7
    assert run(*option, sys.executable, "-c", "").returncode == 0


def test_the_refusal_says_what_was_refused_and_what_to_do():
    """The audit hook names the event and the address."""
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=2)"
    result = run("--audit", sys.executable, "-c", code)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"OSError: [Errno {errno.ENETUNREACH}] The network is cut down to loopback during the "
        "tests: socket.getaddrinfo to '192.0.2.1' was refused. Serve what this needs on 127.0.0.1."
    )


def test_a_kernel_sees_the_audit_hook_too():
    """A Jupyter kernel, started as nbclient starts it, is a Python process like any other."""
    code = """
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel()
try:
    client.execute_interactive(
        "import socket\\n"
        "try: socket.create_connection(('192.0.2.1', 80), timeout=2)\\n"
        "except OSError as error: print(error.errno)"
    )
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""
    result = run("--audit", sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(errno.ENETUNREACH)


@pytest.fixture
def denied(monkeypatch):
    """Let the system deny the namespace, as many containers do."""
    monkeypatch.setattr(offline, "refusal", lambda: "OSError: Operation not permitted")


def test_without_namespaces_the_audit_hook_takes_over_and_says_so(denied, monkeypatch, capfd):
    """On somebody's own machine the run goes on, with one line about it."""
    monkeypatch.delenv("CI", raising=False)
    code = "import os; print(os.environ['WORKBOOK_OFFLINE'])"
    assert offline.main([sys.executable, "-c", code]) == 0
    out, err = capfd.readouterr()
    assert out == "audit\n"
    assert err == (
        "Offline by audit hook, for Python processes only: OSError: Operation not permitted.\n"
    )


def test_without_namespaces_continuous_integration_fails(denied, monkeypatch):
    """What the audit hook cannot see would go unnoticed there."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(SystemExit, match=r"with CI=true it must be\. Run as root"):
        offline.main([sys.executable, "-c", ""])


def test_no_command_is_an_error():
    """The usage is one line."""
    result = run()
    assert result.returncode == 1
    assert result.stderr == ("usage: python -m helpers.authoring.offline [--audit] COMMAND...\n")


@pytest.mark.skipif(
    os.environ.get("WORKBOOK_OFFLINE") != "namespace" or "PYTEST_XDIST_WORKER" not in os.environ,
    reason="needs what make test sets up",
)
def test_a_worker_shares_its_ports_with_no_other():
    """Jupyter chooses a kernel's ports and takes them later: a server of the other worker came in between."""
    mine, parents = (os.readlink(f"/proc/{pid}/ns/net") for pid in ("self", os.getppid()))
    assert (mine != parents) == (os.getuid() == 0)
