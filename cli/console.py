"""What the person sees: messages and progress on stderr, results on stdout."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from faceanon_engine.engine.job import JobObserver
from faceanon_engine.engine.system import Observer
from faceanon_engine.engine.system.printable import printable

LOG_LEVELS = ("debug", "info", "warning", "error")


def error_console() -> Console:
    """Where messages and progress go."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def output_console() -> Console:
    """Where results go; when it is no terminal, lines are not cut at its width."""
    width = None if sys.stdout.isatty() else 200
    return Console(highlight=False, width=width)


def say(console: Console, text: str) -> None:
    """One line, as it is: nothing in it is taken for markup, an emoji or a line break, and it is not cut."""
    console.print(Text(printable(text)), soft_wrap=True)


def add_row(table: Table, *cells: str | Text) -> None:
    """A row of a table, its cells as they are, as in `say`."""
    table.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in cells))


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def set_log_level(level: str) -> None:
    """Send our log records of that level and above to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("faceanon_engine")
    root.handlers = [handler]
    root.setLevel(level.upper())


class NoteObserver(Observer):
    """Says what the person may want to know, a line each, and shows no progress."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def note(self, message: str) -> None:
        say(self._console, message)


class RateColumn(ProgressColumn):
    """Items a second, or seconds an item where that is the longer."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("", style="progress.data.speed")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="progress.data.speed")


class ProgressObserver(JobObserver):
    """Shows a job's progress on a terminal; says only what matters when there is none."""

    def __init__(self, console: Console, doing: str = "anonymizing") -> None:
        self._console = console
        self._doing = doing
        self._failed = 0
        self._inputs: Any = None
        self._long: Any = None
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            RateColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> ProgressObserver:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def started(self, about: Mapping[str, str], inputs: int, already: int) -> None:
        print_about(self._console, about)
        if already:
            say(self._console, f"{already} of {inputs} inputs are done already")
        # The rate and the time left are of this run: what was done before does not count.
        self._inputs = self._progress.add_task(self._doing, total=inputs - already, detail="", start=False)

    def progress(self, done: float, total: float | None, what: str = "") -> None:
        if self._long is None:
            self._long = self._progress.add_task(what, total=total, detail="")
        visible = total is None or done < total
        self._progress.update(self._long, description=what, completed=done, total=total, visible=visible)

    def batch(self, size: int, step: int, steps: int) -> None:
        self._progress.start_task(self._inputs)
        self._progress.update(self._inputs, detail=self._detail(f"{size} together, step {step}/{steps}"))

    def input_finished(self, path: str, failed: bool) -> None:
        self._failed += failed
        self._progress.start_task(self._inputs)
        self._progress.update(self._inputs, advance=1, detail=self._detail(""))

    def note(self, message: str) -> None:
        say(self._console, message)

    def _detail(self, text: str) -> str:
        return ", ".join(part for part in (text, f"{self._failed} failed" if self._failed else "") if part)


def print_about(console: Console, about: Mapping[str, str]) -> None:
    """What really runs, in one line."""
    say(console, "  ".join(f"{key}: {value}" for key, value in about.items()))
