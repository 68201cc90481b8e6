"""Pictures of conversations and numbers: each as HTML that follows the theme, and as plain text that says the same."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from .decode import Chunk, Message, decode, one_line
from .server import Server
from .tap import Tap

_CELL = "padding:.1em .6em;vertical-align:top;text-align:left"
_NUMBER = "padding:.1em .6em;vertical-align:top;text-align:right;white-space:nowrap"
_CAPTION = "caption-side:top;text-align:left;font-weight:bold;padding:.3em .6em"
_LINE = "1px solid currentColor"
_BROKEN = "1px dashed currentColor"
_MONO = "font-family:var(--jp-code-font-family,monospace)"


class Drawing:
    """Something to show as the last value of a cell."""

    def __init__(self, text: str, markup: str) -> None:
        self._text = text
        self._markup = markup

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return self._markup


def ladder(
    conversation: Tap | Iterable[Chunk] | Sequence[Message],
    *,
    caption: str = "",
    connection: int | None = None,
    bytes: bool = False,
    tcp: bool = False,
    width: int = 64,
) -> Drawing:
    """Draw a recorded conversation: client left, server right, time down.

    Each arrow is one decoded message with its size on the wire.

    Args:
        conversation: a tap, its recording, or messages that `decode` returned.
        caption: what is shown, in a few words.
        connection: draw only the connection with this number.
        bytes: add the bytes of each message: those of HTTP as text, those of a frame in hexadecimal.
        tcp: draw also when a side ended (FIN, RST).
        width: columns between the two sides in the plain text.
    """
    messages = _messages(conversation)
    shown = [
        message
        for message in messages
        if (connection in (None, message.connection) or not message.connection)
        and (tcp or message.protocol != "TCP" or message.data)
    ]
    several = len({message.connection for message in shown} - {0}) > 1
    caption = caption or "A recorded conversation"
    return Drawing(
        _ladder_text(shown, caption, several, bytes, width),
        _ladder_html(shown, caption, several, bytes),
    )


def _messages(conversation: Tap | Iterable[Chunk] | Sequence[Message]) -> list[Message]:
    if isinstance(conversation, Tap):
        return decode(conversation.recording)
    items = list(conversation)
    if all(isinstance(item, Message) for item in items):
        return [item for item in items if isinstance(item, Message)]
    return decode(item for item in items if isinstance(item, Chunk))


def _ladder_text(
    messages: list[Message], caption: str, several: bool, with_bytes: bool, width: int
) -> str:
    margin = "    " if several else ""
    lines = [caption, f"{margin}{'client':<{width - 4}}{'server':>6}"]
    last = 0
    for message in messages:
        tag = ""
        if several and not message.connection:
            tag, last = margin, 0
        elif several:
            tag = f"{'#' + str(message.connection):<4}" if message.connection != last else margin
            last = message.connection
        wrapped = textwrap.wrap(message.summary, width - 8) or [""]
        for line in wrapped[:-1]:
            lines.append(f"{tag}│  {line:<{width - 5}} │")
            tag = margin
        label = f" {wrapped[-1]} "
        if message.sender == "network":
            size = f", {message.size} B" if message.size else ""
            lines.append(f"{tag}│{f' ⚡ {wrapped[-1]} ':┄^{width - 2}}│ network{size}")
            continue
        to, of = ("✗ ", " ✗") if message.lost else ("▶", "◀")
        right, left = (
            f"│─{label:─<{width - 3 - len(to)}}{to}│",
            f"│{of}{label:─>{width - 3 - len(of)}}─│",
        )
        arrow = right if message.sender == "client" else left
        lines.append(f"{tag}{arrow} {message.protocol}, {message.size} B{_fate(message)}")
        if with_bytes:
            lines += [f"{margin}│    {line}" for line in _dump(message)]
    return "\n".join(lines)


def _fate(message: Message) -> str:
    """Say what became of a message on its way, if anything did."""
    if not message.lost:
        return ", held" if message.held else ""
    got = message.size - message.lost
    return f", {got} arrived" if got > 0 else ", not arrived"


def _ladder_html(messages: list[Message], caption: str, several: bool, with_bytes: bool) -> str:
    head = (
        (f'<th scope="col" style="{_CELL}">connection</th>' if several else "")
        + f'<th scope="col" style="{_CELL};min-width:34em"><span style="display:flex;justify-content:space-between">'
        + "<span>client</span><span>server</span></span></th>"
        + f'<th scope="col" style="{_CELL}">protocol</th><th scope="col" style="{_NUMBER}">bytes</th>'
    )
    rows = []
    for message in messages:
        client = message.sender == "client"
        text = f'<span style="padding:0 .5em">{html.escape(message.summary)}</span>'
        if message.sender == "network":
            line = f'<span style="flex:1;min-width:2em;border-top:{_BROKEN}"></span>'
            parts = [line, '<span aria-hidden="true">⚡</span>', text, line]
        else:
            name = "from client to server" if client else "from server to client"
            style = _BROKEN if message.lost else _LINE
            mark = "✗" if message.lost else "▶" if client else "◀"
            name += _fate(message)
            start = f'<span style="width:1em;border-top:{style}"></span>'
            line = f'<span style="flex:1;min-width:2em;border-top:{style}"></span>'
            gap = '<span style="width:2em"></span>' if message.lost else ""
            head_mark = f'<span role="img" aria-label="{name}">{mark}</span>'
            parts = [start, text, line, head_mark, gap]
            if not client:
                parts.reverse()
        body = f'<div style="display:flex;align-items:center">{"".join(parts)}</div>'
        if with_bytes:
            dump = html.escape("\n".join(_dump(message)))
            body += (
                f'<details style="padding:0 1.5em"><summary>{message.size} bytes</summary>'
                f'<pre style="white-space:pre-wrap;{_MONO}">{dump}</pre></details>'
            )
        number = f"#{message.connection}" if message.connection else ""
        size = f"{message.size}{_fate(message)}"
        if message.sender == "network" and not message.size:
            size = ""
        rows.append(
            "<tr>"
            + (f'<td style="{_CELL}">{number}</td>' if several else "")
            + f'<td style="padding:.1em 0;text-align:left;border-left:2px solid;border-right:2px solid">{body}</td>'
            + f'<td style="{_CELL}">{message.protocol}</td><td style="{_NUMBER}">{size}</td></tr>'
        )
    return _html_table(caption, head, rows)


def _dump(message: Message) -> list[str]:
    """Return the bytes of a message as lines: HTTP as text, frames in hexadecimal, long ones cut."""
    data = message.data[:512]
    if message.protocol == "HTTP":
        lines = [repr(line)[1:-1] for line in data.decode("latin-1").split("\r\n")]
    else:
        lines = [data[start : start + 16].hex(" ") for start in range(0, len(data), 16)]
    if len(message.data) > len(data):
        lines.append(f"… and {len(message.data) - len(data)} bytes more")
    return lines


FOLLOW = (
    "this.ontoggle = null; const frame = this.querySelector('iframe'); "
    "if (location.hostname == 'localhost') frame.src = frame.src.replace('//127.0.0.1:', '//localhost:')"
)
"""The script of a page's frame: it follows the name in the address bar. To a browser 127.0.0.1 and localhost are two sites,
though one server is at both, and it gives no cookies to a frame of another site."""


def show(
    server: Server | Tap, path: str = "/", *, title: str | None = None, height: int = 160
) -> Drawing:
    """Show a page of a server in the notebook, and a link that opens it in a tab of its own.

    The page is folded away and loads when it is unfolded: a stored notebook would otherwise call a port where the server of an
    earlier day no longer listens. Pages in one browser share its cookies: to a server with users they are one person.

    Args:
        server: who serves the page, or a tap in front of it.
        path: the page's path.
        title: what the page is, in a few words, also for who hears it; by default its path.
        height: the height of its frame, in pixels.
    """
    title = title or f"The page at {path}"
    url = html.escape(server.browser_url(path))
    name = html.escape(title)
    markup = (
        f'<details ontoggle="{FOLLOW}"><summary>Show here: {name}</summary>'
        f'<iframe src="{url}" title="{name}" loading="lazy" width="100%" height="{height}" style="border:{_LINE}"></iframe>'
        f'</details><a href="{url}" target="_blank" rel="noopener">Open in a tab: {name}</a>'
    )
    return Drawing(f"{title}: {server.browser_url(path)}", markup)


def table(rows: Sequence[Mapping[str, object]], *, caption: str = "") -> Drawing:
    """Draw a table.

    Args:
        rows: one mapping a row; the first one's keys are the headings. Numbers are set to the right.
        caption: what is shown, in a few words.

    Example:
        >>> table([{"transport": "SSE", "bytes": 1200}], caption="One stream")
        One stream
        transport  bytes
        SSE        1,200
    """
    if not rows:
        raise ValueError("A table needs at least one row.")
    columns = list(rows[0])
    numeric = {c: all(_is_number(row.get(c)) for row in rows) for c in columns}
    cells = [[_value(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *cells]) for i in range(len(columns))]

    def text(line: list[str]) -> str:
        pairs = zip(columns, line, widths, strict=True)
        return "  ".join(
            f"{c:>{w}}" if numeric[name] else f"{c:<{w}}" for name, c, w in pairs
        ).rstrip()

    head = "".join(
        f'<th scope="col" style="{_NUMBER if numeric[c] else _CELL}">{html.escape(c)}</th>'
        for c in columns
    )
    body = [
        "<tr>"
        + "".join(
            f'<td style="{_NUMBER if numeric[c] else _CELL}">{html.escape(v)}</td>'
            for c, v in zip(columns, line, strict=True)
        )
        + "</tr>"
        for line in cells
    ]
    lines = [*([caption] if caption else []), text(columns), *(text(line) for line in cells)]
    return Drawing("\n".join(lines), _html_table(caption, head, body))


def chart(values: Mapping[str, float | Mapping[str, float]], *, unit: str, caption: str) -> Drawing:
    """Draw bars, one a value, all on one scale that starts at 0.

    Args:
        values: a label's value, or its values by series: `{"SSE": {"p50": 1.1, "p99": 2.8}}`.
        unit: the unit of every value.
        caption: what is shown, in a few words.

    Example:
        >>> chart({"SSE": 50, "polling": 100}, unit="bytes", caption="Bytes per update")
        Bytes per update
        SSE      ████████████████ 50 bytes
        polling  ████████████████████████████████ 100 bytes
    """
    bars: list[tuple[str, str, float]] = []
    for label, value in values.items():
        if isinstance(value, Mapping):
            bars += [
                (label if i == 0 else "", series, number)
                for i, (series, number) in enumerate(value.items())
            ]
        else:
            bars.append((label, "", value))
    if not bars or min(number for *_, number in bars) < 0:
        raise ValueError(f"A chart needs at least one value, and none below 0: {dict(values)!r}")
    longest = max(number for *_, number in bars) or 1.0
    labels = [f"{label} {series}".strip() if label else f"  {series}" for label, series, _ in bars]
    width = max(map(len, labels))
    lines = [caption]
    rows = []
    for (label, series, number), plain in zip(bars, labels, strict=True):
        amount = f"{_value(number)} {unit}"
        bar = "█" * max(1, round(32 * number / longest)) + " " if number else ""
        lines.append(f"{plain:<{width}}  {bar}{amount}")
        rows.append(
            f'<tr><th scope="row" style="{_CELL}">{html.escape(label)}</th>'
            + (f'<td style="{_CELL}">{html.escape(series)}</td>' if series else "<td></td>")
            + f'<td style="{_CELL};width:22em"><div style="background:var(--jp-brand-color1,#1976d2);height:1em;'
            f'{"min-width:2px;" if number else ""}width:{100 * number / longest:.1f}%" aria-hidden="true"></div></td>'
            + f'<td style="{_NUMBER}">{html.escape(amount)}</td></tr>'
        )
    return Drawing("\n".join(lines), _html_table(caption, "", rows))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(value: object) -> str:
    if not _is_number(value):
        return one_line(str(value))
    assert isinstance(value, int | float)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _html_table(caption: str, head: str, rows: list[str]) -> str:
    return (
        '<table style="border-collapse:collapse;margin:.5em 0">'
        + (f'<caption style="{_CAPTION}">{html.escape(caption)}</caption>' if caption else "")
        + (f"<thead><tr>{head}</tr></thead>" if head else "")
        + f"<tbody>{''.join(rows)}</tbody></table>"
    )
