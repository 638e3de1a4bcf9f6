"""`faceanon-engine status`: the manifest of a job as a table."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from faceanon_engine.cli import options
from faceanon_engine.cli.console import add_row, output_console, print_json, say

_SHOWN = 50
_COLOURS = {"done": "green", "failed": "red", "pending": "yellow"}


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--failed", is_flag=True, help="Only what failed, with the reasons.")
@click.option("--all", "show_all", is_flag=True, help=f"All rows, not only the first {_SHOWN}.")
@options.as_json
@options.log_level
def status(output: Path, failed: bool, show_all: bool, as_json: bool) -> None:
    """Show what happened to every image of the job in the folder OUTPUT."""
    from faceanon_engine.engine.job import Manifest
    from faceanon_engine.engine.job.folder import refuse_old_layout
    from faceanon_engine.engine.job.layout import JobFolder

    folder = JobFolder(output)
    refuse_old_layout(folder)
    path = output if output.is_file() else folder.manifest
    with Manifest.read(path, snapshot=True) as manifest:
        items = manifest.items("failed" if failed else None)
        counts = manifest.counts()
        settings = manifest.settings()
        done = manifest.items("done")
    if as_json:
        print_json(
            {
                "output": str(output),
                "manifest": str(path),
                "settings": settings,
                "counts": counts,
                "items": [asdict(item) for item in items],
            }
        )
        return
    console = output_console()
    console.print(_table(items if show_all else items[:_SHOWN], failed))
    if len(items) > _SHOWN and not show_all:
        say(console, f"{len(items) - _SHOWN} more rows: add --all")
    summary = ", ".join(f"{counts[state]} {state}" for state in ("done", "failed", "pending"))
    if done:
        identity = fmean(item.identity_after or 0.0 for item in done)
        largest = max(item.identity_after or 0.0 for item in done)
        summary += f"; identity cosine mean {identity:.3f}, largest {largest:.3f}"
        summary += f"; {fmean(item.seconds or 0.0 for item in done):.2f} s each"
    say(console, summary)
    say(
        console,
        f"preset {settings.get('preset')}, margin {settings.get('margin')}, {settings.get('steps')} steps, "
        f"bundle {str(settings.get('bundle'))[:12]}, input {settings.get('input')}",
    )


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
        where = f"{item.reason}: {item.message}" if item.state == "failed" else item.output or ""
        numbers = [""] * 6
        if item.state == "done":
            numbers = [
                str(item.neighbour_id),
                f"{item.neighbour_distance:.3f}",
                f"{item.identity_before:.2f} > {item.identity_after:.2f}",
                f"{item.attribute_before:.2f} > {item.attribute_after:.2f}",
                str(item.steps),
                f"{item.seconds:.2f}",
            ]
        add_row(table, _name(item), Text(item.state, style=_COLOURS[item.state]), where, *numbers)
    return table


def _name(item: Any) -> str:
    return f"{item.input} face {item.face}" if item.face else str(item.input)
