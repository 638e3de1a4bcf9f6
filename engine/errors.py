"""The one exception type that is meant for the person at the terminal."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: bad input, a missing file, a setting that cannot work here.

    The message is one line that names the file or value and says what to do. The command line prints it
    and exits with 2; nothing that was finished before is lost.
    """
