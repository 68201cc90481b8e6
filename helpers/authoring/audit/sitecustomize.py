"""Refuse every address but loopback, in this Python process.

Python imports a module of this name at its start when its folder is on PYTHONPATH, as
``helpers.authoring.offline`` arranges where there are no network namespaces.
"""

import errno
import ipaddress
import socket
import sys

# The event, and which of its arguments holds the address or the name.
CONNECTS = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1}
LOOKUPS = {"socket.getaddrinfo": 0, "socket.gethostbyname": 0, "socket.gethostbyaddr": 0}
OWN_NAME = socket.gethostname()  # jupyter_client looks it up


def is_here(host: object) -> bool:
    """Tell whether a host is this machine, without looking anything up.

    Args:
        host: A name or an address, as the socket functions take it.
    """
    if isinstance(host, bytes | bytearray):
        host = host.decode(errors="replace")
    if not isinstance(host, str) or host in ("", "localhost"):
        return host in (None, "", "localhost")
    try:
        # A link-local address carries its interface behind a percent sign.
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def refuse(event: str, arguments: tuple[object, ...]) -> None:
    """Raise what a machine without a network raises, unless the address is this machine's.

    Args:
        event: What Python is about to do.
        arguments: With what.

    Raises:
        OSError: For any other address, with the number of an unreachable network.
    """
    if event in CONNECTS:
        address = arguments[CONNECTS[event]]
        if not isinstance(address, tuple) or is_here(address[0]):
            return  # a path: a socket between processes; or None: the peer was accepted before
        host = address[0]
    elif event in LOOKUPS:
        host = arguments[LOOKUPS[event]]
        if is_here(host) or host == OWN_NAME:
            return
    else:
        return
    raise OSError(
        errno.ENETUNREACH,
        f"The network is cut down to loopback during the tests: {event} to {host!r} was refused. "
        "Serve what this needs on 127.0.0.1.",
    )


sys.addaudithook(refuse)
