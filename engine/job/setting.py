"""One setting: what its field in a dataclass says of it, and the checks and conversions that follow from that."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.printable import shown

_LONGEST = 4096
"""Bytes of a path; Linux takes no longer one."""
_MOST_DIGITS = 100
"""Of a whole number that is given as text; far more than any can have, and few enough to be read at once."""
_KINDS = {str: "a text", float: "a number", int: "a whole number", bool: "true or false"}


def is_usual(text: str | Path) -> bool:
    """Whether a name or a path is one that a system may take: not endless, without zero bytes, and of letters."""
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return len(encoded) <= _LONGEST and b"\0" not in encoded


def setting(
    default: Any,
    help: str,
    *,
    least: int | None = None,
    above: int | None = None,
    most: int | None = None,
    chosen: str | None = None,
    metavar: str | None = None,
    spelled: str | None = None,
) -> Any:
    """A field of a dataclass that a person may set; its type says the rest, a Literal which words it takes.

    help: what it does, for the command line and whoever reads the class. least, above, most: its range; with `above`
    the lower end itself is outside. chosen: where the default is None, what is taken then; "auto" can be asked for by
    that word, too. metavar: how the command line shows its value. spelled: how files, flags and messages name it where
    that is not the field's name.
    """
    described = {"help": help, "least": least, "above": above, "most": most, "chosen": chosen, "metavar": metavar}
    described["spelled"] = spelled
    return field(default=default, metadata=described)


@dataclass(frozen=True)
class Setting:
    """All that is known of a setting; see `setting` for what each part means."""

    name: str
    """As Python spells it, with underscores."""
    kind: type
    """str, int, float or bool."""
    choices: tuple[str, ...]
    """The words it takes; empty where it takes any value of its kind."""
    optional: bool
    """Whether None chooses."""
    default: Any
    help: str
    least: int | None
    above: int | None
    most: int | None
    chosen: str | None
    metavar: str | None
    spelled: str
    """Its name as files, flags and messages spell it, with hyphens."""

    @property
    def may_be_auto(self) -> bool:
        """Whether the word auto stands for None."""
        return self.chosen == "auto"

    def converted(self, value: Any) -> Any:
        """The loose value in the setting's kind, its range not looked at; raises UserError for one of another kind."""
        if (value is None and self.optional) or (value == "auto" and self.may_be_auto):
            return None
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            self._check_size(value)
            return float(value)
        if self.kind is int and isinstance(value, str) and len(value) < _MOST_DIGITS and value.strip().isdecimal():
            return int(value)
        if self.kind is str and isinstance(value, Path):
            return str(value)
        self._check_kind(value, otherwise="auto")
        return value

    def check(self, value: Any) -> None:
        """Raises UserError, saying what the setting takes, for a value of another kind, an unknown word, and a number
        outside its range.

        The value is one that `converted` may have given: a whole number may stand for a number and a path for a text.
        """
        if value is None and self.optional:
            return
        self._check_kind(value, otherwise="None")
        if self.kind is str:
            self._check_text(value)
        if isinstance(value, int):
            self._check_size(value)
        if self.choices and value not in self.choices:
            near = difflib.get_close_matches(value, self.choices, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(self.choices)}"
            raise UserError(f"unknown {self.spelled} {shown(value)}: {advice}")
        # Written so that nan, which no comparison holds for, is outside.
        if self.above is not None and self.most is not None and not self.above < value <= self.most:
            raise UserError(f"{self.spelled} {value} is outside ({self.above}, {self.most}]: {self.default} is usual")
        if self.least is not None and self.most is not None and not self.least <= value <= self.most:
            raise UserError(f"{self.spelled} {value} is outside {self.least} to {self.most}")
        if self.least is not None and not self.least <= value:
            raise UserError(f"{self.spelled} {value} is too small: give {self.least} or more")

    def _check_kind(self, value: Any, *, otherwise: str) -> None:
        """otherwise: how None is spelled where the value comes from, for the message."""
        taken = {float: (float, int), str: (str, Path)}.get(self.kind, self.kind)
        if isinstance(value, taken) and not (isinstance(value, bool) and self.kind is not bool):
            return
        expected = _KINDS[self.kind] + (f" or {otherwise}" if self.may_be_auto else "")
        raise UserError(f"{self.spelled} is {shown(value)}, expected {expected}")

    def _check_text(self, value: str | Path) -> None:
        if not is_usual(value):
            raise UserError(
                f"{self.spelled} {shown(str(value))} is neither a name nor a path: give a shorter, plain one"
            )

    def _check_size(self, value: int) -> None:
        if abs(value) >= 2**64:
            raise UserError(f"{self.spelled} {shown(value)} has more digits than any computes with: give a smaller one")


def settings_in(owner: type) -> dict[str, Setting]:
    """The settings among a dataclass's fields by name, in their order; fields that `setting` did not make are none."""
    hints = get_type_hints(owner)
    settings = {}
    for each in fields(owner):
        if not each.metadata:
            continue
        hint = hints[each.name]
        members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        taken = next(member for member in members if member is not NoneType)
        words = get_args(taken) if get_origin(taken) is Literal else ()
        settings[each.name] = Setting(
            name=each.name,
            kind=str if words else taken,
            choices=words,
            optional=NoneType in members,
            default=each.default,
            **{**each.metadata, "spelled": each.metadata["spelled"] or each.name.replace("_", "-")},
        )
    return settings
