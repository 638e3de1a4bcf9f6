"""`faceanon-engine status`: the manifest of a job as a table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from faceanon_engine.cli import options
from faceanon_engine.cli.console import add_row, output_console, print_json, say

_SHOWN = 50
_LONGEST = 1000
"""Characters of a setting that are shown."""
_ORDER = ("done", "failed", "pending", "kept", "redacted", "skipped")
_COLOURS = {
    "done": "green",
    "failed": "red",
    "pending": "yellow",
    "redacted": "cyan",
    "skipped": "cyan",
    "kept": "cyan",
}


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--failed", is_flag=True, help="Only what failed, with the reasons.")
@click.option("--all", "show_all", is_flag=True, help=f"All rows, not only the first {_SHOWN}.")
@options.as_json
@options.log_level
def status(output: Path, failed: bool, show_all: bool, as_json: bool) -> None:
    """Show what happened to every image of the job in the folder OUTPUT."""
    from faceanon_engine.engine.job import Manifest
    from faceanon_engine.engine.job.counts import count_boxes, count_faces, count_photos
    from faceanon_engine.engine.job.domain import known_in, limits_in, verdict_of
    from faceanon_engine.engine.job.folder import refuse_old_layout
    from faceanon_engine.engine.job.layout import JobFolder

    folder = JobFolder(output)
    refuse_old_layout(folder)
    path = output if output.is_file() else folder.manifest
    with Manifest.read(path, snapshot=True) as manifest:
        known = manifest.items()
        counts = manifest.counts()
        settings = manifest.settings()
        inputs = list(manifest.inputs().values())
        limits, judged = limits_in(manifest), known_in(manifest)
    faces, photos, boxes = count_faces(known), count_photos(inputs), count_boxes(inputs)
    lost = [row for row in inputs if row.state in ("failed", "withheld")]
    items = [item for item in known if item.state == "failed"] if failed else known
    if as_json:
        print_json(
            {
                "output": str(output),
                "manifest": str(path),
                "settings": settings,
                "inputs": len(inputs),
                "counts": counts,
                "faces": faces.to_json(),
                "photos": None if photos is None else photos.to_json(),
                "boxes": None if boxes is None else boxes.to_json(),
                "domain": asdict(judged),
                "items": [_plain(item) | {"domain": verdict_of(item, limits)} for item in items],
                "given_back": [asdict(row) for row in (lost if failed else inputs)] if photos is not None else None,
            }
        )
        return
    console = output_console()
    if photos is not None:
        console.print(_photos(lost if failed else inputs, show_all))
    console.print(_table(items if show_all else items[:_SHOWN], failed))
    if len(items) > _SHOWN and not show_all:
        say(console, f"{len(items) - _SHOWN} more rows: add --all")
    summary = ", ".join(f"{counts[state]} {state}" for state in sorted(counts, key=_ORDER.index))
    identities, seconds = _measured(known, "identity_after"), _measured(known, "seconds")
    if identities:
        summary += f"; identity cosine mean {fmean(identities):.3f}, largest {max(identities):.3f}"
    if seconds:
        summary += f"; {_number(fmean(seconds), 2)} s each"
    say(console, summary)
    say(console, str(faces))
    if faces.sizes:
        say(console, "faces by size in pixels: " + ", ".join(f"{name}: {n}" for name, n in faces.sizes.items()))
    for each in (photos, boxes):
        if each is not None:
            say(console, str(each))
    if judged.verdict != "unknown":
        say(console, f"{'warning: ' if judged.verdict == 'outside' else ''}{judged}")
    preset, margin, steps, bundle, source = (
        str(settings.get(name))[:_LONGEST] for name in ("preset", "margin", "steps", "bundle", "input")
    )
    say(console, f"preset {preset}, margin {margin}, {steps} steps, bundle {bundle[:12]}, input {source}")


def _plain(item: Any) -> dict[str, Any]:
    """A row as plain values, the face's frame as an object."""
    return asdict(item) | {"frame": None if item.frame is None else json.loads(item.frame)}


def _photos(rows: list[Any], show_all: bool) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("photo", overflow="fold")
    table.add_column("state")
    table.add_column("faces", justify="right")
    table.add_column("given back as, or reason", overflow="fold")
    colours = {**_COLOURS, "withheld": "red"}
    for row in rows if show_all else rows[:_SHOWN]:
        where = f"{row.reason}: {row.message}" if row.reason else row.output or ""
        faces = "" if row.faces is None else str(row.faces)
        add_row(table, row.path, Text(row.state or "", style=colours.get(row.state, "")), faces, where)
    return table


def _measured(items: list[Any], column: str) -> list[float]:
    """What was measured of results, where it could be."""
    values = (getattr(item, column) for item in items if item.state == "done")
    return [value for value in values if value is not None]


def _number(value: float | None, digits: int) -> str:
    """A measure in a few characters, however large; a hyphen for one that left the range of numbers."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.1e}"


def _table(items: list[Any], failed: bool) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("input", overflow="fold")
    if failed:
        table.add_column("reason", overflow="fold")
        table.add_column("message", overflow="fold")
        for item in items:
            add_row(table, _name(item), item.reason or "", item.message or "")
        return table
    table.add_column("state")
    table.add_column("output or reason", overflow="fold")
    for heading in ("fake", "distance", "identity", "attributes", "steps", "seconds"):
        table.add_column(heading, justify="right")
    for item in items:
        where = f"{item.reason}: {item.message}" if item.reason else item.output or item.crop or item.message or ""
        numbers = [""] * 6
        if item.state == "done":
            numbers = [
                "-" if item.neighbour_id is None else str(item.neighbour_id),
                _number(item.neighbour_distance, 3),
                f"{_number(item.identity_before, 2)} > {_number(item.identity_after, 2)}",
                f"{_number(item.attribute_before, 2)} > {_number(item.attribute_after, 2)}",
                "-" if item.steps is None else str(item.steps),
                _number(item.seconds, 2),
            ]
        add_row(table, _name(item), Text(item.state, style=_COLOURS[item.state]), where, *numbers)
    return table


def _name(item: Any) -> str:
    return f"{item.input} face {item.face}" if item.face else str(item.input)
