"""Whatever a message is about, it stays one short line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceanon_engine.engine.system.printable import first_line, shortened, shown


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def holding_itself() -> list[Any]:
    value: list[Any] = [1]
    value.append(value)
    return value


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    assert shortened("x" * 200) == "x" * 200
    text = shortened("a" * 500 + "b" * 500, 30)
    assert text == "a" * 18 + "..." + "b" * 9


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, "3"),
        (True, "True"),
        (None, "None"),
        (0.5, "0.5"),
        (2**64, "18446744073709551616"),
        ("a b", "'a b'"),
        ("two\nlines", r"'two\nlines'"),
        (["a", 1], "['a', 1]"),
        ({"b": 1, "a": 2}, "{'b': 1, 'a': 2}"),
    ],
)
def test_a_short_value_is_shown_as_it_is(value: Any, expected: str) -> None:
    assert shown(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "x" * 1_000_000,
        "\ud800" * 1_000_000,
        b"x" * 1_000_000,
        10**100_000,
        -(10**5000),
        list(range(100_000)),
        dict.fromkeys(range(100_000)),
        {(key, key) for key in range(100_000)},
        nested(100_000),
        holding_itself(),
        np.zeros((1000, 1000)),
        [["x" * 1000] * 9] * 9,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_long_value_is_one_short_line(value: Any) -> None:
    text = shown(value)
    assert len(text) <= 80
    assert text.isprintable()


@settings(max_examples=50)
@given(st.recursive(st.text() | st.integers() | st.floats() | st.binary() | st.dates(), st.lists))
def test_every_value_is_one_short_line(value: Any) -> None:
    text = shown(value)
    assert 0 < len(text) <= 80
    assert text.isprintable()


def test_what_a_library_says_is_shortened_too() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 1_000_000))) == 300
