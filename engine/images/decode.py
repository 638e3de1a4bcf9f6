"""Image files to pixels: whatever people have is decoded, or refused with a reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images.decoders import decoder_errors
from faceanon_engine.engine.images.heif import MOST_BYTES, register_heif
from faceanon_engine.engine.images.pixels import Pixels
from faceanon_engine.engine.images.unread import BEGINNING, is_heif, why_unread
from faceanon_engine.engine.images.whole import refuse_cut_short, refuse_missing_parts
from faceanon_engine.engine.system.printable import first_line
from faceanon_engine.engine.system.reading import NoFileError, open_file

SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm"}
    | {".tga", ".tif", ".tiff", ".webp"}
    # Those that an extra reads, or nothing does, become rows with a reason, so that nobody takes them for done.
    | {".heic", ".heif", ".hif", ".jxl"}
)
DEFAULT_MAX_PIXELS = 100_000_000
_MOST_PIXELS_OF = {"HEIF": 60_000_000, "JPEG2000": 50_000_000, "WEBP": 60_000_000}
"""Of formats whose decoders take 16 to 19 bytes a pixel of their own, and would take more than a gigabyte."""
_BYTES_PER_PIXEL = {"AVIF": 24, "HEIF": 24, "JPEG2000": 40, "WEBP": 24}
_BYTES_PER_PIXEL_OF_OTHERS = 17
"""At most, while a picture is read (benchmarks/results/read_memory.json): 3 for the array, 4 in the library while it is
decoded, or up to 14 where a face that fills it is cut out; some decoders take more of their own."""
_OF_SEVERAL = {"AVIF", "GIF", "HEIF", "PNG", "TIFF", "WEBP"}
"""Formats of which a file may hold several pictures; what telephones put behind a JPEG are maps for its display."""
_MOST_COUNTED = 1000
# Decoders that only images in the wild need; others (PDF-like, vector, video) are refused as not an image.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_BAND_PIXELS = 2**20
_AS_STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
"""Views of an upright picture whose rows and columns are those of the file, by its EXIF orientation."""


@dataclass(frozen=True)
class DecodedImage:
    """pixels uint8 [H, W, 3] RGB, upright; the container format that was found in the file; and how many pictures this
    one is the first of (of HEIF the main one): frames of an animation, pages of a TIFF, of which 1000 are counted."""

    pixels: Pixels
    format: str
    pictures: int = 1


def read_image(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> DecodedImage:
    """Decode a file to upright RGB; raises InputError with the reason when that cannot be done.

    Transparency is laid on white, 16-bit greyscale is scaled to 8 bits, CMYK and other spaces are converted without
    regard to colour profiles, an animation gives its first frame. Reasons: "missing", "unreadable", "empty",
    "not-an-image", "truncated", "too-large", "too-small", "damaged".
    """
    try:
        with open_file(path) as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                raise InputError("empty", "the file has no bytes")
            return _decode(stream, max_pixels)
    except FileNotFoundError:
        raise InputError("missing", "there is no such file") from None
    except PermissionError:
        raise InputError("unreadable", "it may not be read: mend its rights") from None
    except NoFileError as error:
        raise InputError("unreadable", str(error.strerror)) from None
    except OSError as error:
        raise InputError("unreadable", f"it cannot be opened ({error.strerror or error})") from None


def memory_to_read(path: Path) -> int:
    """About how many bytes reading a file and its faces takes at most; 0 where it says nothing."""
    try:
        with decoder_errors(), open_file(path) as stream, Image.open(stream, formats=_formats(stream)) as image:
            pixel = _BYTES_PER_PIXEL.get(image.format or "", _BYTES_PER_PIXEL_OF_OTHERS)
            file = 2 * os.fstat(stream.fileno()).st_size if image.format == "HEIF" else 0
            return image.width * image.height * pixel + file
    except Exception:
        return 0  # whoever reads it finds out what is wrong


def _formats(stream: BinaryIO) -> tuple[str, ...]:
    """The formats that a file may be in; raises InputError where that can only be one that nothing here reads."""
    beginning = _beginning(stream)
    if not is_heif(beginning):
        return _FORMATS
    if os.fstat(stream.fileno()).st_size > MOST_BYTES:
        raise InputError("too-large", f"it has more than the {MOST_BYTES >> 20} MiB allowed as HEIC: save it as JPEG")
    if b"avif" in beginning or b"avis" in beginning:  # the same container, and read by all
        return ("AVIF",)
    register_heif()
    return ("HEIF",)


def _beginning(stream: BinaryIO) -> bytes:
    stream.seek(0)
    beginning = stream.read(BEGINNING)
    stream.seek(0)
    return beginning


def _decode(stream: BinaryIO, max_pixels: int) -> DecodedImage:
    try:
        with decoder_errors() as errors, Image.open(stream, formats=_formats(stream)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise InputError(
                    "too-large", f"{width} x {height} pixels are more than the {max_pixels} allowed: scale it down"
                )
            if min(width, height) < 8:
                raise InputError("too-small", f"{width} x {height} pixels show no face")
            kind = image.format or "?"
            if width * height > _MOST_PIXELS_OF.get(kind, max_pixels):
                raise InputError(
                    "too-large", f"{width} x {height} pixels take too much memory as {kind}: save it as PNG or JPEG"
                )
            refuse_missing_parts(image)
            pictures = _count(image)
            image.load()
            if errors:
                raise InputError("damaged", f"it cannot be decoded ({errors[0]} failed)")
            refuse_cut_short(image, stream)
            return DecodedImage(_upright_rgb(image), kind, pictures)
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise InputError("too-large", f"it has more than the {max_pixels} pixels allowed: scale it down") from None
    except UnidentifiedImageError:
        beginning = _beginning(stream)
        if is_heif(beginning):
            raise InputError("damaged", "its data cannot be read: copy it again") from None
        raise InputError("not-an-image", why_unread(beginning)) from None
    except (OSError, EOFError) as error:
        text = str(error)
        if "truncated" in text or "Truncated" in text or "unexpected end" in text or isinstance(error, EOFError):
            raise InputError("truncated", "the file ends too early: copy it again") from None
        raise InputError("damaged", f"it cannot be decoded ({first_line(error)})") from None
    except Exception as error:  # decoders raise what they like
        raise InputError("damaged", f"it cannot be decoded ({first_line(error)})") from None


def _count(image: Any) -> int:
    """How many pictures the file of an opened one holds; 1 where that is damaged: the others are not used anyway."""
    if image.format not in _OF_SEVERAL:
        return 1
    first = image.tell()
    try:
        if not image.is_animated:
            return 1
        if image.format != "TIFF":
            return int(image.n_frames)
        pages = 1
        with suppress(EOFError):
            while pages < _MOST_COUNTED:  # a million of them fit into a file, and each takes its time
                image.seek(pages)
                pages += 1
        return pages
    except Exception:
        return 1
    finally:
        image.seek(first)


def _upright_rgb(image: Image.Image) -> Pixels:
    """The picture uint8 [H, W, 3], turned as its EXIF data say.

    Converted band by band: whole copies of a large picture on the way would take several times its memory.
    """
    width, height = image.size
    orientation = _orientation(image)
    pixels = np.empty((width, height, 3) if orientation >= 5 else (height, width, 3), np.uint8)
    stored = _AS_STORED[orientation](pixels)
    top_value = _finite_top(image) if image.mode == "F" else 65535.0
    for top, band in _bands(image):
        stored[top : top + band.height] = _rgb(band, top_value)
    return pixels


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Bands of the picture's full width with their first rows."""
    rows = max(1, _BAND_PIXELS // image.width)
    if rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; what is damaged in EXIF data is no reason to refuse the picture."""
    try:
        orientation: Any = image.getexif().get(ExifTags.Base.Orientation)
        return orientation if orientation in _AS_STORED else 1
    except Exception:
        return 1


def _finite_top(image: Image.Image) -> float:
    """The largest value of a picture of floats, at least 1; raises InputError where some are no finite numbers."""
    top = 1.0
    for _, band in _bands(image):
        values = np.asarray(band)
        if not np.isfinite(values).all():
            raise InputError("damaged", "some of its values are no finite numbers")
        top = max(top, float(values.max()))
    return top


def _rgb(image: Image.Image, top: float) -> Pixels:
    """top: the value of white in pictures of more than 8 bits."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)
        grey = np.clip(values / top * 255 + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, coloured)
    return np.asarray(image.convert("RGB"), np.uint8)
