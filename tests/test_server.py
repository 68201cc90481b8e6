"""One promise, three kinds of server: ready when returned, gone when stopped, silent in between."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import http.client
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import socketio
from conftest import DEADLINE, Belongings, eventually
from flask import Flask, Response
from flask_socketio import SocketIO
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

import helpers.server
from helpers import serve
from helpers.background import Background
from helpers.log import Log
from helpers.server import Server, prints_apart, stop_all
from helpers.tap import Tap

ROOT = Path(__file__).parent.parent


class Act:
    """What every application here does when it is told a word."""

    def __init__(self, nonce: str) -> None:
        self.nonce = nonce
        self.blocked, self.release = threading.Event(), threading.Event()
        self.served: Server | None = None

    def say(self, word: str) -> str:
        if word == "print":
            print("to stdout")
            print("to stderr", file=sys.stderr)
            logging.getLogger("chat").warning("to the log")
        elif word == "fail":
            raise KeyError("m")
        elif word == "block":
            self.blocked.set()
            self.release.wait(DEADLINE)
        elif word == "stop":
            assert self.served is not None
            self.served.stop()
        return self.nonce


class Kind:
    """One kind of server: how to write an application for it, and how to ask it something."""

    streams = True
    """Whether it has an endless stream at /stream."""

    def application(self, act: Act) -> Any:
        raise NotImplementedError

    def ask(self, server: Server, word: str = "nonce") -> str:
        raise NotImplementedError

    def told(self, server: Server) -> contextlib.AbstractContextManager[Callable[[], object]]:
        """Connect a client, and return a function that says how the server took leave of it."""
        raise NotImplementedError

    def shake_hands(self, sock: socket.socket) -> None:
        """Open a WebSocket on a raw socket."""
        sock.sendall(self.handshake)
        assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")

    handshake = (
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )


def over_http(server: Server | Tap, word: str) -> str:
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
    try:
        client.request("GET", f"/{word}")
        return client.getresponse().read().decode()
    finally:
        client.close()


def open_websocket(server: Server) -> ClientConnection:
    return connect(server.ws_url(), proxy=None, compression=None, close_timeout=DEADLINE)


@contextlib.contextmanager
def farewell(server: Server) -> Iterator[Callable[[], object]]:
    """Connect a WebSocket; the function returns the code that the server closes it with."""
    with open_websocket(server) as connection:
        connection.send("nonce")
        connection.recv(timeout=DEADLINE)

        def said() -> object:
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv(timeout=DEADLINE)
            return caught.value.rcvd and caught.value.rcvd.code

        yield said


class Asgi(Kind):
    def application(self, act: Act) -> Any:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                return
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.accept"})
                while (message := await receive())["type"] == "websocket.receive":
                    answer = act.say(message.get("text") or "")
                    await send({"type": "websocket.send", "text": answer})
                    if message["text"] == "twice":
                        await send({"type": "websocket.send", "text": answer})
                return
            start = {"type": "http.response.start", "status": 200, "headers": []}
            if scope["path"] == "/stream":
                await send(start)
                while True:
                    await send({"type": "http.response.body", "body": b"x", "more_body": True})
                    await asyncio.sleep(0.001)
            answer = act.say(scope["path"][1:]).encode()
            start["headers"] = [(b"content-length", str(len(answer)).encode())]
            await send(start)
            await send({"type": "http.response.body", "body": answer})

        return application

    def ask(self, server: Server, word: str = "nonce") -> str:
        return over_http(server, word)

    def told(self, server: Server) -> contextlib.AbstractContextManager[Callable[[], object]]:
        return farewell(server)


class AsgiWebSocket(Asgi):
    """The same, asked over a WebSocket."""

    def ask(self, server: Server, word: str = "nonce") -> str:
        return over_websocket(server, word)


def over_websocket(server: Server, word: str) -> str:
    with open_websocket(server) as connection:
        connection.send(word)
        try:
            return str(connection.recv(timeout=DEADLINE))
        except ConnectionClosed as error:
            return f"closed with {error.rcvd.code if error.rcvd else 1006}"


class WebSockets(Kind):
    streams = False

    def application(self, act: Act) -> Any:
        async def handler(connection: Any) -> None:
            async for message in connection:
                answer = act.say(message)
                await connection.send(answer)
                if message == "twice":
                    await connection.send(answer)

        return handler

    def ask(self, server: Server, word: str = "nonce") -> str:
        return over_websocket(server, word)

    def told(self, server: Server) -> contextlib.AbstractContextManager[Callable[[], object]]:
        return farewell(server)


class FlaskView(Kind):
    def application(self, act: Act) -> Any:
        application = Flask("flask application")
        server = SocketIO(application, async_mode="threading")
        server.on("say")(act.say)
        server.on("disconnect")(lambda reason: print("a client left:", reason))
        application.get("/<word>")(act.say)

        @application.get("/stream")
        def stream() -> Response:
            def endless() -> Iterator[bytes]:
                while True:
                    yield b"x"
                    time.sleep(0.001)

            return Response(endless())

        return application

    def ask(self, server: Server, word: str = "nonce") -> str:
        return over_http(server, word)

    @contextlib.contextmanager
    def told(self, server: Server) -> Iterator[Callable[[], object]]:
        said: list[str] = []
        with open_socketio(server) as client:
            client.on("disconnect", said.append)
            assert client.call("say", "nonce", timeout=DEADLINE)
            yield lambda: eventually(lambda: said) and said[0]

    handshake = Kind.handshake.replace(b"GET / ", b"GET /socket.io/?EIO=4&transport=websocket ")


@contextlib.contextmanager
def open_socketio(server: Server, transport: str = "websocket") -> Iterator[socketio.Client]:
    # A client of python-socketio takes the interrupt handler away, and reconnects, unless told not to.
    client = socketio.Client(handle_sigint=False, reconnection=False)
    client.connect(server.url(), transports=[transport], wait_timeout=DEADLINE)
    try:
        yield client
    finally:
        client.disconnect()
        if client.eio.ws is not None:
            client.eio.ws.shutdown()  # which it does not do itself when the server has gone


class FlaskSocketIO(FlaskView):
    """The same, asked by an event."""

    def ask(self, server: Server, word: str = "nonce") -> str:
        with open_socketio(server) as client:
            answer: list[str] = []
            failures = len(server.log.failures)
            client.emit("say", word, callback=answer.append)
            eventually(lambda: answer or len(server.log.failures) > failures)
            return answer[0] if answer else "no answer"


KINDS = [Asgi(), FlaskView(), WebSockets()]
DOORS = [*KINDS, AsgiWebSocket(), FlaskSocketIO()]


@pytest.fixture(params=KINDS, ids=lambda kind: type(kind).__name__)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of server."""
    assert isinstance(request.param, Kind)
    return request.param


@pytest.fixture(params=DOORS, ids=lambda kind: type(kind).__name__)
def door(request: pytest.FixtureRequest) -> Kind:
    """Each way into a server that a handler can stand behind."""
    assert isinstance(request.param, Kind)
    return request.param


def start(kind: Kind, nonce: str = "one", **options: Any) -> tuple[Server, Act]:
    act = Act(nonce)
    act.served = serve(kind.application(act), name="chat", **options)
    return act.served, act


def listening() -> set[tuple[str, int]]:
    """Return where this process listens."""
    connections = psutil.Process().net_connections(kind="tcp")
    return {tuple(c.laddr) for c in connections if c.status == psutil.CONN_LISTEN}


def refused(server: Server) -> bool:
    with socket.socket() as sock:
        sock.settimeout(DEADLINE)
        return sock.connect_ex(("127.0.0.1", server.port)) != 0


# Starting


def test_a_server_answers_as_soon_as_it_is_there(kind: Kind) -> None:
    for number in range(5):
        server, _ = start(kind, str(number))
        assert server.running
        assert kind.ask(server) == str(number)


def test_a_server_says_where_it_is(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    server, _ = start(kind)
    port = server.port
    assert server.url() == f"http://127.0.0.1:{port}/"
    assert server.url("/room?name=ann") == f"http://127.0.0.1:{port}/room?name=ann"
    assert server.ws_url() == f"ws://127.0.0.1:{port}/"
    assert server.ws_url("/ws/chat/") == f"ws://127.0.0.1:{port}/ws/chat/"
    assert server.browser_url("/room") == f"http://127.0.0.1:{port}/room"
    assert repr(server) == f"<chat: {server.kind}, at http://127.0.0.1:{port}/>"
    server.stop()
    assert repr(server) == f"<chat: {server.kind}, stopped>"


@pytest.mark.parametrize("prefix", ["/user/ann/", "/user/ann"])
def test_behind_a_hub_a_browser_uses_its_proxy(
    kind: Kind, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", prefix)
    server, _ = start(kind)
    assert server.browser_url("/room") == f"/user/ann/proxy/{server.port}/room"
    assert server.browser_url() == f"/user/ann/proxy/{server.port}/"
    assert server.url() == f"http://127.0.0.1:{server.port}/", "the kernel itself needs no proxy"


def test_in_codespaces_a_browser_uses_the_proxy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    monkeypatch.setenv("CODESPACES", "true")
    server, _ = start(Asgi())
    assert server.browser_url("/room") == f"/proxy/{server.port}/room"


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not let psutil list sockets")
def test_a_server_listens_on_this_machine_only_on_a_port_of_the_systems_choice(kind: Kind) -> None:
    before = listening()
    servers = [serve(kind.application(Act("n")), name=f"chat {number}") for number in range(3)]
    ports = {server.port for server in servers}
    assert len(ports) == 3
    assert listening() - before == {("127.0.0.1", port) for port in ports}
    low, high = 1024, 65536
    with contextlib.suppress(OSError):  # only Linux says from which range it chooses
        found = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        low, high = int(found[0]), int(found[1]) + 1
    assert all(low <= port < high for port in ports)


def test_a_server_has_the_name_of_its_application_or_a_given_one() -> None:
    async def echo(connection: Any) -> None: ...

    class Application:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    named = [(echo, "echo"), (Application(), "Application"), (Flask("shop"), "shop")]
    for application, name in named:
        assert serve(application).name == name
        assert serve(application, name="other").name == "other"
    assert len(helpers.server._servers) == len(named) + 1


def test_options_reach_the_server() -> None:
    async def echo(connection: Any) -> None:
        await connection.send(await connection.recv())

    act = Act("n")
    asgi = serve(Asgi().application(act), name="asgi", ws_max_size=10)
    sockets = serve(echo, max_size=10)
    for server in (asgi, sockets):
        with open_websocket(server) as connection:
            connection.send("x" * 11)
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv(timeout=DEADLINE)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1009
    application = Flask("flask")
    application.config["PROPAGATE_EXCEPTIONS"] = True
    application.get("/<word>")(act.say)
    werkzeug = serve(application, passthrough_errors=True)
    with pytest.raises(http.client.HTTPException):
        over_http(werkzeug, "fail")
    werkzeug.wait_for("werkzeug: KeyError: 'm'")


def test_frames_of_a_notebook_can_be_read() -> None:
    """Neither compression nor a version is on the wire unless asked for."""
    for kind in (Asgi(), WebSockets()):
        server, _ = start(kind)
        with connect(server.ws_url(), proxy=None, compression="deflate") as connection:
            assert connection.response is not None
            assert "Sec-WebSocket-Extensions" not in connection.response.headers
            if isinstance(kind, WebSockets):
                assert "Server" not in connection.response.headers
    server = serve(Flask("flask"))
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
    with contextlib.closing(client):
        client.request("GET", "/")
        assert client.getresponse().headers["Server"] == "Werkzeug"


def test_proxies_in_the_environment_do_not_matter() -> None:
    """Every kind starts and answers in a process whose environment names a proxy that is dead."""
    program = """
import socket
from helpers import serve
from flask import Flask

async def asgi(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})

async def handler(connection): ...

application = Flask("flask")
application.get("/")(lambda: "answer")
said = []
for served in (asgi, application, handler):
    with serve(served) as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        said.append(b"".join(iter(lambda: sock.recv(4096), b"")).split()[1].decode())
print(*said)
"""
    dead = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "all_proxy")}
    dead |= {name.upper(): value for name, value in dead.items()}
    child = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **dead},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.stderr == ""
    assert child.stdout.split() == ["200", "200", "426"]


# Starting again


def test_the_same_name_again_replaces_the_server(
    kind: Kind, belongings: Callable[[], Belongings]
) -> None:
    """Fifty runs of a cell: the newest code answers, and nothing piles up."""
    first, _ = start(kind, "first")
    assert kind.ask(first) == "first"  # what is imported late is imported now
    before = belongings()
    answers = 0
    ports = {first.port}
    previous = first
    for number in range(50):
        with socket.create_connection(("127.0.0.1", previous.port)):  # the server is who ends it
            server, _ = start(kind, f"run {number}")
        assert not previous.running
        assert kind.ask(server) == f"run {number}"
        answers += 1
        ports.add(server.port)
        previous = server
    assert answers == 50
    assert len(ports) < 5, "it comes back where it was, unless somebody has been quicker"
    assert [s.name for s in helpers.server._servers.values()] == ["chat"]

    def no_more() -> bool:
        now = belongings()
        return len(now.threads) <= len(before.threads) and len(now.files) <= len(before.files)

    assert eventually(no_more), belongings().more_than(before)


def test_a_port_that_somebody_has_taken_in_between_is_left_to_them(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = start(kind, "first")
    stop = first.stop
    with socket.socket() as somebody:

        def stop_too_long() -> None:
            stop()
            somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            somebody.bind(("127.0.0.1", first.port))
            somebody.listen()

        monkeypatch.setattr(first, "stop", stop_too_long)
        second, _ = start(kind, "second")
        assert second.port != first.port
        assert kind.ask(second) == "second"


def test_the_same_application_can_be_served_again(kind: Kind) -> None:
    act = Act("n")
    application = kind.application(act)
    for _ in range(3):
        server = serve(application, name="chat")
        with kind.told(server) as said:
            server.stop()
            assert said() is not False


def test_all_stop_also_those_beside_one_that_cannot() -> None:
    class Stuck(Server):
        def _close(self) -> None:
            raise LookupError("cannot stop")

    servers = [start(kind)[0] for kind in KINDS[:1]]
    stuck = [Stuck("stuck"), Stuck("stuck too")]
    for server in stuck:
        server.running = True
        helpers.server._remember(server)
    servers.append(serve(Flask("last")))
    with pytest.raises(LookupError, match="cannot stop"):
        stop_all()
    assert [server.running for server in [*servers, *stuck]] == [False] * 4
    assert helpers.server._servers == {}


def test_servers_of_different_names_live_side_by_side(kind: Kind) -> None:
    servers = [serve(kind.application(Act(str(n))), name=str(n)) for n in range(3)]
    assert [kind.ask(server) for server in servers] == ["0", "1", "2"]
    stop_all()
    assert [server.running for server in servers] == [False, False, False]
    assert all(refused(server) for server in servers)


# What cannot be served


def not_async(connection: Any) -> None: ...


async def of_two(one: Any, two: Any) -> None: ...


@pytest.mark.parametrize(
    "wrong",
    [None, 5, [], {}, b"app", not_async, of_two, Flask, object(), lambda: None, print],
    ids=lambda wrong: getattr(wrong, "__name__", type(wrong).__name__),
)
def test_what_is_no_application_is_refused_with_a_line_to_paste(wrong: Any) -> None:
    server, _ = start(Asgi(), "earlier")
    with pytest.raises(TypeError) as caught:
        serve(wrong, name="chat")
    message, line = str(caught.value).split("\n")
    assert repr(wrong) in message
    assert line == "async def echo(connection):"
    compile(f"{line} ...", "cell", "exec")
    assert Asgi().ask(server) == "earlier", "the earlier server of this name lives on"


def test_what_wraps_something_else_is_taken_for_what_it_is() -> None:
    """A consumer's as_asgi() says that it wraps its class; a decorator often takes any arguments."""

    async def hello(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    class Consumer:
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    async def as_asgi(scope: Any, receive: Any, send: Any) -> None:
        await hello(scope, receive, send)

    functools.update_wrapper(as_asgi, Consumer, updated=())

    @functools.wraps(hello)
    async def decorated(*args: Any) -> None:
        await hello(*args)

    for application, name in ((as_asgi, "Consumer"), (decorated, "hello")):
        with serve(application) as server:
            assert server.name == name
            assert httpx.get(server.url(), trust_env=False).text == "hello"


@pytest.mark.parametrize(
    ("wrong", "process"),
    [("package.module:app", False), ("package.module", True), (not_async, True), ("", True)],
)
def test_a_process_needs_the_name_of_an_application(wrong: Any, process: bool) -> None:
    server, _ = start(Asgi(), "earlier")
    with pytest.raises(TypeError) as caught:
        serve(wrong, name="chat", process=process)
    message, line = str(caught.value).split("\n")
    assert repr(wrong) in message
    assert line == 'serve("package.module:app", process=True)'
    compile(line, "cell", "exec")
    assert Asgi().ask(server) == "earlier"


def test_only_a_process_of_its_own_has_variables_of_its_own() -> None:
    with pytest.raises(ValueError, match="shares the kernel's environment") as caught:
        serve(Asgi().application(Act("one")), env={"ROOMS_REDIS": "redis://127.0.0.1:1"})
    line = str(caught.value).splitlines()[-1]
    assert line == 'serve("package.module:app", process=True, env={"NAME": "value"})'


def test_a_socketio_that_patches_the_kernel_is_refused() -> None:
    application = Flask("flask")
    application.extensions["socketio"] = types.SimpleNamespace(async_mode="gevent")
    server, _ = start(Asgi(), "earlier")
    with pytest.raises(ValueError, match="'gevent' mode") as caught:
        serve(application, name="chat")
    assert str(caught.value).splitlines()[-1] == "SocketIO(app, async_mode='threading')"
    assert Asgi().ask(server) == "earlier"


async def fails_at_start(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    print("looking for the database")
    await send({"type": "lifespan.startup.failed", "message": "there is no database"})


async def never_starts(scope: Any, receive: Any, send: Any) -> None:
    print("still looking")
    await asyncio.Event().wait()


async def raises_at_start(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("there is no database")


async def good(connection: Any) -> None: ...


@pytest.mark.parametrize(
    ("application", "options", "said"),
    [
        (
            fails_at_start,
            {},
            [
                "an ASGI application on uvicorn 'chat' gave up with exit status 3.",
                "looking for the database",
                "there is no database",
            ],
        ),
        (raises_at_start, {"lifespan": "on"}, ["gave up with", "LookupError: there is no"]),
        (never_starts, {"timeout": 0.05}, ["was not ready within 0.05 s.", "still looking"]),
        (good, {"nonsense": 1}, ["nonsense"]),
        (Flask("flask"), {"nonsense": 1}, ["nonsense"]),
    ],
    ids=["failed", "raised", "never", "websockets", "flask"],
)
def test_a_server_that_cannot_start_says_why(
    application: Any,
    options: dict[str, Any],
    said: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    interval, before = sys.getswitchinterval(), listening()
    with pytest.raises(RuntimeError, match=r"^The server 'chat' did not start: ") as caught:
        serve(application, name="chat", **options)
    for text in said:
        assert text in str(caught.value)
    assert helpers.server._servers == {}
    assert listening() == before
    assert sys.getswitchinterval() == interval
    assert capfd.readouterr() == ("", "")
    server, _ = start(Asgi(), "works")
    assert Asgi().ask(server) == "works", "the name is free"


# Stopping


def test_stopping_twice_is_safe_and_a_block_stops_at_its_end(kind: Kind) -> None:
    act = Act("n")
    with serve(kind.application(act), name="chat") as server:
        assert kind.ask(server) == "n"
    for _ in range(3):
        assert not server.running
        assert refused(server)
        server.stop()
    with pytest.raises(ZeroDivisionError), serve(kind.application(act), name="chat") as server:
        raise ZeroDivisionError
    assert refused(server)


def test_a_stop_is_quick(kind: Kind) -> None:
    """Under 25 ms; the bound leaves five times that for a busy machine."""
    seconds = []
    for _ in range(5):
        server, _ = start(kind)
        kind.ask(server)
        started = time.monotonic()
        server.stop()
        seconds.append(time.monotonic() - started)
    assert sorted(seconds)[2] < 0.125


def test_a_stop_tells_its_clients(kind: Kind) -> None:
    expected = {Asgi: 1012, WebSockets: 1001, FlaskView: "transport error"}[type(kind)]
    server, _ = start(kind)
    with contextlib.ExitStack() as clients:
        said = [clients.enter_context(kind.told(server)) for _ in range(5)]
        server.stop()
        assert [how() for how in said] == [expected] * 5


def test_a_stop_tells_clients_that_poll() -> None:
    server, _ = start(FlaskView())
    said: list[str] = []
    with open_socketio(server, "polling") as client:
        client.on("disconnect", said.append)
        assert client.call("say", "nonce", timeout=DEADLINE) == "one"
        server.stop()
        assert eventually(lambda: said)


@contextlib.contextmanager
def raw(server: Server, said: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE) as sock:
        sock.sendall(said)
        yield sock


def ended(sock: socket.socket) -> bool:
    """Read what a peer has sent, and return whether it has closed or reset the connection."""
    with contextlib.suppress(ConnectionError):
        while sock.recv(65536):
            pass
    return True


def test_a_stop_does_not_wait_for_clients_that_never_go(kind: Kind) -> None:
    """Silent, in the middle of a request or of a frame, in an endless stream, deaf to a close."""
    server, _ = start(kind)
    with contextlib.ExitStack() as clients:
        silent = clients.enter_context(raw(server))
        half_request = clients.enter_context(raw(server, b"GET / HTT"))
        half_head = clients.enter_context(raw(server, kind.handshake[:-2]))
        deaf = clients.enter_context(raw(server))
        half_frame = clients.enter_context(raw(server))
        kind.shake_hands(deaf)
        kind.shake_hands(half_frame)
        half_frame.sendall(b"\x81\xfe\x01")
        waiting = [silent, half_request, half_head, deaf, half_frame]
        if kind.streams:
            stream = clients.enter_context(raw(server, b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n"))
            assert stream.recv(65536).startswith(b"HTTP/1.1 200")
            waiting.append(stream)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 5
        assert refused(server)
        assert [ended(sock) for sock in waiting] == [True] * len(waiting)
        assert len(waiting) >= 5
    assert server.log.failures == [], "to be stopped is no failure of the application"


@pytest.mark.parametrize("kind", [Asgi(), FlaskView()], ids=["Asgi", "FlaskView"])
def test_a_stop_does_not_wait_for_a_stream(kind: Kind) -> None:
    seconds = []
    for _ in range(3):
        server, _ = start(kind)
        with raw(server, b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n") as sock:
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
            started = time.monotonic()
            server.stop()
            seconds.append(time.monotonic() - started)
        assert server.log.failures == []
    assert sorted(seconds)[1] < 0.25


def test_a_stop_lets_what_has_answered_tidy_up() -> None:
    """Django closes the files of a request after the answer, in another thread, and leaves them open when it is cancelled."""
    done: list[str] = []

    async def tidy(scope: Any, receive: Any, send: Any) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]}
        )
        await send({"type": "http.response.body", "body": b"one"})
        try:
            await asyncio.sleep(20 * helpers.server.STREAM_GRACE)
            done.append("tidied up")
        except asyncio.CancelledError:
            done.append("cancelled")
            raise

    server = serve(tidy)
    assert over_http(server, "nonce") == "one"
    server.stop()
    assert done == ["tidied up"]
    assert list(server.log) == []


def test_a_handler_whose_client_is_deaf_to_the_end_has_not_failed() -> None:
    async def handler(connection: Any) -> None:
        while True:
            print(await connection.recv())

    server = serve(handler)
    with raw(server) as deaf:
        WebSockets().shake_hands(deaf)
        deaf.sendall(b"\x81\x82\x00\x00\x00\x00hi")
        server.wait_for("hi")
        server.stop()
        assert ended(deaf)
    assert list(server.log) == ["hi"]
    assert server.log.failures == []


def test_flask_socketio_notices_a_silent_client_also_when_served_again() -> None:
    application = Flask("flask")
    server = SocketIO(application, async_mode="threading", ping_interval=0.05, ping_timeout=1)
    server.on("disconnect")(lambda reason: print("gone:", reason))
    handler = FlaskView()
    for _ in range(2):
        with serve(application) as served, raw(served) as silent:
            handler.shake_hands(silent)
            silent.sendall(b"\x81\x82\x00\x00\x00\x0040")  # joins, and then says nothing
            served.wait_for("gone: ping timeout")


def test_a_stop_while_clients_connect_leaves_no_socket(kind: Kind) -> None:
    """Fifty stops, each while connections are on their way from the system to the server."""
    stopped = 0
    started = time.monotonic()
    for _ in range(50):
        server, _ = start(kind)
        with contextlib.ExitStack() as clients:
            waiting = [clients.enter_context(raw(server)) for _ in range(10)]
            server.stop()
            stopped += all(ended(sock) for sock in waiting)
    gc.collect()  # an unclosed socket warns, and a warning fails the test
    assert stopped == 50
    assert time.monotonic() - started < 8, "none may have to be waited for"


def test_handlers_may_stop_their_own_server(kind: Kind) -> None:
    server, _ = start(kind)
    with contextlib.suppress(http.client.HTTPException, OSError):
        kind.ask(server, "stop")
    assert eventually(lambda: not server.running and refused(server))
    assert server.log.failures == []


def test_a_handler_that_blocks_for_ever_costs_a_message_and_not_the_name(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Background.stop, "__defaults__", (0.1,))  # the patience, 5 s
    monkeypatch.setattr(helpers.server, "GRACE", 0.1)
    blocked: list[Act] = []
    askers: list[threading.Thread] = []

    def block(server: Server, act: Act) -> None:
        def ask() -> None:
            with contextlib.suppress(Exception):
                kind.ask(server, "block")

        asker = threading.Thread(target=ask)
        asker.start()
        askers.append(asker)
        blocked.append(act)
        assert act.blocked.wait(DEADLINE)

    try:
        server, act = start(kind, "first")
        block(server, act)
        with pytest.raises(TimeoutError) as caught:
            server.stop()
        assert "did not stop within 0.1 s: a" in str(caught.value)
        assert "blocks" in str(caught.value)
        assert str(caught.value).endswith("It ends with the kernel: Kernel > Restart.")
        assert not server.running
        server.stop()

        second, act = start(kind, "second")
        assert kind.ask(second) == "second"
        block(second, act)
        third, _ = start(kind, "third")  # as when the cell is run again
        assert kind.ask(third) == "third"
        assert "did not stop within 0.1 s" in third.log[0]
    finally:
        for act in blocked:
            act.release.set()
        for asker in askers:
            asker.join(DEADLINE)
    assert len(blocked) == 2


def test_handlers_that_shrug_off_being_cancelled_do_not_hold_a_stop() -> None:
    begun: list[str] = []

    async def shrug(who: str) -> None:
        begun.append(who)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(60)

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await shrug("asgi")

    async def handler(connection: Any) -> None:
        await shrug("websockets")

    with contextlib.ExitStack() as clients:
        servers = [serve(asgi), serve(handler)]
        socks = [clients.enter_context(raw(server, Kind.handshake)) for server in servers]
        socks[0].sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        socks.append(clients.enter_context(raw(servers[0], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")))
        assert eventually(lambda: sorted(begun) == ["asgi", "websockets"])
        for server in servers:
            started = time.monotonic()
            server.stop()
            assert time.monotonic() - started < 5
        assert [ended(sock) for sock in socks] == [True] * 3


def test_a_handler_that_exits_ends_its_server_and_says_so(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """asyncio lets a SystemExit end the loop; whoever stops the server must not exit with it."""

    async def handler(connection: Any) -> None:
        await connection.recv()
        sys.exit(3)

    gone = "a websockets server 'chat' gave up with exit status 3."
    first = serve(handler, name="chat")
    assert over_websocket(first, "hello") == "closed with 1011"
    first.wait_for(gone)
    with pytest.raises(RuntimeError, match=gone):
        first.stop()
    assert refused(first)
    second = serve(handler, name="chat")
    assert over_websocket(second, "hello") == "closed with 1011"
    third, _ = start(WebSockets(), "third")
    assert WebSockets().ask(third) == "third"
    assert list(third.log) == [gone]
    del first, second
    gc.collect()  # what nobody awaited is found now
    assert capfd.readouterr() == ("", "")


def test_tasks_of_an_application_end_with_its_server() -> None:
    """An application that emits for ever would spin when sleeping no longer takes time."""
    application = Flask("flask")
    server = SocketIO(application, async_mode="threading")
    turns: list[int] = []

    def emit_for_ever() -> None:
        while True:
            turns.append(1)
            server.emit("tick")
            server.sleep(0.001)

    @server.on("connect")
    def connected() -> None:
        server.start_background_task(emit_for_ever)

    with serve(application) as served:
        ticks = threading.Event()
        with open_socketio(served) as client:
            client.on("tick", ticks.set)
            assert ticks.wait(DEADLINE)
            served.stop()
            seen = len(turns)
    assert 0 < seen == len(turns)
    started = time.monotonic()
    server.sleep(0.001)  # a cell that sleeps after the end is not ended
    assert time.monotonic() - started < 1
    assert list(served.log) == []


def test_the_thread_for_what_is_synchronous_ends_with_the_last_server_and_another_follows() -> None:
    """asgiref has one for the whole process, and Channels uses it for every event."""
    from asgiref.sync import sync_to_async

    threads: list[threading.Thread] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        threads.append(await sync_to_async(threading.current_thread)())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    for _ in range(2):
        with serve(application, name="first") as first, serve(application, name="second") as second:
            answers = [httpx.get(server.url(), trust_env=False).text for server in (first, second)]
            second.stop()
            answers.append(httpx.get(first.url(), trust_env=False).text)
            assert answers == ["done"] * 3
            assert threads[-1] is threads[-2] is threads[-3]
            assert threads[-1].is_alive()
        assert eventually(lambda: not threads[-1].is_alive())
    assert len(set(threads)) == 2


# While it lives


def test_a_busy_cell_does_not_starve_servers_and_afterwards_all_is_as_before(kind: Kind) -> None:
    before = sys.getswitchinterval()
    assert before != pytest.approx(0.0005)
    first = serve(kind.application(Act("1")), name="first")
    second = serve(kind.application(Act("2")), name="second")
    assert sys.getswitchinterval() == pytest.approx(0.0005)
    first.stop()
    assert sys.getswitchinterval() == pytest.approx(0.0005), "one still lives"
    second.stop()
    assert sys.getswitchinterval() == before


def test_what_handlers_print_is_in_the_log_and_nowhere_else(
    door: Kind, capfd: pytest.CaptureFixture[str]
) -> None:
    server, _ = start(door)
    assert door.ask(server, "print") == "one"
    server.wait_for("to the log")
    assert list(server.log)[:3] == ["to stdout", "to stderr", "chat: to the log"]
    assert server.log.failures == []
    server.stop()
    assert capfd.readouterr() == ("", "")


def test_what_handlers_raise_is_in_the_log_with_its_exception(
    door: Kind, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ten failures, one after the other, and those who ask something else are answered."""
    server, _ = start(door)
    for number in range(1, 11):
        assert door.ask(server, "fail") != "one"
        server.wait_for("KeyError: 'm'", count=number)
        assert door.ask(server) == "one"
    assert [type(error) for error in server.log.failures] == [KeyError] * 10
    for error in server.log.failures:
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        assert trace is not None
        assert trace.tb_frame.f_code.co_qualname == "Act.say", "the line is the handler's"
    server.stop()
    assert capfd.readouterr() == ("", "")


def test_a_stream_that_fails_midway_is_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            raise KeyError("m")

    application = Flask("flask")

    @application.get("/")
    def stream() -> Response:
        def failing() -> Iterator[bytes]:
            yield b"x"
            raise KeyError("m")

        return Response(failing())

    for served in (asgi, application):
        server = serve(served, name="chat")
        with pytest.raises(http.client.HTTPException):
            over_http(server, "")
        server.wait_for("KeyError: 'm'")
        assert [type(error) for error in server.log.failures] == [KeyError]
    server.stop()
    assert capfd.readouterr() == ("", "")


def test_garbage_is_no_reason_to_print(kind: Kind, capfd: pytest.CaptureFixture[str]) -> None:
    server, _ = start(kind)
    garbage = [b"\x16\x03\x01\x02\x00\x01", b"\x81\x82\x00\x00\x00\x00hi\r\n\r\n", b"GET\r\n\r\n"]
    for number in range(12):
        with raw(server, garbage[number % 3]) as sock:
            sock.shutdown(socket.SHUT_WR)
            assert ended(sock)
    with raw(server):
        pass
    assert kind.ask(server) == "one"
    if isinstance(kind, FlaskView):
        assert any("code 400" in line for line in server.log)
    server.stop()
    assert capfd.readouterr() == ("", "")


def test_what_is_said_at_the_end_is_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    server, _ = start(FlaskView())
    with open_socketio(server):
        server.stop()
    assert list(server.log) == ["a client left: server disconnect"]
    assert capfd.readouterr() == ("", "")


def test_a_failure_is_nobody_elses(kind: Kind) -> None:
    """Twenty failures among ten clients that go on talking."""
    server, _ = start(kind)
    with contextlib.ExitStack() as clients:
        said = [clients.enter_context(kind.told(server)) for _ in range(10)]
        for _ in range(20):
            kind.ask(server, "fail")
        server.wait_for("KeyError: 'm'", count=20)
        assert len(server.log.failures) == 20
        server.stop()
        assert len({how() for how in said}) == 1, "all ten were there until the end"
        assert len(said) == 10


def test_leaving_flask_socketio_is_quick() -> None:
    """Werkzeug would read the next frames as a request: three seconds for each client."""
    server, _ = start(FlaskView())
    started = time.monotonic()
    for _ in range(5):
        with open_socketio(server):
            pass
    assert time.monotonic() - started < 10
    server.wait_for("a client left", count=5)
    assert len(server.log) == 5
    assert server.log.failures == []


def test_answers_do_not_wait_for_acknowledgements(kind: Kind) -> None:
    """With Nagle's algorithm on, each of twenty answers in two parts would be 40 ms late."""
    server, _ = start(kind)

    def twenty() -> float:
        started = time.monotonic()
        if isinstance(kind, WebSockets):
            with open_websocket(server) as connection:
                for _ in range(20):
                    connection.send("twice")
                    assert connection.recv(timeout=DEADLINE) == "one"
                    assert connection.recv(timeout=DEADLINE) == "one"
        else:
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
            for _ in range(20):
                client.request("GET", "/nonce")
                assert client.getresponse().read() == b"one"
            client.close()
        return time.monotonic() - started

    assert min(twenty() for _ in range(3)) < 20 * 0.040 / 5


def test_frames_do_not_wait_for_acknowledgements_on_uvicorn() -> None:
    server, _ = start(Asgi())
    seconds = []
    for _ in range(3):
        with open_websocket(server) as connection:
            started = time.monotonic()
            for _ in range(20):
                connection.send("twice")
                assert [connection.recv(timeout=DEADLINE) for _ in range(2)] == ["one", "one"]
            seconds.append(time.monotonic() - started)
    assert min(seconds) < 20 * 0.040 / 5


@pytest.mark.parametrize("kind", [Asgi(), WebSockets()], ids=["Asgi", "WebSockets"])
def test_run_uses_the_servers_own_loop(kind: Kind, capfd: pytest.CaptureFixture[str]) -> None:
    server, _ = start(kind)

    async def where(number: int) -> tuple[str, int]:
        await asyncio.sleep(0)
        print("on the loop")
        return threading.current_thread().name, number

    assert server.run(where(5)) == (f"{server.kind} 'chat'", 5)
    assert list(server.log) == ["on the loop"]
    with pytest.raises(TimeoutError):
        server.run(asyncio.Event().wait(), timeout=0.05)
    assert kind.ask(server) == "one"
    server.stop()
    with pytest.raises(RuntimeError, match="it has stopped"):
        server.run(where(5))
    assert capfd.readouterr() == ("", "")


def test_run_needs_a_loop() -> None:
    server, _ = start(FlaskView())
    with pytest.raises(RuntimeError) as caught:
        server.run(asyncio.sleep(0))
    assert str(caught.value) == (
        "chat is a Flask application on Werkzeug: there is no event loop to run a coroutine on."
    )


# Interrupts

INTERRUPTED = """
import asyncio, json, signal, socket, sys, threading, time
import psutil
from flask import Flask
from flask_socketio import SocketIO
from helpers import server
from helpers.server import serve, stop_all

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await asyncio.sleep(0.001)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.sleep(0.001)
        await send({"type": "lifespan.shutdown.complete"})

async def handler(connection): ...

def flask():
    application = Flask("flask")
    SocketIO(application, async_mode="threading")
    return application

APPLICATIONS = {"asgi": lambda: asgi, "flask": flask, "websockets": lambda: handler}
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts us with & has it ignored
INTERVAL = sys.getswitchinterval()
SHADOWED = "write" in vars(sys.stdout), type(sys.stdout)

def start():
    serve(APPLICATIONS[kind](), name="chat")

def wait():
    server._servers["chat"].run(asyncio.sleep(2), timeout=60)  # long enough, also where Python ignores the interrupt

def stop():
    server._servers["chat"].stop()

def interrupted(action, delay):
    killer = threading.Timer(delay, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    killer.daemon = True
    try:
        killer.start()
        action()
        killer.join(60)
        time.sleep(1)  # only for the interrupt to arrive
    except BaseException as error:
        while not isinstance(error, KeyboardInterrupt):  # which a lock of threading may fail over
            if error.__context__ is None:
                raise
            error = error.__context__
        return 1
    return 0  # Python ignores what is raised in some callbacks, this too

def listening():
    return [c.laddr.port for c in psutil.Process().net_connections(kind="tcp") if c.status == "LISTEN"]

def answers():
    with socket.create_connection(("127.0.0.1", server._servers["chat"].port), timeout=5) as sock:
        sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        return sock.recv(4) == b"HTTP"

def nothing_lives(problem):
    deadline = time.monotonic() + 5
    while True:
        left = [t.name for t in threading.enumerate()][1:] + listening()
        if not left:
            break
        if time.monotonic() > deadline:
            seen["left"].append([kind, problem, number, left])
            break
        time.sleep(0.002)

def duration(action):
    started = time.monotonic()
    action()
    return time.monotonic() - started

seen = {"interrupts": 0, "half": 0, "whole": 0, "left": []}
for kind in APPLICATIONS:
    number = -1
    for _ in range(2):  # what is imported late is imported now
        to_start, to_stop = duration(start), duration(stop)
    nothing_lives("without interrupts")
    for number in range(20):
        seen["interrupts"] += interrupted(start, to_start * 1.5 * number / 20)
        if "chat" in server._servers and server._servers["chat"].running:
            seen["whole"] += answers()
        else:
            seen["half"] += 1
            nothing_lives("half a start")
        start()
        assert answers()
        if kind != "flask":
            seen["interrupts"] += interrupted(wait, 0.0005 * number)
            assert answers()
        seen["interrupts"] += interrupted(stop, to_stop * 1.5 * number / 20)
        stop_all()
        nothing_lives("a stop taken up again")
        assert sys.getswitchinterval() == INTERVAL
        assert ("write" in vars(sys.stdout), type(sys.stdout)) == SHADOWED
print(json.dumps(seen))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals as POSIX has them")
def test_an_interrupt_at_any_moment_leaves_nothing_half_started() -> None:
    """160 real interrupts while starting, waiting and stopping: a whole server, or none at all."""
    child = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert child.returncode == 0, child.stderr
    assert "Exception in thread" not in child.stderr
    seen = json.loads(child.stdout)
    assert seen["left"] == []
    assert 150 <= seen["interrupts"] <= 160
    assert seen["whole"] + seen["half"] == 60
    assert seen["half"] >= 4, "some of the interrupts must come while it starts"


def test_prints_stay_apart_also_while_no_server_lives(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()

    async def _idle(connection: object) -> None:
        pass

    def speak(text: str) -> None:
        with log.capturing():
            print(text)

    with prints_apart():
        speak("before a server")
        with serve(_idle):
            speak("beside a server")
        speak("after a server")
        print("a cell")
    assert list(log) == ["before a server", "beside a server", "after a server"]
    assert capsys.readouterr().out == "a cell\n"
    with serve(_idle), prints_apart():
        pass
    with serve(_idle):
        with prints_apart():
            pass
        speak("the server still keeps them apart")
    assert len(log) == 4
    speak("nobody does")
    assert capsys.readouterr().out == "nobody does\n"
