"""An echo server that tells what it takes of its machine, and can be given less. Serve it in a process of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection


async def app(connection: ServerConnection) -> None:
    """Answer "memory" (resident bytes), "files" (how many are open), "limit 64" (set), and anything else with itself."""
    async for message in connection:
        await connection.send(answer(str(message)))


def answer(message: str) -> str:
    """Return what the server says to a message."""
    if message == "memory":
        return str(psutil.Process().memory_info().rss)
    if message == "files":
        return str(len(os.listdir("/dev/fd")) - 1)  # but not the directory itself
    if message.startswith("limit "):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(message.split()[1]), hard))
    return message
