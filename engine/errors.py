"""What people are told: mistakes that they can mend, and inputs that cannot be used."""

from __future__ import annotations

import os
from typing import Literal, get_args

Reason = Literal[
    "missing",
    "unreadable",
    "empty",
    "truncated",
    "damaged",
    "not-an-image",
    "too-large",
    "too-small",
    "no-face",
    "beside",
    "low-score",
    "no-landmarks",
    "unhandled",
    "uncovered",
    "output-exists",
    "out-of-memory",
    "not-finite",
    "unexpected",
]
"""Why an input, or a face of it, was not anonymized, or not given back: what a manifest's `reason` may say."""
REASONS: tuple[str, ...] = get_args(Reason)


class UserError(Exception):
    """Something the user can mend: bad input, a missing file, a setting that cannot work here.

    The message is one line that names the file or value and says what to do. The command line prints it
    and exits with 2; nothing that was finished before is lost.
    """


class InputError(Exception):
    """One input cannot be used: `reason` is a stable code, `message` a line for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def refuse_single(name: str, value: object) -> None:
    """Raises UserError for a text or a path alone where several belong: Python would take a text letter by letter."""
    if isinstance(value, (str, bytes, os.PathLike)):
        raise UserError(f"{name} is {value!r} alone: give a list, [{value!r}]")
