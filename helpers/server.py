"""Real servers in background threads of the kernel: ASGI on uvicorn, Flask-SocketIO on Werkzeug, and `websockets`."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import inspect
import json
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from .background import Background
from .daphne import READY
from .log import Capture, Log, divert

if TYPE_CHECKING:
    from flask import Flask
    from websockets.asyncio.server import ServerConnection

    from .process import Child

R = TypeVar("R")
S = TypeVar("S", bound="Server")

GRACE = 0.5
"""Seconds that a WebSocket client gets to answer the close frame of a server that stops."""

STREAM_GRACE = 0.01
"""Seconds that an HTTP response gets to end by itself when its server stops; a stream of events never would."""

SWITCH_INTERVAL = 0.0005
"""Seconds between two switches of the interpreter while a server lives: at Python's default of 5 ms a cell that computes makes
a Channels server answer hundreds of times later. It is no cure for a cell that computes and calls the system about every tenth
of a millisecond: each call hands the interpreter over for a moment too short for the thread of a server to wake."""

_capture = Capture()
_servers: dict[str, Server] = {}
_lock = threading.RLock()
_interval_before: float | None = None
_apart = 0


def browser_url(port: int, path: str = "/") -> str:
    """Return the address at which a browser reaches a port of this machine.

    A client in the kernel always uses 127.0.0.1. A browser may be elsewhere: behind a JupyterHub only `jupyter-server-proxy`
    reaches the port, below the prefix that the hub gives each user, and in Codespaces below JupyterLab's own root.

    Args:
        port: the port, on 127.0.0.1.
        path: the path, from `/`.

    Returns:
        `http://127.0.0.1:PORT/…`, or `/user/NAME/proxy/PORT/…` where `JUPYTERHUB_SERVICE_PREFIX` is set, or `/proxy/PORT/…`
        where `CODESPACES` is.
    """
    prefix = proxy_prefix()
    if prefix is None:
        return f"http://127.0.0.1:{port}{path}"
    return f"{prefix}proxy/{port}{path}"


def proxy_prefix() -> str | None:
    """Return the path below which a browser finds `jupyter-server-proxy`, from `/` to `/`; None where it needs none."""
    hub = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
    if hub:
        return f"{hub.rstrip('/')}/"
    return "/" if os.environ.get("CODESPACES") == "true" else None


class Server:
    """A server on 127.0.0.1 that is ready when `serve` returns it, until `stop` or the end of the kernel.

    Treat it as a context manager to have it stopped at the end of a cell.
    """

    kind = "server"

    def __init__(self, name: str) -> None:
        self.name = name
        """The name that replaces this server when `serve` meets it again."""
        self.port = 0
        """The port on 127.0.0.1."""
        self.log: Log = Log()
        """What happened, in order: prints, warnings, exceptions of handlers."""
        self.running = False
        """Whether the server answers."""
        self._stop_lock = threading.Lock()

    def url(self, path: str = "/") -> str:
        """Return the address of a path for an HTTP client in the kernel."""
        return f"http://127.0.0.1:{self.port}{path}"

    def ws_url(self, path: str = "/") -> str:
        """Return the address of a path for a WebSocket client in the kernel."""
        return f"ws://127.0.0.1:{self.port}{path}"

    def browser_url(self, path: str = "/") -> str:
        """Return the address of a path for a browser, which may sit behind a hub (see `browser_url`)."""
        return browser_url(self.port, path)

    def run(self, coroutine: Coroutine[Any, Any, R], timeout: float | None = 10.0) -> R:
        """Run a coroutine on the server's own event loop and return its result here.

        Args:
            coroutine: for example `connection.send("hello")`.
            timeout: seconds to wait, 10 by default; None waits for ever.

        Raises:
            RuntimeError: this kind of server has no event loop in this process.
            TimeoutError: there was no result in time; the coroutine has been cancelled.
        """
        coroutine.close()
        raise RuntimeError(
            f"{self.name} is {self.kind}: there is no event loop to run a coroutine on."
        )

    def wait_for(
        self, condition: str | Callable[[Log], object], *, count: int = 1, timeout: float = 10.0
    ) -> None:
        """Wait until the log meets a condition (see `Log.wait_for`)."""
        self.log.wait_for(condition, count=count, timeout=timeout)

    def stop(self) -> None:
        """Close every connection and stop serving. Stopping twice is safe.

        Raises:
            TimeoutError: a handler that blocks holds the server; it ends with the kernel, and its name is free.
        """
        with self._stop_lock:
            if self.running:
                try:
                    self._close()
                except KeyboardInterrupt:  # so that the next stop goes on from here
                    raise
                except BaseException:
                    _forget(self)
                    raise
                _forget(self)

    def _open(self, timeout: float) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"at {self.url()}" if self.running else "stopped"
        return f"<{self.name}: {self.kind}, {state}>"


async def accept_no_more(listener: socket.socket) -> None:
    """Let each connection that was accepted come to its protocol, before the server of `asyncio` is closed.

    Closing it at once would leave open what it is accepting (an assertion in asyncio, of which nobody hears).
    """
    with contextlib.suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().remove_reader(listener)
    for _ in range(3):
        await asyncio.sleep(0)


class _LoopServer(Server):
    """A server on an event loop in a thread."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._background: Background[None] | None = None
        self._listener: socket.socket | None = None

    def _open(self, timeout: float) -> None:
        # IPPROTO_TCP, because asyncio switches Nagle's algorithm off only for a socket that says so: without it every
        # response on a kept connection is 40 ms late (Kludex/uvicorn#3149).
        self._listener = listener = socket.socket(
            socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
        )
        _may_come_back(listener)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(2048)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._background = Background(
            self._serving(listener), name=f"{self.kind} {self.name!r}", log=self.log
        )
        self._background.start(timeout)

    def _serving(self, listener: socket.socket) -> contextlib.AbstractAsyncContextManager[None]:
        raise NotImplementedError

    def _close(self) -> None:
        try:
            if self._background is not None:
                self._background.stop()
        finally:  # not while a loop that is held still uses it
            if self._listener and not (self._background and self._background.running):
                self._listener.close()

    def run(self, coroutine: Coroutine[Any, Any, R], timeout: float | None = 10.0) -> R:
        if self._background is None:
            return super().run(coroutine)
        return self._background.run(coroutine, timeout)


class AsgiServer(_LoopServer):
    """uvicorn, with an ASGI application."""

    kind = "an ASGI application on uvicorn"

    def __init__(
        self, application: Callable[..., Awaitable[None]], name: str, options: dict[str, Any]
    ):
        super().__init__(name)
        self._application = application
        self._options = options
        self._streams: set[asyncio.Task[Any]] = set()

    async def _recorded(self, scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        assert task is not None

        async def noted(message: Any) -> None:
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                # It has answered, and only tidies up: Django closes its files then, and leaves them open when it is cancelled.
                self._streams.discard(task)

        if scope["type"] == "http":
            self._streams.add(task)
            task.add_done_callback(self._streams.discard)
            await self._application(scope, receive, noted)
        else:
            await self._application(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _serving(self, listener: socket.socket) -> AsyncIterator[None]:
        import uvicorn

        settings = {"interface": "asgi3", "ws_per_message_deflate": False, **self._options}
        config = uvicorn.Config(
            self._recorded, log_config=None, log_level="warning", access_log=False, **settings
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        ticking = asyncio.create_task(server.main_loop())
        try:
            yield
        finally:
            # Not server.shutdown(): its fixed sleeps make each stop 200 ms, and it waits for streams that never end.
            ticking.cancel()
            await accept_no_more(listener)
            for listening in server.servers:
                listening.close()
            state = server.server_state
            for connection in list(state.connections):
                connection.shutdown()
            await _until(lambda: not self._streams, STREAM_GRACE)
            if self._streams:
                self.log.close()
                for task in list(self._streams):
                    task.cancel()
            await _until(lambda: not (state.connections or state.tasks), GRACE)
            for connection in list(state.connections):
                if connection.transport is not None:
                    connection.transport.abort()
            await server.lifespan.shutdown()


class WebSocketsServer(_LoopServer):
    """The server of the `websockets` library, with a handler."""

    kind = "a websockets server"

    def __init__(
        self,
        handler: Callable[[ServerConnection], Awaitable[None]],
        name: str,
        options: dict[str, Any],
    ) -> None:
        super().__init__(name)
        self._handler = handler
        self._options = options

    @contextlib.asynccontextmanager
    async def _serving(self, listener: socket.socket) -> AsyncIterator[None]:
        from websockets.asyncio.server import ServerConnection
        from websockets.asyncio.server import serve as websockets_serve
        from websockets.protocol import State

        connections: set[ServerConnection] = set()  # the library forgets those that say nothing

        class Connection(ServerConnection):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                connections.add(self)
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                connections.discard(self)
                super().connection_lost(exc)

        # No version of Python or of the library in the handshake, and frames that a person can read.
        settings = {
            "compression": None,
            "server_header": None,
            "create_connection": Connection,
            **self._options,
        }
        server = await websockets_serve(self._handler, sock=listener, **settings)
        try:
            yield
        finally:
            await accept_no_more(listener)
            closing = asyncio.ensure_future(server.wait_closed())
            server.close()
            for connection in [c for c in connections if c.state is State.CONNECTING]:
                connection.transport.abort()
            await asyncio.wait({closing}, timeout=GRACE)
            if not closing.done():  # a client that does not answer, or a handler that does not end
                for connection in list(connections):
                    connection.transport.abort()
                closing.cancel()


class FlaskServer(Server):
    """Werkzeug's threaded server, with a Flask application and its Flask-SocketIO, if it has one."""

    kind = "a Flask application on Werkzeug"

    def __init__(self, application: Flask, name: str, options: dict[str, Any]) -> None:
        super().__init__(name)
        self._application = application
        self._options = options
        self._socketio = application.extensions.get("socketio")
        self._halt = threading.Event()
        self._tracked = _Tracked()
        self._thread: threading.Thread | None = None
        self._wsgi: Any = None
        if self._socketio is not None and self._socketio.async_mode != "threading":
            raise ValueError(
                f"The SocketIO of {name!r} runs in {self._socketio.async_mode!r} mode, which replaces parts of Python in the "
                "whole kernel. Write:\nSocketIO(app, async_mode='threading')"
            )

    def _open(self, timeout: float) -> None:
        from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

        log, halt, tracked = self.log, self._halt, self._tracked

        class Handler(WSGIRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def version_string(self) -> str:
                return "Werkzeug"  # and no versions: the same bytes on every machine

            def run_wsgi(self) -> None:
                # The end of the connection ends half a request, too, which then looks like a whole one.
                if not halt.is_set():
                    super().run_wsgi()

            def connection_dropped(self, error: BaseException, environ: object = None) -> None:
                # After a WebSocket Werkzeug would read the next frames as an HTTP request: each disconnect takes 3 s.
                self.close_connection = True

            def log(self, type: str, message: str, *args: Any) -> None:
                if type != "info":
                    log.add(message % args if args else message)

        class WSGIServer(ThreadedWSGIServer):
            def accept_until_halt(self) -> None:
                # Not shutdown(): an interrupt may come before the thread has begun, which it would wait for. The socket may
                # even be closed by then (ValueError).
                with contextlib.suppress(SystemExit, ValueError):
                    self.serve_forever(0.005)

            def service_actions(self) -> None:
                if halt.is_set():
                    raise SystemExit

            def process_request_thread(self, request: Any, client_address: Any) -> None:
                with log.capturing(), tracked.thread(request):
                    super().process_request_thread(request, client_address)

            def handle_error(self, request: Any, client_address: Any) -> None:
                error = sys.exception()
                if error is not None and not isinstance(error, ConnectionError):
                    log.fail("werkzeug", error)

            def log(self, type: str, message: str, *args: Any) -> None:
                self.handle_error(
                    None, None
                )  # a stream that fails midway, whose traceback would go to the cells

        for logger in self._adopt_socketio():
            logger.addFilter(divert)

        self._wsgi = WSGIServer("127.0.0.1", self.port, self._application, Handler, **self._options)
        self._wsgi.socket.listen(2048)
        self.port = self._wsgi.port
        self._thread = threading.Thread(
            target=self._wsgi.accept_until_halt,
            name=f"{self.kind} {self.name!r}",
            daemon=True,
        )
        self._thread.start()

    def _adopt_socketio(self) -> list[Any]:
        """Give the SocketIO object threads that write to the log and sleeps that end when the server stops."""
        import logging

        loggers: list[Any] = [logging.getLogger(self._application.name)]
        if self._socketio is None or self._socketio.server is None:
            return loggers
        engine = self._socketio.server.eio
        log, halt, tracked, thread = self.log, self._halt, self._tracked, engine._async["thread"]

        def start_background_task(target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            def logged() -> None:
                with log.capturing(), tracked.thread(), contextlib.suppress(SystemExit):
                    try:
                        target(*args, **kwargs)
                    except Exception as error:
                        log.fail("handler", error)

            task = thread(target=logged)
            task.start()
            return task

        def sleep(seconds: float = 0) -> None:
            # The thread that pings a client sleeps for ping_interval, 25 s, also after the client has gone; and an
            # application's own task sleeps and emits for ever. Both end here when the server does.
            if halt.wait(seconds) and log.is_current():
                raise SystemExit

        engine.start_background_task = start_background_task
        engine.sleep = sleep
        return [*loggers, engine.logger, self._socketio.server.logger]

    def _close(self) -> None:
        self._halt.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(5)
        if self._wsgi is not None:
            self._wsgi.server_close()
        if self._socketio is not None and self._socketio.server is not None:
            engine = self._socketio.server.eio
            with self.log.capturing():  # this runs the application's handler of disconnects
                for client in list(engine.sockets.values()):
                    with contextlib.suppress(Exception):
                        # No last packet: it may keep a thread of python-engineio's client waiting for 30 s.
                        client.close(wait=False, abort=True, reason=engine.reason.SERVER_DISCONNECT)
            self._socketio.server.shutdown()
            engine.sockets.clear()
            engine.start_service_task = True  # so that the same application can be served again
            engine.service_task_event = None
        if not self._tracked.end():
            raise TimeoutError(
                f"{self.name} did not stop within {GRACE:g} s: a handler of it blocks, or a task of it sleeps "
                "without socketio.sleep(). It ends with the kernel: Kernel > Restart."
            )


class _Tracked:
    """The threads of a server that has one for each connection and each task."""

    def __init__(self) -> None:
        self._threads: dict[threading.Thread, socket.socket | None] = {}

    @contextlib.contextmanager
    def thread(self, request: socket.socket | None = None) -> Iterator[None]:
        thread = threading.current_thread()
        self._threads[thread] = request
        try:
            yield
        finally:
            del self._threads[thread]

    def end(self) -> bool:
        """Wait for the threads, and return whether they have ended; a connection does not get as long as a handler."""
        ended = self._join(STREAM_GRACE)
        if not ended:
            for request in list(self._threads.values()):
                if request is not None:
                    with contextlib.suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)
            ended = self._join(GRACE)
        return ended

    def _join(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        others = [
            thread for thread in list(self._threads) if thread is not threading.current_thread()
        ]
        for thread in others:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in others)


class ProcessServer(Server):
    """One of the other servers, in a process of its own: for measuring, and to see two interpreters."""

    kind = "a server in another process"
    _program = f"from {__name__} import _main; import sys; _main(*sys.argv[1:])"

    def __init__(
        self, target: str, name: str, options: dict[str, Any], env: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(name)
        self._target = target
        self._options = options
        self._env = env
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._child is not None
        return self._child.pid

    def _open(self, timeout: float) -> None:
        from .process import Child

        arguments = [self._target, self.name, json.dumps(self._options), str(self.port)]
        command = [sys.executable, "-c", self._program, *arguments]
        self._child = Child(command, name=self.name, env=self._env)
        try:
            self.log = self._child.log

            self._child.wait_until(self._ready, timeout)
        except BaseException:
            self._child.stop()
            raise

    def _ready(self) -> bool:
        line = self.log.take(READY)
        if line is not None:
            self.port = int(line.removeprefix(READY))
        return line is not None

    def _close(self) -> None:
        if self._child is not None:
            self._child.stop()


_RUN = "from helpers.{} import run; import json, sys; run(sys.argv[1], json.loads(sys.argv[3]), int(sys.argv[4]))"


class DaphneServer(ProcessServer):
    """Daphne, with an ASGI application, always in a process of its own (see `helpers.daphne`)."""

    kind = "an ASGI application on Daphne in another process"
    _program = _RUN.format("daphne")


class GunicornServer(ProcessServer):
    """gunicorn, with a Flask application, always in processes of its own (see `helpers.gunicorn`)."""

    kind = "a Flask application on gunicorn in another process"
    _program = _RUN.format("gunicorn")


def serve(
    application: Any,
    *,
    name: str | None = None,
    process: bool = False,
    server: str = "uvicorn",
    env: Mapping[str, str] | None = None,
    port: int = 0,
    timeout: float = 30.0,
    **options: Any,
) -> Server:
    """Start a real server for an application and return it when it is ready.

    It listens on 127.0.0.1, on a port that the system chooses, and lives in a background thread until it is stopped or the
    kernel ends. Serving under the same name again replaces the server before, at its port if nobody has taken it in between:
    running a cell twice is safe, and a page that is open connects again.

    Args:
        application: an ASGI application, a Flask application (with its SocketIO), or a `websockets` handler: an asynchronous
            function of one connection. With `process=True`, the text `"package.module:attribute"` that names one.
        name: what to call it; the application's own name by default.
        process: whether to start it in a process of its own, which shares no interpreter with the cells.
        server: what the application runs on. `"uvicorn"`, the default, or `"daphne"` for ASGI; a Flask application gets
            Werkzeug by default, or `"gunicorn"`. Daphne and gunicorn need `process=True`.
        env: variables to add to the environment of a process of its own, for example what the settings of a project read.
        port: the port to listen on, for a server that comes back where it was; one that the system chooses by default.
        timeout: seconds that starting may take, 30 by default.
        options: what else the server understands: settings of `uvicorn.Config`, `daphne.server.Server`, `websockets.serve`,
            Werkzeug's server or gunicorn.

    Returns:
        The running server.

    Raises:
        TypeError: the application is none of these.
        ValueError: `server` is another one; or there is Daphne, gunicorn or an `env`, and no process of its own.
        RuntimeError: the server did not start; the message holds what it said.
    """
    started = _choose(application, name, process, server, env, options)
    started.port = port
    return launch(started, timeout)


def launch(started: S, timeout: float = 30.0) -> S:
    """Open a server that has been made, in place of the one of its name, and return it when it is ready.

    Args:
        started: the server.
        timeout: seconds that starting may take, 30 by default.

    Raises:
        RuntimeError: it did not start; the message holds what it said.
    """
    with _lock:
        previous = _servers.get(started.name)
    if previous is not None:
        try:
            previous.stop()
        except (
            Exception
        ) as error:  # what it holds is lost until the kernel restarts, its name is not
            started.log.add(str(error))
        if not started.port and _is_free(previous.port):
            started.port = previous.port
    try:
        _remember(started)
        started._open(timeout)
        started.running = True
    except BaseException as error:  # an interrupt of the kernel, too
        _forget(started)
        with contextlib.suppress(Exception):
            started._close()
        if isinstance(error, Exception):
            told = len(started.log) == 0 or started.log[-1] in str(error)
            said = "" if told else f"\nIts log says:\n{started.log}"
            raise RuntimeError(
                f"The server {started.name!r} did not start: {error}{said}"
            ) from error
        raise
    return started


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        _may_come_back(probe)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _may_come_back(listener: socket.socket) -> None:
    """Let a socket be bound where connections of a server that has stopped still linger, and its successor after it."""
    if os.name != "nt":  # where it would be bound beside a server that listens
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def stop_all() -> None:
    """Stop every server of this kernel, also those after one that cannot stop."""
    with contextlib.ExitStack() as stack:
        for server in list(_servers.values()):
            stack.callback(server.stop)


atexit.register(stop_all)


def _choose(
    application: Any,
    name: str | None,
    process: bool,
    server: str,
    env: Mapping[str, str] | None,
    options: dict[str, Any],
) -> Server:
    if server not in ("uvicorn", "daphne", "gunicorn"):
        raise ValueError(
            "An ASGI application runs on 'uvicorn' or on 'daphne', a Flask application by itself or on 'gunicorn', "
            f"none on {server!r}."
        )
    if server == "daphne" and not process:
        raise ValueError(
            "Daphne needs a process of its own: it runs on the reactor of Twisted, which a process can start only once, "
            "and which takes the signals of the main thread, as the kernel does. Write:\n"
            'serve("package.module:app", process=True, server="daphne")'
        )
    if server == "gunicorn" and not process:
        raise ValueError(
            "gunicorn needs processes of its own: it forks, and takes the signals of the main thread. Write:\n"
            'serve("package.module:app", process=True, server="gunicorn")'
        )
    if isinstance(application, str) or process:
        if not (isinstance(application, str) and process and ":" in application):
            raise TypeError(
                f"A process of its own imports its application, so it needs a name like "
                f'"package.module:attribute", not {application!r}. Write:\n'
                'serve("package.module:app", process=True)'
            )
        kinds = {"daphne": DaphneServer, "gunicorn": GunicornServer}
        kind = kinds.get(server, ProcessServer)
        return kind(application, name or application.replace(":", "."), options, env)
    if env is not None:
        raise ValueError(
            "A server in the kernel shares the kernel's environment. Give one that needs its own a process of its own:\n"
            'serve("package.module:app", process=True, env={"NAME": "value"})'
        )
    flask = sys.modules.get("flask")
    if flask is not None and isinstance(application, flask.Flask):
        return FlaskServer(application, name or application.name, options)
    name = name or getattr(application, "__name__", None) or type(application).__name__
    if callable(application):
        parameters = _positional(application)
        if parameters == 1 and inspect.iscoroutinefunction(application):
            return WebSocketsServer(application, name, options)
        if parameters == 3:
            return AsgiServer(application, name, options)
    raise TypeError(
        f"serve() takes an ASGI application (scope, receive, send), a Flask application, or a websockets handler "
        f"(an asynchronous function of one connection), not {application!r}. A handler starts like this:\n"
        "async def echo(connection):"
    )


def _positional(application: Callable[..., Any]) -> int:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    count = -1
    for follow in (
        False,
        True,
    ):  # a consumer's as_asgi() wraps a class, a decorator may take anything
        try:
            found = inspect.signature(application, follow_wrapped=follow).parameters.values()
        except (TypeError, ValueError):
            return -1
        count = sum(p.kind in kinds and p.default is p.empty for p in found)
        if count:
            break
    return count


def _remember(server: Server) -> None:
    global _interval_before
    with _lock:
        _servers[server.name] = server
        _capture.start()
        if _interval_before is None:
            _interval_before = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH_INTERVAL)


def _forget(server: Server) -> None:
    global _interval_before
    with _lock:
        if not any(other is not server for other in _servers.values()):
            if not _apart:
                _capture.stop()
            _end_sync_thread()
            if _interval_before is not None:
                sys.setswitchinterval(_interval_before)
                _interval_before = None
        if _servers.get(server.name) is server:
            del _servers[server.name]
        server.running = False  # at last: a stop that is interrupted before can be taken up again


@contextlib.contextmanager
def prints_apart() -> Iterator[None]:
    """Keep what a thread with a log of its own prints out of the cells, also while no server lives."""
    global _apart
    with _lock:
        _apart += 1
        _capture.start()
    try:
        yield
    finally:
        with _lock:
            _apart -= 1
            if not _apart and not _servers:
                _capture.stop()


def _end_sync_thread() -> None:
    """End the one thread in which asgiref runs what is synchronous; it would live as long as the kernel.

    Channels uses it for every event of every consumer, to close old database connections.
    """
    asgiref = sys.modules.get("asgiref.sync")
    if asgiref is not None:
        asgiref.SyncToAsync.single_thread_executor.shutdown(wait=False)
        asgiref.SyncToAsync.single_thread_executor = ThreadPoolExecutor(max_workers=1)


async def _until(condition: Callable[[], object], seconds: float) -> None:
    """Look at a condition each millisecond until it is true, or so many seconds have passed.

    It counts its looks, and has no deadline: a machine that stops for a moment takes nothing from anybody.
    """
    for _ in range(int(seconds * 1000)):
        if condition():
            return
        await asyncio.sleep(0.001)


def _main(target: str, name: str, options: str, port: str = "0") -> None:
    """Serve `package.module:attribute` until standard input ends or the process is told to end."""
    import importlib
    import signal

    module, _, attribute = target.partition(":")
    application = getattr(importlib.import_module(module), attribute)
    server = serve(application, name=name, port=int(port), **json.loads(options))
    server.log.echo(
        os.fdopen(os.dup(1), "w")
    )  # not sys.stdout: what is written there goes to the log
    print(f"{READY}{server.port}", flush=True)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    with contextlib.suppress(TimeoutError):  # what does not stop ends with the process
        server.stop()
