"""Announcements, for clusters: what a client says, everybody hears, on every process; then whoever said it gets a receipt.

The same service three times: Django Channels, Flask-SocketIO, and python-socketio's own ASGI server. The variables: `QUEUE_URL`
is the address of the broker between processes, `LAYER` the channel layer of Channels (`core` or `pubsub`), `NODE` the number of
the process.
"""

import os

QUEUE_URL = os.environ.get("QUEUE_URL")
NODE = os.environ.get("NODE", "0")

HEARTBEAT = 0.2
"""Seconds between two pings of the Socket.IO servers: short, so that a request for news that is held is not held for long."""
