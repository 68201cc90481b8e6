"""A WebSocket client that hides nothing: what notebook 02 writes by hand, for whoever needs exact bytes, also wrong ones.

It does nothing by itself. It answers no ping and no close frame, and sends the bytes that it is given.
"""

from __future__ import annotations

import base64
import hashlib
import socket
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""What a server appends to the key (RFC 6455, section 1.3)."""

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The key of the RFC's example: always the same, so that a recording is, too. A real client invents one."""

MASK = bytes.fromhex("37fa213d")
"""The mask of the RFC's example (section 5.7). A real client takes four random bytes for each frame."""

_NAMES = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}


class Frame(NamedTuple):
    """One frame, as it was read."""

    opcode: int
    payload: bytes
    fin: bool = True

    @property
    def code(self) -> int | None:
        """The code of a close frame, or None."""
        if self.opcode != CLOSE or len(self.payload) < 2:
            return None
        return int.from_bytes(self.payload[:2])

    def __repr__(self) -> str:
        name = _NAMES.get(self.opcode, f"opcode {self.opcode}")
        if self.code is None:
            said = repr(self.payload) if self.payload else ""
        else:
            said = f"{self.code} {self.payload[2:].decode(errors='replace')}"
        return f"{name} {said}".strip() + ("" if self.fin else ", more to come")


def accept(key: str) -> str:
    """Return what a server must answer to a key (RFC 6455, section 4.2.2)."""
    return base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()


def frame(
    payload: str | bytes,
    opcode: int = TEXT,
    *,
    fin: bool = True,
    mask: bytes | None = MASK,
    reserved: int = 0,
) -> bytes:
    """Build a frame, also one that no peer may send.

    Args:
        payload: what to carry; text is encoded as UTF-8.
        opcode: what it is: `TEXT`, `PING`, or any number below 16.
        fin: whether this is the last frame of a message.
        mask: four bytes, or None for a frame that is not masked, as a server's are.
        reserved: the three reserved bits, as a number below 8.
    """
    data = payload.encode() if isinstance(payload, str) else payload
    first = fin << 7 | reserved << 4 | opcode
    second = 0 if mask is None else 0x80
    if len(data) < 126:
        head = bytes([first, second | len(data)])
    elif len(data) < 2**16:
        head = bytes([first, second | 126]) + len(data).to_bytes(2)
    else:
        head = bytes([first, second | 127]) + len(data).to_bytes(8)
    if mask is None:
        return head + data
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))


class Connection:
    """A WebSocket connection right after its handshake. Close it, or use it as a context manager.

    Leaving the block hangs up without a close frame.

    Attributes:
        answer: the lines of the server's answer to the handshake.
        stream: what the server sends, as a file: `stream.read(2)` waits for two bytes.
    """

    def __init__(self, port: int, path: str, headers: dict[str, str], timeout: float) -> None:
        lines = {
            "Host": f"127.0.0.1:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": KEY,
            "Sec-WebSocket-Version": "13",
            **headers,
        }
        request = [
            f"GET {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in lines.items()),
            "",
            "",
        ]
        self.answer: list[str] = []
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.stream = self._socket.makefile("rb")
        try:
            # Two small frames in a row would wait for each other (Nagle's algorithm).
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.send("\r\n".join(request).encode())
            while line := self.stream.readline().decode().strip():
                self.answer.append(line)
            named = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in self.answer)
            }
            if named.get("sec-websocket-accept") != accept(lines["Sec-WebSocket-Key"]):
                said = self.answer[0] if self.answer else "nothing"
                raise ConnectionRefusedError(
                    f"The server on port {port} did not switch to WebSocket. It said: {said}"
                )
        except BaseException:
            self.close()
            raise

    def send(self, *frames: bytes) -> None:
        """Send bytes as they are: frames, several frames, half a frame."""
        self._socket.sendall(b"".join(frames))

    def read(self) -> Frame | None:
        """Return the next frame, or None when the server has ended its side of the connection.

        Raises:
            TimeoutError: no frame came in time.
            EOFError: the server ended its side inside a frame.
        """
        head = self.stream.read(2)
        if not head:
            return None
        first, second = head + self._exactly(2 - len(head))
        length = second & 0x7F
        if length > 125:
            length = int.from_bytes(self._exactly(2 if length == 126 else 8))
        return Frame(first & 0x0F, self._exactly(length), fin=bool(first & 0x80))

    def _exactly(self, size: int) -> bytes:
        data = self.stream.read(size)
        if len(data) < size:
            raise EOFError("The connection ended inside a frame.")
        return data

    def close(self) -> None:
        """Hang up, without a close frame. Closing twice is safe."""
        self.stream.close()
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def handshake(
    port: int, path: str = "/", *, headers: dict[str, str] | None = None, timeout: float = 5.0
) -> Connection:
    """Open a WebSocket connection to a server on 127.0.0.1 and check its proof.

    Args:
        port: the server's port, or that of a tap in front of it.
        path: the path, from `/`.
        headers: further header lines, or other values for those of the handshake.
        timeout: seconds that connecting, and later each `read`, may take.

    Raises:
        ConnectionRefusedError: the server answered something else than 101 with the proof; the message holds its first line.
    """
    return Connection(port, path, headers or {}, timeout)
