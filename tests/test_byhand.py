"""The client that hides nothing sends exactly the bytes it is given, and reads what a real server answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from helpers import serve
from helpers.byhand import (
    BINARY,
    CLOSE,
    CONTINUATION,
    KEY,
    MASK,
    PING,
    PONG,
    TEXT,
    accept,
    frame,
    handshake,
)


async def echo(connection: Any) -> None:
    async for message in connection:
        await connection.send(message)


@contextmanager
def saying(data: bytes) -> Iterator[int]:
    """Serve one client: read its request, say these bytes and hang up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(4096)
            client.sendall(data)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join(5)
        listener.close()


SWITCHED = (
    f"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept(KEY)}\r\n\r\n".encode()
)


def test_the_accept_key_and_the_frames_are_those_of_the_rfc() -> None:
    """RFC 6455, sections 1.3 and 5.7."""
    assert accept(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert frame("Hello", mask=None) == bytes.fromhex("810548656c6c6f")
    assert frame("Hello") == bytes.fromhex("818537fa213d7f9f4d5158")
    assert frame("Hel", fin=False, mask=None) == bytes.fromhex("010348656c")
    assert frame("lo", CONTINUATION, mask=None) == bytes.fromhex("80026c6f")
    assert frame(bytes(256), BINARY, mask=None)[:4] == bytes.fromhex("827e0100")
    assert frame(bytes(65536), BINARY, mask=None)[:10] == bytes.fromhex("827f0000000000010000")
    assert frame("", 3, reserved=0b101, mask=None) == b"\xd3\x00"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_the_library_reads_what_frame_builds(size: int) -> None:
    """Every form of the length, masked."""
    reader = StreamReader()
    reader.feed_data(frame(b"x" * size, BINARY))
    parsing = Frame.parse(reader.read_exact, mask=True)
    with pytest.raises(StopIteration) as done:
        next(parsing)
    assert done.value.value == Frame(Opcode.BINARY, b"x" * size)


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_real_server_echoes_what_was_sent(size: int) -> None:
    """Both directions, every form of the length."""
    with serve(echo) as server, handshake(server.port) as peer:
        peer.send(frame(b"x" * size, BINARY))
        assert peer.read() == (BINARY, b"x" * size, True)


def test_several_frames_and_halves_of_frames_can_be_sent() -> None:
    """What is sent is bytes, nothing else."""
    with serve(echo) as server, handshake(server.port) as peer:
        hello = frame("Hel", TEXT, fin=False) + frame("u?", PING)
        peer.send(hello[:3])
        peer.send(hello[3:], frame("lo", CONTINUATION))
        assert [peer.read(), peer.read()] == [(PONG, b"u?", True), (TEXT, b"Hello", True)]


def test_a_close_frame_shows_its_code_and_what_follows_is_none() -> None:
    """The server ends its side first."""
    with serve(echo) as server, handshake(server.port) as peer:
        peer.send(frame((1000).to_bytes(2) + b"bye", CLOSE))
        closed = peer.read()
        assert closed is not None
        assert (closed.code, repr(closed), peer.read()) == (1000, "close 1000 bye", None)


def test_frames_are_shown_in_one_line() -> None:
    """The name of the opcode, the payload, and whether more follows."""
    fragment = b"\x01\x02hi" + b"\x83\x00" + b"\x88\x00"
    with saying(SWITCHED + fragment) as port, handshake(port) as peer:
        shown = [repr(peer.read()) for _ in range(3)]
        assert shown == ["text b'hi', more to come", "opcode 3", "close"]


def test_other_headers_can_be_sent_and_the_answer_is_kept() -> None:
    """A subprotocol, for example."""
    with (
        serve(echo, subprotocols=["chat"]) as server,
        handshake(server.port, "/room", headers={"Sec-WebSocket-Protocol": "chat"}) as peer,
    ):
        assert peer.answer[0] == "HTTP/1.1 101 Switching Protocols"
        assert "Sec-WebSocket-Protocol: chat" in peer.answer


@pytest.mark.parametrize("said", [b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b""])
def test_an_answer_without_the_proof_is_refused(said: bytes) -> None:
    """Anyone can say 101; and a server may say nothing at all."""
    line = said.decode().strip() or "nothing"
    with saying(said) as port, pytest.raises(ConnectionRefusedError) as refused:
        handshake(port)
    assert str(refused.value) == (
        f"The server on port {port} did not switch to WebSocket. It said: {line}"
    )


@pytest.mark.parametrize("rest", [b"\x81", b"\x81\x05Hel", b"\x81\x7e\x00", b"\x81\x7e"])
def test_an_end_inside_a_frame_is_no_end_between_frames(rest: bytes) -> None:
    """None is only for a connection that ended in order."""
    with saying(SWITCHED + rest) as port, handshake(port) as peer, pytest.raises(EOFError):
        peer.read()


def test_reading_has_a_deadline() -> None:
    """A server that says nothing is not waited for without end."""
    with (
        serve(echo) as server,
        handshake(server.port, timeout=0.05) as peer,
        pytest.raises(TimeoutError),
    ):
        peer.read()


def test_the_mask_is_always_the_same() -> None:
    """So that a recording is, too."""
    assert frame("hi") == frame("hi")
    assert frame("hi")[2:6] == MASK
