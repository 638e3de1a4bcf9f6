"""The one exception type that is meant for the person at the terminal."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: bad input, a missing file, a setting that cannot work here.

    The message is one line that names the file or value and says what to do. The command line prints it
    and exits with 2; nothing that was finished before is lost.
    """


class InputError(Exception):
    """One input cannot be used: `reason` is a stable code, `message` a line for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
