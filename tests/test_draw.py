"""Drawings say the same as HTML and as text, and whatever was typed is only text in them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from html.parser import HTMLParser
from typing import Any

import pytest
from conftest import DEADLINE
from test_server import WebSockets, start
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.sync.client import connect

from helpers import chart, decode, ladder, show, table, tap
from helpers.decode import Chunk
from helpers.draw import FOLLOW, Drawing

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<a href='javascript:alert(1)'>here</a>",
    "<style>*{display:none}</style>",
    "<plaintext>",
    "<textarea>",
    "<!-- swallowed",
    "--><b>bold</b>",
    "]]><b>bold</b>",
    "</td></tr></table><h1>out</h1>",
    "</pre></details><h1>out</h1>",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    '"><b>bold</b>',
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;",
    "{{7*7}} ${7*7} %s",
    "＜script＞",
]
"""What learners and peers may type."""

VOID = {"input", "br", "hr", "img"}


class Page(HTMLParser):
    """HTML that is balanced: its text, and its tags with their attributes."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(markup)
        self.close()
        assert self._open == [], "every element has an end"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"{tag} has an attribute twice"
        handlers = [attribute for attribute in attrs if attribute[0].startswith("on")]
        assert handlers in ([], [("ontoggle", FOLLOW)]), f"{tag} has a handler"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, "elements are nested"

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        pytest.fail("a drawing has no comments")

    def names(self) -> set[str]:
        return {tag for tag, _ in self.tags}

    def texts(self, wanted: str, markup: str) -> list[str]:
        """Return the text of each element of one kind."""
        found, open_now = [], []

        class Collect(HTMLParser):
            def handle_starttag(self, tag: str, attrs: Any) -> None:
                if tag == wanted:
                    open_now.append("")

            def handle_data(self, data: str) -> None:
                if open_now:
                    open_now[-1] += data

            def handle_endtag(self, tag: str) -> None:
                if tag == wanted:
                    found.append(open_now.pop())

        Collect().feed(markup)
        return found


TABLE = {"table", "caption", "thead", "tbody", "tr", "th", "td"}
CHART = TABLE - {"thead"} | {"div"}
LADDER = TABLE | {"div", "span", "details", "summary", "pre"}


def cells(drawing: Drawing, kind: str = "td") -> list[str]:
    markup = drawing._repr_html_()
    return Page(markup).texts(kind, markup)


# Tables


def test_a_table_aligns_text_left_and_numbers_right() -> None:
    rows = [
        {"transport": "polling", "bytes": 1234567, "p50": 12.3456, "open": True},
        {"transport": "SSE", "bytes": 50, "p50": 0.5, "open": False},
    ]
    drawing = table(rows, caption="Two transports")
    assert repr(drawing) == (
        "Two transports\n"
        "transport      bytes   p50  open\n"
        "polling    1,234,567  12.3  True\n"
        "SSE               50   0.5  False"
    )
    page = Page(drawing._repr_html_())
    assert page.names() == TABLE
    assert cells(drawing, "caption") == ["Two transports"]
    assert cells(drawing, "th") == ["transport", "bytes", "p50", "open"]
    assert cells(drawing) == ["polling", "1,234,567", "12.3", "True", "SSE", "50", "0.5", "False"]
    heads = [attributes for tag, attributes in page.tags if tag == "th"]
    assert [head["scope"] for head in heads] == ["col"] * 4
    aligned = [
        "right" if "text-align:right" in str(attributes["style"]) else "left"
        for tag, attributes in page.tags
        if tag in ("th", "td")
    ]
    assert aligned == ["left", "right", "right", "left"] * 3


def test_a_table_without_a_caption_has_none() -> None:
    drawing = table([{"a": "x"}])
    assert repr(drawing) == "a\nx"
    assert "caption" not in Page(drawing._repr_html_()).names()


def test_a_value_that_is_missing_leaves_its_cell_empty() -> None:
    drawing = table([{"a": "x", "b": 1}, {"a": "y"}])
    assert repr(drawing) == "a  b\nx  1\ny"
    assert cells(drawing) == ["x", "1", "y", ""]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"), (-5, "-5"), (1000, "1,000"), (123456789, "123,456,789"),
        (0.0, "0"), (0.12345, "0.123"), (1.0, "1"), (99.94, "99.9"), (100.4, "100"),
        (12345.6, "12,346"), (-1234.5, "-1,234"), (True, "True"), (None, "None"), ("7", "7"),
    ],
)  # fmt: skip
def test_numbers_are_short_and_read_well(value: object, said: str) -> None:
    drawing = table([{"n": value}])
    assert cells(drawing) == [said]
    assert repr(drawing).split() == ["n", said]


def test_a_line_end_in_a_cell_does_not_end_the_line() -> None:
    drawing = table([{"a": "one\ntwo", "b": "\x1b[31mred"}])
    assert repr(drawing) == "a         b\none\\ntwo  \\x1b[31mred"
    assert cells(drawing) == ["one\\ntwo", "\\x1b[31mred"]


def test_nothing_is_no_table() -> None:
    with pytest.raises(ValueError, match=r"^A table needs at least one row\.$"):
        table([])


# Charts


def test_a_chart_has_a_bar_for_each_value_on_one_scale() -> None:
    drawing = chart({"SSE": 50, "polling": 100, "none": 0}, unit="bytes", caption="Bytes")
    full, half = "█" * 32, "█" * 16
    assert repr(drawing) == (
        f"Bytes\nSSE      {half} 50 bytes\npolling  {full} 100 bytes\nnone     0 bytes"
    )
    page = Page(drawing._repr_html_())
    assert page.names() == CHART
    assert cells(drawing, "caption") == ["Bytes"]
    assert cells(drawing, "th") == ["SSE", "polling", "none"]
    assert [cell for cell in cells(drawing) if cell] == ["50 bytes", "100 bytes", "0 bytes"]
    bars = [str(attributes["style"]) for tag, attributes in page.tags if tag == "div"]
    assert ["50.0%" in bars[0], "100.0%" in bars[1], "0.0%" in bars[2]] == [True] * 3
    assert {attributes["scope"] for tag, attributes in page.tags if tag == "th"} == {"row"}


def test_a_chart_of_series_names_each() -> None:
    drawing = chart(
        {"SSE": {"p50": 1.0, "p99": 4.0}, "polling": {"p50": 2.0, "p99": 8.0}},
        unit="ms",
        caption="Latency",
    )
    bar = "█"
    assert repr(drawing).split("\n") == [
        "Latency",
        f"SSE p50      {bar * 4} 1 ms",
        f"  p99        {bar * 16} 4 ms",
        f"polling p50  {bar * 8} 2 ms",
        f"  p99        {bar * 32} 8 ms",
    ]
    assert cells(drawing, "th") == ["SSE", "", "polling", ""]
    assert [c for c in cells(drawing) if c] == [
        "p50", "1 ms", "p99", "4 ms", "p50", "2 ms", "p99", "8 ms",
    ]  # fmt: skip


def test_a_small_value_is_still_seen() -> None:
    assert "█ 0.001 ms" in repr(chart({"a": 0.001, "b": 1000.0}, unit="ms", caption="c"))


@pytest.mark.parametrize("values", [{}, {"a": -1}, {"a": {"p50": 1.0, "p99": -0.1}}])
def test_a_chart_needs_values_and_none_below_zero(values: Any) -> None:
    with pytest.raises(ValueError, match="at least one value, and none below 0") as caught:
        chart(values, unit="ms", caption="c")
    assert repr(values) in str(caught.value)


def test_a_chart_of_nothing_but_zeros_can_be_drawn() -> None:
    assert repr(chart({"a": 0, "b": 0}, unit="B", caption="c")) == "c\na  0 B\nb  0 B"


# Ladders


def talk() -> list[Chunk]:
    """A handshake, a message each way and a close, as a recording."""
    request = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    return [
        Chunk(1, "client", request.encode()),
        Chunk(1, "server", answer.encode()),
        Chunk(1, "client", b"\x81\x85\x00\x00\x00\x00hello"),
        Chunk(1, "server", b"\x81\x05hello"),
        Chunk(1, "client", b"", end="FIN"),
        Chunk(1, "server", b"", end="RST"),
    ]


def test_a_ladder_is_an_arrow_for_each_message() -> None:
    drawing = ladder(talk(), caption="An echo", width=48)
    assert repr(drawing).split("\n") == [
        "An echo",
        "client                                      server",
        "│─ GET /ws, Upgrade: websocket ───────────────▶│ HTTP, 70 B",
        "│◀─────────────────── 101 Switching Protocols ─│ HTTP, 77 B",
        "│─ text 'hello' ──────────────────────────────▶│ WebSocket, 11 B",
        "│◀────────────────────────────── text 'hello' ─│ WebSocket, 7 B",
    ]
    rungs = repr(drawing).split("\n")[2:]
    assert len({rung.rindex("│") for rung in rungs}) == 1, "the right side is one line"
    page = Page(drawing._repr_html_())
    assert page.names() <= LADDER
    assert cells(drawing, "caption") == ["An echo"]
    assert cells(drawing, "th")[1:] == ["protocol", "bytes"]
    body = cells(drawing)
    assert body[0::3] == [
        "GET /ws, Upgrade: websocket▶",
        "◀101 Switching Protocols",
        "text 'hello'▶",
        "◀text 'hello'",
    ]
    assert body[1::3] == ["HTTP", "HTTP", "WebSocket", "WebSocket"]
    assert body[2::3] == ["70", "77", "11", "7"]
    heads = [a["aria-label"] for tag, a in page.tags if "aria-label" in a]
    assert heads == ["from client to server", "from server to client"] * 2, "for a screen reader"


def test_a_ladder_has_a_caption_in_any_case() -> None:
    assert repr(ladder(talk())).startswith("A recorded conversation\n")


def test_the_ends_are_drawn_on_request() -> None:
    text = repr(ladder(talk(), tcp=True))
    assert "end of stream (FIN)" in text
    assert "reset (RST)" in text
    assert "FIN" not in repr(ladder(talk()))


def test_the_bytes_are_shown_on_request() -> None:
    long = Frame(Opcode.BINARY, bytes(600)).serialize(mask=False)
    drawing = ladder([*talk()[:4], Chunk(1, "server", long)], bytes=True)
    text = repr(drawing)
    assert "│    GET /ws HTTP/1.1\n│    Host: a\n" in text
    assert "│    81 85 00 00 00 00 68 65 6c 6c 6f\n" in text
    assert "│    81 05 68 65 6c 6c 6f\n" in text
    assert text.endswith("│    … and 92 bytes more")
    page = Page(drawing._repr_html_())
    assert page.names() == LADDER
    summaries = cells(drawing, "summary")
    assert summaries == ["70 bytes", "77 bytes", "11 bytes", "7 bytes", "604 bytes"]
    dumps = cells(drawing, "pre")
    assert dumps[2] == "81 85 00 00 00 00 68 65 6c 6c 6f"
    shown = {line.removeprefix("│    ").rstrip() for line in text.split("\n")}
    assert all(line.rstrip() in shown for dump in dumps for line in dump.split("\n"))


def test_several_connections_are_numbered() -> None:
    first, second = talk(), [Chunk(2, c.sender, c.data, c.at, c.end) for c in talk()]
    both = [chunk for pair in zip(first, second, strict=True) for chunk in pair]
    drawing = ladder(both)
    rungs = repr(drawing).split("\n")[2:]
    assert [rung[:4] for rung in rungs] == ["#1  ", "#2  "] * 4
    assert cells(drawing, "th")[0] == "connection"
    assert cells(drawing)[0::4] == ["#1", "#2"] * 4
    only = ladder(both, connection=2)
    assert repr(only) == repr(ladder(second))
    assert "#" not in repr(only)


def test_the_number_of_a_connection_is_said_once_in_a_row() -> None:
    first, second = talk(), [Chunk(2, c.sender, c.data, c.at, c.end) for c in talk()]
    rungs = repr(ladder([*first, *second])).split("\n")[2:]
    assert [rung[:4] for rung in rungs] == ["#1  ", *["    "] * 3, "#2  ", *["    "] * 3]


def test_a_long_summary_is_wrapped() -> None:
    words = " ".join(["word"] * 40)
    event = f"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {words}\n\n"
    request = Chunk(1, "client", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    rungs = repr(ladder([request, Chunk(1, "server", event.encode())])).split("\n")[2:]
    assert len(rungs) > 4
    assert max(len(rung.rpartition("│")[0]) for rung in rungs) < 66
    assert len({rung.rindex("│") for rung in rungs}) == 1
    assert sum(rung.count("word") for rung in rungs) == 40


def test_a_ladder_takes_a_tap_its_recording_and_messages() -> None:
    server, _ = start(WebSockets())
    with (
        tap(server) as wire,
        connect(wire.ws_url("/ws"), proxy=None, compression=None) as connection,
    ):
        connection.send("nonce")
        assert connection.recv(timeout=DEADLINE) == "one"
    drawings = [ladder(it) for it in (wire, wire.recording, decode(wire.recording))]
    assert len({repr(drawing) for drawing in drawings}) == 1
    assert len({drawing._repr_html_() for drawing in drawings}) == 1
    assert "text 'nonce'" in repr(drawings[0])


def test_a_ladder_of_nothing_is_empty() -> None:
    for drawing in (ladder([]), ladder(talk(), connection=9)):
        assert len(repr(drawing).split("\n")) == 2
        assert cells(drawing) == []


# What a network did


def disturbed() -> list[Chunk]:
    """A conversation in which one message is held, one arrives in part, one not at all, and an answer is made up."""
    request, answer, message, echo, *_ = talk()
    return [
        Chunk(0, "network", b"", event="begins: black hole"),
        request,
        answer,
        Chunk(1, "client", message.data, held=True),
        Chunk(0, "network", b"", event="ends: black hole"),
        Chunk(1, "server", echo.data, lost=4),
        Chunk(1, "client", message.data, lost=11),
        Chunk(1, "client", b"", end="FIN", lost=1),
        Chunk(1, "network", b"HTTP/1.1 403 Forbidden\r\n\r\n", event="403 Forbidden"),
    ]


def test_what_a_network_did_is_drawn() -> None:
    """A row of its own for each thing it did, a cross for what did not arrive, a word for what was held."""
    drawing = ladder(disturbed(), width=48, tcp=True)
    assert repr(drawing).split("\n")[2:] == [
        "│┄┄┄┄┄┄┄┄┄┄┄┄ ⚡ begins: black hole ┄┄┄┄┄┄┄┄┄┄┄┄│ network",
        "│─ GET /ws, Upgrade: websocket ───────────────▶│ HTTP, 70 B",
        "│◀─────────────────── 101 Switching Protocols ─│ HTTP, 77 B",
        "│─ text 'hello' ──────────────────────────────▶│ WebSocket, 11 B, held",
        "│┄┄┄┄┄┄┄┄┄┄┄┄┄ ⚡ ends: black hole ┄┄┄┄┄┄┄┄┄┄┄┄┄│ network",
        "│ ✗───────────────────────────── text 'hello' ─│ WebSocket, 7 B, 3 arrived",
        "│─ text 'hello' ─────────────────────────────✗ │ WebSocket, 11 B, not arrived",
        "│─ end of stream (FIN) ──────────────────────✗ │ TCP, 0 B, not arrived",
        "│┄┄┄┄┄┄┄┄┄┄┄┄┄┄ ⚡ 403 Forbidden ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄│ network, 26 B",
    ]
    page = Page(drawing._repr_html_())
    assert page.names() <= LADDER
    assert [a["aria-label"] for _, a in page.tags if "aria-label" in a] == [
        "from client to server",
        "from server to client",
        "from client to server, held",
        "from server to client, 3 arrived",
        "from client to server, not arrived",
        "from client to server, not arrived",
    ]
    sizes = [
        "",
        "70",
        "77",
        "11, held",
        "",
        "7, 3 arrived",
        "11, not arrived",
        "0, not arrived",
        "26",
    ]
    assert cells(drawing)[2::3] == sizes
    assert cells(drawing)[0] == "⚡begins: black hole"
    assert page.text.count("✗") == 3


def test_what_a_network_did_to_all_is_drawn_for_each_connection() -> None:
    second = [Chunk(2, c.sender, c.data) for c in talk()[:2]]
    drawing = ladder([*disturbed(), *second])
    rungs = repr(drawing).split("\n")[2:]
    assert [rung[:4] for rung in rungs] == [
        "    ", "#1  ", "    ", "    ", "    ", "#1  ", "    ", "    ", "#2  ", "    ",
    ]  # fmt: skip
    only = repr(ladder([*disturbed(), *second], connection=2)).split("\n")[2:]
    assert [rung.count("⚡") for rung in only] == [1, 1, 0, 0]
    assert cells(drawing)[0::4][:3] == ["", "#1", "#1"]


# Pages


def test_a_page_is_framed_and_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    server, _ = start(WebSockets())
    for prefix, address in [("", server.url("/room")), ("/user/ann/", None)]:
        monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", prefix)
        expected = address or f"/user/ann/proxy/{server.port}/room"
        drawing = show(server, "/room", title="The room", height=200)
        assert repr(drawing) == f"The room: {expected}"
        parsed = Page(drawing._repr_html_())
        tags = dict(parsed.tags)
        assert tags["iframe"]["src"] == tags["a"]["href"] == expected
        assert tags["iframe"]["title"] == "The room"
        assert tags["iframe"]["height"] == "200"
        assert tags["a"]["rel"] == "noopener"
    untitled = show(server, "/room")
    assert repr(untitled).startswith("The page at /room: ")
    assert dict(Page(untitled._repr_html_()).tags)["iframe"]["title"] == "The page at /room"


# What was typed


def conversation(payload: str) -> list[Chunk]:
    """A payload wherever a peer can put one."""
    text = payload.encode()
    first, second, *_ = talk()
    plain = "".join(c for c in payload if " " < c < "\x7f")
    return [
        Chunk(1, "client", first.data.replace(b"/ws", b"/" + plain.encode())),
        Chunk(1, "server", second.data.replace(b"Switching", plain.encode())),
        Chunk(1, "client", Frame(Opcode.TEXT, text).serialize(mask=True)),
        Chunk(1, "server", Frame(Opcode.BINARY, text).serialize(mask=False)),
        Chunk(1, "server", Frame(Opcode.PING, text[:100]).serialize(mask=False)),
        Chunk(
            1,
            "server",
            Frame(Opcode.CLOSE, Close(CloseCode.NORMAL_CLOSURE, payload).serialize()).serialize(
                mask=False
            ),
        ),
        Chunk(2, "client", b"GET / HTTP/1.1\r\nHost: a\r\nLast-Event-ID: " + text + b"\r\n\r\n"),
        Chunk(2, "server", b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"),
        Chunk(2, "server", b"data: " + text + b"\n\n"),
        Chunk(
            3,
            "client",
            b"GET /?EIO=4&transport=" + plain.encode() + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        Chunk(3, "server", b"HTTP/1.0 200 OK\r\n\r\n42[" + repr(payload).encode() + b"]"),
        Chunk(3, "server", b"", end="FIN"),
        Chunk(4, "client", text),
    ]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_was_typed_is_only_text(payload: str) -> None:
    """In every place of every drawing: no tag and no attribute comes of it, and it can be read."""
    server, _ = start(WebSockets())
    rungs = conversation(payload)
    drawings: list[tuple[Drawing, set[str], int]] = [
        (table([{payload: payload, "b": payload}], caption=payload), TABLE, 4),
        (chart({payload: 1.0}, unit=payload, caption=payload), CHART, 3),
        (chart({payload: {payload: 1.0}}, unit="ms", caption=payload), CHART, 3),
        (ladder(rungs, caption=payload, tcp=True), LADDER, 3),
        (ladder(rungs, caption=payload, bytes=True), LADDER, 3),
        (show(server, "/" + payload, title=payload), {"details", "summary", "iframe", "a"}, 2),
    ]
    for drawing, allowed, times in drawings:
        markup = drawing._repr_html_()
        parsed = Page(markup)
        assert parsed.names() <= allowed
        assert parsed.text.count(payload) >= times
        assert payload in repr(drawing)
        for tag, attributes in parsed.tags:
            known = {"style", "scope", "role", "aria-label", "aria-hidden"}
            if tag in ("iframe", "a"):
                known |= {"src", "title", "loading", "width", "height", "href", "target", "rel"}
                link = str(attributes.get("src") or attributes.get("href"))
                assert link == server.browser_url("/" + payload)
            if tag == "details":
                known.add("ontoggle")
            assert attributes.keys() <= known
    assert len(drawings) == 6


def test_every_drawing_is_text_and_html_that_say_the_same() -> None:
    """What stands in a cell of one stands in the other."""
    drawings: Iterable[Drawing] = [
        table([{"a": "x", "b": 1234}], caption="c"),
        chart({"SSE": {"p50": 1.5}}, unit="ms", caption="c"),
        ladder(talk(), bytes=True, tcp=True),
    ]
    looked = 0
    for drawing in drawings:
        assert isinstance(drawing, Drawing)
        text = repr(drawing)
        for cell in itertools.chain(cells(drawing, "th"), cells(drawing, "caption")):
            if cell not in ("", "protocol", "bytes", "clientserver"):  # columns of the ladder
                assert cell in text
                looked += 1
        for line in text.split("\n"):
            for word in line.replace("│", " ").replace("─", " ").replace("█", " ").split():
                if word not in ("◀", "▶", "B"):
                    assert word.strip(",▶◀") in Page(drawing._repr_html_()).text
                    looked += 1
    assert looked > 40
