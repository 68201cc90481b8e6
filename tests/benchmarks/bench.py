"""What the workbook costs, and what the stacks cost, as ratios within one run. Never part of a verdict of the tests.

    make bench              everything, about ten minutes, on a machine that does nothing else
    make bench ONLY="P1 P5"  some

Measurements that are set against each other take turns, several times; the table has their medians and, in brackets, the lowest
and the highest. It goes into `tests/benchmarks/RESULTS.md`, where a part that ran replaces its old rows only.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import contextlib
import datetime
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from websockets.sync.client import connect

from helpers import broker, measure, stacks, tap
from helpers.byhand import frame
from helpers.stacks import STACKS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("RESULTS.md")
ROUNDS = 5


@dataclass
class Part:
    """A part of the table."""

    title: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def row(self, what: str, value: str, target: str = "") -> None:
        """Add a row: what was measured, what came out, and what it should be."""
        self.rows.append((what, value, target))
        print(f"  {what}: {value}" + (f" (should be {target})" if target else ""), flush=True)


def spread(values: list[float], digits: int = 2) -> str:
    """Return the median with the lowest and the highest value."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} [{low:,.{digits}f} to {high:,.{digits}f}]"


@contextlib.contextmanager
def one_cpu() -> Iterator[None]:
    """Keep this process, and what it starts, on one processor: waking the other takes longer than some of the servers do."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def embedded(part: Part) -> None:
    """P1: a server in a thread of this process against the same in a process of its own, this process doing nothing else."""
    with one_cpu():
        for stack in STACKS.values():
            ratios, own = [], []
            for _ in range(ROUNDS):
                p50 = {}
                for process in (True, False):
                    with (
                        stacks.start(stack, process=process) as server,
                        stacks.Client(stack, server) as client,
                    ):
                        stacks.echo(client, 200)
                        p50[process] = statistics.median(stacks.echo(client, 1500))
                own.append(p50[True] * 1e3)
                ratios.append(p50[False] / p50[True])
            part.row(f"{stack.name}: echo in its own process, p50 in µs", spread(own, 0))
            part.row(f"{stack.name}: in the kernel / in its own process", spread(ratios), "≤ 1.15")


def busy_cell(part: Part) -> None:
    """P2: what a cell that computes does to the servers: 100 messages a second from another process, by the clock."""

    def p50(stack: stacks.Stack, process: bool) -> tuple[float, float]:
        with (
            stacks.start(stack, process=process) as server,
            concurrent.futures.ThreadPoolExecutor() as pool,
        ):
            command = [sys.executable, "-m", "tests.benchmarks.open_loop", stack.name]
            client = pool.submit(
                subprocess.run,
                [*command, str(server.port), "100", "3"],
                stdout=subprocess.PIPE,
                cwd=ROOT,
                check=True,
            )
            number = 0
            while not client.done():  # the cell that computes, and never calls the system
                for _ in range(20_000):
                    number = number * 31 % 1_000_003
            latencies = json.loads(client.result().stdout)
        return statistics.median(latencies), max(latencies)

    for stack in STACKS.values():
        ratios, worst = [], []
        for _ in range(3):
            own, _ = p50(stack, process=True)
            inside, longest = p50(stack, process=False)
            ratios.append(inside / own)
            worst.append(longest)
        part.row(
            f"{stack.name}: beside a busy cell, in the kernel / in its own process, p50",
            spread(ratios, 1),
            "≤ 8",
        )
        part.row(f"{stack.name}: the longest wait, ms", spread(worst, 0), "< 50")


def meter_cost(part: Part) -> None:
    """P3: an echo through a tap against a direct one, on one processor; and one reading of the clock against an echo."""
    for name in ("websockets", "Channels"):
        stack, ratios, trips = STACKS[name], [], []
        with (
            one_cpu(),
            stacks.start(stack) as server,
            tap(server) as wire,
            stacks.Client(stack, server) as direct,
            stacks.Client(stack, wire) as relayed,
        ):
            for client in (direct, relayed):
                stacks.echo(client, 200)
            for _ in range(ROUNDS):
                trip = statistics.median(stacks.echo(direct, 1000))
                trips.append(trip)
                ratios.append(statistics.median(stacks.echo(relayed, 1000)) / trip)
        part.row(f"{name}: echo through a tap / direct, p50", spread(ratios), "≤ 1.15")
    times: list[float] = []
    before = time.perf_counter()
    for _ in range(100_000):
        start = time.perf_counter()
        times.append(time.perf_counter() - start)
    sample = (time.perf_counter() - before) / 100_000 * 1e3
    part.row(
        "one sample / one echo of Channels, %",
        f"{100 * sample / statistics.median(trips):.2f}",
        "≤ 0.5",
    )


def meter_error(part: Part) -> None:
    """P4: bytes at the tap against the arithmetic of frames, and against the run before."""
    wrong, looked = 0, 0
    with stacks.start(STACKS["websockets"]) as server:
        for size in (0, 1, 125, 126, 127, 4000, 65_535, 65_536, 100_000):
            text = "x" * size
            counted = stacks.message_bytes(STACKS["websockets"], server, text)
            wrong += sum(
                map(abs, (counted[0] - len(frame(text)), counted[1] - len(frame(text, mask=None))))
            )
            looked += 2
    part.row(f"bytes by which {looked} counts of frames were wrong", str(wrong), "0")
    transports = ["SSE", "WebSocket"]
    runs = [measure.updates(transports, count=500) for _ in range(2)]
    for transport in transports:
        totals = {
            (run[transport].up, run[transport].down, run[transport].connections) for run in runs
        }
        part.row(
            f"{transport}: different totals in two runs of 500 updates", str(len(totals) - 1), "0"
        )


def cycles(part: Part) -> None:
    """P5 and P6: start, one echo, stop, 200 times."""
    this = psutil.Process()
    for stack in STACKS.values():
        stops, firsts = [], []

        def cycle(
            stack: stacks.Stack = stack, stops: list[float] = stops, firsts: list[float] = firsts
        ) -> None:
            before = time.perf_counter()
            server = stacks.start(stack, process=False)
            with stacks.Client(stack, server) as client:
                stacks.echo(client, 1)
            firsts.append((time.perf_counter() - before) * 1e3)
            # One that answers when the server says goodbye, as a client should.
            with connect(server.ws_url(stack.path), proxy=None, compression=None):
                before = time.perf_counter()
                server.stop()
            stops.append((time.perf_counter() - before) * 1e3)

        for _ in range(50):  # imports, caches, and the allocator's first growth
            cycle()
        stops.clear(), firsts.clear()
        gc.collect()
        start = this.num_fds(), threading.active_count(), this.memory_info().rss
        for _ in range(200):
            cycle()
        gc.collect()
        files, threads = this.num_fds() - start[0], threading.active_count() - start[1]
        kilobytes = (this.memory_info().rss - start[2]) / 200 / 1e3
        part.row(
            f"{stack.name}: files and threads left by 200 starts and stops",
            f"{files} and {threads}",
            "0 and 0",
        )
        part.row(f"{stack.name}: memory for each, kB", f"{kilobytes:.1f}", "< 4")
        part.row(
            f"{stack.name}: stop with a client, p99 in ms",
            f"{measure.percentile(stops, 99):.1f}",
            "< 25",
        )
        part.row(
            f"{stack.name}: start to first echo, p50 in ms",
            f"{statistics.median(firsts):.1f}",
            "< 10",
        )


def workbook(part: Part) -> None:
    """P7: all notebooks, one after the other, against empty notebooks that import the same."""
    import nbformat
    from nbclient import NotebookClient

    def run(cells: list[str]) -> float:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        before = time.perf_counter()
        NotebookClient(
            book,
            timeout=120,
            kernel_name="python3",
            resources={"metadata": {"path": str(ROOT / "notebooks")}},
        ).execute()
        return time.perf_counter() - before

    total, floor, slowest = 0.0, 0.0, (0.0, "")
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in paths:
        cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        imports = [
            ast.unparse(node)
            for cell in cells
            for node in _parsed(cell)
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        least, took = run([_imports_only(imports)]), run(cells)
        total, floor, slowest = total + took, floor + least, max(slowest, (took, path.stem))
        print(f"    {path.stem}: {took:.1f} s, imports {least:.1f} s", flush=True)
    part.row(f"{len(paths)} notebooks, s", f"{total:.0f}")
    part.row(
        "all notebooks / empty ones with the same imports",
        f"{total / floor:.2f}",
        "as low as their waits allow",
    )
    part.row("an average notebook, s", f"{total / len(paths):.1f}", "≤ 8")
    part.row(f"the slowest, {slowest[1]}, s", f"{slowest[0]:.1f}", "≤ 20")


def _parsed(cell: str) -> list[ast.stmt]:
    with contextlib.suppress(SyntaxError):  # a magic, or await at the top
        return ast.parse(cell).body
    return []


def _imports_only(imports: list[str]) -> str:
    return "\n".join(
        [
            "import contextlib",
            *(f"with contextlib.suppress(Exception):\n    {line}" for line in imports),
        ]
    )


def many_clients(part: Part) -> None:
    """P8: one message to many, all in one kernel: server and clients."""
    last: dict[str, list[float]] = {name: [] for name in STACKS}
    largest = dict.fromkeys(STACKS, 0)
    for name, stack in STACKS.items():
        for count in (100, 250, 500, 1000):
            with (
                stacks.start(stack, process=False) as server,
                stacks.clients(stack, server, count) as everybody,
            ):
                stacks.fan_out(everybody, 2)
                if measure.percentile(stacks.fan_out(everybody, 20), 95) > 250:
                    break
                largest[name] = count
    for _ in range(ROUNDS):
        for name, stack in STACKS.items():
            with (
                stacks.start(stack, process=False) as server,
                stacks.clients(stack, server, 100) as everybody,
            ):
                stacks.fan_out(everybody, 5)
                last[name].append(statistics.median(stacks.fan_out(everybody, 20)))
    for name in STACKS:
        target = "500" if name == "Channels" else "1,000"
        part.row(
            f"{name}: clients that a message reaches within 250 ms, p95",
            f"{largest[name]:,}",
            target,
        )
        ratios = [mine / plain for mine, plain in zip(last[name], last["websockets"], strict=True)]
        if name != "websockets":
            part.row(f"{name}: until the last of 100 has it / websockets", spread(ratios, 1), "")
        else:
            part.row("websockets: until the last of 100 has it, ms", spread(last[name]))


def two_processes(part: Part) -> None:
    """P9: two processes against one; eight clients each say something as soon as they hear what they said before."""

    def rate(stack: stacks.Stack, count: int, prefix: str) -> tuple[float, float]:
        """Return messages a second, and how much faster the processors would let it become."""
        with contextlib.ExitStack() as running:
            servers = [
                running.enter_context(stacks.start(stack, name=f"{stack.name} {number}", env=env))
                for number in range(count)
            ]
            everybody = [
                running.enter_context(stacks.Client(stack, servers[number % count]))
                for number in range(8)
            ]
            _say_for(everybody, prefix, 0.5)
            used, mine = _processor_seconds(servers), time.process_time()
            done, seconds = _say_for(everybody, prefix, 3.0)
            used, mine = _processor_seconds(servers) - used, time.process_time() - mine
        return done / seconds, ((psutil.cpu_count() or 1) * seconds - mine) / used

    cases = [
        ("Channels, echo", "Channels", "", None),
        ("Channels, group, pub/sub layer", "Channels", "!", "pubsub"),
        ("Channels, group, core layer", "Channels", "!", "core"),
        ("python-socketio, room", "python-socketio", "!", "queue"),
        ("Flask-SocketIO, room", "Flask-SocketIO", "!", "queue"),
    ]
    with broker() as queue:
        for what, name, prefix, layer in cases:
            ratios, rates, ceilings = [], [], []
            env = {} if layer is None else {"STACKS_QUEUE": queue.url, "STACKS_LAYER": layer}
            for _ in range(3):
                one, ceiling = rate(STACKS[name], 1, prefix)
                ratios.append(rate(STACKS[name], 2, prefix)[0] / one)
                rates.append(one)
                ceilings.append(min(2.0, ceiling))
            part.row(f"{what}: messages a second, one process", spread(rates, 0))
            part.row(f"{what}: two processes / one", spread(ratios), "≥ 1.2")
            part.row(f"{what}: what the processors allow at most", spread(ceilings))


def _processor_seconds(servers: list[Any]) -> float:
    workers = [child for s in servers for child in psutil.Process(s.pid).children(recursive=True)]
    return sum(sum(worker.cpu_times()[:2]) for worker in workers)


def _say_for(everybody: list[stacks.Client], prefix: str, seconds: float) -> tuple[int, float]:
    """Let each client say something as soon as it has heard what it said before; return how often, in how many seconds."""
    counts = []
    start = time.perf_counter()

    def talk(number: int, client: stacks.Client) -> None:
        done = 0
        while time.perf_counter() < start + seconds:
            said = f"{prefix}{number} {done}"
            client.say(said)
            while client.hear() != said:
                pass
            done += 1
        counts.append(done)

    threads = [threading.Thread(target=talk, args=item) for item in enumerate(everybody)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == len(everybody), "a client failed"
    return sum(counts), time.perf_counter() - start


def fresh_clone(part: Part) -> None:
    """P10: from a clone to the first WebSocket message in a cell, with what uv has cached."""
    cell = (
        "from websockets.sync.client import connect\n"
        "from helpers import serve\n"
        "async def echo(connection):\n"
        "    await connection.send(await connection.recv())\n"
        "server = serve(echo)\n"
        "with connect(server.ws_url(), proxy=None) as client:\n"
        "    client.send('first'); print(client.recv())"
    )
    run = (
        "import sys, nbformat, nbclient; book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(sys.argv[1])]); "
        "nbclient.NotebookClient(book, kernel_name='python3').execute(); print(book.cells[0].outputs)"
    )
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        times = []
        for command in (
            ["git", "clone", "--quiet", str(ROOT), str(clone)],
            ["make", "setup"],
            [".venv/bin/python", "-c", run, cell],
            [".venv/bin/python", "-c", run, "print('first')"],
        ):
            before = time.perf_counter()
            done = subprocess.run(
                command, cwd=clone if times else ROOT, capture_output=True, text=True, timeout=600
            )
            if done.returncode:
                raise RuntimeError(f"{command} failed:\n{done.stdout}{done.stderr}")
            times.append(time.perf_counter() - before)
        assert "first" in done.stdout
    part.row(
        "clone, set-up, first message, s", " + ".join(f"{seconds:.1f}" for seconds in times[:3])
    )
    part.row("first message / a notebook that only prints", f"{times[2] / times[3]:.2f}", "≤ 2")


PARTS: dict[str, tuple[str, Callable[[Part], None]]] = {
    "P1": ("A server in the kernel", embedded),
    "P2": ("A cell that computes", busy_cell),
    "P3": ("What measuring costs", meter_cost),
    "P4": ("What measuring gets wrong", meter_error),
    "P5": ("200 starts and stops", cycles),
    "P7": ("The whole workbook", workbook),
    "P8": ("Many clients in one kernel", many_clients),
    "P9": ("Two processes and a broker", two_processes),
    "P10": ("A fresh clone", fresh_clone),
}


def machine() -> str:
    """Describe the machine, in a line."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        model = found[1] if found else model
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{psutil.cpu_count()} × {model}, {memory:.0f} GiB, {platform.system()} {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, load {psutil.getloadavg()[0]:.1f} at the start"
    )


def written(parts: dict[str, Part], described: str) -> str:
    """Return the page with the results: these, and of the parts that did not run what it held before."""
    before = RESULTS.read_text() if RESULTS.exists() else ""
    kept = dict(re.findall(r"^## (P\d+) .*?\n(.*?)(?=^## |\Z)", before, re.MULTILINE | re.DOTALL))
    lines = [
        "# What it costs",
        "",
        "Written by `make bench`, and never part of a verdict of the tests. Medians, with the lowest and the highest of the",
        "rounds in brackets. Everything is on one machine over loopback: no delay of a network, no TLS.",
        "",
    ]
    for key, (title, measured) in PARTS.items():
        if key in parts:
            what = (measured.__doc__ or "").partition(": ")[2].strip()
            lines += [f"## {key} {title}", "", what[0].upper() + what[1:], ""]
            lines += [f"Measured {datetime.date.today()} on {described}.", ""]
            lines += ["| what | measured | should be |", "| --- | --- | --- |"]
            lines += [f"| {' | '.join(row)} |" for row in parts[key].rows] + [""]
        elif key in kept:
            lines += [f"## {key} {title}", *kept[key].rstrip("\n").split("\n"), ""]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("only", nargs="*", help=f"some of {', '.join(PARTS)}; all by default")
    chosen = parser.parse_args().only or list(PARTS)
    unknown = set(chosen) - set(PARTS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    described = machine()
    parts = {}
    for key in PARTS:
        if key in chosen:
            title, measured = PARTS[key]
            print(f"{key} {title}", flush=True)
            parts[key] = Part(title)
            measured(parts[key])
            RESULTS.write_text(written(parts, described))
    print(f"Written to {RESULTS.relative_to(ROOT)}.")


if __name__ == "__main__":
    main()
