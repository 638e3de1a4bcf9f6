"""An option is what its setting's field says, and a new field needs nothing else to become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

from faceanon_engine.cli.main import cli
from faceanon_engine.cli.options import AutoOr, setting_option
from faceanon_engine.engine.job.setting import setting, settings_in
from faceanon_engine.engine.job.settings import SETTINGS


@dataclass(frozen=True)
class Painting:
    coats: int | None = setting(None, "Of paint.", least=2, chosen="auto")
    frame_colour: Literal["red", "green"] = setting("red", "Of the frame.")
    gloss: int = setting(50, "In percent.", least=0, most=100, metavar="0..100")
    thickness: float = setting(0.5, "In millimetres.", above=0, most=2)
    signed: bool = setting(False, "Whether it is.")


def paint(*arguments: str) -> Any:
    """What a command with the options of all fields is given."""
    given: dict[str, Any] = {}

    @click.command()
    def command(**flags: Any) -> None:
        given.update(flags)

    for each in reversed(settings_in(Painting).values()):
        command = setting_option(each)(command)
    done = CliRunner().invoke(command, arguments, terminal_width=100)
    return given if done.exit_code == 0 and given else done.output


def test_a_field_becomes_an_option() -> None:
    assert paint() == {"coats": None, "frame_colour": "red", "gloss": 50, "thickness": 0.5, "signed": False}
    given = paint("--coats", "3", "--frame-colour", "green", "--gloss", "100", "--thickness", "1", "--signed")
    assert given == {"coats": 3, "frame_colour": "green", "gloss": 100, "thickness": 1.0, "signed": True}
    assert paint("--coats", "auto")["coats"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--coats", "1"), "neither auto nor a whole number of at least 2"),
        (("--coats", "many"), "neither auto nor a whole number of at least 2"),
        (("--frame-colour", "blue"), "'blue' is not one of"),
        (("--gloss", "101"), "101 is not in the range 0<=x<=100"),
        (("--thickness", "thin"), "'thin' is not a valid float"),
    ],
)
def test_an_option_takes_what_its_setting_takes(arguments: tuple[str, ...], words: str) -> None:
    assert words in paint(*arguments)


def test_help_says_what_the_field_says() -> None:
    told = " ".join(paint("--help").split())
    for words in (
        "--coats AUTO|N Of paint. [default: auto]",
        "--frame-colour [red|green] Of the frame. [default: red]",
        "--gloss 0..100 In percent. [default: 50; 0<=x<=100]",
        "--thickness FLOAT In millimetres. [default: 0.5]",
        "--signed / --no-signed Whether it is. [default: no-signed]",
    ):
        assert words in told


def _settings_of_commands() -> list[Any]:
    context = click.Context(cli)
    options = []
    for name in ("anonymize", "extract", "invert", "pair", "bench", "build"):
        command = cli.get_command(context, name)
        assert command is not None
        for option in command.params:
            # Of the same name, yet its own: the seed of the inputs, several precisions and backends.
            own = name in ("bench", "build") and option.name in ("seed", "precision", "backend")
            if isinstance(option, click.Option) and option.name in SETTINGS and not own:
                options.append(pytest.param(option, id=f"{name} {option.name}"))
    return options


@pytest.mark.parametrize("option", _settings_of_commands())
def test_every_command_takes_its_options_from_the_fields(option: click.Option) -> None:
    setting = SETTINGS[str(option.name)]
    if setting.choices:
        assert isinstance(option.type, click.Choice)
        assert tuple(option.type.choices) == setting.choices
    assert isinstance(option.type, AutoOr) == setting.may_be_auto
    assert (option.default, option.metavar) == (setting.default, setting.metavar)
    assert str(option.help).startswith(setting.help)
