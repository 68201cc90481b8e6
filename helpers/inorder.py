"""A Socket.IO client that hands out events in the order in which they came."""

from __future__ import annotations

from typing import Any

import engineio
import socketio


class _EngineIO(engineio.Client):  # type: ignore[misc]
    """Engine.IO's client, but that the thread which reads a packet also handles it."""

    def _trigger_event(self, event: str, *args: Any, **options: Any) -> Any:
        return super()._trigger_event(event, *args, **{**options, "run_async": False})


class Client(socketio.Client):  # type: ignore[misc]
    """`socketio.Client`, whose handlers run one after the other, in the order in which the server has sent.

    The library gives each packet a thread of its own. When one of them has to wait for the processor, the next overtakes it
    (miguelgrinberg/python-socketio#382), and a handler that writes a list down writes another order than the wire had. Here no
    packet is read before the last one has been handled. So no handler may wait for what is still to be read: no `call`, and no
    `disconnect`, inside one.
    """

    def _engineio_client_class(self) -> type[engineio.Client]:
        return _EngineIO


class SimpleClient(socketio.SimpleClient):  # type: ignore[misc]
    """`socketio.SimpleClient`, whose `receive` returns events in the order in which the server has sent them."""

    client_class = Client
