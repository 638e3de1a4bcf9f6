"""Paths and messages as text that can be stored, and as text that can be shown."""

from __future__ import annotations

from pathlib import PurePath


def printable(text: str) -> str:
    """The text with line breaks, control characters and bytes that are no UTF-8 spelled as escapes.

    File names may hold all of these; shown as they are they would break lines, colour the terminal, or not be shown.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def readable(relative: PurePath) -> str:
    """A path as text with forward slashes; bytes that are no UTF-8 are spelled as escapes, so that it can be stored."""
    return relative.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def first_line(error: BaseException, message: str | None = None) -> str:
    """The first line of an error's message, its type where there is none.

    message: the part of it that matters, where not all of it does.
    """
    return ((str(error) if message is None else message).splitlines() or [type(error).__name__])[0]
