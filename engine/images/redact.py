"""Makes faces unrecognizable where no other face can be put, and tells which faces of a second look nothing covers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from faceanon_engine.engine.images.detect import Detection
from faceanon_engine.engine.images.paste import Mask, Pasted
from faceanon_engine.engine.images.pixels import Pixels

Floats = npt.NDArray[np.floating[Any]]

_AROUND = 0.3
"""Share of a box's sides that is redacted beyond each of them: boxes end at the hairline and the ears."""
_CELLS = 4
"""Cells along the shorter side of a redacted place. What is drawn depends on the face through their means alone: of the
face itself, whose box is 1 / 1.6 of the place, two or three cells a side are left: skin and light, but no features. A
Gaussian blur, which is a linear map, can be inverted, and a mosaic of ten and more cells a side is recognized by a
network that was trained on such (McPherson, Shokri, Shmatikov, "Defeating Image Obfuscation with Deep Learning", 2016),
however large the picture is: so the cells are counted by the face, not by the pixel."""
_CENTRE = 0.7
"""Share of a box's sides, around its middle, that has to be covered."""
_SHARE = 0.75
"""Least covered share of that part. Of 29 pasted drawn faces that were seen again each had 1.0, of 61 other faces in
the same pictures, some of them half behind a pasted one, each 0.39 at most."""


def redact(
    photo: Pixels,
    places: Iterable[Floats | Mask],
    how: Literal["blur", "black"] = "blur",
    shape: Literal["ellipse", "box"] = "ellipse",
) -> Pasted:
    """The photograph uint8 [H, W, 3] with these places made unrecognizable, everything else as it was, byte for byte.

    places: boxes float [4] (left, top, right, bottom in pixels), each redacted with 30 % beyond each side, as the
    ellipse in that (which takes in the box itself) or all of it; or masks bool [H, W], redacted as they are. "blur"
    leaves a few soft spots of colour, "black" nothing. Raises ValueError for boxes that are not finite and for masks
    of another size: a face is never skipped.
    """
    result, covered = photo.copy(), np.zeros(photo.shape[:2], np.bool_)
    for place in places:
        left, top, mask = _window(np.asarray(place), photo.shape[0], photo.shape[1], shape)
        height, width = mask.shape
        if not mask.any():
            continue
        there = np.s_[top : top + height, left : left + width]
        # From what is drawn so far: what one place hides, another that overlaps with it does not bring back.
        spots = np.zeros_like(result[there]) if how == "black" else _spots(result[there])
        np.copyto(result[there], spots, where=mask[..., None])
        covered[there] |= mask
    return Pasted(result, covered)


def shows(photo: Pixels, box: Floats | None) -> bool:
    """Whether a part of a box float [4] lies in the photograph uint8 [H, W, 3]; never of None."""
    if box is None:
        return False
    height, width = photo.shape[:2]
    low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
    return bool((high >= 0).all() and (low <= [width - 1, height - 1]).all())


def cover(covered: Mask, box: Floats) -> None:
    """Mark the place bool [H, W] of a box float [4] that is left as it is on purpose, as `redact` marks what it draws
    over."""
    left, top, mask = _window(np.asarray(box), covered.shape[0], covered.shape[1], "ellipse")
    covered[top : top + mask.shape[0], left : left + mask.shape[1]] |= mask


def uncovered(detections: Sequence[Detection], covered: Mask, share: float = _SHARE) -> list[Detection]:
    """Which faces of a second look are not those that were put in or redacted.

    covered bool [H, W]: `Pasted.covered`, of everything that was done to the photograph. A detection is explained where
    at least this share of its box's central part is covered; one of which nothing lies in the picture is not.
    """
    return [face for face in detections if not covered_share(face.box, covered) >= share]


def covered_share(box: Floats, covered: Mask) -> float:
    """0..1: how much of the ellipse in the middle of a box float [4] is covered, as far as it lies in the picture."""
    if not np.isfinite(box).all():
        return 0.0
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * _CENTRE
    left, top, mask = _ellipse(centre, half, covered.shape[0], covered.shape[1])
    height, width = mask.shape
    return float(covered[top : top + height, left : left + width][mask].mean()) if mask.any() else 0.0


def _window(place: npt.NDArray[Any], rows: int, columns: int, shape: str) -> tuple[int, int, Mask]:
    """Left, top and the mask bool [h, w] of a place, cut to where it is."""
    if place.dtype == np.bool_:
        if place.shape != (rows, columns):
            raise ValueError(f"a mask has shape {place.shape}, the photograph {(rows, columns)}")
        y, x = np.nonzero(place.any(axis=1))[0], np.nonzero(place.any(axis=0))[0]
        if not len(y):
            return 0, 0, np.zeros((0, 0), np.bool_)
        return int(x[0]), int(y[0]), place[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
    if place.shape != (4,) or not np.isfinite(place).all():
        raise ValueError(f"a box is {place.tolist()}, expected four finite numbers")
    low, high = np.minimum(place[:2], place[2:]), np.maximum(place[:2], place[2:])
    half = (high - low) * (0.5 + _AROUND) + 0.5
    left, top, mask = _ellipse((low + high) / 2, half, rows, columns)
    return left, top, np.ones_like(mask) if shape == "box" else mask


def _ellipse(centre: Floats, half: Floats, rows: int, columns: int) -> tuple[int, int, Mask]:
    """Left, top and the mask bool [h, w] of an upright ellipse, cut to the picture."""
    # At least the pixel in the middle: an ellipse may lie between pixels.
    half = np.maximum(half, 0.71)
    limit = [columns, rows]
    left, top = (int(value) for value in np.clip(np.ceil(centre - half), 0, limit))
    right, bottom = (int(value) for value in np.clip(np.floor(centre + half) + 1, 0, limit))
    x = (np.arange(left, right) - centre[0]) / half[0]
    y = (np.arange(top, bottom) - centre[1]) / half[1]
    return left, top, x[None, :] ** 2 + y[:, None] ** 2 <= 1


def _spots(pixels: Pixels) -> Pixels:
    """The means of a few cells, blended softly: uint8 of the same shape [h, w, 3]."""
    image = Image.fromarray(pixels)
    cell = max(1.0, min(image.size) / _CELLS)
    cells = (max(1, round(image.width / cell)), max(1, round(image.height / cell)))
    return np.asarray(image.resize(cells, Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC), np.uint8)
