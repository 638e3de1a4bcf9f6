"""Options that several commands share, and how they meet a configuration file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from faceanon_engine.cli.console import LOG_LEVELS, set_log_level
from faceanon_engine.engine.config import (
    ALIGNMENTS,
    BACKENDS,
    FORMATS,
    METRICS,
    OPTIMISE_PRECISIONS,
    PRECISIONS,
    JobSettings,
    job_settings,
    read_config,
)
from faceanon_engine.engine.preset import PRESETS

Command = TypeVar("Command", bound=Callable[..., Any])


class AutoOr(click.ParamType):
    """A whole number of at least 1, or the word auto, which is None."""

    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value is None or value == "auto":
            return None
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            self.fail(f"{value!r} is neither auto nor a whole number of at least 1", param, ctx)
        return number


def _apply_log_level(_context: click.Context, _parameter: click.Parameter, value: str) -> None:
    set_log_level(value)


log_level = click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS),
    default="warning",
    show_default=True,
    expose_value=False,
    callback=_apply_log_level,
    is_eager=True,
    help="Log records of this level and above go to stderr.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; everything else on stderr.")
bundle = click.option("--bundle", metavar="NAME|PATH", help="The networks.  [default: the only one installed]")
device = click.option("--device", metavar="auto|cpu|cuda", default="auto", show_default=True, help="Where to run.")
align = click.option(
    "--align",
    type=click.Choice(ALIGNMENTS),
    default="auto",
    show_default=True,
    help="auto finds and aligns the faces of photos; never takes inputs as aligned crops.",
)
preset = click.option(
    "--preset",
    type=click.Choice(sorted(PRESETS)),
    default="falco",
    show_default=True,
    help="What the paper means, what the released code does, or the paper's with early stopping.",
)
metric = click.option(
    "--metric", type=click.Choice(METRICS), default="euclidean", show_default=True, help="Distance of the pairing."
)
limit = click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N inputs.")
batch_size = click.option(
    "--batch-size", type=AutoOr(), default="auto", show_default=True, help="Faces that are processed together."
)
backend = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="torch",
    show_default=True,
    help="What runs the stages without gradients; auto takes the fastest this machine can run, built at first use.",
)
precision = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="What those stages compute in.",
)
truncation = click.option(
    "--truncation", type=float, default=0.7, show_default=True, help="Psi of the pool, in (0, 1]."
)
seed = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the pool.")
pool_size = click.option(
    "--pool-size",
    type=AutoOr(),
    default="auto",
    show_default=True,
    help="Faces in the pool that originals are paired with.",
)

_JOB_OPTIONS = (
    bundle,
    preset,
    click.option(
        "--margin", type=float, default=0.0, show_default=True, help="Identity cosine that may remain, 0 to 1."
    ),
    click.option("--steps", type=click.IntRange(min=0), metavar="N", help="Optimisation steps.  [default: 50]"),
    batch_size,
    limit,
    device,
    backend,
    precision,
    click.option(
        "--devices",
        metavar="NAME,NAME,...|all",
        help="Several devices, such as cuda:0,cuda:1: one process each.  [default: one, --device]",
    ),
    click.option(
        "--optimise-precision",
        type=click.Choice(OPTIMISE_PRECISIONS),
        default="fp32",
        show_default=True,
        help="What the optimisation computes in; tf32 needs an NVIDIA GPU.",
    ),
    click.option(
        "--proxy-resolution",
        type=click.IntRange(min=8),
        metavar="PIXELS",
        help="Optimise through the generator's picture at that side, finish at full resolution.  [default: off]",
    ),
    align,
    click.option(
        "--format", type=click.Choice(FORMATS), help="Of the results.  [default: the preset's, png for falco]"
    ),
    click.option(
        "--quality", type=click.IntRange(1, 100), metavar="1..100", help="Of jpeg and webp.  [default: the preset's]"
    ),
    click.option(
        "--save-codes/--no-save-codes", default=False, help="Write each result's w+ code beside it, as .w_plus.npy."
    ),
    metric,
    pool_size,
    truncation,
    seed,
    click.option(
        "--contact-sheet",
        type=click.IntRange(min=0),
        default=16,
        show_default=True,
        metavar="N",
        help="Show the first N results beside their ORIGINALS in OUTPUT/contact-sheet.png; 0 makes none.",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="YAML or TOML file with any of these settings; flags come before it.",
    ),
)


def job_options(command: Command) -> Command:
    """All settings of a job."""
    for option in reversed(_JOB_OPTIONS):
        command = option(command)
    return command


def settings_of(context: click.Context, input: Path, output: Path, flags: dict[str, Any]) -> JobSettings:
    """Settings from the configuration file, overlaid by the flags that were really given."""
    config: Path | None = flags.pop("config")
    values = {} if config is None else read_config(config)
    for name, value in flags.items():
        source = context.get_parameter_source(name)
        if name not in values or source is not click.core.ParameterSource.DEFAULT:
            values[name] = value
    return job_settings(input, output, values)
