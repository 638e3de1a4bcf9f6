"""Image files to pixels: whatever people have is decoded, or refused with a reason."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images.pixels import Pixels

SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm"}
    | {".tga", ".tif", ".tiff", ".webp"}
    # Photographs that no decoder here reads: they become rows with a reason, so that nobody takes them for done.
    | {".heic", ".heif", ".hif", ".jxl"}
)
DEFAULT_MAX_PIXELS = 100_000_000
LARGE_PIXELS = 25_000_000
"""A picture with more takes much memory while it is read: 2.6 GB were measured for 99 million with transparency."""
# Decoders that only images in the wild need; others (PDF-like, vector, video) are refused as not an image.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""


@dataclass(frozen=True)
class DecodedImage:
    """pixels uint8 [H, W, 3] RGB, upright; the container format that was found in the file."""

    pixels: Pixels
    format: str


def read_image(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> DecodedImage:
    """Decode a file to upright RGB; raises InputError with the reason when that cannot be done.

    Transparency is laid on white, 16-bit greyscale is scaled to 8 bits, CMYK and other spaces are converted without
    regard to colour profiles, an animation gives its first frame. Reasons: "missing", "unreadable", "empty",
    "not-an-image", "truncated", "too-large", "too-small", "damaged".
    """
    try:
        if path.is_dir():
            raise InputError("unreadable", "it is a folder")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError("unreadable", "it is a pipe or a device, not a file")
        if status.st_size == 0:
            raise InputError("empty", "the file has no bytes")
        with open(path, "rb") as stream:
            return _decode(stream, max_pixels)
    except FileNotFoundError:
        raise InputError("missing", "there is no such file") from None
    except PermissionError:
        raise InputError("unreadable", "it may not be read: mend its rights") from None
    except OSError as error:
        raise InputError("unreadable", f"it cannot be opened ({error.strerror or error})") from None


def is_large(path: Path) -> bool:
    """Whether a file says it has more pixels than should be read several at a time; false where it says nothing."""
    Image.init()
    try:
        if not path.is_file():
            return False  # opening a pipe waits for somebody to write into it
        with Image.open(path, formats=_FORMATS) as image:
            return image.width * image.height > LARGE_PIXELS
    except Exception:
        return False  # whoever reads it finds out what is wrong


def _decode(stream: Any, max_pixels: int) -> DecodedImage:
    Image.init()  # every decoder must be registered before it can be named
    try:
        with Image.open(stream, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise InputError(
                    "too-large", f"{width} x {height} pixels are more than the {max_pixels} allowed: scale it down"
                )
            if min(width, height) < 8:
                raise InputError("too-small", f"{width} x {height} pixels show no face")
            kind = image.format or "?"
            image.load()
            return DecodedImage(np.ascontiguousarray(_rgb(_upright(image))), kind)
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise InputError("too-large", f"it has more than the {max_pixels} pixels allowed: scale it down") from None
    except UnidentifiedImageError:
        raise InputError(
            "not-an-image", "it is in none of the image formats that are read: convert it to PNG"
        ) from None
    except (OSError, EOFError) as error:
        text = str(error)
        if "truncated" in text or "Truncated" in text or "unexpected end" in text or isinstance(error, EOFError):
            raise InputError("truncated", "the file ends too early: copy it again") from None
        raise InputError("damaged", f"it cannot be decoded ({text.splitlines()[0] if text else 'no reason'})") from None
    except Exception as error:  # decoders raise what they like
        raise InputError("damaged", f"it cannot be decoded ({error})") from None


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF data say; what is damaged in them is no reason to refuse the picture."""
    try:
        orientation: Any = image.getexif().get(ExifTags.Base.Orientation)
        turn = _TURNS.get(orientation)
    except Exception:
        return image
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)
        top = 65535.0 if image.mode != "F" else max(1.0, float(np.nanmax(values)))
        grey = np.clip(np.nan_to_num(values) / top * 255 + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, coloured)
    return np.asarray(image.convert("RGB"), np.uint8)
