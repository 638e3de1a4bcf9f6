"""A file whose data end before its picture does is damaged, however well-formed; one that only looks so is whole."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images.decode import read_image

SIDE = 96
PIXELS = np.random.default_rng(0).normal(0, 6, (SIDE, SIDE, 3)).cumsum(1)
PIXELS = np.clip(PIXELS + 120, 1, 255).astype(np.uint8)
ENDS_EARLY = ("damaged", "truncated")
GREY_END = PIXELS.copy()
GREY_END[-40:] = 128


def encoded(form: str, pixels: Any = PIXELS, mode: str = "RGB", **arguments: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form, **arguments)
    return stream.getvalue()


def reason(tmp_path: Path, content: bytes) -> str:
    """Why it cannot be read; empty where it can."""
    path = tmp_path / "picture"
    path.write_bytes(content)
    try:
        assert read_image(path).pixels.dtype == np.uint8
    except InputError as error:
        return error.reason
    return ""


# -- PNG -------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: bytes, depth: int = 8, colour: int = 2, interlaced: bool = False, level: int = 6) -> bytes:
    """A well-formed file of these filtered rows, its data in several chunks."""
    data = zlib.compress(rows, level)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(range(1, 256)) * 3 + b"\1\1\1") if colour == 3 else b""
    parts = [chunk(b"IDAT", data[start : start + 500]) for start in range(0, len(data), 500)]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + b"".join(parts) + chunk(b"IEND", b"")


def filtered(depth: int = 8, colour: int = 2, value: int | None = None) -> bytes:
    """Rows of noise, or of one value, without a filter."""
    size = SIDE * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] // 8
    noise = np.random.default_rng(1).integers(1, 256, (SIDE, size), np.uint8)
    return b"".join(b"\0" + (row.tobytes() if value is None else bytes([value]) * size) for row in noise)


KINDS = [(1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (4, 3), (8, 3), (8, 4), (8, 6), (16, 6)]


@pytest.mark.parametrize(("depth", "colour"), KINDS)
def test_a_png_has_all_its_rows(tmp_path: Path, depth: int, colour: int) -> None:
    rows = filtered(depth, colour)
    row = len(rows) // SIDE
    assert reason(tmp_path, png(rows, depth, colour)) == ""
    assert reason(tmp_path, png(filtered(depth, colour, value=0), depth, colour)) == "", "black, and whole"
    for there in (row, row * SIDE // 2, len(rows) - row, len(rows) - 1):
        assert reason(tmp_path, png(rows[:there], depth, colour)) in ENDS_EARLY
        assert reason(tmp_path, png(rows[:there], depth, colour, level=0)) in ENDS_EARLY


@pytest.mark.parametrize(("depth", "colour"), KINDS)
def test_an_interlaced_png_has_all_its_passes(tmp_path: Path, depth: int, colour: int) -> None:
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    sizes = [(12, 12), (12, 12), (24, 12), (24, 24), (48, 24), (48, 48), (96, 48)]  # columns and rows of the passes
    noise = np.random.default_rng(1).integers(1, 256, (SIDE, SIDE), np.uint8)
    passes = [
        b"".join(b"\0" + noise[row, : -(-columns * bits // 8)].tobytes().ljust(-(-columns * bits // 8), b"\5")
                 for row in range(rows))
        for columns, rows in sizes
    ]  # fmt: skip
    whole = b"".join(passes)
    assert reason(tmp_path, png(whole, depth, colour, interlaced=True)) == ""
    assert reason(tmp_path, png(bytes(len(whole)), depth, colour, interlaced=True)) == "", "black, and whole"
    for there in (len(passes[0]), len(whole) - len(passes[-1]), len(whole) - len(passes[-1]) // 2, len(whole) - 1):
        assert reason(tmp_path, png(whole[:there], depth, colour, interlaced=True)) in ENDS_EARLY


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_png_that_is_complete_but_for_its_rows_is_damaged(tmp_path: Path, share: float) -> None:
    rows = [b"\0" + row.tobytes() for row in np.tile(PIXELS, (3, 3, 1))]
    header = struct.pack(">IIBBBBB", 3 * SIDE, 3 * SIDE, 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(rows[: int(len(rows) * share)]))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    assert reason(tmp_path, start + chunk(b"IDAT", data) + chunk(b"IEND", b"")) == "damaged"


def test_a_png_agrees_with_its_checksums(tmp_path: Path) -> None:
    content = png(filtered())
    place = content.index(b"IDAT") - 4
    end = place + 8 + 500
    assert reason(tmp_path, content[:end] + b"\0\0\0\0" + content[end + 4 :]) == "damaged"
    assert reason(tmp_path, content[:-6]) == "", "only its end mark is cut"


# -- JPEG ------------------------------------------------------------------------------------------------------

ENCODINGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "restarts": {"restart_marker_rows": 1},
    "frequent restarts": {"restart_marker_blocks": 3},
    "full chroma": {"subsampling": 0},
    "progressive": {"progressive": True},
    "progressive, restarts": {"progressive": True, "restart_marker_rows": 1},
}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_jpeg_has_all_its_blocks(tmp_path: Path, encoding: str, mode: str) -> None:
    content = encoded("JPEG", mode=mode, **ENCODINGS[encoding])
    start = content.index(b"\xff\xda")
    assert reason(tmp_path, content) == ""
    for share in (0.05, 0.3) if "progressive" in encoding else (0.05, 0.3, 0.7, 0.9):
        cut = content[: start + int((len(content) - start) * share)].rstrip(b"\xff")
        assert reason(tmp_path, cut + b"\xff\xd9") == "damaged", share
        assert reason(tmp_path, cut) == "truncated", share


@pytest.mark.parametrize("value", [0, 127, 128, 255])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_jpeg_that_ends_in_one_colour_is_whole(tmp_path: Path, encoding: str, mode: str, value: int) -> None:
    pixels = PIXELS.copy()
    pixels[-40:] = value
    assert reason(tmp_path, encoded("JPEG", pixels, mode, **ENCODINGS[encoding])) == ""
    assert reason(tmp_path, encoded("JPEG", np.full_like(PIXELS, value), mode, **ENCODINGS[encoding])) == ""


def test_a_jpeg_with_more_behind_it_is_whole(tmp_path: Path) -> None:
    content = encoded("JPEG", GREY_END)
    assert reason(tmp_path, content + b"more\xff\xc0\xff\xda" + encoded("JPEG")) == ""


# -- TIFF ------------------------------------------------------------------------------------------------------


def edited(content: bytes, tag: int, change: Callable[[list[int]], list[int]]) -> bytes:
    """The TIFF with other values of a tag of several; their number may become less."""
    start = struct.unpack("<I", content[4:8])[0]
    edit = bytearray(content)
    for entry in range(struct.unpack("<H", content[start : start + 2])[0]):
        place = start + 2 + 12 * entry
        known, kind, count, where = struct.unpack("<HHII", content[place : place + 12])
        if known == tag:
            form = {3: "H", 4: "I"}[kind]
            values = change(list(struct.unpack_from(f"<{count}{form}", content, where)))
            edit[place + 4 : place + 8] = struct.pack("<I", len(values))
            struct.pack_into(f"<{len(values)}{form}", edit, where, *values)
    return bytes(edit)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_tiff_says_where_all_of_it_is(tmp_path: Path, compression: str | None) -> None:
    content = encoded("TIFF", compression=compression, tiffinfo={278: 8})
    assert reason(tmp_path, content) == ""
    nowhere = edited(content, 273, lambda offsets: [*offsets[:-1], 0])
    assert reason(tmp_path, nowhere) == "damaged"
    fewer = edited(edited(content, 273, lambda offsets: offsets[:6]), 279, lambda counts: counts[:6])
    assert reason(tmp_path, fewer) == "damaged"
    if compression:
        assert reason(tmp_path, edited(content, 279, lambda counts: [*counts[:6], *[0] * 6])) == "damaged"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_that_is_turned_is_whole(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert reason(tmp_path, encoded("TIFF", PIXELS[:50], exif=exif, tiffinfo={278: 8})) == ""


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_picture_of_floats_has_finite_ones(tmp_path: Path, value: float) -> None:
    floats = PIXELS[..., 0].astype(np.float32)
    assert reason(tmp_path, tiff_of(floats)) == ""
    floats[5, 5] = value
    assert reason(tmp_path, tiff_of(floats)) == "damaged"
    assert reason(tmp_path, tiff_of(np.full_like(floats, value))) == "damaged"


def tiff_of(floats: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(floats).save(stream, "TIFF")
    return stream.getvalue()


def test_others_that_end_early_are_refused(tmp_path: Path) -> None:
    for form in ("BMP", "GIF", "WEBP", "TGA", "PPM", "JPEG2000", "AVIF"):
        content = encoded(form)
        assert reason(tmp_path, content) == ""
        for share in (0.01, 0.5, 0.9):
            assert reason(tmp_path, content[: int(len(content) * share)]), (form, share)
