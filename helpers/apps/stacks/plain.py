"""Plain WebSocket, on the library `websockets`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from websockets.asyncio.server import broadcast

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

everybody: set[ServerConnection] = set()


async def app(connection: ServerConnection) -> None:
    """Echo, or broadcast."""
    everybody.add(connection)
    try:
        async for message in connection:
            if str(message).startswith("!"):
                broadcast(everybody, message)
            else:
                await connection.send(message)
    finally:
        everybody.discard(connection)
