"""`extract`, `invert` and `pair`: the stages alone, for those who keep the intermediate results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from faceanon_engine.cli import options
from faceanon_engine.cli.console import ProgressObserver, error_console, output_console, print_json, say

if TYPE_CHECKING:
    from faceanon_engine.engine.job import StageResult


def stage_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What all stages take."""
    for option in reversed(
        (
            options.bundle,
            options.preset,
            options.align,
            options.min_face,
            options.limit,
            options.batch_size,
            options.device,
            options.backend,
            options.precision,
            options.as_json,
            options.log_level,
        )
    ):
        command = option(command)
    return command


_input = click.argument("input", type=click.Path(path_type=Path))
_out = click.argument("out", type=click.Path(path_type=Path))


@click.command()
@_input
@_out
@stage_options
@click.pass_context
def extract(context: click.Context, input: Path, out: Path, as_json: bool, **flags: Any) -> None:
    """Write attribute and identity features of the faces of INPUT to OUT (.npz or .safetensors).

    attribute_embedding float32 [N, E], which pairing compares; identity_embedding float32 [N, D] of unit length.
    Beside them, input and face say where each row is from, bundle which networks made them.
    """
    from faceanon_engine.engine.job import stages

    _run(context, input, out, flags, as_json, stages.extract)


@click.command()
@_input
@_out
@stage_options
@click.pass_context
def invert(context: click.Context, input: Path, out: Path, as_json: bool, **flags: Any) -> None:
    """Write the latent codes of the faces of INPUT to OUT (.npz or .safetensors): w_plus float32 [N, rows, w_dim]."""
    from faceanon_engine.engine.job import stages

    _run(context, input, out, flags, as_json, stages.invert)


@click.command()
@_input
@_out
@click.option(
    "--neighbours", type=click.IntRange(min=1), default=1, show_default=True, metavar="K", help="For each face."
)
@options.metric
@options.pool_size
@options.truncation
@options.seed
@stage_options
@click.pass_context
def pair(
    context: click.Context,
    input: Path,
    out: Path,
    neighbours: int,
    as_json: bool,
    **flags: Any,
) -> None:
    """Write the nearest generated faces of INPUT to OUT (.npz or .safetensors).

    INPUT is images, or a file that `extract` wrote. neighbour_id int64 [N, K] counts the pool's faces,
    neighbour_distance float64 [N, K].
    """
    from faceanon_engine.engine.job import stages

    _run(context, input, out, flags, as_json, partial(stages.pair, neighbours=neighbours), "pairing")


def _run(
    context: click.Context,
    input: Path,
    out: Path,
    flags: dict[str, Any],
    as_json: bool,
    stage: Callable[..., StageResult],
    doing: str | None = None,
) -> None:
    from faceanon_engine.engine.job import job_settings
    from faceanon_engine.engine.job.tables import check_table_name
    from faceanon_engine.export.prepare import prepare_for

    check_table_name(out)
    settings = job_settings(input, out, flags)
    with ProgressObserver(error_console(), doing or str(context.info_name)) as observer:
        result = stage(settings, observer=observer, prepare=prepare_for(settings.backend, observer.note))
    _finish(context, out, result, as_json)


def _finish(context: click.Context, out: Path, result: StageResult, as_json: bool) -> None:
    table = result.table
    table.write(out)
    shapes = {name: list(array.shape) for name, array in table.arrays.items()}
    if as_json:
        failures = [
            {"input": failure.input, "reason": failure.reason, "message": failure.message}
            for failure in result.failures
        ]
        print_json(
            {
                "out": str(out),
                "rows": len(table),
                "arrays": shapes,
                "failures": failures,
                "exit_code": result.exit_code,
            }
        )
    else:
        console = output_console()
        for failure in result.failures:
            say(console, f"failed: {failure.input}: {failure.message}")
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        say(console, f"{len(table)} faces, {len(result.failures)} inputs failed: {out} ({listed})")
    context.exit(result.exit_code)
