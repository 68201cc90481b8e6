"""A panel to play with the network: a control for each fault of a tap, and live counts beside them."""

from __future__ import annotations

import asyncio
import html
import importlib
import json
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import faults
from .decode import Chunk
from .draw import Drawing, table
from .tap import Fault, Side, Tap

INTERVAL = 0.25
"""Seconds between two looks at the counts."""

INSTALL = (
    "The controls need the package 'ipywidgets', which is missing here. Run this, then start JupyterLab again:\n"
    "python -m pip install 'ipywidgets>=8.1'"
)

VIEW = "application/vnd.jupyter.widget-view+json"

_panels: weakref.WeakSet[Panel] = weakref.WeakSet()
_replacing = threading.Lock()


def panel(wire: Tap) -> Panel:
    """Show controls over the faults of a tap, with live counts of connections and bytes.

    A second panel for the same tap replaces the first, and heals what that one did. With its server a panel's tap ends too, so
    a cell that starts all three is safe to run again.

    Args:
        wire: the tap.

    Returns:
        The panel: show it as the last value of a cell. Where no controls can be shown, it says in words what they offer.
    """
    with _replacing:
        for old in [old for old in _panels if old.wire is wire]:
            old.close()
        new = Panel(wire)
        _panels.add(new)
    return new


class Panel:
    """Controls over the faults of a tap.

    Attributes:
        wire: the tap.
        controls: the widgets by name; none where ipywidgets is missing.
    """

    def __init__(self, wire: Tap) -> None:
        self.wire = wire
        self.controls: dict[str, Any] = {}
        self._calls: dict[str, tuple[_Call, Fault]] = {}
        self._lock = threading.RLock()
        self._closed = False
        self._summary = _Summary(wire)
        self._box: Any = None
        try:
            # By name: it carries no types, and a notebook without a panel need not wait for it.
            widgets: Any = importlib.import_module("ipywidgets")
        except ModuleNotFoundError:
            return
        self._build(widgets)
        # A task of the tap's own loop looks at the counts. It goes on while a cell runs, needs neither a thread nor a timer of
        # its own, and ends with the tap. The messages that it sends are safe there: ipykernel hands whatever a thread sends to
        # its one thread for output, and they carry a widget's number, so that they reach the panel and no cell's output.
        if wire.running:
            self._task = wire.run(_start(self._follow))
        else:
            self._end()

    def _build(self, widgets: Any) -> None:
        style = {"description_width": "11em"}
        wide = {"width": "26em"}

        def number(name: str, text: str, most: float) -> Any:
            # The label belongs to the field: a slider of ipywidgets has no name for a screen reader.
            field = widgets.BoundedFloatText(
                description=text,
                tooltip=text,
                min=0,
                max=most,
                step=0.05,
                style=style,
                layout={"width": "17em"},
            )
            slider = widgets.FloatSlider(
                min=0,
                max=most,
                step=0.05,
                readout=False,
                tooltip=text,
                continuous_update=False,
                layout={"width": "9em"},
            )
            widgets.link((slider, "value"), (field, "value"))
            self.controls[name] = field
            self.controls[f"{name} slider"] = slider
            return widgets.HBox([field, slider])

        def choice(name: str, text: str) -> Any:
            control = widgets.Dropdown(
                description=text,
                tooltip=text,
                options=list(CHOICES[name]),
                style=style,
                layout=wide,
            )
            self.controls[name] = control
            return control

        def button(name: str, text: str, tooltip: str, do: Callable[[], None]) -> Any:
            control = widgets.Button(description=text, tooltip=tooltip)
            control.on_click(lambda _: do())
            self.controls[name] = control
            return control

        rows = [
            number("latency", "Latency, seconds", 2.0),
            number("jitter", "Jitter, ± seconds", 1.0),
            choice("bandwidth", "Bandwidth"),
            choice("slices", "Slices"),
            choice("black hole", "Black hole"),
            choice("idle cut", "Cut when idle for"),
            choice("upgrade", "Upgrade requests"),
            widgets.HBox(
                [
                    button("cut", "Cut now", "End every open connection in order (FIN)", self.cut),
                    button("reset", "Reset now", "Reset every open connection (RST)", self.reset),
                    button("heal", "Heal all", "End every fault of this panel", self.heal),
                ]
            ),
        ]
        for name, control in self.controls.items():
            if hasattr(control, "value"):
                control.observe(lambda _, name=name: self._apply(name), "value")
        self._counts = widgets.HTML(self._summary.markup())
        self._box = widgets.HBox(
            [widgets.VBox(rows), self._counts], layout={"flex_flow": "row wrap"}
        )
        # JupyterLab gives controls a thread of the kernel, a subshell, so that they act while a cell runs; ipykernel 7.4 sends
        # what they say to the shell that spoke last to them: the one that runs cells, until it forgets that it made them.
        for widget in _tree(self._box):
            vars(widget.comm).pop("_reply_subshell_id", None)

    def _wanted(self, name: str) -> _Call | None:
        """Return the fault that a control stands for now."""
        value = self.controls[name].value
        if name != "latency":
            return CHOICES[name][value]
        jitter = self.controls["jitter"].value
        if not value and not jitter:
            return None
        return _Call("latency", (value,), {"jitter": jitter} if jitter else None)

    def _apply(self, name: str) -> None:
        # In the kernel's thread, or in its subshell for controls: hence the lock.
        name = {"jitter": "latency"}.get(name, name)
        if name.endswith("slider"):
            return
        with self._lock:
            call = self._wanted(name)
            before, old = self._calls.pop(name, (None, None))
            if call is not None and call == before:
                assert old is not None
                self._calls[name] = call, old
                return
            if call is not None and self.wire.running:
                fault = call.on(self.wire).fault
                self.wire.add(fault)
                self._calls[name] = call, fault
            # Only now, so that nothing slips through between the two.
            if old is not None:
                self.wire.remove(old)

    def cut(self) -> None:
        """End every open connection in order, as `faults.limit_data(wire, 0)` does at the next byte."""
        self._at_once(_Now("cut", lambda side: side.cut("cut")))

    def reset(self) -> None:
        """Reset every open connection, as `faults.reset_peer(wire)` does."""
        self._at_once(_Now("reset", lambda side: side.reset(None, "reset")))

    def _at_once(self, fault: Fault) -> None:
        if self.wire.running:
            self.wire.add(fault)
            self.wire.remove(fault)

    def heal(self) -> None:
        """End every fault that this panel began, and set its controls back."""
        with self._lock:
            for control in self.controls.values():
                if hasattr(control, "options"):
                    control.index = 0
                elif hasattr(control, "value"):
                    control.value = 0.0

    def close(self) -> None:
        """Heal, and take the panel away. Closing twice is safe."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self.heal()
            _panels.discard(self)
            self._release()
            if self._box is not None:
                for widget in _tree(self._box):
                    widget.close()

    async def _follow(self) -> None:
        try:
            while not self._closed:
                server = self.wire.server
                if server is not None and not server.running:
                    self.wire.stop()
                    return
                self._show()
                await asyncio.sleep(INTERVAL)
        finally:
            if not self._closed:
                self._end()

    def _show(self) -> None:
        self._summary.look()
        calls = [call for call, _ in list(self._calls.values())]
        self._counts.value = self._summary.markup(calls)  # which sends it only if it differs

    def _end(self) -> None:
        """Leave the last counts to be read; nothing can be played with any more."""
        self._summary.look()
        self._summary.ended = True
        self._counts.value = self._summary.markup()
        for control in self.controls.values():
            control.disabled = True
        self._release()

    def _release(self) -> None:
        """Let the widgets forget this panel: ipywidgets keeps every widget, and would keep the recording with them."""
        for control in self.controls.values():
            control.unobserve_all()
            if hasattr(control, "on_click"):
                control._click_handlers.callbacks = []
        self._calls.clear()

    def __repr__(self) -> str:
        return repr(WORDS) + ("" if self.controls else f"\n\n{INSTALL}")

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        # Whoever can show no widget shows the words: so does every stored notebook, because a view's number is random.
        markup = WORDS._repr_html_()
        if not self.controls:
            markup += f"<p>{html.escape(INSTALL)}</p>".replace("\n", "<br>")
        bundle: dict[str, Any] = {"text/plain": repr(self), "text/html": markup}
        if self._box is not None and not self._closed:
            bundle[VIEW] = self._box.get_view_spec()
        return bundle


@dataclass(frozen=True)
class _Call:
    """A fault as a line of code."""

    name: str
    arguments: tuple[float, ...] = ()
    options: Any = None

    def on(self, wire: Tap) -> faults.During:
        begin: Callable[..., faults.During] = getattr(faults, self.name)
        return begin(wire, *self.arguments, **self.options or {})

    def __str__(self) -> str:
        options = [f"{name}={json.dumps(value)}" for name, value in (self.options or {}).items()]
        arguments = ["wire", *(f"{value:g}" for value in self.arguments), *options]
        return f"faults.{self.name}({', '.join(arguments)})"


class _Now(Fault):
    """What happens to the connections that are open, once."""

    def __init__(self, name: str, act: Callable[[Side], None]) -> None:
        super().__init__()
        self.name = name
        self._act = act

    def opened(self, side: Side) -> None:
        self._act(side)


class _Summary:
    """The counts of a tap, each chunk counted once: a long recording must not make each look slower."""

    def __init__(self, wire: Tap) -> None:
        self.wire = wire
        self.ended = False
        self.bytes = {"client": 0, "server": 0, "network": 0}
        self._seen = 0
        self._lost: list[Chunk] = []

    def look(self) -> None:
        """Count what is new."""
        new = self.wire.recording[self._seen :]
        self._seen += len(new)
        for chunk in new:
            self.bytes[chunk.sender] += len(chunk.data)
        # What has arrived stays so, and only what was held when it was heard can be missing.
        self._lost = [chunk for chunk in (*self._lost, *new) if chunk.lost and not chunk.end]

    def markup(self, calls: list[_Call] | None = None) -> str:
        """Return the counts as a table."""
        acting = "; ".join(str(fault) for fault in self.wire.faults) or "none"
        code = f"with {', '.join(map(str, calls))}:" if calls else ""
        rows = {
            "Connections open": f"{self.wire.open:,}",
            "Connections ever": f"{self.wire.recording.connections:,}",
            "Bytes from clients": f"{self.bytes['client']:,}",
            "Bytes from the server": f"{self.bytes['server']:,}",
            "Bytes not arrived": f"{sum(chunk.lost for chunk in self._lost):,}",
            "Faults": "the tap has stopped: run its cell again" if self.ended else acting,
        }
        if code:
            rows["In code"] = f"<code>{html.escape(code)}</code>"
        lines = "".join(
            f'<tr><th scope="row" style="{_HEAD}">{name}</th><td style="{_VALUE}">{value}</td></tr>'
            for name, value in rows.items()
        )
        return f'<table style="margin:0 1em">{lines}</table>'


_HEAD = "text-align:left;font-weight:normal;vertical-align:top;padding:.1em 1em .1em 0;white-space:nowrap"
_VALUE = "font-variant-numeric:tabular-nums;padding:.1em 0;max-width:32em"

CHOICES: dict[str, dict[str, _Call | None]] = {
    "bandwidth": {"unlimited": None}
    | {
        f"{rate:,} bytes a second": _Call("bandwidth", (rate,))
        for rate in (100_000, 10_000, 1_000, 100)
    },
    "slices": {"as they come": None}
    | {f"of {size} bytes": _Call("slicer", (size,)) for size in (100, 10, 3)}
    | {"of 1 byte": _Call("slicer", (1,))},
    "black hole": {
        "off": None,
        "swallows what clients say": _Call("black_hole", (), {"sender": "client"}),
        "swallows what the server says": _Call("black_hole", (), {"sender": "server"}),
        "swallows both": _Call("black_hole"),
    },
    "idle cut": {"never": None, "1 second": _Call("idle_cut", (1,))}
    | {f"{seconds} seconds": _Call("idle_cut", (seconds,)) for seconds in (2, 5, 10)},
    "upgrade": {
        "pass": None,
        "are refused": _Call("refuse_upgrade"),
        "are swallowed": _Call("swallow_upgrade"),
    },
}
"""What each list offers, its first line being the network as it is."""

WORDS: Drawing = table(
    [
        {"control": control, "offers": offers, "as code": code}
        for control, offers, code in (
            (
                "Latency, jitter",
                "0 to 2 seconds, ± 0 to 1",
                "with faults.latency(wire, 0.5, jitter=0.1):",
            ),
            ("Bandwidth", "100 to 100,000 bytes a second", "with faults.bandwidth(wire, 1000):"),
            ("Slices", "of 1 to 100 bytes", "with faults.slicer(wire, 3):"),
            (
                "Black hole",
                "for clients, the server or both",
                'with faults.black_hole(wire, sender="client"):',
            ),
            ("Cut when idle", "for 1 to 10 seconds", "with faults.idle_cut(wire, 5):"),
            ("Upgrade requests", "refused or swallowed", "with faults.refuse_upgrade(wire):"),
            ("Cut now", "ends open connections", "with faults.limit_data(wire, 0):"),
            ("Reset now", "resets open connections", "with faults.reset_peer(wire):"),
            ("Heal all", "ends every fault", "the end of the with block"),
        )
    ],
    caption="A panel to play with the network. Its controls, with live counts, show while the kernel runs.",
)


async def _start(work: Callable[[], Any]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work())


def _tree(widget: Any) -> list[Any]:
    """Return a widget, and all that it is made of."""
    parts = [getattr(widget, name) for name in ("layout", "style") if hasattr(widget, name)]
    return [
        widget,
        *parts,
        *(inner for child in getattr(widget, "children", ()) for inner in _tree(child)),
    ]
