"""What the modules of the chat share."""

from engineio.payload import Payload
from flask_socketio import SocketIO

# How many packets may come with one request of long-polling. By default 16, and who says more at once loses all of it,
# and hears `OK` (miguelgrinberg/python-engineio#142). How many bytes may come is limited all the same.
Payload.max_decode_packets = 1000

# Stated, because Flask-SocketIO would choose eventlet or gevent where one of them happens to be installed, and they replace
# parts of Python. And the events of one connection are handled one after the other: by default each gets a thread of its own,
# and the second message may be stored before the first.
socketio = SocketIO(async_mode="threading", async_handlers=False)
