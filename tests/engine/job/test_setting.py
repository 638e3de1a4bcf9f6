"""A setting is a field: its checks and conversions are those that the field's type and notes ask for."""

# ruff: noqa: RUF009, as what `setting` gives is a field

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.setting import Setting, setting, settings_in

Colour = Literal["red", "green"]


@dataclass(frozen=True)
class Painting:
    canvas: Path
    colour: Colour = setting("red", "Of the walls.")
    frame_colour: Colour | None = setting(None, "Of the frame.", chosen="the walls'")
    coats: int | None = setting(None, "Of paint.", least=1, chosen="auto")
    gloss: int = setting(50, "In percent.", least=0, most=100)
    thickness: float = setting(0.5, "In millimetres.", above=0, most=2)
    title: str | Path | None = setting(None, "On the frame.", chosen="none")
    signed: bool = setting(False, "Whether it is.")
    last_coat: str = setting("oil", "Over all.", spelled="varnish")
    year: int = 1900


SETTINGS = settings_in(Painting)


def test_a_setting_is_what_its_field_says() -> None:
    assert SETTINGS["frame_colour"] == Setting(
        name="frame_colour",
        kind=str,
        choices=("red", "green"),
        optional=True,
        default=None,
        help="Of the frame.",
        least=None,
        above=None,
        most=None,
        chosen="the walls'",
        metavar=None,
        spelled="frame-colour",
    )
    assert SETTINGS["last_coat"].spelled == "varnish"
    kinds = {name: (each.kind, each.optional) for name, each in SETTINGS.items()}
    assert kinds == {
        "colour": (str, False),
        "frame_colour": (str, True),
        "coats": (int, True),
        "gloss": (int, False),
        "thickness": (float, False),
        "title": (str, True),
        "signed": (bool, False),
        "last_coat": (str, False),
    }
    assert Painting(Path("wall")).gloss == 50


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("coats", "auto", None),
        ("coats", None, None),
        ("coats", " 3 ", 3),
        ("thickness", 1, 1.0),
        ("title", Path("a/b"), "a/b"),
        ("title", "auto", "auto"),
        ("signed", True, True),
        ("colour", "blue", "blue"),
    ],
)
def test_loose_values_become_the_settings_kind(name: str, value: Any, expected: Any) -> None:
    converted = SETTINGS[name].converted(value)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gloss", None, "gloss is None, expected a whole number"),
        ("gloss", "auto", "gloss is 'auto', expected a whole number"),
        ("gloss", True, "gloss is True, expected a whole number"),
        ("coats", 1.5, "coats is 1.5, expected a whole number or auto"),
        ("thickness", False, "thickness is False, expected a number"),
        ("frame_colour", 3, "frame-colour is 3, expected a text"),
        ("signed", 1, "signed is 1, expected true or false"),
    ],
)
def test_a_value_of_another_kind_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as raised:
        SETTINGS[name].converted(value)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gloss", "half", "gloss is 'half', expected a whole number"),
        ("gloss", None, "gloss is None, expected a whole number"),
        ("gloss", True, "gloss is True, expected a whole number"),
        ("gloss", 1.0, "gloss is 1.0, expected a whole number"),
        ("coats", "auto", "coats is 'auto', expected a whole number or None"),
        ("thickness", "x", "thickness is 'x', expected a number"),
        ("frame_colour", 3, "frame-colour is 3, expected a text"),
        ("colour", ["red"], "colour is ['red'], expected a text"),
        ("title", 5, "title is 5, expected a text"),
        ("signed", 1, "signed is 1, expected true or false"),
    ],
)
def test_a_check_refuses_another_kind_before_it_compares(name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as raised:
        SETTINGS[name].check(value)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("frame_colour", "gren", "unknown frame-colour 'gren': did you mean 'green'?"),
        ("colour", "blue", "unknown colour 'blue': use one of red, green"),
        ("coats", 0, "coats 0 is too small: give 1 or more"),
        ("gloss", 101, "gloss 101 is outside 0 to 100"),
        ("gloss", -1, "gloss -1 is outside 0 to 100"),
        ("thickness", 0.0, "thickness 0.0 is outside (0, 2]: 0.5 is usual"),
        ("thickness", 2.1, "thickness 2.1 is outside (0, 2]: 0.5 is usual"),
        ("thickness", float("nan"), "thickness nan is outside (0, 2]: 0.5 is usual"),
    ],
)
def test_a_value_outside_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as raised:
        SETTINGS[name].check(value)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frame_colour", None),
        ("colour", "green"),
        ("coats", 1),
        ("gloss", 0),
        ("gloss", 100),
        ("thickness", 2.0),
        ("thickness", 1),
        ("title", Path("a/b")),
        ("title", "a"),
        ("signed", True),
    ],
)
def test_what_can_work_passes_the_ends_of_a_range_included(name: str, value: Any) -> None:
    SETTINGS[name].check(value)
