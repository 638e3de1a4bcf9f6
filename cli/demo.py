"""`faceanon-engine demo`: synthetic people, drawn, with exact labels."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from faceanon_engine.cli import options
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.printable import counted


@click.group()
def demo() -> None:
    """Draw synthetic people to try things on."""


@demo.command()
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.option("--people", type=click.IntRange(1, 1_000_000), default=24, show_default=True, help="How many persons.")
@click.option("--per-person", type=click.IntRange(1, 100), default=2, show_default=True, help="Pictures of each.")
@click.option("--size", type=click.IntRange(16, 2048), default=256, show_default=True, help="Pixels a side.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**62),
    default=900_000_000,
    show_default=True,
    help="Seed of the first person; the next has the next. From the default on, no bundled network has seen them.",
)
@click.option("--processes", type=click.IntRange(1, 256), help="How many at once.  [default: one a core]")
@options.log_level
def render(output: Path, people: int, per_person: int, size: int, seed: int, processes: int | None) -> None:
    """Draw people into the folder OUTPUT: PNG pictures, aligned as FFHQ's, and labels.parquet.

    The labels have CelebA's names (1 or -1), the number of the person, the angles of the head in degrees and every
    parameter of the drawing. The same options draw the same pictures.
    """
    labelled = _drawing("labelled")
    _check_folder(output)
    messages = Console(stderr=True, highlight=False)
    columns = (TextColumn("drawing"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, disable=not messages.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=people * per_person)
        # A worker takes a second to start: not worth it for a few pictures.
        workers = processes or min(os.cpu_count() or 1, 1 + people * per_person // 64)
        try:
            for done, _ in labelled.write(
                output, people=people, per_person=per_person, size=size, seed=seed, processes=workers
            ):
                progress.update(task, completed=done)
        except OSError as error:
            raise UserError(f"cannot write to {output}: {error.strerror or error}") from error
    click.echo(f"{people * per_person} pictures of {people} people in {output}, labels in {output / labelled.LABELS}")


@demo.command()
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.option("--count", type=click.IntRange(1, 10_000), default=3, show_default=True, help="How many photographs.")
@click.option("--people", type=click.IntRange(0, 40), default=9, show_default=True, help="In each of them.")
@click.option("--width", type=click.IntRange(64, 8192), default=1200, show_default=True, help="In pixels.")
@click.option("--height", type=click.IntRange(64, 8192), default=800, show_default=True, help="In pixels.")
@click.option("--seed", type=click.IntRange(0, 2**62), default=900_000_000, show_default=True, help="Of the first one.")
@options.log_level
def photos(output: Path, count: int, people: int, width: int, height: int, seed: int) -> None:
    """Draw photographs of several people into the folder OUTPUT, and boxes.csv: where their faces are.

    They are what 'anonymize --output photos' takes, and the boxes are a file for --boxes.
    """
    scenes = _drawing("scenes")
    _check_folder(output)
    messages = Console(stderr=True, highlight=False)
    columns = (TextColumn("drawing"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, disable=not messages.is_terminal, transient=True) as progress:
        try:
            drawn = scenes.write(output, count=count, people=people, width=width, height=height, seed=seed)
            for _ in progress.track(drawn, total=count):
                pass
        except OSError as error:
            raise UserError(f"cannot write to {output}: {error.strerror or error}") from error
    click.echo(f"{counted(count, 'photograph')} of {people} people each in {output}, boxes in {output / scenes.BOXES}")


def _drawing(module: str) -> Any:
    """A module that draws; raises UserError where what it needs is not installed."""
    try:
        return import_module(f"faceanon_engine.demo.{module}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"drawing needs the package {error.name}, which is not installed: pip install 'faceanon-engine[demo]'"
        ) from error


def _check_folder(output: Path) -> None:
    """Raise UserError where nothing should be drawn: among a job's results, or where there is something already."""
    from faceanon_engine.engine.job.samples import refuse_inside_job

    refuse_inside_job(output)
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} is not empty: name a new folder, or empty this one")
