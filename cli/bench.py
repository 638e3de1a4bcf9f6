"""`faceanon-engine bench`: what the networks and the optimisation cost on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from faceanon_engine.cli import options
from faceanon_engine.cli.console import error_console, output_console, print_json
from faceanon_engine.cli.numbers import NumberRange
from faceanon_engine.engine.bench import (
    MODES,
    Budget,
    Mode,
    accepted_obstacles,
    compare_results,
    obstacles,
    read_result,
)
from faceanon_engine.engine.bench.plan import BATCHES, STEP_BATCHES
from faceanon_engine.engine.choices import BACKENDS, PRECISIONS
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions import GRAPHS
from faceanon_engine.engine.system import Observer
from faceanon_engine.engine.system.files import failures_explained, refuse_unwritable

_USUAL = Budget()
_LONGEST = 24 * 3600.0
"""Seconds that a case may be asked to be measured for."""


class Words(click.ParamType):
    """Names separated by commas, each one of those known; "all" is every one of them."""

    name = "NAME,..."

    def __init__(self, known: Iterable[str]) -> None:
        self._known = tuple(known)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...] | None:
        if value is None or isinstance(value, tuple):
            return value
        if value == "all":
            return self._known
        words = tuple(dict.fromkeys(word.strip() for word in str(value).split(",") if word.strip()))
        unknown = [word for word in words if word not in self._known]
        if unknown or not words:
            self.fail(f"{', '.join(unknown) or 'nothing'} is unknown: use {', '.join(self._known)} or all", param, ctx)
        return words


class Numbers(click.ParamType):
    """Whole numbers of 1 to `most` separated by commas, sorted."""

    name = "N,N,..."
    most = 2**16

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...] | None:
        if value is None or isinstance(value, tuple):
            return value
        try:
            numbers = tuple(sorted({int(part) for part in str(value).split(",")}))
        except ValueError:
            numbers = (0,)
        if numbers[0] < 1 or numbers[-1] > self.most:
            self.fail(f"{value!r} is not a list of whole numbers of 1 to {self.most}, such as 1,8,32", param, ctx)
        return numbers


def _listed(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


@click.command()
@click.argument("mode", type=click.Choice(MODES), default="all")
@options.bundle
@options.device
@click.option(
    "--networks",
    type=Words(GRAPHS),
    default="all",
    show_default=True,
    help=f"Graphs to measure: {', '.join(GRAPHS)}.",
)
@click.option(
    "--backend",
    type=Words(BACKENDS),
    help=f"{', '.join(BACKENDS)}, or all: what cannot run is left out with the reason.  "
    "[default: those that this machine can run]",
)
@click.option(
    "--precision", type=Words(PRECISIONS), default="fp32", show_default=True, help=f"{', '.join(PRECISIONS)}, or all."
)
@click.option(
    "--batch",
    type=Numbers(),
    help=f"Batch sizes of the sweep.  [default: {_listed(BATCHES)}; of the optimisation {_listed(STEP_BATCHES)}]",
)
@options.preset
@click.option(
    "--seconds",
    type=NumberRange(0, _LONGEST),
    default=_USUAL.min_seconds,
    show_default=True,
    help="Least time for a case.",
)
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    default=_USUAL.min_iterations,
    show_default=True,
    help="Least number of runs of a case.",
)
@click.option(
    "--warmup",
    type=NumberRange(0, _LONGEST),
    default=_USUAL.warmup_seconds,
    show_default=True,
    help="Seconds of runs before, uncounted.",
)
@click.option(
    "--max-seconds",
    type=NumberRange(0, _LONGEST),
    default=_USUAL.max_seconds,
    show_default=True,
    help="A case ends here, whatever --iterations asks for.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=_USUAL.rounds,
    show_default=True,
    help="Turns that each case takes, so that rivals are measured next to each other.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep every backend to N processors, with a thread on each.  [default: each backend's own choice]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the inputs.")
@click.option(
    "--memory/--no-memory",
    default=True,
    show_default=True,
    help="Measure peak memory afterwards, each session in a process of its own.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.json",
    help="Write the result here, and the curve beside it as PNG.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.json",
    help="Show or compare this earlier result instead of measuring.",
)
@click.option(
    "--compare",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OLD.json",
    help="Show what became slower or faster since this result.",
)
@click.option(
    "--fail-above",
    type=NumberRange(min=0),
    metavar="PERCENT",
    help="With --compare: exit with 1 when a median grew by more.",
)
@click.option(
    "--compare-anyway", is_flag=True, help="Compare results of different machines or networks, and say how they differ."
)
@options.as_json
@options.log_level
def bench(
    mode: Mode,
    bundle: str | None,
    output: Path | None,
    source: Path | None,
    compare: Path | None,
    fail_above: float | None,
    compare_anyway: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Measure latency, throughput and memory of every network on every backend, and of the optimisation step.

    MODE is latency (batch 1), throughput (a sweep over batch sizes), optimise (the optimisation step), or all.
    Nothing else should run on the machine meanwhile; the result says when something did.
    """
    if fail_above is not None and compare is None:
        raise click.UsageError("--fail-above needs --compare OLD.json")
    # What can be wrong is told before the long part.
    if output is not None:
        _check_output(output)
    old = None if compare is None else _read(compare)
    if source is not None:
        result = _read(source)
    else:
        result = _measure(mode, bundle, flags, against=None if compare_anyway else old)
    # Shown first: a disk that is full by now takes nothing of it.
    if as_json:
        print_json(result)
    else:
        from faceanon_engine.cli.bench_view import view

        console = output_console()
        console.print(view(result, console.width), markup=False)
    if output is not None:
        with failures_explained(output, "give another --output"):
            _write(output, result)
    return 0 if old is None else _compare(old, result, fail_above, compare_anyway, as_json)


def _read(path: Path) -> dict[str, Any]:
    """An earlier result that can be shown and compared; raises UserError when it is none, or only a part of one."""
    from faceanon_engine.cli.bench_view import view, view_comparison

    result = read_result(path)
    try:
        view(result)
        view_comparison(compare_results(result, result), None, obstacles(result, result))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"{path} is no result of bench ({type(error).__name__}: {error}): give a file that 'bench --output' wrote"
        ) from None
    return result


def _measure(mode: Mode, bundle: str | None, flags: dict[str, Any], against: dict[str, Any] | None) -> dict[str, Any]:
    from faceanon_engine.engine.bench.bench import bench as measure
    from faceanon_engine.export.prepare import telling

    seconds = flags["seconds"]
    with _Progress() as observer:
        return measure(
            bundle,
            mode=mode,
            networks=flags["networks"],
            backends=flags["backend"] or (),
            precisions=flags["precision"],
            batches=flags["batch"] or (),
            device=flags["device"],
            preset=flags["preset"],
            budget=Budget(
                warmup_seconds=flags["warmup"],
                min_seconds=seconds,
                min_iterations=flags["iterations"],
                max_seconds=max(flags["max_seconds"], seconds),
                rounds=flags["rounds"],
            ),
            seed=flags["seed"],
            memory=flags["memory"],
            threads=flags["threads"],
            against=against,
            prepare=telling(observer.note),
            observer=observer,
            command=sys.argv[1:],
        )


def _compare(old: dict[str, Any], new: dict[str, Any], fail_above: float | None, anyway: bool, as_json: bool) -> int:
    from faceanon_engine.cli.bench_view import view_comparison

    differences = accepted_obstacles(old, new, anyway=anyway)
    comparison = compare_results(old, new)
    if not comparison.changes:
        raise UserError("the two results have no case in common: measure the same networks, backends and batch sizes")
    share = None if fail_above is None else fail_above / 100
    console = error_console() if as_json else output_console()
    console.print()
    console.print(view_comparison(comparison, share, differences), markup=False)
    return 1 if share is not None and comparison.regressions(share) else 0


def _check_output(path: Path) -> None:
    """Find out before an hour of measuring whether the file can be written; raises UserError."""
    if path.suffix != ".json":
        raise UserError(f"{path} does not end in .json: give --output a name such as bench.json")
    with failures_explained(path, "give another --output"):
        path.parent.mkdir(parents=True, exist_ok=True)
    refuse_unwritable(path, "--output")


def _write(path: Path, result: dict[str, Any]) -> None:
    from faceanon_engine.cli.bench_view import draw
    from faceanon_engine.engine.system import write_atomic

    console = error_console()
    write_atomic(path, (json.dumps(result, indent=1) + "\n").encode())
    console.print(f"result: {path}", markup=False)
    picture = path.with_suffix(".png")
    try:
        curve = draw(result)
    except ImportError:
        console.print("no curve is drawn: pip install 'faceanon-engine[bench]' adds matplotlib", markup=False)
    else:
        if curve is not None:
            write_atomic(picture, curve)
            console.print(f"curve:  {picture}", markup=False)


class _Progress(Observer):
    """Shows what is being measured, drawn between turns only: a thread that draws would be measured with the rest."""

    def __init__(self) -> None:
        self._console = console = error_console()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("loading", total=None)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def note(self, message: str) -> None:
        """A line of its own, above what is being measured."""
        self._console.print(message, markup=False)

    def progress(self, done: float, total: float | None, what: str = "") -> None:
        """What is being measured, and how many parts of it are done."""
        self._bar.update(self._task, description=what, completed=done, total=total)
        self._bar.refresh()
