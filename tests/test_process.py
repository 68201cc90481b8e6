"""Children end with their owner, whatever ends it, and nothing else ends them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import DEADLINE, eventually
from test_server import over_http, over_websocket, refused

from helpers import serve
from helpers.process import Child
from helpers.server import ProcessServer

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")

SAY = f"print('hello', flush=True); import sys; sys.stdin.read(); import time; time.sleep(60)  # {os.getpid()}"
"""A program that says that it lives, and does not end."""

DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SAY
"""One that does not even end when it is asked to."""


def python(program: str, name: str = "the program", **options: Any) -> Child:
    child = Child([sys.executable, "-c", program], name=name, **options)
    child.wait_until(lambda: "hello" in child.log)
    return child


def family(child: Child) -> list[psutil.Process]:
    """Return the guard, the command, and what that started."""
    guard = psutil.Process(child.pid)
    return [guard, *guard.children(recursive=True)]


def log_file(child: Child) -> Path:
    found = [what.path for what in psutil.Process().open_files() if "workbook-" in what.path]
    assert len(found) == 1
    return Path(found[0])


def all_gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs; a zombie, that nobody has waited for, is not gone."""
    return not any(process.is_running() for process in processes)


def test_a_child_runs_until_it_is_stopped() -> None:
    child = python(SAY)
    processes, file = family(child), log_file(child)
    assert len(processes) == 2
    assert child.running
    assert repr(child) == f"<the program: process {child.pid}, running>"
    assert file.read_text() == "hello\n"
    started = time.monotonic()
    child.stop()
    assert time.monotonic() - started < 2.9, "it ends when it is asked to"
    assert all_gone(processes)
    assert not file.exists()
    assert not child.running
    assert repr(child) == f"<the program: process {child.pid}, ended>"
    child.stop()
    assert list(child.log) == ["hello"], "the log can still be read"


def test_a_block_stops_a_child_at_its_end() -> None:
    with python(SAY) as child:
        processes = family(child)
    assert len(processes) == 2
    assert all_gone(processes)


def test_what_a_child_writes_is_its_log() -> None:
    program = "import sys; print('out'); print('err', file=sys.stderr); print('hello'); " + SAY
    with python(program) as child:
        child.log.wait_for("hello", count=2)
        assert list(child.log) == ["out", "err", "hello", "hello"]
        assert child.log[0] == "out"
        assert child.tail(2) == "hello\nhello"


def test_the_last_words_of_a_child_are_in_its_log_even_without_an_end() -> None:
    child = python("print('hello'); print('half a li', end='', flush=True); " + SAY)
    child.stop()
    assert list(child.log) == ["hello", "half a lihello"]
    child = Child([sys.executable, "-c", "print('last', end='')"], name="brief")
    assert eventually(lambda: not child.running)
    assert list(child.log) == []
    child.stop()
    assert list(child.log) == ["last"]


def test_a_child_has_this_environment_the_package_and_what_it_is_given() -> None:
    program = (
        "import json, os, helpers; "
        "print(json.dumps([os.environ.get(n) for n in ('PATH', 'WORD')]), flush=True); " + SAY
    )
    with python(program, env={"WORD": "given"}) as child:
        assert json.loads(child.log[0]) == [os.environ["PATH"], "given"]


NO = [sys.executable, "-c", "print('no'); exit(3)"]
KILLED = [sys.executable, "-c", f"import os; os.kill(os.getpid(), {signal.SIGKILL})"]
MISSING = ["/nowhere/program"]


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (NO, 3, "no"),
        (KILLED, 137, ""),
        (MISSING, 127, "/nowhere/program: No such file or directory"),
    ],
    ids=["status", "killed", "missing"],
)
def test_a_child_that_ends_too_soon_says_why(command: list[str], status: int, said: str) -> None:
    with Child(command, name="brief") as child, pytest.raises(RuntimeError) as caught:
        child.wait_until(lambda: False)
    assert str(caught.value) == (
        f"brief ended with status {status} before it was ready. The end of its log:\n{said}"
    )


def test_a_child_that_is_never_ready_is_given_up() -> None:
    with python(SAY) as child, pytest.raises(TimeoutError) as caught:
        child.wait_until(lambda: False, timeout=0.05)
    assert str(caught.value) == (
        "the program was not ready within 0.05 s. The end of its log:\nhello"
    )


def test_a_child_that_does_not_end_when_asked_is_killed() -> None:
    child = python(DEAF)
    processes = family(child)
    started = time.monotonic()
    child.stop(timeout=0.1)
    assert time.monotonic() - started < 2.9
    assert eventually(lambda: all_gone(processes))


def test_what_a_child_started_ends_with_it() -> None:
    """A grandchild that does not end when asked; the child itself leaves it behind."""
    child = python(
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {DEAF!r}]); " + SAY
    )
    child.log.wait_for("hello", count=2)
    processes = family(child)
    assert len(processes) == 3
    child.stop()
    assert eventually(lambda: all_gone(processes))


def test_what_a_child_left_behind_ends_when_it_has_ended() -> None:
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SAY!r}])"
    child = Child([sys.executable, "-c", program], name="brief")
    assert eventually(lambda: not child.running)
    assert eventually(lambda: not psutil.Process().children(recursive=True))

    def left_behind() -> list[psutil.Process]:  # no child of ours by now, whoever has adopted it
        everybody = list(psutil.process_iter(["cmdline"]))
        assert len(everybody) >= 2
        return [process for process in everybody if SAY in (process.info["cmdline"] or [])]

    assert eventually(lambda: not left_behind())
    child.stop()


@pytest.mark.parametrize("program", [SAY, "pass"], ids=["it runs", "it has ended"])
def test_a_folder_of_a_child_goes_with_it(tmp_path: Path, program: str) -> None:
    folder = tmp_path / "its own"
    folder.mkdir()
    (folder / "file").touch()
    with Child([sys.executable, "-c", program], name="tidy", folder=folder) as child:
        if program == SAY:
            child.wait_until(lambda: len(child.log))
            assert folder.exists()
            child.stop()
        assert eventually(lambda: not folder.exists())


def test_a_log_can_be_opened_twice() -> None:
    """nginx opens its log by its name, while what the guard has opened is still written to."""
    program = """
import sys
again = open("/dev/stdout", "a")
for word in ("one", "two", "three"):
    for stream in (again, sys.stdout):
        print(word, file=stream, flush=True)
"""
    with Child([sys.executable, "-c", program], name="two") as child:
        assert eventually(lambda: not child.running)
        assert list(child.log) == ["one", "one", "two", "two", "three", "three"]


def test_a_start_that_fails_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError):
        Child(["true"], name="nothing")
    assert not [what for what in psutil.Process().open_files() if "workbook-" in what.path]
    assert not list(Path("/tmp").glob(f"workbook-{os.getpid()}-*"))


# The owner

OWNER = f"""
import json, os, signal, sys, time
import psutil
from helpers.process import Child

# Not KeyboardInterrupt: the next interrupt may come while the one before is handled.
signal.signal(signal.SIGINT, lambda *_: os.write(1, b"interrupted\\n"))
children = [
    Child([sys.executable, "-c", program], name="child") for program in ({SAY!r}, {DEAF!r})
]
for child in children:
    child.wait_until(lambda: "hello" in child.log)
mine = psutil.Process()
print(json.dumps({{
    "processes": [process.pid for process in mine.children(recursive=True)],
    "files": [f.path for f in mine.open_files() if "workbook-" in f.path],
    "sessions": len({{os.getsid(child.pid) for child in children}} - {{os.getsid(0)}}),
}}), flush=True)
sys.stdin.read(1)
{{ending}}
"""


class Owner:
    """A process that owns two children, in a group of its own: as a kernel is."""

    def __init__(self, ending: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER.replace("{ending}", ending)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        self.children = [psutil.Process(pid) for pid in said["processes"]]
        self.files = [Path(path) for path in said["files"]]
        self.sessions: int = said["sessions"]

    def end(self) -> None:
        self.process.communicate(timeout=DEADLINE)

    def nothing_left(self) -> bool:
        return all_gone(self.children) and not any(file.exists() for file in self.files)


def test_children_survive_an_interrupt_of_their_owners_group() -> None:
    """Five real ones; then the owner ends as programs do, and so do its children."""
    owner = Owner("")
    assert len(owner.children) == 4
    assert owner.sessions == 2
    assert owner.process.stdout is not None
    for _ in range(5):
        os.killpg(owner.process.pid, signal.SIGINT)
        assert owner.process.stdout.readline() == "interrupted\n"
    assert all(child.is_running() for child in owner.children)
    owner.end()
    assert owner.process.returncode == 0
    assert eventually(owner.nothing_left)


def test_children_end_with_their_owner_whatever_ends_it() -> None:
    """Killed, or gone without a word; two seconds for a child that does not end when asked."""
    owners = [Owner("os._exit(0)") for _ in range(2)]
    owners[0].process.kill()
    for owner in owners:
        assert len(owner.children) == 4
        assert len(owner.files) == 2
        owner.end()
    assert [owner.process.returncode for owner in owners] == [-signal.SIGKILL, 0]
    assert eventually(lambda: all(owner.nothing_left() for owner in owners))


# Servers in a process of their own

APPLICATIONS = """
import os, sys
from flask import Flask

print("imported")

async def asgi(scope, receive, send):
    if scope["type"] == "http":
        print("asked for", scope["path"])
        if scope["path"] == "/fail":
            raise KeyError("m")
        body = f"{NONCE} {os.getpid()}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

async def handler(connection):
    print("asked for", await connection.recv())
    await connection.send(f"{NONCE} {os.getpid()}")

flask = Flask("flask")

@flask.get("/<word>")
def view(word):
    print(f"asked for /{word}")
    return f"{NONCE} {os.getpid()}"
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a module where the notebook is, and return its name."""
    monkeypatch.chdir(tmp_path)

    def write(source: str = APPLICATIONS, **names: object) -> str:
        text = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + source
        Path("chat_module.py").write_text(text)
        return "chat_module"

    return write


@pytest.mark.parametrize(
    ("attribute", "ask", "line"),
    [
        ("asgi", over_http, "asked for /nonce"),
        ("flask", over_http, "asked for /nonce"),
        ("handler", over_websocket, "asked for nonce"),
    ],
)
def test_a_server_in_a_process_of_its_own_answers(
    module: Callable[..., str], attribute: str, ask: Callable[..., str], line: str
) -> None:
    name = f"{module(NONCE='one')}:{attribute}"
    with serve(name, process=True) as server:
        assert isinstance(server, ProcessServer)
        assert server.name == name.replace(":", ".")
        assert server.url() == f"http://127.0.0.1:{server.port}/"
        assert repr(server) == (f"<{server.name}: a server in another process, at {server.url()}>")
        nonce, pid = ask(server, "nonce").split()
        processes = [psutil.Process(server.pid), psutil.Process(int(pid))]
        assert nonce == "one"
        assert int(pid) not in (os.getpid(), server.pid)
        server.wait_for(line)
        assert list(server.log) == ["imported", line]
        listening = [c for c in processes[1].net_connections(kind="tcp") if c.status == "LISTEN"]
        assert [c.laddr for c in listening] == [("127.0.0.1", server.port)]
        with pytest.raises(RuntimeError, match="there is no event loop"):
            server.run(asyncio.sleep(0))
    assert all_gone(processes)
    assert refused(server)
    assert list(server.log)[:2] == ["imported", line]
    server.stop()


def test_the_same_name_again_runs_the_new_code(module: Callable[..., str]) -> None:
    first = serve(f"{module(NONCE='one')}:asgi", process=True, name="chat")
    one = over_http(first, "").split()
    # Of another length: Python takes a file of the same second and size for the one that it has compiled.
    second = serve(f"{module(NONCE='another')}:asgi", process=True, name="chat")
    two = over_http(second, "").split()
    assert (one[0], two[0]) == ("one", "another")
    assert one[1] != two[1]
    assert not first.running
    assert not psutil.pid_exists(int(one[1]))


def test_options_reach_the_process_and_failures_its_log(module: Callable[..., str]) -> None:
    with serve(f"{module(NONCE='n')}:asgi", process=True, lifespan="off") as server:
        assert over_http(server, "fail") == "Internal Server Error"
        server.wait_for("uvicorn.error: Exception in ASGI application: KeyError: 'm'")
        assert list(server.log)[:2] == ["imported", "asked for /fail"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this"),
        ("", "AttributeError: module 'chat_module' has no attribute 'app'"),
        ("app = 5", "TypeError: serve() takes an ASGI application"),
        ("def app(:", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "ended with status 3"),
        (
            "async def app(scope, receive, send):\n"
            "    await receive()\n"
            "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})",
            "uvicorn.error: no database",
        ),
    ],
)
def test_a_server_that_cannot_start_tells_its_caller(
    module: Callable[..., str], source: str, said: str
) -> None:
    with pytest.raises(
        RuntimeError, match="^The server 'chat' did not start: chat ended"
    ) as caught:
        serve(f"{module(source)}:app", process=True, name="chat")
    assert said in str(caught.value)
    assert str(caught.value).count(said) == 1, "and tells it once"
    assert not psutil.Process().children()


def test_a_server_that_takes_too_long_to_start_is_stopped(module: Callable[..., str]) -> None:
    source = "print('starting', flush=True); import time; time.sleep(60)"
    with pytest.raises(RuntimeError, match=r"was not ready within 1 s\.") as caught:
        serve(f"{module(source)}:app", process=True, name="chat", timeout=1)
    assert "The end of its log:" in str(
        caught.value
    )  # which may be empty: not even Python starts at once
    assert not psutil.Process().children()


INTERRUPTED = """
import json, signal, sys, threading, time
import psutil
from helpers import serve
from helpers.server import stop_all

seen = {"interrupts": 0, "left": 0}
for number in range(6):
    killer = threading.Timer(
        0.02 + 0.08 * number, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
    )
    killer.start()
    try:
        serve("chat_module:asgi", process=True, name="chat")
        killer.join()
        time.sleep(1)
    except KeyboardInterrupt:
        seen["interrupts"] += 1
    killer.join()
    stop_all()
    seen["left"] += len(psutil.Process().children(recursive=True))
print(json.dumps(seen))
"""


def test_an_interrupt_while_it_starts_leaves_no_process(module: Callable[..., str]) -> None:
    module(NONCE="n")
    child = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    seen = json.loads(child.stdout)
    assert seen["left"] == 0
    assert 5 <= seen["interrupts"] <= 6, "Python ignores what is raised in some callbacks"
