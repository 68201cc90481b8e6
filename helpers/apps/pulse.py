"""An ASGI application whose page says a number four times a second, and shows what comes back and how long it took.

Something to watch while the network between the two is played with.
"""

from __future__ import annotations

from typing import Any

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>There and back</title>
<meta name="color-scheme" content="light dark">
<body style="font: 16px sans-serif; background: Canvas; color: CanvasText; font-variant-numeric: tabular-nums">
<p>Connection <b id="number">0</b>: <b id="state" role="status">opening</b></p>
<p>Sent <b id="sent">0</b>, came back <b id="back">0</b>, on the way <b id="away">0</b></p>
<p>The last one took <b id="took">0</b> milliseconds</p>
<script>
  let connections = 0
  const show = values => { for (const id in values) document.getElementById(id).textContent = values[id] }
  function open() {
    const socket = new WebSocket(location.href.replace("http", "ws"))
    const times = []
    let back = 0
    const count = () => show({sent: times.length, back, away: times.length - back})
    const beat = setInterval(() => {
      if (socket.readyState === WebSocket.OPEN) { socket.send(times.push(Date.now())); count() }
    }, 250)
    show({number: ++connections, state: "opening", took: 0})
    count()
    socket.onopen = () => show({state: "open"})
    socket.onmessage = event => { back++; count(); show({took: Date.now() - times[event.data - 1]}) }
    socket.onclose = event => {
      clearInterval(beat)
      show({state: `closed with ${event.code}, the next one opens in 2 seconds`})
      setTimeout(open, 2000)
    }
  }
  open()
</script>"""


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serve the page, and send back what its WebSocket says."""
    if scope["type"] == "http":
        headers = [(b"content-type", b"text/html; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": PAGE.encode()})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
