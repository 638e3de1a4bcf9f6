"""What decoders think of strange files is for us, not for the terminal."""

from __future__ import annotations

import ctypes
import functools
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_told = threading.local()


@contextmanager
def decoder_errors() -> Iterator[list[str]]:
    """The errors that libtiff tells of in this thread until the block ends: their places in it, without their values.

    It goes on after some of them and hands out what it has; without a handler it writes them to stderr. Others are
    kept off the terminal as well: Pillow's warnings of strange metadata, and its log.
    """
    _silence()
    errors: list[str] = []
    _told.errors = errors
    try:
        yield errors
    finally:
        _told.errors = None


def _note(module: bytes | None, _format: bytes | None, _values: int | None) -> None:
    errors = getattr(_told, "errors", None)
    if errors is not None:
        errors.append((module or b"libtiff").decode("ascii", "replace"))


_handler = _HANDLER(_note)  # libtiff keeps the pointer alone


@functools.cache
def _silence() -> None:
    Image.init()  # every decoder must be registered before it can be named
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        # Found through the module that is linked with it, wherever it lies. Where Pillow hides it, its words stay.
        set_handler = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError):
        return
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    set_handler(ctypes.cast(_handler, ctypes.c_void_p))
