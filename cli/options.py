"""Options that several commands share, and how they meet a configuration file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from faceanon_engine.cli.console import LOG_LEVELS, set_log_level
from faceanon_engine.engine.job import JobSettings, job_settings, read_config
from faceanon_engine.engine.job.setting import Setting
from faceanon_engine.engine.job.settings import SETTINGS

Command = TypeVar("Command", bound=Callable[..., Any])


class AutoOr(click.ParamType):
    """A whole number of at least so much, or the word auto, which is None."""

    name = "auto|N"

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value is None or value == "auto":
            return None
        try:
            number = int(value)
        except ValueError:
            number = self._least - 1
        if number < self._least:
            self.fail(f"{value!r} is neither auto nor a whole number of at least {self._least}", param, ctx)
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


def setting_option(setting: Setting) -> Callable[[Command], Command]:
    """The option of a setting: all of it follows from the setting's field."""
    flag = f"--{setting.spelled}"
    return click.option(
        f"{flag}/--no-{setting.spelled}" if setting.kind is bool else flag,
        setting.name,
        type=_type_of(setting),
        default=setting.default,
        show_default=setting.chosen is None,
        metavar=setting.metavar,
        help=setting.help if setting.chosen is None else f"{setting.help}  [default: {setting.chosen}]",
    )


def _type_of(setting: Setting) -> click.ParamType | type:
    if setting.choices:
        return click.Choice(setting.choices)
    if setting.may_be_auto:
        return AutoOr(setting.least or 0)
    # Ranges of other numbers are left to the settings' own check: click lets nan into every range.
    if setting.kind is int:
        return click.IntRange(setting.least, setting.most)
    return setting.kind


# Those that other commands take, too.
bundle = setting_option(SETTINGS["bundle"])
preset = setting_option(SETTINGS["preset"])
batch_size = setting_option(SETTINGS["batch_size"])
limit = setting_option(SETTINGS["limit"])
device = setting_option(SETTINGS["device"])
backend = setting_option(SETTINGS["backend"])
precision = setting_option(SETTINGS["precision"])
align = setting_option(SETTINGS["align"])
min_face = setting_option(SETTINGS["min_face"])
metric = setting_option(SETTINGS["metric"])
pool_size = setting_option(SETTINGS["pool_size"])
truncation = setting_option(SETTINGS["truncation"])
seed = setting_option(SETTINGS["seed"])

_config = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="YAML or TOML file with any of these settings; flags come before it.",
)


def job_options(command: Command) -> Command:
    """All settings of a job, in the order of their fields, and the file that may hold them."""
    command = _config(command)
    for setting in reversed(SETTINGS.values()):
        command = setting_option(setting)(command)
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
