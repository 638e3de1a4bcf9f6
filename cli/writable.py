"""Whether a file can be written: found out before the work whose result it is to hold."""

from __future__ import annotations

import tempfile
from pathlib import Path

from faceanon_engine.engine.errors import UserError


def refuse_unwritable(path: Path, option: str) -> None:
    """Raises UserError, naming the option that gave the file, when it could not be written."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: give {option} the name of a file")
    if not path.absolute().parent.is_dir():
        raise UserError(f"the folder of {path} does not exist: make it first, or give another {option}")
    try:
        with tempfile.TemporaryFile(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): give another {option}") from None
