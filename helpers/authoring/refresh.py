"""Run notebooks and write back only what has really changed.

    python -m helpers.authoring.refresh                 every notebook
    python -m helpers.authoring.refresh PATH …          these
    python -m helpers.authoring.refresh --new PATH …    these, with new outputs in the cells that are not compared
    python -m helpers.authoring.refresh --check         run nothing; fail if a notebook is not in canonical form

A notebook in canonical form has execution counts from 1, one output for each stream, and nothing that differs from run to run:
no metadata, and of a widget its words, not the number of its view. An output that equals the new one after the patterns of
`tests/sanitize.cfg` stays as it is, byte for byte, and so does the output of a cell that is not compared, until `--new`. So a
second refresh changes no line.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
SANITIZE = ROOT / "tests" / "sanitize.cfg"
KEPT_METADATA = {"tags"}
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
NOT_COMPARED = {"nbval-ignore-output", "nbval-skip"}
NOT_STORED = "application/vnd.jupyter.widget-view+json"
"""A view of a widget; nbval does not compare it either."""

Pattern = tuple[re.Pattern[str], str]


def notebooks() -> list[Path]:
    """Return every notebook whose outputs are stored, in order."""
    folders = (ROOT / "notebooks", ROOT / "labs" / "solutions")
    return [path for folder in folders for path in sorted(folder.glob("*.ipynb"))]


def patterns(path: Path = SANITIZE) -> list[Pattern]:
    """Return the patterns of an nbval sanitize file: what to replace, and by what."""
    found = re.findall(
        r"^regex: (.*)\nreplace: (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE
    )
    return [(re.compile(regex), replacement) for regex, replacement in found]


def compared(output: Any, replacements: Iterable[Pattern]) -> Any:
    """Return what nbval compares of an output."""

    def clean(text: str) -> str:
        for regex, replacement in replacements:
            text = regex.sub(replacement, text)
        return text

    if output.output_type == "stream":
        return ("stream", output.name, clean(output.text))
    if output.output_type == "error":
        return ("error", output.ename, clean(output.evalue))
    return (
        output.output_type,
        sorted(
            (kind, clean(str(data))) for kind, data in output.data.items() if kind != NOT_STORED
        ),
    )


def canonical(notebook: Any) -> Any:
    """Bring a notebook into canonical form, in place, and return it."""
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": dict(KERNEL), "language_info": {"name": "python"}}
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: set[str] = set()
    count = 0
    for position, cell in enumerate(notebook.cells):
        if not cell.get("id") or cell["id"] in seen:
            cell["id"] = f"cell-{position:02d}"
        seen.add(cell["id"])
        cell.metadata = nbformat.from_dict(
            {k: v for k, v in cell.metadata.items() if k in KEPT_METADATA}
        )
        if cell.cell_type != "code":
            continue
        ran = bool(cell.source.strip())
        count += ran
        cell.execution_count = count if ran else None
        cell.outputs = _joined(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
            output.get("data", {}).pop(NOT_STORED, None)
            if output.output_type == "error":
                output.traceback = [
                    re.sub(r"\x1b\[[0-9;]*m", "", line) for line in output.traceback
                ]
    return notebook


def _joined(outputs: list[Any]) -> list[Any]:
    """Join what was written to one stream, as nbval does before it compares."""
    kept: list[Any] = []
    streams: dict[str, Any] = {}
    for output in outputs:
        if output.output_type == "stream" and output.name in streams:
            streams[output.name].text += output.text
            continue
        if output.output_type == "stream":
            streams[output.name] = output
        kept.append(output)
    return kept


def text(notebook: Any) -> str:
    """Return the file that a notebook is stored as."""
    return str(nbformat.writes(notebook)).rstrip("\n") + "\n"


def run(path: Path, timeout: float = 60.0) -> Any:
    """Run a notebook in a fresh kernel and return it with its new outputs."""
    notebook = nbformat.read(path, as_version=4)
    # Where no set-up has told Python about the clone (conda), the kernel finds `helpers` this way.
    # Not by execute(env=…), which makes jupyter_client give the kernel no keys for its connections.
    before = os.environ.get("PYTHONPATH")
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before]))
    try:
        client.execute()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return notebook


def refresh(path: Path, timeout: float = 60.0) -> int:
    """Run a notebook, write it if it has changed, and return how many cells have other outputs than before."""
    before = path.read_text(encoding="utf-8")
    old = canonical(nbformat.reads(before, as_version=4))
    new = canonical(run(path, timeout))
    replacements = patterns()
    changed = 0
    for was, now in zip(old.cells, new.cells, strict=True):
        if now.cell_type != "code":
            continue
        same = [compared(o, replacements) for o in was.outputs] == [
            compared(o, replacements) for o in now.outputs
        ]
        ignored = NOT_COMPARED & set(now.metadata.get("tags", []))
        if same or (ignored and was.outputs):
            now.outputs = copy.deepcopy(was.outputs)
        else:
            changed += 1
    after = text(new)
    if after != before:
        path.write_text(after, encoding="utf-8")
    return changed


def stale(path: Path) -> list[str]:
    """Return what keeps a stored notebook from being canonical; nothing is run."""
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    said = [
        f"cell {position} was never run"
        for position, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None
    ]
    if text(canonical(nbformat.reads(before, as_version=4))) != before:
        said.append("it is not in canonical form")
    return said


def main(arguments: list[str] | None = None) -> int:
    """Refresh or check the notebooks that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.authoring.refresh", description=__doc__.split("\n")[0]
    )
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; all by default")
    parser.add_argument(
        "--check",
        action="store_true",
        help="run nothing, fail if a notebook is not in canonical form",
    )
    parser.add_argument(
        "--new", action="store_true", help="replace the outputs of cells that are not compared, too"
    )
    options = parser.parse_args(arguments)
    paths = [path.resolve() for path in options.paths] or notebooks()
    if not paths:
        print("There is no notebook to refresh.")
        return 1
    failed = 0
    for path in paths:
        if options.check:
            said = stale(path)
            failed += bool(said)
            print(f"{path.name}: {'; '.join(said) or 'canonical'}", flush=True)
            continue
        if options.new:
            forget(path)
        start = time.monotonic()
        changed = refresh(path)
        print(
            f"{path.name}: {changed} outputs changed, {time.monotonic() - start:.0f} s", flush=True
        )
    if failed:
        print("To bring them into canonical form, run:\nmake refresh")
    return 1 if failed else 0


def forget(path: Path) -> None:
    """Drop the stored outputs of the cells that are not compared, so that the next refresh stores new ones."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if NOT_COMPARED & set(cell.metadata.get("tags", [])):
            cell.outputs = []
    path.write_text(text(notebook), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
