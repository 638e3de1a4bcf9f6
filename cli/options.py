"""Options that several commands share, and how they meet a configuration file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from faceanon_engine.cli.console import LOG_LEVELS, set_log_level
from faceanon_engine.engine.choices import (
    ALIGNMENTS,
    BACKENDS_OR_AUTO,
    IMAGE_FORMATS,
    METRICS,
    OPTIMISE_PRECISIONS,
    PRECISIONS,
)
from faceanon_engine.engine.job.config_file import read_config
from faceanon_engine.engine.job.settings import JobSettings, job_settings
from faceanon_engine.engine.method.preset import PRESETS

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

_DEFAULTS = {field.name: field.default for field in fields(JobSettings)}


def _setting(
    flag: str,
    help: str,
    kind: click.ParamType | tuple[str, ...] | None = None,
    *,
    chosen: str | None = None,
    metavar: str | None = None,
) -> Callable[[Command], Command]:
    """The option of a setting, with the default that `JobSettings` gives it.

    A tuple lists what it may be. Where the default is None, `chosen` says what is taken then.
    """
    return click.option(
        flag,
        type=click.Choice(kind) if isinstance(kind, tuple) else kind,
        default=_DEFAULTS[flag.removeprefix("--").partition("/")[0].replace("-", "_")],
        show_default=chosen is None,
        metavar=metavar,
        help=help if chosen is None else f"{help}  [default: {chosen}]",
    )


bundle = _setting(
    "--bundle", "The networks.", chosen="the only one installed, the demo's where none is", metavar="NAME|PATH"
)
preset = _setting(
    "--preset",
    "What the paper means, what the released code does, or the paper's with early stopping.",
    tuple(sorted(PRESETS)),
)
batch_size = _setting("--batch-size", "Faces that are processed together.", AutoOr(), chosen="auto")
limit = _setting("--limit", "Only the first N inputs.", click.IntRange(min=1), chosen="all", metavar="N")
device = _setting("--device", "Where to run.", metavar="auto|cpu|cuda")
backend = _setting(
    "--backend",
    "What runs the stages without gradients; auto takes the fastest this machine can run, built at first use.",
    BACKENDS_OR_AUTO,
)
precision = _setting("--precision", "What those stages compute in.", PRECISIONS)
align = _setting(
    "--align", "auto finds and aligns the faces of photos; never takes inputs as aligned crops.", ALIGNMENTS
)
metric = _setting("--metric", "Distance of the pairing.", METRICS)
pool_size = _setting(
    "--pool-size",
    "Faces in the pool that originals are paired with; auto takes the largest there is, or makes one of at least two "
    "an original.",
    AutoOr(),
    chosen="auto",
)
truncation = _setting("--truncation", "Psi of the pool, above 0, at most 1.")
seed = _setting("--seed", "Seed of the pool.", click.IntRange(min=0), metavar="N")

_JOB_OPTIONS = (
    bundle,
    preset,
    _setting("--margin", "Identity cosine that may remain, 0 to 1."),
    _setting("--steps", "Optimisation steps.", click.IntRange(min=0), chosen="the preset's, 50", metavar="N"),
    batch_size,
    limit,
    device,
    backend,
    precision,
    _setting(
        "--devices",
        "Several devices, such as cuda:0,cuda:1: one process each.",
        chosen="one, --device",
        metavar="NAME,NAME,...|all",
    ),
    _setting(
        "--optimise-precision", "What the optimisation computes in; tf32 needs an NVIDIA GPU.", OPTIMISE_PRECISIONS
    ),
    _setting(
        "--proxy-resolution",
        "Optimise through the generator's picture at that side, finish at full resolution.",
        click.IntRange(min=8),
        chosen="off",
        metavar="PIXELS",
    ),
    align,
    _setting("--format", "Of the results.", IMAGE_FORMATS, chosen="the preset's, png for falco"),
    _setting(
        "--quality", "Of jpeg and webp.", click.IntRange(1, 100), chosen="the preset's, 95 for falco", metavar="1..100"
    ),
    _setting("--save-codes/--no-save-codes", "Write each result's w+ code beside it, as .w_plus.npy."),
    metric,
    pool_size,
    truncation,
    seed,
    _setting(
        "--contact-sheet",
        "Show the first N results beside their ORIGINALS in OUTPUT/contact-sheet.png; 0 makes none.",
        click.IntRange(min=0),
        metavar="N",
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
