"""From recorded bytes to what they mean: HTTP messages, WebSocket frames, Engine.IO and Socket.IO packets."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Literal
from urllib.parse import parse_qs

import h11
from websockets.exceptions import ProtocolError
from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader

Peer = Literal["client", "server"]
Speaker = Literal["client", "server", "network"]


@dataclasses.dataclass
class Chunk:
    """Bytes that crossed the wire together, or the end of what one side had to say, or something that the network did."""

    connection: int
    """The connection's number, from 1, in the order of opening; 0 where the network did it to all."""
    sender: Speaker
    """Who sent the bytes."""
    data: bytes
    """The bytes; empty at the end."""
    at: float = 0.0
    """Seconds on the monotonic clock when the bytes had arrived."""
    end: Literal["", "FIN", "RST"] = ""
    """How the sender ended its side: in order (FIN), by a reset (RST), or not yet."""
    lost: int = 0
    """How many of the bytes the other side has not got, because the network holds them or has cut the connection; of an end, 1
    if it has not."""
    held: bool = False
    """Whether the network let it go on only after it had changed: a fault had ended, or another begun."""
    event: str = ""
    """What the network did, in words."""


@dataclasses.dataclass(frozen=True)
class Message:
    """One thing that a peer said, with the bytes that said it."""

    connection: int
    sender: Speaker
    protocol: Literal["TCP", "HTTP", "WebSocket", "network"]
    summary: str
    """The message in one line, without what differs from run to run (keys, dates, session ids)."""
    data: bytes
    """Every byte of it, as sent."""
    at: float
    parsed: Any = None
    """The library's own object: `h11.Request`, `h11.Response`, a `websockets` `Frame`; None where it could not be read."""
    body: bytes = b""
    """The body of an HTTP message, or the payload of a frame: unmasked and decompressed."""
    lost: int = 0
    """How many of its bytes the other side has not got."""
    held: bool = False
    """Whether a fault held its last bytes until the network changed."""

    @property
    def size(self) -> int:
        """How many bytes crossed the wire."""
        return len(self.data)


def decode(recording: Iterable[Chunk]) -> list[Message]:
    """Read a recording as the peers did.

    Args:
        recording: the chunks of one or more connections, in order; a `Tap` keeps them in `recording`.

    Returns:
        The messages in the order in which each was complete. Every byte of the recording is in exactly one of them; what no
        library could read, and what was cut off, is in messages whose `parsed` is None.
    """
    conversations: dict[int, _Conversation] = {}
    messages: list[Message] = []
    passed: dict[tuple[int, Speaker], int] = {}
    for chunk in recording:
        sender = chunk.sender
        if sender == "network":
            event = Message(
                chunk.connection, "network", "network", chunk.event, chunk.data, chunk.at
            )
            messages.append(event)
            continue
        stream = chunk.connection, sender
        if not chunk.end:
            passed[stream] = passed.get(stream, 0) + len(chunk.data) - chunk.lost
        conversation = conversations.setdefault(chunk.connection, _Conversation(chunk.connection))
        read = conversation.read(chunk, sender)
        messages += (dataclasses.replace(m, held=True) if chunk.held else m for m in read)
    for conversation in conversations.values():
        messages += conversation.finish()
    return [_with_loss(message, passed) for message in messages]


def _with_loss(message: Message, passed: dict[tuple[int, Speaker], int]) -> Message:
    """Take a message's bytes from those that its sender's stream has passed on, and say how many are missing."""
    stream = message.connection, message.sender
    got = min(message.size, passed.get(stream, message.size))
    if stream in passed:
        passed[stream] -= got
    return dataclasses.replace(message, lost=message.size - got) if got < message.size else message


class _Conversation:
    """One connection, followed from both sides."""

    def __init__(self, connection: int) -> None:
        self.connection = connection
        self.at = 0.0
        self.http: _Http | None = _Http()
        self.frames: dict[Peer, _Frames] = {}
        self.engine = False
        self.lost: set[Peer] = set()

    def read(self, chunk: Chunk, sender: Peer) -> Iterator[Message]:
        self.at = chunk.at
        if chunk.end:
            if self.http is not None and chunk.end == "FIN" and sender not in self.lost:
                yield from self._speak(self.http, sender, b"")
            end = self._message(sender, "TCP", _END[chunk.end], b"")
            yield dataclasses.replace(end, lost=chunk.lost, held=chunk.held)
            return
        if sender in self.lost:
            yield self._message(sender, "TCP", _count(chunk.data), chunk.data)
            return
        if self.http is not None:
            yield from self._speak(self.http, sender, chunk.data)
            if self.http.switched is None:
                return
            self.engine = self.http.engine
            extensions = _extensions(self.http.switched)
            self.frames = {
                "client": _Frames(masked=True, extensions=extensions("client")),
                "server": _Frames(masked=False, extensions=extensions("server")),
            }
            rest = {peer: self.http.rest(peer) for peer in self.frames}
            self.http = None
            for peer, early in rest.items():
                yield from self._frames(peer, early)
            return
        yield from self._frames(sender, chunk.data)

    def _speak(self, http: _Http, sender: Peer, data: bytes) -> Iterator[Message]:
        for found in http.read(sender, data):
            yield self._http(*found)
        for failed in sorted(http.failed - self.lost):
            unread = self._give_up(failed, http.rest(failed), "not HTTP")
            if unread.data:  # a server may leave without an answer
                yield unread

    def _frames(self, sender: Peer, data: bytes) -> Iterator[Message]:
        frames = self.frames[sender]
        for frame, body, raw, note in frames.read(data):
            text = _frame(frame, body) if not self.engine else _packet(frame, body)
            yield Message(
                self.connection,
                sender,
                "WebSocket",
                one_line(text + note),
                raw,
                self.at,
                parsed=frame,
                body=body,
            )
        if frames.error:
            yield self._give_up(sender, frames.rest(), frames.error)

    def finish(self) -> Iterator[Message]:
        """Return what was begun and never completed."""
        for sender in ("client", "server"):
            if sender in self.lost:
                continue
            if self.http is not None:
                for found in self.http.unfinished(sender):
                    yield self._http(*found)
                rest = self.http.rest(sender)
            else:
                rest = self.frames[sender].rest()
            if rest:
                yield self._message(sender, "TCP", f"{_count(rest)}, cut off", rest)

    def _http(self, sender: Peer, event: Any, body: bytes, raw: bytes, note: str) -> Message:
        assert self.http is not None
        text = one_line(_http(event, body, self.http.engine) + note)
        return Message(self.connection, sender, "HTTP", text, raw, self.at, parsed=event, body=body)

    def _message(
        self, sender: Peer, protocol: Literal["TCP"], summary: str, data: bytes
    ) -> Message:
        return Message(self.connection, sender, protocol, summary, data, self.at)

    def _give_up(self, sender: Peer, data: bytes, why: str) -> Message:
        self.lost.add(sender)
        return self._message(sender, "TCP", f"{_count(data)}, {why}", data)


_END = {"FIN": "end of stream (FIN)", "RST": "reset (RST)"}


class _Http:
    """Both sides of an HTTP/1.1 connection, followed by h11.

    h11 plays one side of a conversation. To overhear one, play both: what the client is heard to say is received by the h11
    server and spoken by the h11 client, and the other way round.
    """

    def __init__(self) -> None:
        self._ears: dict[Peer, h11.Connection] = {
            "client": h11.Connection(h11.SERVER),
            "server": h11.Connection(h11.CLIENT),
        }
        self._raw: dict[Peer, bytes] = {"client": b"", "server": b""}
        self._head: dict[Peer, Any] = {"client": None, "server": None}
        self._body: dict[Peer, bytes] = {"client": b"", "server": b""}
        self._stream: Literal["", "chunks", "lines"] = ""
        self._chunk: tuple[Any, int] | None = None
        self.engine = False
        self.failed: set[Peer] = set()
        """Who has said something that is not HTTP."""
        self.switched: h11.InformationalResponse | None = None

    def read(self, sender: Peer, data: bytes) -> Iterator[_Heard]:
        """Yield (sender, event, body, raw bytes, note) for each message that these bytes complete."""
        self._raw[sender] += data
        try:
            self._ears[sender].receive_data(data)
        except RuntimeError:  # more data after the end: only a recording made by hand has that
            self.failed.add(sender)
        else:
            yield from self._listen(sender)

    def _listen(self, sender: Peer) -> Iterator[_Heard]:
        ear = self._ears[sender]
        mouth = self._ears["server" if sender == "client" else "client"]
        if sender == "server":
            yield from self._end_chunk()
        try:
            while True:
                event = ear.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    break
                if isinstance(event, h11.ConnectionClosed):
                    break
                assert isinstance(event, h11.Event)
                if not self.failed:
                    mouth.send(_in_version_1_1(event))
                yield from self._hear(sender, event)
                if self.switched is not None:
                    return
                if not self.failed and ear.our_state is ear.their_state is h11.DONE:
                    ear.start_next_cycle()
                    mouth.start_next_cycle()
                    if sender == "server":  # the client may have asked more before this answer
                        yield from self._listen("client")
        except (
            h11.ProtocolError,
            AttributeError,
        ):  # h11 itself fails over an answer before the question
            self.failed.add(sender)
            if sender == "client":  # what the server answers to it may well be HTTP
                answered = self._ears["server"] = h11.Connection(h11.CLIENT)
                answered.send(h11.Request(method="GET", target="/", headers=[("Host", "unknown")]))
                answered.send(h11.EndOfMessage())

    def _hear(self, sender: Peer, event: h11.Event) -> Iterator[_Heard]:
        if isinstance(event, h11.Request | h11.Response | h11.InformationalResponse):
            self._head[sender] = event
            self._body[sender] = b""
            if isinstance(event, h11.Request):
                self.engine = "EIO" in _query(event)
            elif isinstance(event, h11.InformationalResponse):
                yield sender, event, b"", self._take(sender), ""
                if event.status_code == 101:
                    self.switched = event
            elif _header(event, b"content-type").startswith("text/event-stream"):
                chunked = _header(event, b"transfer-encoding").lower() == "chunked"
                self._stream = "chunks" if chunked else "lines"
                yield sender, event, b"", self._take(sender), ""
            else:
                self._stream = ""
        elif isinstance(event, h11.Data):
            self._body[sender] += bytes(event.data)
            if sender == "server" and self._stream == "lines":
                while (end := _BLANK_LINE.search(self._body[sender])) is not None:
                    body, self._body[sender] = _cut(self._body[sender], end.end())
                    raw, self._raw[sender] = _cut(self._raw[sender], len(body))
                    yield sender, event, body, raw, ""
            elif sender == "server" and self._stream and event.chunk_end:
                self._chunk = event, self._read_so_far(sender) + 2
                yield from self._end_chunk()
        elif isinstance(event, h11.EndOfMessage):
            raw = self._take(sender)
            if sender == "client" or not self._stream:
                yield sender, self._head[sender], self._body[sender], raw, ""
            elif raw:
                yield sender, event, self._body[sender], raw, ""
            self._head[sender] = None

    def _end_chunk(self) -> Iterator[_Heard]:
        """Yield the chunk of a stream that h11 has read, once the line end after it is there, which h11 has not."""
        if self._chunk is not None and len(self._raw["server"]) >= self._chunk[1]:
            event, length = self._chunk
            raw, self._raw["server"] = _cut(self._raw["server"], length)
            yield "server", event, self._body["server"], raw, ""
            self._body["server"] = b""
            self._chunk = None

    def _read_so_far(self, sender: Peer) -> int:
        """Return how many of the bytes that are in no message yet h11 has consumed."""
        return len(self._raw[sender]) - len(self._ears[sender].trailing_data[0])

    def _take(self, sender: Peer) -> bytes:
        """Return the bytes that h11 has consumed and that are in no message yet."""
        raw, self._raw[sender] = _cut(self._raw[sender], self._read_so_far(sender))
        return raw

    def rest(self, sender: Peer) -> bytes:
        """Return the bytes that are in no message yet."""
        raw, self._raw[sender] = self._raw[sender], b""
        return raw

    def unfinished(self, sender: Peer) -> Iterator[_Heard]:
        """Yield the message whose head was read and whose body never ended."""
        head = self._head[sender]
        if head is not None and (sender == "client" or not self._stream):
            raw = self._take(sender)
            if raw:
                yield sender, head, self._body[sender], raw, " (cut off)"


def _in_version_1_1(event: h11.Event) -> h11.Event:
    """Return an event of an HTTP/1.0 peer as one that h11 is willing to say, with the same meaning."""
    if not isinstance(event, h11.Request | h11.Response) or event.http_version != b"1.0":
        return event
    headers = [*event.headers, (b"connection", b"close")]
    if isinstance(event, h11.Response):
        return h11.Response(status_code=event.status_code, headers=headers)
    if not _header(event, b"host"):
        headers.append((b"host", b"unknown"))
    return h11.Request(method=event.method, target=event.target, headers=headers)


_Heard = tuple[Peer, Any, bytes, bytes, str]
_LINE_END = re.compile(r"\r\n|\n|\r")
_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")


def _cut(data: bytes, at: int) -> tuple[bytes, bytes]:
    return data[:at], data[at:]


class _Frames:
    """One direction of a WebSocket connection."""

    def __init__(self, masked: bool, extensions: Sequence[Extension]) -> None:
        self._masked = masked
        self._extensions = extensions
        self._buffer = b""
        self.error = ""

    def read(self, data: bytes) -> Iterator[tuple[Frame, bytes, bytes, str]]:
        """Yield (frame, payload, raw bytes, note) for each frame that these bytes complete."""
        self._buffer += data
        while not self.error:
            try:
                note = ""
                try:
                    found = _parse(self._buffer, self._masked, self._extensions)
                except ProtocolError as error:
                    if "masking" not in str(error):
                        raise
                    found = _parse(self._buffer, not self._masked, self._extensions)
                    note = " (not masked)" if self._masked else " (masked)"
            except ProtocolError:
                self.error = "not a valid frame"
                return
            if found is None:
                return
            frame, length = found
            raw, self._buffer = self._buffer[:length], self._buffer[length:]
            if self._extensions and raw[0] & 0x40:
                note += " (compressed)"
            yield frame, bytes(frame.data), raw, note

    def rest(self) -> bytes:
        """Return the bytes that are in no frame."""
        rest, self._buffer = self._buffer, b""
        return rest


def _parse(data: bytes, mask: bool, extensions: Sequence[Extension]) -> tuple[Frame, int] | None:
    """Return the first frame of some bytes and its length, or None when it is not complete."""
    reader = StreamReader()
    reader.feed_data(data)
    parser: Generator[None, None, Frame] = Frame.parse(
        reader.read_exact, mask=mask, extensions=extensions
    )
    try:
        next(parser)
    except StopIteration as done:
        return done.value, len(data) - len(reader.buffer)
    return None


def _extensions(response: h11.InformationalResponse) -> Any:
    """Return a function from a peer to fresh decoders of the extensions that a handshake agreed on."""
    agreed = _header(response, b"sec-websocket-extensions")

    def fresh(sender: Peer) -> list[Extension]:
        if "permessage-deflate" not in agreed:
            return []
        bits = re.search(rf"{sender}_max_window_bits=(8|9|1[0-5])\b", agreed)
        return [
            PerMessageDeflate(
                remote_no_context_takeover=f"{sender}_no_context_takeover" in agreed,
                local_no_context_takeover=False,
                remote_max_window_bits=int(bits[1]) if bits else 15,
                local_max_window_bits=15,
            )
        ]

    return fresh


def _header(event: Any, name: bytes) -> str:
    """Return the value of a header, or an empty text."""
    return next((value.decode("latin-1") for key, value in event.headers if key == name), "")


def _query(request: h11.Request) -> dict[str, list[str]]:
    """Return the parameters of a request's target."""
    return parse_qs(request.target.decode("latin-1").partition("?")[2])


def _http(event: Any, body: bytes, engine: bool) -> str:
    if isinstance(event, h11.Request):
        target = event.target.decode("latin-1")
        if engine:
            target = f"{target.partition('?')[0]} ({_query(event).get('transport', ['?'])[0]})"
        text = f"{event.method.decode()} {target}"
        upgrade = _header(event, b"upgrade")
        if upgrade:
            text += f", Upgrade: {upgrade}"
        last = _header(event, b"last-event-id")
        if last:
            text += f", Last-Event-ID: {last}"
    elif isinstance(event, h11.Response | h11.InformationalResponse):
        text = f"{event.status_code} {event.reason.decode('latin-1')}"
        if _header(event, b"content-type").startswith("text/event-stream"):
            text += ", text/event-stream"
    elif isinstance(event, h11.EndOfMessage) and not body:
        return "end of the response"
    else:
        return " · ".join(_LINE_END.split(body.decode("utf-8", "replace"))).strip(" ·") or "nothing"
    if body:
        text += f": {_packets(body)}" if engine else f": {_shown(body)}"
    return text


def _frame(frame: Frame, body: bytes) -> str:
    """Say what a frame is, in one line."""
    name = _NAMES.get(frame.opcode, f"opcode {frame.opcode}")
    if frame.opcode is Opcode.CLOSE:
        if not body:
            return name
        try:
            close = Close.parse(body)
        except (ProtocolError, UnicodeDecodeError):
            return f"{name} {_shown(body)}"
        return f"{name} {close.code}" + (f" {close.reason}" if close.reason else "")
    if frame.opcode in (Opcode.PING, Opcode.PONG) and _looks_random(body):
        text = f"{name} ({_count(body)})"
    else:
        text = name if not body else f"{name} {_shown(body)}"
    return text if frame.fin else f"{text}, more to come"


def _looks_random(body: bytes) -> bool:
    """Whether a keepalive may have made this payload up: four random bytes (websockets, uvicorn), or more that are no text."""
    return len(body) == 4 or bool(body) and _shown(body).startswith("0x")


_NAMES = {
    Opcode.CONT: "continuation",
    Opcode.TEXT: "text",
    Opcode.BINARY: "binary",
    Opcode.CLOSE: "close",
    Opcode.PING: "ping",
    Opcode.PONG: "pong",
}


def _packet(frame: Frame, body: bytes) -> str:
    """Say what a frame of an Engine.IO connection is, in one line."""
    if frame.opcode is not Opcode.TEXT:
        return _frame(frame, body)
    return _packets(body)


_ENGINE = ("open", "close", "ping", "pong", "message", "upgrade", "noop")
_SOCKET = ("connect", "disconnect", "event", "ack", "connect error", "binary event", "binary ack")


def _packets(body: bytes) -> str:
    """Name the Engine.IO packets of a payload, and the Socket.IO packets in them."""
    return "; ".join(map(_one_packet, body.decode("utf-8", "replace").split("\x1e")))


def _one_packet(encoded: str) -> str:
    from engineio.packet import Packet as EnginePacket
    from socketio.packet import Packet as SocketPacket

    try:
        packet = EnginePacket(encoded_packet=encoded)
        if packet.packet_type != 4:
            probe = f" {packet.data}" if isinstance(packet.data, str) and packet.data else ""
            return f"Engine.IO {_ENGINE[packet.packet_type]}{probe}"
        if not packet.data:
            return _shown(encoded.encode())
        inner = SocketPacket(encoded_packet=packet.data)
        text = f"Socket.IO {_SOCKET[inner.packet_type]}"
        if inner.namespace not in (None, "/"):
            text += f" {inner.namespace}"
        if inner.packet_type not in (0, 1) and inner.data is not None:
            text += f" {inner.data}"
        return text
    except Exception:  # whatever a peer has typed
        return _shown(encoded.encode())


def one_line(text: str) -> str:
    """Escape what would end the line or steer a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _shown(data: bytes) -> str:
    """Show a payload as text if it is one, else as hexadecimal, and never more than a line."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    text = repr(text) if text and text.isprintable() else f"0x{data.hex()}"
    return text if len(text) <= 40 else f"{text[:24]}… ({_count(data)})"


def _count(data: bytes) -> str:
    return f"{len(data)} byte" + ("" if len(data) == 1 else "s")
