"""A client in a process of its own that speaks when its clock says so, whether or not the last answer has come (an open loop).

    python -m tests.benchmarks.open_loop STACK PORT RATE SECONDS

prints the milliseconds from when each message was due until it had come back, as JSON. A client that waits for each answer asks
the less the slower the server is, and so leaves out the bad times (coordinated omission).
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from types import SimpleNamespace

from helpers import stacks


def main(name: str, port: int, rate: float, seconds: float) -> list[float]:
    """Return the latencies of `rate` messages a second, at random times (Poisson, the same in every run)."""
    rng = random.Random(1)
    stack = stacks.STACKS[name]
    due, at = [], 0.2
    while (at := at + rng.expovariate(rate)) < seconds:
        due.append(at)
    with stacks.Client(stack, SimpleNamespace(port=port)) as client:  # type: ignore[arg-type]
        start = time.monotonic()

        def speak() -> None:
            for number, when in enumerate(due):
                time.sleep(max(0.0, start + when - time.monotonic()))
                client.say(str(number))

        speaker = threading.Thread(target=speak)
        speaker.start()
        latencies = []
        for _ in due:
            number = int(client.hear())  # Flask-SocketIO handles each event in a thread: any order
            latencies.append((time.monotonic() - start - due[number]) * 1e3)
        speaker.join()
    return latencies


if __name__ == "__main__":
    name, port, rate, seconds = sys.argv[1:]
    print(json.dumps(main(name, int(port), float(rate), float(seconds))))
