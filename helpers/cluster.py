"""Several processes of one application, as they run in production: a real nginx in front, a real Valkey behind.

Everything is a process of this machine and ends with the kernel. A process that ends without having been asked to is no
riddle: the cluster says which one, with what status, and what it last said.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .balancer import Balancer, Policy, balancer, reserve
from .broker import Broker, broker
from .server import ProcessServer, Server, launch, serve

if TYPE_CHECKING:
    from .process import Child

DEADLINE = 30.0
"""Seconds that starting may take; a Django on a busy machine is not quick."""

LOOKS = 100
"""How often, every 5 ms, a cluster looks for what has ended when a block ends with an error."""

NODE = "NODE"
"""The variable in which each node finds its own number."""


class Cluster(Server):
    """Nodes, a broker and a balancer that all answer when `cluster` returns them, until `stop` or the end of the kernel.

    To clients, and to a tap, it is a server: the balancer. Treat it as a context manager to have everything stopped at the end
    of a cell.
    """

    kind = "a cluster behind nginx"

    def __init__(self, name: str, job: Job) -> None:
        super().__init__(name)
        self.nodes: list[ProcessServer] = []
        """The server processes, each with its `log`, its `port` and its `pid`."""
        self._job = job
        self._broker: Broker | None = None
        self._balancer: Balancer | None = None
        self._reserved: list[socket.socket] = []

    @property
    def broker(self) -> Broker:
        """The broker, to be stopped for a while: `with cluster.broker.stopped(): …`."""
        if self._broker is None:
            raise RuntimeError(
                f"{self.name} has no broker. Say in which variable its application looks for the address of one:\n"
                'cluster("package.module:app", queue="QUEUE_URL")'
            )
        return self._broker

    @property
    def balancer(self) -> Balancer:
        """The nginx in front, with its `config` and its `log`."""
        if self._balancer is None:
            raise RuntimeError(
                f"{self.name} is stopped. Start one:\ncluster(…, name={self.name!r})"
            )
        return self._balancer

    @property
    def processes(self) -> dict[str, int]:
        """How many processes its parts are now; those that only see to the end of others are not counted."""
        import psutil  # type: ignore[import-untyped]

        parts: dict[str, list[Any]] = {
            "nodes": [*self.nodes],
            "broker": [self._broker],
            "balancer": [self._balancer],
        }
        counts = {}
        for title, members in parts.items():
            guards = [self._process(part) for part in members if part is not None and part.running]
            started = [
                psutil.Process(guard.pid).children(recursive=True) for guard in guards if guard
            ]
            counts[title] = sum(map(len, started))
        return {title: count for title, count in counts.items() if count}

    def url(self, path: str = "/") -> str:
        self.check()
        return super().url(path)

    def ws_url(self, path: str = "/") -> str:
        self.check()
        return super().ws_url(path)

    def browser_url(self, path: str = "/") -> str:
        self.check()
        return super().browser_url(path)

    def kill(self, node: int) -> None:
        """End a node as a crash does, with SIGKILL: nobody is told. Killing one that does not run changes nothing.

        Args:
            node: its number, from 0.
        """
        self._process(self.nodes[node]).kill()
        self.nodes[node].stop()

    def restart(self, node: int) -> None:
        """Stop a node, if it runs, as its server stops when it is asked to, and start it anew at the same port.

        Args:
            node: its number, from 0.

        Raises:
            RuntimeError: it did not start; the message holds what it said. It is stopped now, and the rest goes on.
        """
        if not self.running:
            raise RuntimeError(
                f"{self.name} is stopped. Start one:\ncluster(…, name={self.name!r})"
            )
        self.nodes[node].stop()
        self.nodes[node] = self._start(node, self.nodes[node].port, DEADLINE)

    def check(self) -> None:
        """Make sure that everything runs that nobody here has ended.

        Raises:
            RuntimeError: something has ended by itself; the message says what, with what status, and the end of its log.
        """
        if self.running and (obituary := self._obituary()):
            raise RuntimeError(obituary)

    def _open(self, timeout: float) -> None:
        job = self._job
        kept = [reserve() for _ in range(job.nodes)]
        self._reserved = [sock for sock, _ in kept]
        if job.queue is not None:
            self._broker = broker(f"{self.name}, broker", timeout=timeout)
        # A thread each, because starting is waiting; an interrupt waits for them.
        starting: list[Future[ProcessServer]] = []
        try:
            with ThreadPoolExecutor(job.nodes) as pool:
                for node, (sock, port) in enumerate(kept):
                    chosen = (
                        port if sock.fileno() >= 0 else 0
                    )  # what nothing keeps, the system chooses
                    starting.append(pool.submit(self._start, node, chosen, timeout))
        finally:  # also after an interrupt: what runs has to be stopped
            self.nodes = [start.result() for start in starting if start.exception() is None]
        problems = [str(problem) for start in starting if (problem := start.exception())]
        if problems:
            raise RuntimeError("\n".join(problems))
        self._balancer = balancer(
            self.nodes, job.policy, name=f"{self.name}, balancer", timeout=timeout
        )
        self.port, self.log = self._balancer.port, self._balancer.log

    def _start(self, node: int, port: int, timeout: float) -> ProcessServer:
        job = self._job
        variables = {NODE: str(node), **job.env}
        if job.queue is not None:
            variables[job.queue] = self.broker.url
        started = serve(
            job.application,
            name=f"{self.name}, node {node}",
            process=True,
            server=job.server,
            env=variables,
            port=port,
            timeout=timeout,
            **job.options,
        )
        assert isinstance(started, ProcessServer)
        return started

    def _close(self) -> None:
        parts = [part for part in (self._balancer, *self.nodes) if part is not None]
        with contextlib.ExitStack() as stack:
            for sock in self._reserved:
                stack.callback(sock.close)
            if self._broker is not None:  # after its clients, who would complain
                stack.callback(self._broker.stop)
            if parts:
                pool = stack.enter_context(ThreadPoolExecutor(len(parts)))
            for part in parts:
                stack.callback(pool.submit(part.stop).result)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exc_info: object) -> None:
        error = exc_info[1]
        obituary = ""
        if self.running and (error is None or isinstance(error, Exception)):
            # Clients may know first: a process that ends closes its connections one by one, and is then waited for.
            for _ in range(LOOKS if error else 1):
                if obituary := self._obituary():
                    break
                time.sleep(0.005)
        self.stop()
        if obituary:
            raise RuntimeError(obituary) from (error if isinstance(error, Exception) else None)

    def _obituary(self) -> str:
        """Return what has ended and was not asked to, in words, or nothing."""
        parts: list[tuple[str, Server | Broker, str]] = [
            (f"Node {number} of {self.name}", node, f"{self.name}.restart({number})")
            for number, node in enumerate(self.nodes)
        ]
        again = f"{self.name} = cluster(…)"
        parts += [(f"The broker of {self.name}", b, again) for b in [self._broker] if b]
        parts += [(f"The balancer of {self.name}", b, again) for b in [self._balancer] if b]
        said = []
        for title, part, cure in parts:
            child = self._process(part)
            # In this order: who ends when asked to has been asked before.
            if part.running and child is not None and not child.running and not child.asked:
                said.append(
                    f"{title} has ended, with status {child.status}, and nobody here has asked it to. Start it again:\n"
                    f"{cure}\nThe end of its log:\n{child.tail()}"
                )
        return "\n".join(said)

    @staticmethod
    def _process(part: Server | Broker) -> Any:
        child: Child | None = getattr(part, "_child", None)  # a broker of REDIS_URL has none
        return child

    def __repr__(self) -> str:
        state = f"at {super().url()}" if self.running else "stopped"
        return f"<{self.name}: {len(self.nodes)} nodes behind nginx, {state}>"


@dataclass(frozen=True)
class Job:
    """What a cluster runs."""

    application: str
    nodes: int
    policy: Policy
    server: str
    queue: str | None
    env: Mapping[str, str]
    options: Mapping[str, Any]


def cluster(
    application: str,
    *,
    nodes: int = 2,
    policy: Policy = "round_robin",
    server: str = "uvicorn",
    queue: str | None = None,
    env: Mapping[str, str] | None = None,
    name: str = "cluster",
    timeout: float = DEADLINE,
    **options: Any,
) -> Cluster:
    """Start several processes of an application behind a balancer, with a broker between them, and return when all answer.

    Everything listens on 127.0.0.1 and ends with the kernel. Starting one under the same name again replaces the one before:
    running a cell twice is safe.

    Args:
        application: `"package.module:attribute"`, an ASGI application or a Flask application.
        nodes: how many processes, 2 by default. Each finds its number, from 0, in the variable `NODE`.
        policy: how the balancer chooses one (see `helpers.balancer`): `"round_robin"`, the default, `"sticky"` or `"ip_hash"`.
        server: what the nodes run on (see `serve`): `"uvicorn"`, the default, or `"daphne"` for ASGI; a Flask application gets
            Werkzeug by default, or `"gunicorn"`.
        queue: the variable in which the application finds the address of the broker. Without one there is no broker.
        env: further variables for every node.
        name: what to call it; `"cluster"` by default.
        timeout: seconds that starting a part of it may take, 30 by default.
        options: what else the server of the nodes understands.

    Returns:
        The running cluster, which has what a server has, and `nodes`, `broker`, `balancer`, `kill` and `restart`.

    Raises:
        RuntimeError: something did not start; the message says what, and what it said. Nothing of it is left.
    """
    if nodes < 1:
        raise ValueError(f"A cluster needs at least one node, not {nodes}.")
    job = Job(application, nodes, policy, server, queue, env or {}, options)
    return launch(Cluster(name, job), timeout)
