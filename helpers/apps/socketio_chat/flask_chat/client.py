"""Where the page gets the JavaScript client of Socket.IO: from npm's folder, or else from a CDN."""

import json
from urllib.parse import urlsplit

from .config import PROJECT

FOLDER = PROJECT / "node_modules" / "socket.io-client" / "dist"
FILE = "socket.io.min.js"
VERSION = json.loads((PROJECT / "package.json").read_text())["dependencies"]["socket.io-client"]
CDN = f"https://cdn.jsdelivr.net/npm/socket.io-client@{VERSION}/dist/{FILE}"
# Of the very file that npm brings: openssl dgst -sha384 -binary FILE | base64
INTEGRITY = "sha384-fBrXvbDtHoeKWJ/hcA6M+YGueiDW+h45I7V6F2kD1S8bOkrF9rZYPLVkCR6BLR/1"


def is_here():
    """Tell whether npm has brought it."""
    return (FOLDER / FILE).is_file()


def elsewhere():
    """Return the sites that the page's scripts come from, other than this one."""
    return [] if is_here() else ["https://" + urlsplit(CDN).netloc]
