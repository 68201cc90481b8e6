"""What a recording holds, said by the libraries that speak the protocols: nothing lost, nothing guessed."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import h11
import pytest
from conftest import DEADLINE
from flask import Flask
from flask_socketio import SocketIO
from test_server import open_socketio
from test_tap import client, listening, read_all
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from helpers import decode, serve, tap
from helpers.decode import Chunk, Message, Peer
from helpers.tap import Recording, Tap

Line = tuple[str, str]


def lines(messages: Iterable[Message], connection: int = 1) -> list[Line]:
    """Return who said what, in short."""
    return [
        (message.sender, message.summary)
        for message in messages
        if message.connection == connection and message.data
    ]


def decoded(recording: Sequence[Chunk]) -> list[Message]:
    """Decode, and check what holds for every recording: each byte is in one message, in order."""
    messages = decode(recording)
    for connection in {chunk.connection for chunk in recording}:
        for sender in ("client", "server"):
            said = [c.data for c in recording if (c.connection, c.sender) == (connection, sender)]
            heard = [m.data for m in messages if (m.connection, m.sender) == (connection, sender)]
            assert b"".join(heard) == b"".join(said)
    assert sum(message.size for message in messages) == sum(len(c.data) for c in recording)
    assert all(message.summary.isprintable() for message in messages)
    assert all(message.summary for message in messages)
    return messages


# HTTP


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    question = b""
    while (message := await receive()).get("more_body"):
        question += message["body"]
    question += message["body"]
    status, headers, bodies = {
        "/204": (204, [], []),
        "/304": (304, [], []),
        "/length": (200, [(b"content-length", b"5")], [b"hello"]),
        "/binary": (200, [(b"content-length", b"3")], [b"\x00\x01\xff"]),
        "/chunks": (200, [], [b"he", b"llo"]),
        "/echo": (201, [], [question]),
        "/events": (
            200,
            [(b"content-type", b"text/event-stream; charset=utf-8")],
            [b"id: 1\ndata: one\n\n", b"data: two\ndata: lines\n\n", b": still here\n\n"],
        ),
    }[scope["path"]]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for body in bodies:
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def record(
    application: Any, talk: Callable[[Tap], object], **options: Any
) -> tuple[Recording, list[Message]]:
    with serve(application, name="server", **options) as server, tap(server) as wire:
        talk(wire)
        assert wire.settle(DEADLINE)
    return wire.recording, decoded(wire.recording)


def ask(wire: Tap, *requests: bytes) -> None:
    """Send some requests over one connection, one after the other, the last one says that it is the last."""
    with client(wire) as sock:
        for request in requests:
            sock.sendall(request)
            h11_client = h11.Connection(h11.CLIENT)
            method = request.split()[0].decode()
            h11_client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
            h11_client.send(h11.EndOfMessage())
            while not isinstance(event := h11_client.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    h11_client.receive_data(sock.recv(65536))


def request(what: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"{what} HTTP/1.1", "Host: a", *headers, "", ""]).encode() + body


def talk_http(wire: Tap) -> None:
    ask(
        wire,
        request("GET /length?name=ann"),
        request("HEAD /length"),
        request("GET /204"),
        request("GET /304"),
        request("GET /chunks"),
        request("POST /echo", "Content-Length: 3", body=b"abc"),
        request(
            "POST /echo", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
        ),
        request("GET /binary", "Connection: close"),
    )


HTTP: list[Line] = [
    ("client", "GET /length?name=ann"),
    ("server", "200 OK: 'hello'"),
    ("client", "HEAD /length"),
    ("server", "200 OK"),
    ("client", "GET /204"),
    ("server", "204 No Content"),
    ("client", "GET /304"),
    ("server", "304 Not Modified"),
    ("client", "GET /chunks"),
    ("server", "200 OK: 'hello'"),
    ("client", "POST /echo: 'abc'"),
    ("server", "201 Created: 'abc'"),
    ("client", "POST /echo: 'abcd'"),
    ("server", "201 Created: 'abcd'"),
    ("client", "GET /binary"),
    ("server", "200 OK: 0x0001ff"),
]


def test_http_with_several_requests_on_one_connection() -> None:
    recording, messages = record(application, talk_http)
    assert lines(messages) == HTTP
    assert recording.connections == 1
    assert {message.protocol for message in messages if message.data} == {"HTTP"}
    assert [m.summary for m in messages if not m.data] == ["end of stream (FIN)"] * 2
    posted = next(message for message in messages if message.summary == "POST /echo: 'abcd'")
    assert isinstance(posted.parsed, h11.Request)
    assert posted.body == b"abcd"
    assert posted.data.endswith(b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n")
    answered = [m for m in messages if isinstance(m.parsed, h11.Response)]
    assert [m.parsed.status_code for m in answered] == [200, 200, 204, 304, 200, 201, 201, 200]


def talk_pipeline(wire: Tap) -> None:
    """Ask three things at once; the answers come in order."""
    with client(wire) as sock:
        sock.sendall(
            request("GET /length")
            + request("GET /204")
            + request("GET /chunks", "Connection: close")
        )
        read_all(sock)


def test_requests_that_were_not_waited_for() -> None:
    _, messages = record(application, talk_pipeline)
    assert lines(messages) == [
        ("client", "GET /length"),
        ("server", "200 OK: 'hello'"),
        ("client", "GET /204"),
        ("server", "204 No Content"),
        ("client", "GET /chunks"),
        ("server", "200 OK: 'hello'"),
    ]


def talk_sse(wire: Tap) -> None:
    ask(
        wire,
        request("GET /events", "Last-Event-ID: 7"),
        request("GET /length"),
        request("GET /events", "Connection: close"),
    )


SSE: list[Line] = [
    ("client", "GET /events, Last-Event-ID: 7"),
    ("server", "200 OK, text/event-stream"),
    ("server", "id: 1 · data: one"),
    ("server", "data: two · data: lines"),
    ("server", ": still here"),
    ("server", "end of the response"),
    ("client", "GET /length"),
    ("server", "200 OK: 'hello'"),
    ("client", "GET /events"),
    ("server", "200 OK, text/event-stream"),
    ("server", "id: 1 · data: one"),
    ("server", "data: two · data: lines"),
    ("server", ": still here"),
    ("server", "end of the response"),
]


def test_a_stream_of_events_is_a_message_for_each() -> None:
    _, messages = record(application, talk_sse)
    assert lines(messages) == SSE
    event = next(message for message in messages if message.summary == "id: 1 · data: one")
    assert event.data == b"11\r\nid: 1\ndata: one\n\n\r\n"
    assert event.body == b"id: 1\ndata: one\n\n"


def test_a_stream_without_chunks_is_a_message_for_each_event_too() -> None:
    """A server that speaks HTTP/1.0 just closes the connection at the end."""
    events = b"data: 1\n\ndata: 2\r\n\r\ndata: 3\n\ndata: cut o"

    def answer(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + events)

    with listening(answer) as port, tap(port) as wire, client(wire) as sock:
        sock.sendall(request("GET /events"))
        read_all(sock)
    assert lines(decoded(wire.recording)) == [
        ("client", "GET /events"),
        ("server", "200 OK, text/event-stream"),
        ("server", "data: 1"),
        ("server", "data: 2"),
        ("server", "data: 3"),
        ("server", "data: cut o"),
    ]


@pytest.mark.parametrize("host", [b"Host: a\r\n", b""])
def test_a_client_of_http_1_0_is_understood(host: bytes) -> None:
    def talk(wire: Tap) -> None:
        with client(wire) as sock:
            sock.sendall(b"POST /echo HTTP/1.0\r\nContent-Length: 3\r\n" + host + b"\r\nabc")
            read_all(sock)

    _, messages = record(application, talk)
    assert lines(messages) == [("client", "POST /echo: 'abc'"), ("server", "201 Created: 'abc'")]


def test_an_interim_response_is_a_message_of_its_own() -> None:
    def talk(wire: Tap) -> None:
        with client(wire) as sock:
            sock.sendall(request("POST /echo", "Expect: 100-continue", "Content-Length: 3"))
            assert sock.recv(1000).startswith(b"HTTP/1.1 100")
            sock.sendall(b"abc")
            answer = b""
            while not answer.endswith(b"0\r\n\r\n"):
                answer += sock.recv(1000)

    _, messages = record(application, talk)
    assert lines(messages) == [
        ("server", "100 Continue"),
        ("client", "POST /echo: 'abc'"),
        ("server", "201 Created: 'abc'"),
    ]


# WebSocket


async def echo(connection: Any) -> None:
    async for message in connection:
        await connection.send(message)


def talk_websocket(wire: Tap, compression: str | None = None) -> None:
    with connect(wire.ws_url("/ws"), proxy=None, compression=compression) as connection:
        for message in ("hello", b"\x00\x01", "", "x" * 200):
            connection.send(message)
            assert connection.recv(timeout=DEADLINE) == message
        connection.send(["frag", "men", "ted"])
        assert connection.recv(timeout=DEADLINE) == "fragmented"
        assert connection.ping(b"hi").wait(DEADLINE)
        connection.close(4001, "bye")


WEBSOCKET: list[Line] = [
    ("client", "GET /ws, Upgrade: websocket"),
    ("server", "101 Switching Protocols"),
    ("client", "text 'hello'"),
    ("server", "text 'hello'"),
    ("client", "binary 0x0001"),
    ("server", "binary 0x0001"),
    ("client", "text"),
    ("server", "text"),
    ("client", f"text '{'x' * 23}… (200 bytes)"),
    ("server", f"text '{'x' * 23}… (200 bytes)"),
    ("client", "text 'frag', more to come"),
    ("client", "continuation 'men', more to come"),
    ("client", "continuation 'ted', more to come"),
    ("client", "continuation"),
    ("server", "text 'fragmented'"),
    ("client", "ping 'hi'"),
    ("server", "pong 'hi'"),
    ("client", "close 4001 bye"),
    ("server", "close 4001 bye"),
]


def test_websocket_frames() -> None:
    _, messages = record(echo, talk_websocket)
    assert lines(messages) == WEBSOCKET
    sizes = [message.size for message in messages if message.protocol == "WebSocket"]
    assert sizes == [11, 7, 8, 4, 6, 2, 208, 204, 10, 9, 9, 6, 12, 8, 4, 11, 7]
    hello = next(message for message in messages if message.summary == "text 'hello'")
    assert isinstance(hello.parsed, Frame)
    assert hello.parsed.opcode is Opcode.TEXT
    assert hello.body == b"hello", "without its mask"


def test_compressed_frames_are_read_and_said_to_be() -> None:
    """Every kind of agreement about the compression, because a decoder with a wrong one fails late."""
    from websockets.extensions.permessage_deflate import (
        ClientPerMessageDeflateFactory,
        ServerPerMessageDeflateFactory,
    )

    expected = [
        (who, text + " (compressed)" if text.startswith(("text", "binary")) else text)
        for who, text in WEBSOCKET
    ]
    agreements = 0
    for no_context in (False, True):
        for bits in (9, 15):
            agreed = {
                "server_no_context_takeover": no_context,
                "client_no_context_takeover": no_context,
                "server_max_window_bits": bits,
                "client_max_window_bits": bits,
            }
            _, messages = record(
                echo,
                lambda wire, agreed=agreed: talk_compressed(
                    wire, ClientPerMessageDeflateFactory(**agreed)
                ),
                extensions=[ServerPerMessageDeflateFactory(**agreed)],
            )
            assert lines(messages) == expected
            agreements += 1
    assert agreements == 4


def talk_compressed(wire: Tap, factory: Any) -> None:
    with connect(
        wire.ws_url("/ws"), proxy=None, compression=None, extensions=[factory]
    ) as connection:
        for message in ("hello", b"\x00\x01", "", "x" * 200):
            connection.send(message)
            assert connection.recv(timeout=DEADLINE) == message
        connection.send(["frag", "men", "ted"])
        assert connection.recv(timeout=DEADLINE) == "fragmented"
        assert connection.ping(b"hi").wait(DEADLINE)
        connection.close(4001, "bye")


# Engine.IO and Socket.IO


def chat() -> Flask:
    application = Flask("flask")
    server = SocketIO(application, async_mode="threading")

    @server.on("say")
    def say(text: str) -> tuple[str, int]:
        server.emit("heard", ("you", {"text": text}))
        return "ok", 5

    @server.on("binary")
    def binary(data: bytes) -> None:
        server.emit("binary", data)

    server.on("connect", namespace="/other")(lambda: None)
    return application


def talk_socketio(wire: Tap, transport: str) -> None:
    with open_socketio(wire, transport) as talking:  # type: ignore[arg-type]
        heard = threading.Event()
        talking.on("binary", lambda data: heard.set())
        assert talking.call("say", "hi", timeout=DEADLINE) == ("ok", 5)
        talking.emit("binary", b"\x01\x02")
        assert heard.wait(DEADLINE)


CLIENT_SAYS = [
    "Socket.IO connect",
    "Socket.IO event ['say', 'hi']",
    "Socket.IO binary event ['binary', {'_placeholder': True, 'num': 0}]",
]
SERVER_SAYS = [
    "Engine.IO open",
    "Socket.IO connect",
    "Socket.IO event ['heard', 'you', {'text': 'hi'}]",
    "Socket.IO ack ['ok', 5]",
    "Socket.IO binary event ['binary', {'_placeholder': True, 'num': 0}]",
]


def test_socketio_over_websocket() -> None:
    _, messages = record(chat(), lambda wire: talk_socketio(wire, "websocket"))
    said = lines(messages)
    assert said[:2] == [
        ("client", "GET /socket.io/ (websocket), Upgrade: websocket"),
        ("server", "101 Switching Protocols"),
    ]
    attachment = ["binary 0x0102"]
    assert [text for who, text in said[2:] if who == "server"][:6] == SERVER_SAYS + attachment
    assert [text for who, text in said[2:] if who == "client"][:4] == CLIENT_SAYS + attachment


def test_socketio_over_polling() -> None:
    recording, messages = record(chat(), lambda wire: talk_socketio(wire, "polling"))
    assert {m.protocol for m in messages if m.data} == {"HTTP"}
    posted = [m.summary for m in messages if m.summary.startswith("POST")]
    prefix = "POST /socket.io/ (polling): "
    assert [text.removeprefix(prefix) for text in posted[:3]] == [
        *CLIENT_SAYS[:2],
        f"{CLIENT_SAYS[2]}; 'bAQI='",
    ]
    polled = [m.summary for m in messages if m.sender == "server"]
    packets = [packet for text in polled for packet in text.removeprefix("200 OK: ").split("; ")]
    assert [packet for packet in packets if packet in SERVER_SAYS] == SERVER_SAYS
    assert sum(m.summary == "GET /socket.io/ (polling)" for m in messages) >= 3
    assert recording.connections > 3


def test_socketio_that_upgrades() -> None:
    def talk(wire: Tap) -> None:
        import socketio

        talking = socketio.Client(handle_sigint=False, reconnection=False)
        talking.connect(wire.url(), wait_timeout=DEADLINE)
        assert talking.call("say", "hi", timeout=DEADLINE) == ("ok", 5)
        talking.disconnect()
        talking.eio.ws.shutdown()

    _, messages = record(chat(), talk)
    assert lines(messages, 1) == [
        ("client", "GET /socket.io/ (polling)"),
        ("server", "200 OK: Engine.IO open"),
    ]
    upgraded = lines(messages, 2)
    assert upgraded[0] == ("client", "GET /socket.io/ (websocket), Upgrade: websocket")
    assert [text for who, text in upgraded if who == "client"][1:4] == [
        "Engine.IO ping probe",
        "Engine.IO upgrade",
        "Socket.IO connect",
    ]
    assert [text for who, text in upgraded if who == "server"][:4] == [
        "101 Switching Protocols",
        "Engine.IO pong probe",
        "Engine.IO noop",
        "Socket.IO connect",
    ]


HANDSHAKE = [
    Chunk(1, "client", request("GET /?EIO=4&transport=websocket", "Upgrade: websocket", "Connection: Upgrade")),
    Chunk(
        1,
        "server",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ),
]  # fmt: skip


def frames(*payloads: bytes | str, engine: bool = False) -> list[str]:
    """Return what some bytes from a server mean: text becomes a frame, bytes are what they are."""
    first, second = HANDSHAKE
    if not engine:
        first = Chunk(1, "client", first.data.replace(b"EIO", b"XYZ"))
    chunks = [first, second]
    for payload in payloads:
        if isinstance(payload, str):
            payload = Frame(Opcode.TEXT, payload.encode()).serialize(mask=False)
        chunks.append(Chunk(1, "server", payload))
    return [text for who, text in lines(decoded(chunks))[2:]]


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        ("2", "Engine.IO ping"),
        ("3probe", "Engine.IO pong probe"),
        ('0{"sid":"secret"}', "Engine.IO open"),
        ('40{"sid":"secret"}', "Socket.IO connect"),
        ("40/other,", "Socket.IO connect /other"),
        ("41", "Socket.IO disconnect"),
        ('44{"message":"no"}', "Socket.IO connect error {'message': 'no'}"),
        ('42/other,["say","hi"]', "Socket.IO event /other ['say', 'hi']"),
        ('431["ok"]', "Socket.IO ack ['ok']"),
        # What no library would say:
        ("", "0x"),
        ("9", "'9'"),
        ("4", "'4'"),
        ("48", "'48'"),
        ("42[", "'42['"),
        ("4[1]", "'4[1]'"),
        ('4{"a":1}', "'4{\"a\":1}'"),
        ("4null", "'4null'"),
        ('451-["a"', "'451-[\"a\"'"),
        ("hello", "'hello'"),
        ('2\x1b[31m"\n', 'Engine.IO ping \\x1b[31m"\\n'),
        ("42" + "[" * 5000, f"'42{'[' * 21}… (5002 bytes)"),
    ],
)
def test_packets(packet: str, said: str) -> None:
    assert frames(packet, engine=True) == [said]


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "ping"),
        (b"hello", "ping 'hello'"),
        (b"abcd", "ping (4 bytes)"),
        (b"\xff\x00\x12", "ping (3 bytes)"),
        (b"\x18\xea\x7e\xf5\x5e\x40\xe7\x75\x00\x00\x00\x01", "ping (12 bytes)"),
    ],
)
def test_the_payload_of_a_keepalive_is_not_shown(payload: bytes, said: str) -> None:
    """It is invented for each ping, by websockets and uvicorn with four bytes, which may happen to be text."""
    ping = bytes([0x89, len(payload)]) + payload
    pong = bytes([0x8A, len(payload)]) + payload
    assert frames(ping, pong) == [said, said.replace("ping", "pong")]


# What should not be


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x81\x85\x00\x00\x00\x00hello", ["text 'hello' (masked)"]),
        (b"\x83\x00after", ["7 bytes, not a valid frame"]),
        (b"\x8f\x02hi", ["4 bytes, not a valid frame"]),
        (b"\xb1\x02hi", ["4 bytes, not a valid frame"]),
        (b"\xc1\x02hi", ["4 bytes, not a valid frame"]),
        (b"\x09\x00", ["2 bytes, not a valid frame"]),
        (b"\x89\x7e\x00\x80" + b"x" * 128, ["132 bytes, not a valid frame"]),
        (b"\x88\x01\x03", ["close 0x03"]),
        (b"\x88\x02\x03\xec", ["close 0x03ec"]),
        (b"\x88\x04\x03\xe8\xff\xff", ["close 0x03e8ffff"]),
        (b"\x88\x00", ["close"]),
        (b"\x81\x02\xff\xfe", ["text 0xfffe"]),
        (b"\x81\x7f\xff", ["3 bytes, cut off"]),
        (b"\x81", ["1 byte, cut off"]),
        (b"\x81\x02hi\x81\x05he", ["text 'hi'", "4 bytes, cut off"]),
        (b"\x88\x0e\x03\xe8\x1b[31m\nred<b>", ["close 1000 \\x1b[31m\\nred<b>"]),
        (b"\x80\x02hi", ["continuation 'hi'"]),
    ],
)
def test_frames_that_break_the_rules_are_messages(data: bytes, said: list[str]) -> None:
    assert frames(data) == said
    assert frames("first", data)[1:] == said


def test_a_frame_that_is_not_masked_is_read_and_said_to_be_so() -> None:
    recording = [*HANDSHAKE, Chunk(1, "client", b"\x81\x01x\x81\x81\x00\x00\x00\x00y")]
    assert lines(decoded(recording))[2:] == [("client", "'x' (not masked)"), ("client", "'y'")]


def test_what_follows_a_broken_frame_is_kept() -> None:
    recording = [*HANDSHAKE, *(Chunk(1, "server", data) for data in (b"\x83\x00", b"abc", b"d"))]
    assert lines(decoded(recording))[2:] == [
        ("server", "2 bytes, not a valid frame"),
        ("server", "3 bytes"),
        ("server", "1 byte"),
    ]


def test_garbage_answered_with_400_is_decoded() -> None:
    def talk(wire: Tap) -> None:
        with client(wire) as sock:
            sock.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            read_all(sock)

    _, messages = record(application, talk)
    (asked, garbage), (answered, answer) = lines(messages)
    assert (asked, garbage) == ("client", "23 bytes, not HTTP")
    assert (answered, answer[:15]) == ("server", "400 Bad Request")
    assert isinstance(messages[1].parsed, h11.Response)


@pytest.mark.parametrize(
    "recording",
    [
        [
            ("server", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
            ("client", request("GET /")),
        ],
        [("client", request("GET //[")), ("server", b"HTTP/1.1 200 \xff\xfe\r\n\r\n")],
        [("client", request("GET /")), ("server", b"SSH-2.0-OpenSSH\r\n"), ("client", b"more")],
        [("client", request("GET /")), ("server", b"HTTP/1.1 101 X\r\n\r\n\x81\x02hi")],
        [("server", b"220 mail.example.com ESMTP\r\n"), ("client", b"HELO me\r\n")],
        [
            ("client", request("GET /", "Upgrade: websocket", "Connection: upgrade")),
            (
                "server",
                b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
                b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99\r\n\r\n",
            ),
        ],
        [("client", request("CONNECT a:1")), ("server", b"HTTP/1.1 200 OK\r\n\r\n\x00\x01")],
        [("client", b""), ("server", b"")],
        [],
    ],
)
def test_conversations_that_make_no_sense_are_messages(recording: list[tuple[Peer, bytes]]) -> None:
    chunks = [Chunk(1, sender, data) for sender, data in recording]
    messages = decoded(chunks)
    assert len(messages) >= len([data for _, data in recording if data])
    for end in ("FIN", "RST"):
        ended = [*chunks, Chunk(1, "client", b"", end=end), Chunk(1, "client", b"late")]
        assert decoded(ended)


def test_the_ends_are_messages() -> None:
    chunks = [
        Chunk(2, "client", request("GET /"), 1.0),
        Chunk(2, "server", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel", 2.0),
        Chunk(2, "server", b"", 3.0, "RST"),
        Chunk(2, "client", b"", 4.0, "FIN"),
    ]
    messages = decoded(chunks)
    assert [(m.sender, m.protocol, m.summary, m.at) for m in messages] == [
        ("client", "HTTP", "GET /", 1.0),
        ("server", "TCP", "reset (RST)", 3.0),
        ("client", "TCP", "end of stream (FIN)", 4.0),
        ("server", "HTTP", "200 OK: 'hel' (cut off)", 4.0),
    ]
    assert {message.connection for message in messages} == {2}


def test_connections_are_told_apart() -> None:
    """Two handshakes and their frames, one byte of each at a time."""
    whole = [*HANDSHAKE, Chunk(1, "server", Frame(Opcode.TEXT, b"2").serialize(mask=False))]
    alone = lines(decoded(whole))
    mixed: list[Chunk] = []
    for chunk in whole:
        for byte in chunk.data:
            mixed += [Chunk(number, chunk.sender, bytes([byte])) for number in (1, 2, 3)]
    messages = decoded(mixed)
    assert [lines(messages, number) for number in (1, 2, 3)] == [alone] * 3
    assert alone[-1] == ("server", "Engine.IO ping")


# Properties


def conversations() -> dict[str, list[Chunk]]:
    """Record one conversation of each kind."""
    return {
        "http": list(record(application, talk_http)[0]),
        "pipeline": list(record(application, talk_pipeline)[0]),
        "sse": list(record(application, talk_sse)[0]),
        "websocket": list(record(echo, talk_websocket)[0]),
        "compressed": list(
            record(echo, lambda wire: talk_websocket(wire, "deflate"), compression="deflate")[0]
        ),
        "socketio": list(record(chat(), lambda wire: talk_socketio(wire, "websocket"))[0]),
        "polling": list(record(chat(), lambda wire: talk_socketio(wire, "polling"))[0]),
    }


def facts(messages: Iterable[Message]) -> list[tuple[int, str, str, str, bytes, bytes]]:
    return [(m.connection, m.sender, m.protocol, m.summary, m.data, m.body) for m in messages]


def split(chunks: list[Chunk], source: random.Random) -> list[Chunk]:
    """Cut each chunk into pieces at random places: as TCP may."""
    pieces: list[Chunk] = []
    for chunk in chunks:
        if chunk.end:
            pieces.append(chunk)
            continue
        count = source.choice([1, 2, 3, len(chunk.data) or 1])
        places = sorted(source.choices(range(len(chunk.data) + 1), k=count - 1))
        bounds = [0, *places, len(chunk.data)]
        for start, end in zip(bounds, bounds[1:], strict=False):
            if start < end:
                data = chunk.data[start:end]
                pieces.append(Chunk(chunk.connection, chunk.sender, data, chunk.at))
    return pieces


def test_how_tcp_cuts_the_bytes_changes_nothing() -> None:
    """Seven conversations, each cut in twenty ways and byte by byte."""
    tried = 0
    for name, chunks in conversations().items():
        whole = facts(decoded(chunks))
        source = random.Random(f"{name} 1")
        for _ in range(20):
            pieces = split(chunks, source)
            assert facts(decoded(pieces)) == whole, name
            tried += 1
        bytewise = [
            Chunk(c.connection, c.sender, c.data[at : at + 1], c.at, c.end)
            for c in chunks
            for at in range(max(1, len(c.data)))
        ]
        assert facts(decoded(bytewise)) == whole, name
        tried += 1
    assert tried == 7 * 21


def test_a_recording_that_stops_at_any_byte_is_decoded() -> None:
    """Every byte of the handshakes and of what follows, in the middle and at the end of a stream."""
    tried = 0
    for chunks in (
        list(record(echo, talk_websocket)[0]),
        list(record(application, talk_sse)[0]),
    ):
        data = [chunk for chunk in chunks if chunk.data]
        total = sum(len(chunk.data) for chunk in data)
        for length in range(min(total, 800)):
            left, cut = length, []
            for chunk in data:
                piece = chunk.data[:left]
                left -= len(piece)
                if piece:
                    cut.append(Chunk(chunk.connection, chunk.sender, piece))
            decoded(cut)
            decoded([*cut, Chunk(1, "client", b"", end="FIN"), Chunk(1, "server", b"", end="FIN")])
            tried += 1
    assert tried > 1400


def test_bytes_that_were_changed_are_decoded() -> None:
    """A thousand conversations with a few wrong bytes: no exception, nothing lost."""
    source = random.Random(3)
    recorded = list(conversations().values())
    for _ in range(1000):
        chunks = list(source.choice(recorded))
        for _ in range(source.randrange(1, 4)):
            at = source.randrange(len(chunks))
            data = bytearray(chunks[at].data)
            if data:
                data[source.randrange(len(data))] = source.randrange(256)
                old = chunks[at]
                chunks[at] = Chunk(old.connection, old.sender, bytes(data), old.at, old.end)
        decoded(chunks)


# What a network did


def test_each_message_knows_what_of_it_has_not_arrived() -> None:
    """Whatever the pieces in which it was heard: the losses of the messages are those of the recording."""
    one = Frame(Opcode.TEXT, b"hello").serialize(mask=True)
    source = random.Random(5)
    shake = [
        request("GET /ws", "Upgrade: websocket", "Connection: Upgrade"),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ]
    stream, lost = one * 4, len(one) + 3
    for _ in range(100):
        cuts = sorted(source.sample(range(1, len(stream)), 5))
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        chunks = [Chunk(1, "client", shake[0]), Chunk(1, "server", shake[1])]
        chunks += [Chunk(1, "client", piece) for piece in pieces]
        left = lost
        for chunk in reversed(chunks):  # what is lost is always an end of what was said
            chunk.lost = min(left, len(chunk.data))
            left -= chunk.lost
        messages = decoded(chunks)
        assert [message.lost for message in messages] == [0, 0, 0, 0, 3, len(one)]
    assert [message.held for message in messages] == [False] * 6


def test_what_a_network_did_is_a_message_of_its_own() -> None:
    chunks = [
        Chunk(0, "network", b"", event="begins: black hole"),
        Chunk(1, "client", request("GET /1"), held=True),
        Chunk(1, "network", b"HTTP/1.1 403 Forbidden\r\n\r\n", event="403 Forbidden"),
        Chunk(1, "client", b"", end="FIN", lost=1, held=True),
    ]
    assert [(m.sender, m.protocol, m.summary, m.lost, m.held) for m in decoded(chunks)] == [
        ("network", "network", "begins: black hole", 0, False),
        ("client", "HTTP", "GET /1", 0, True),
        ("network", "network", "403 Forbidden", 0, False),
        ("client", "TCP", "end of stream (FIN)", 1, True),
    ]
