"""Write the two locks from ``pyproject.toml``: ``python -m helpers.authoring.lock [--upgrade]``.

One lock serves every system and every Python. So, once written, each combination that the README
names is asked for: does all of it come as a wheel, with nothing left to compile?
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK, DEV_LOCK = "requirements.lock", "requirements-dev.lock"

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = (
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "aarch64-apple-darwin",
    "x86_64-apple-darwin",
    "x86_64-pc-windows-msvc",
)


def compiled(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``uv pip compile`` in the clone and return what came of it.

    Args:
        arguments: What follows the command.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", *arguments]
    # Python itself comes from the system: uv must not fetch one.
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def write(lock: str, *arguments: str) -> None:
    """Write one lock: exact, hashed, for every system, naming no package index.

    Args:
        lock: The file to write. What it pins already stays, unless the arguments say otherwise.
        arguments: What to lock.

    Raises:
        SystemExit: When nothing satisfies the requirements.
    """
    shape = ["--universal", "--python-version", PYTHONS[0], "--generate-hashes"]
    shape += ["--no-emit-index-url", "--no-emit-find-links"]
    shape += ["--custom-compile-command", "make lock"]  # the header tells readers what to run
    result = compiled(*arguments, *shape, "--output-file", lock)
    if result.returncode != 0:
        raise SystemExit(f"{lock} cannot be resolved:\n{result.stderr}")


def missing_wheels() -> list[str]:
    """Return one line for each system and Python on which something would have to be compiled."""
    lines = []
    for platform in PLATFORMS:
        for python in PYTHONS:
            where = ["--python-platform", platform, "--python-version", python]
            result = compiled(LOCK, DEV_LOCK, *where, "--only-binary", ":all:")
            if result.returncode != 0:
                lines.append(f"{platform}, Python {python}:\n{result.stderr}")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Write both locks, check them, and return the exit status.

    Args:
        arguments: ``--upgrade`` takes the newest versions instead of keeping the pinned ones.
    """
    write(LOCK, "pyproject.toml", *arguments)
    # Only what the authors' tools add: what both need has the version of the learners' lock.
    write(DEV_LOCK, "--group", "dev", "--constraint", LOCK, *arguments)
    missing = missing_wheels()
    for line in missing:
        print(line, file=sys.stderr)
    combinations = len(PLATFORMS) * len(PYTHONS)
    if missing:
        print(f"No wheels on {len(missing)} of {combinations} combinations.", file=sys.stderr)
        print(
            "Say so with a marker, or hold the version under [tool.uv], in pyproject.toml.",
            file=sys.stderr,
        )
        return 1
    print(f"Both locks written; wheels for everything on {combinations} combinations.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
