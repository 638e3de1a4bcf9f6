"""Paths, values and messages as text that can be stored, and as text that can be shown."""

from __future__ import annotations

import reprlib
from itertools import islice
from pathlib import PurePath
from typing import Any


def printable(text: str) -> str:
    """The text with line breaks, control characters and bytes that are no UTF-8 spelled as escapes.

    File names may hold all of these; shown as they are they would break lines, colour the terminal, or not be shown.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def shortened(text: str, most: int = 200) -> str:
    """The text in at most so many characters: of a longer one the beginning and the end."""
    if len(text) <= most:
        return text
    head = (most - 3) * 2 // 3
    return text[:head] + "..." + text[len(text) - (most - 3 - head) :]


def shown(value: object, most: int = 80) -> str:
    """A value in a message, as `repr` spells it, in at most so many characters and in bounded time.

    It may be anything that a file holds or a caller gives: a text of megabytes, a number that Python refuses to spell,
    a list that holds itself.
    """
    if isinstance(value, str):
        return shortened(repr(shortened(value, most)), most)
    return shortened(" ".join(_SHORT.repr(value).split()), most)


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 3
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to spell numbers of more digits than a few thousand, which take quadratic time.
        return repr(x) if x.bit_length() <= 256 else f"a number of about {x.bit_length() * 0.30103:.0f} digits"

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        # As they stand, where the library sorts them.
        if level <= 0 and x:
            return "{...}"
        first = [f"{self.repr1(key, level - 1)}: {self.repr1(x[key], level - 1)}" for key in islice(x, self.maxdict)]
        return "{" + ", ".join([*first, *["..."][: len(x) > self.maxdict]]) + "}"


_SHORT = _Short()


def readable(relative: PurePath) -> str:
    """A path as text with forward slashes; bytes that are no UTF-8 are spelled as escapes, so that it can be stored."""
    return relative.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def first_line(error: BaseException, message: str | None = None) -> str:
    """The first line of an error's message, shortened; its type where there is none.

    message: the part of it that matters, where not all of it does.
    """
    return shortened(((str(error) if message is None else message).splitlines() or [type(error).__name__])[0], 300)


def counted(count: int, noun: str) -> str:
    """So many of something: 1 face, 2 faces."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
