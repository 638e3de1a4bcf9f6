"""Text from file names and error messages, made fit for a terminal and a picture."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with line breaks, control characters and bytes that are no UTF-8 spelled as escapes.

    File names may hold all of these; shown as they are they would break lines, colour the terminal, or not be shown.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
