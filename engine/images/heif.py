"""HEIC photographs, as telephones write them, through pillow-heif where it is installed."""

from __future__ import annotations

import functools

from faceanon_engine.engine.errors import InputError

MOST_BYTES = 256 << 20
"""The library reads a file whole before it looks at it."""


@functools.cache
def register_heif() -> None:
    """Have Pillow read HEIF; raises InputError "not-an-image" with the remedy where that cannot be done."""
    try:
        import pillow_heif
    except ImportError:
        raise InputError(
            "not-an-image",
            "it is HEIC, which an extra reads: pip install 'faceanon-engine[heic]', or convert it to JPEG",
        ) from None
    # Files are read by several threads. Thumbnails and maps of depth are not wanted.
    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
