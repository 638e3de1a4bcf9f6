"""One picture of the first results: original, paired fake, inversion, anonymized, with the numbers that matter.

It shows originals: it is for the person who runs the job and never part of what is handed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from faceanon_engine.engine.images.pixels import Pixels
from faceanon_engine.engine.system.printable import printable

COLUMN_TITLES = ("original", "neighbour", "inversion", "anonymized")
_UNKNOWN = "unlike what the networks know"
_LEAST_TILE, _MOST_TILE = 128, 256
_GAP, _MARGIN, _LINE = 6, 16, 18
_PAPER, _INK, _GREY, _RED = (255, 255, 255), (24, 24, 24), (110, 110, 110), (170, 30, 30)


@dataclass(frozen=True)
class SheetRow:
    """One result: four pictures uint8 [S, S, 3] and what is written under them."""

    original: Pixels
    neighbour: Pixels
    inversion: Pixels
    anonymized: Pixels
    label: str
    identity_before: float
    identity_after: float
    neighbour_distance: float
    unknown: bool = False
    """Whether the face is unlike what the networks know."""


def draw_sheet(rows: Sequence[SheetRow], title: str, warning: str = "") -> Pixels:
    """The sheet uint8 [H, W, 3]: one column of results, two for more than four; raises ValueError for none.

    A warning has a line of its own below the title.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one result")
    tile = min(_MOST_TILE, max(_LEAST_TILE, rows[0].original.shape[0]))
    blocks = 2 if len(rows) > 4 else 1
    lines = -(-len(rows) // blocks)
    block_width = 4 * tile + 3 * _GAP
    block_height = tile + 2 * _LINE + 10
    header = _MARGIN + (4 if warning else 3) * _LINE + 14
    width = 2 * _MARGIN + blocks * block_width + (blocks - 1) * 3 * _GAP
    height = header + lines * block_height + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(16), ImageFont.load_default(12)
    pen.text((_MARGIN, _MARGIN), _fitting(pen, title, large, width - 2 * _MARGIN), fill=_INK, font=large)
    pen.text(
        (_MARGIN, _MARGIN + _LINE + 4),
        _fitting(pen, "Shows ORIGINALS: not to be handed on.", small, width - 2 * _MARGIN),
        fill=_RED,
        font=small,
    )
    if warning:
        text = _fitting(pen, warning, small, width - 2 * _MARGIN, cut_end=True)
        pen.text((_MARGIN, _MARGIN + 2 * _LINE + 4), text, fill=_RED, font=small)
    for block in range(blocks):
        left = _MARGIN + block * (block_width + 3 * _GAP)
        for column, name in enumerate(COLUMN_TITLES):
            pen.text((left + column * (tile + _GAP), header - _LINE), name, fill=_GREY, font=small)
    for number, row in enumerate(rows):
        left = _MARGIN + number % blocks * (block_width + 3 * _GAP)
        top = header + number // blocks * block_height
        for column, pixels in enumerate((row.original, row.neighbour, row.inversion, row.anonymized)):
            sheet.paste(_tile(pixels, tile), (left + column * (tile + _GAP), top))
        numbers = (
            f"identity cosine {row.identity_before:.2f} -> {row.identity_after:.2f}, "
            f"neighbour distance {row.neighbour_distance:.2f}"
        )
        pen.text((left, top + tile + 3), _fitting(pen, numbers, small, block_width), fill=_INK, font=small)
        room = block_width
        if row.unknown:
            room -= round(pen.textlength(_UNKNOWN, font=small)) + _GAP
            pen.text((left + room + _GAP, top + tile + 3 + _LINE), _UNKNOWN, fill=_RED, font=small)
        pen.text((left, top + tile + 3 + _LINE), _fitting(pen, row.label, small, room), fill=_GREY, font=small)
    return np.asarray(sheet)


def _tile(pixels: Pixels, side: int) -> Image.Image:
    image = Image.fromarray(pixels)
    if image.size == (side, side):
        return image
    # Small pictures are enlarged without smoothing by whole factors, so that their pixels are seen as they are.
    whole = side % image.width == 0 and image.width == image.height
    return image.resize((side, side), Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


def _fitting(
    pen: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
    *,
    cut_end: bool = False,
) -> str:
    """The text, its beginning or end cut where it is too long; the built-in font draws Latin letters only."""
    text = printable(text).encode("latin-1", "replace").decode("latin-1")
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength("..." + text, font=font) > width:
        text = text[:-1] if cut_end else text[1:]
    return text + "..." if cut_end else "..." + text
