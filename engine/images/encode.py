"""Pictures to the bytes of a file, without any metadata of the original."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import Pixels

FORMATS_OF_SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "jpeg"),
    **dict.fromkeys((".tif", ".tiff"), "tiff"),
    **dict.fromkeys((".bmp", ".dib"), "bmp"),
    ".png": "png",
    ".webp": "webp",
    ".avif": "avif",
    ".jp2": "jpeg2000",
    ".ppm": "ppm",
    ".tga": "tga",
}
"""The formats in which a photograph can be written under its own suffix (small letters)."""
LOSSLESS = frozenset({"bmp", "jpeg2000", "png", "ppm", "tga", "tiff"})
"""Formats that give every pixel back as it was."""


def photo_suffix(suffix: str) -> str:
    """The suffix of a photograph that is given back: its own, or that of a format that holds it as well.

    What a palette (GIF) or a bit (PBM) cannot hold becomes a PNG, what other programs compressed a JPEG.
    """
    if suffix.lower() in FORMATS_OF_SUFFIXES:
        return suffix
    return ".jpg" if suffix.lower() in {".heic", ".heif", ".hif", ".jxl"} else ".png"


def encode_image(pixels: Pixels, image_format: str, quality: int = 95) -> bytes:
    """The file's bytes of pixels uint8 [H, W, 3], without any metadata.

    image_format: "png", "jpeg", "webp", or another of `FORMATS_OF_SUFFIXES`; quality counts for lossy ones. Raises
    UserError for unknown ones.
    """
    if image_format not in _WAYS:
        raise UserError(f"unknown image format {image_format!r}: use png, jpeg or webp")
    name, options = _WAYS[image_format]
    if image_format in ("jpeg", "webp", "avif"):
        options = {**options, "quality": quality}
    if image_format == "jpeg":
        options["subsampling"] = 0 if quality >= 90 else 2
    try:
        return _saved(pixels, name, options)
    except OSError:
        if "optimize" not in options:
            raise
        # Optimising takes a buffer that holds the whole file, and noise at a high quality does not fit into Pillow's.
        return _saved(pixels, name, {**options, "optimize": False})


def _saved(pixels: Pixels, name: str, options: Mapping[str, Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, name, **options)
    return stream.getvalue()


_WAYS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {"compress_level": 6}),
    "jpeg": ("JPEG", {"optimize": True}),
    "webp": ("WEBP", {"method": 4}),
    "avif": ("AVIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "jpeg2000": ("JPEG2000", {"irreversible": False, "no_jp2": False}),
    "ppm": ("PPM", {}),
    "tga": ("TGA", {"compression": "tga_rle"}),
}
