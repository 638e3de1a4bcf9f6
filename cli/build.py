"""`faceanon-engine build`: networks become exported graphs and engines, ahead of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from faceanon_engine.cli import options
from faceanon_engine.cli.console import add_row, error_console, output_console, print_json, say
from faceanon_engine.cli.numbers import NumberRange
from faceanon_engine.engine.choices import IMAGE_INPUTS
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.files import refuse_unwritable
from faceanon_engine.export.build import BuildObserver

if TYPE_CHECKING:
    from faceanon_engine.export.build import Build, Built, Item

_LARGEST_BATCH = 2**16
_LARGEST_WORKSPACE = 2**20


def _names(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Names with commas between them, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in (value or "").split(",") if name.strip()))
    if value is not None and not names:
        raise click.BadParameter("give at least one name, or leave it out")
    return names


def _gibibytes(_context: click.Context, _parameter: click.Parameter, value: float | None) -> int | None:
    return None if value is None else int(value * 2**30)


@click.command()
@options.bundle
@click.option(
    "--networks",
    callback=_names,
    metavar="NAME,...",
    help="Graphs (mapping, synthesis, inverter, identity, attributes, attribute_tokens) or roles.  [default: all]",
)
@click.option(
    "--backend",
    "backends",
    callback=_names,
    metavar="NAME,...",
    help="onnxruntime, tensorrt, tensorrt-rtx.  [default: all that can be built here]",
)
@click.option(
    "--precision",
    "precisions",
    callback=_names,
    default="fp32",
    show_default=True,
    metavar="fp32|fp16|bf16,...",
    help="What the networks compute in.",
)
@click.option(
    "--batch",
    default="1,8,64",
    show_default=True,
    metavar="MIN,OPT,MAX",
    help="Batch sizes an engine serves; one number is a fixed size, which is replayed as a CUDA graph.",
)
@click.option(
    "--target",
    "targets",
    callback=_names,
    metavar="sm_89,...",
    help="GPUs to build for ahead of time; + joins those that share an engine.  [default: one for all from sm_80]",
)
@click.option("--image-input", type=click.Choice(IMAGE_INPUTS), default="float", show_default=True, help="Images.")
@click.option("--version-compatible", is_flag=True, help="Later versions of TensorRT run the engine (not for RTX).")
@click.option("--hardware-compatible", is_flag=True, help="Later GPUs run the engine, at some cost in speed.")
@click.option("--refittable", is_flag=True, help="The engine's weights can be replaced; needs a GPU to build.")
@click.option("--strip-weights", is_flag=True, help="Leave out the weights, put back on opening; needs a GPU to build.")
@click.option("--optimization-level", type=click.IntRange(0, 5), metavar="0..5", help="More is slower to build.")
@click.option(
    "--workspace",
    callback=_gibibytes,
    type=NumberRange(0, _LARGEST_WORKSPACE),
    metavar="GIB",
    help="At most, a kernel.",
)
@click.option("--output", type=click.Path(path_type=Path), metavar="FOLDER", help="In place of the user's cache.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    default=Path("build-report.json"),
    show_default=True,
    metavar="FILE",
    help="What was built, as JSON.",
)
@click.option("--force", is_flag=True, help="Build again what is there.")
@click.option("--dry-run", is_flag=True, help="List what would be built; build nothing.")
@click.option(
    "--inspect",
    type=click.Path(path_type=Path),
    metavar="ENGINE",
    help="Print the layers, precisions and sizes of a built file, and do nothing else.",
)
@options.as_json
@options.log_level
@click.pass_context
def build(
    context: click.Context,
    bundle: str | None,
    networks: tuple[str, ...],
    backends: tuple[str, ...],
    precisions: tuple[str, ...],
    batch: str,
    targets: tuple[str, ...],
    image_input: Any,
    version_compatible: bool,
    hardware_compatible: bool,
    refittable: bool,
    strip_weights: bool,
    optimization_level: int | None,
    workspace: int | None,
    output: Path | None,
    report: Path,
    force: bool,
    dry_run: bool,
    inspect: Path | None,
    as_json: bool,
) -> None:
    """Export the networks of a bundle to verified ONNX graphs and build TensorRT engines of them.

    What is there and still right is kept. Without a GPU, graphs for ONNX Runtime and, with tensorrt-rtx installed,
    engines for the GPUs named are built.

    Exit code: 0 done, 1 something could not be built, 2 usage or environment, 130 interrupted.
    """
    if inspect is not None:
        _show(inspect, as_json)
        return
    from faceanon_engine.engine.sessions import EngineOptions
    from faceanon_engine.export import build as building

    make = partial(
        building.build,
        bundle,
        networks=networks,
        backends=backends,
        precisions=precisions,  # type: ignore[arg-type]
        profile=_profile(batch),
        targets=targets,
        image_input=image_input,
        options=EngineOptions(
            version_compatible, hardware_compatible, refittable, strip_weights, optimization_level, workspace
        ),
        force=force,
        output=output,
    )
    if dry_run:
        _print_plan(make(dry_run=True), as_json)
        return
    refuse_unwritable(report, "--report")
    with _Progress() as progress:
        done = make(observer=progress)
    # Shown first: a disk that is full by now takes nothing of it.
    if as_json:
        built = [asdict(each) for each in done.built]
        print_json({"report": str(report), "built": built, "exit_code": done.exit_code})
    else:
        _print_table(done.built)
        for each in done.failed:
            say(output_console(), f"failed: {each.error}")
        counts = f"{len(done.built) - len(done.failed)} built, {len(done.failed)} failed"
        say(output_console(), f"{counts}; report: {report}")
    building.write_report(report, done)
    context.exit(done.exit_code)


def _print_plan(planned: Build, as_json: bool) -> None:
    if as_json:
        print_json({"would_build": [asdict(item) for item in planned.items], "into": str(planned.folder)})
        return
    console = output_console()
    for item in planned.items:
        say(console, f"would build: {item.title}")
    say(
        console,
        f"{len(planned.items)} to build of bundle {planned.bundle.name} into {planned.folder}; nothing was built",
    )


def _profile(text: str) -> Any:
    from faceanon_engine.engine.sessions import Profile

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(parts) not in (1, 3):
        raise UserError(f"batch {text!r}: give one number, or a least, a usual and a largest such as 1,8,64")
    sizes = [int(part) for part in parts]
    if max(sizes) > _LARGEST_BATCH:
        raise UserError(f"batch {text!r}: at most {_LARGEST_BATCH} images at once")
    return Profile(*(sizes * 3 if len(sizes) == 1 else sizes))


class _Progress(BuildObserver):
    """A bar for every item, on a terminal; elsewhere a line when it is done."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = error_console()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: Any = None

    def __enter__(self) -> _Progress:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def begin(self, item: Item) -> None:
        # How long exporting takes nobody knows beforehand: the bar moves, and fills when TensorRT tells its share.
        self._task = self._progress.add_task(item.title, total=None, detail="")

    def progress(self, done: float, total: float | None, what: str = "") -> None:
        self._progress.update(self._task, total=total, completed=done, detail=f"{100 * done:3.0f} %")

    def end(self, item: Item, built: Built) -> None:
        state = "failed" if built.error else "kept" if built.reused else f"{built.seconds:.1f} s"
        self._progress.update(self._task, total=1.0, completed=1.0, detail=state)
        if self._progress.disable:
            say(self._console, f"{item.title}: {state}")


def _print_table(built: Sequence[Built]) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("network", "precision", "backend", "for"):
        table.add_column(heading, overflow="fold")
    for heading in ("size", "build", "max error", "mean error", "images/s"):
        table.add_column(heading, justify="right")
    for each in built:
        if each.error is not None:
            size, seconds = "", "failed"
        else:
            size, seconds = f"{(each.bytes or 0) / 1e6:.1f} MB", "kept" if each.reused else f"{each.seconds:.1f} s"
        rate = "" if each.throughput is None else f"{each.throughput:.0f}"
        add_row(
            table,
            *(each.graph, each.precision, each.backend, each.architecture or ""),
            size,
            seconds,
            "" if each.maximum_error is None else f"{each.maximum_error:.1e}",
            "" if each.mean_error is None else f"{each.mean_error:.1e}",
            rate or ("not run" if each.not_run else ""),
        )
    console = output_console()
    console.print(table)
    reasons = dict.fromkeys(
        f"{each.backend} was not run: {each.not_run}; the errors are its graph's, on the CPU"
        for each in built
        if each.not_run
    )
    for reason in reasons:
        say(console, reason)


def _show(path: Path, as_json: bool) -> None:
    from rich.table import Table

    from faceanon_engine.export.inspect import inspect

    contents = inspect(path)
    if as_json:
        print_json(asdict(contents))
        return
    console = output_console()
    for name, value in contents.facts.items():
        say(console, f"{name}: {value}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("layer", "type", "precision", "output"):
        table.add_column(heading, overflow="fold")
    table.add_column("weights", justify="right")
    for layer in contents.layers:
        shape = "x".join("N" if size == -1 else str(size) for size in layer.shape)
        weights = f"{layer.weights / 1024:.1f} KiB" if layer.weights else ""
        add_row(table, layer.name, layer.type, layer.precision, shape, weights)
    console.print(table)
    by_precision: dict[str, int] = {}
    for layer in contents.layers:
        by_precision[layer.precision] = by_precision.get(layer.precision, 0) + 1
    counts = ", ".join(f"{count} {name or 'of no type'}" for name, count in sorted(by_precision.items()))
    total = sum(layer.weights for layer in contents.layers)
    say(
        console,
        f"{len(contents.layers)} layers ({counts}), {total / 1e6:.1f} MB of weights; from {contents.source}",
    )
