"""Puts faces back into their photograph: warped, masked by the face's oval, blended, the colour matched at the edge.

Nothing of the face that was there may stay: what lies within the oval is replaced altogether, and only outside of it
the new face fades out. Pixels beyond that stay as they are, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from faceanon_engine.engine.images.mesh import Mesh
from faceanon_engine.engine.images.pixels import Pixels

Floats = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
Window = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, the last two exclusive."""

_GROW = 0.03
"""By how much the mask is larger than the mesh's oval, as a share of the oval's width: chins reach beyond it."""
_FEATHER = 0.05
"""Width of the band around the mask in which the new face fades out, as a share of the mask's width."""
_ELLIPSE = (0.5, 0.57, 0.32, 0.36)
"""Centre and half axes of the mask of a face without a mesh, as shares of FFHQ's crop."""
_SURE = 0.5
"""Lowest score of a mesh that is believed."""
_GRID = 128
"""Cells a side in which a mask's distances are kept: they are nearly linear, so that a coarse grid gives fine edges."""
_RING = (0.2, 0.05)
_BELOW = 0.42
"""Where colour is compared: from so far to so far inside of the mask's edge, as shares of its width, and below the
brows, as a share of the crop: higher up, hair hangs over one face and not the other."""
_OUTSIDE = 0.08
"""How far outside of the edge, as a share of its width, what is behind the face is compared."""
_COMPARED = 96
_FEWEST = 30
"""Pixels a side at which colour is compared, and how many of them say anything."""
_GAIN = 1.35
_SHIFT = 64.0
"""Bounds of colour matching: the gain (and its inverse), and levels by which the ring's median may move."""
_SPLIT = 0.25
"""Over what share of a face's half width the line between two overlapping faces is blended."""
_STRIP = 1 << 20
"""Pixels that are worked on at once."""
_FAR = 1e6


@dataclass(frozen=True, eq=False)
class Piece:
    """A face to be put into a photograph.

    pixels uint8 [S, S, 3] in FFHQ's frame; affine float [2, 3]: takes a point (x, y, 1) of these pixels to the
    photograph (`Frame.affine`; `of_size` where the frame's crop had another size); outline float [K, 2]: points whose
    convex hull is the face, in these pixels (`outline`); match_colour: whether each channel's gain and offset are
    fitted to the photograph along the mask's edge.
    """

    pixels: Pixels
    affine: Floats
    outline: Floats
    match_colour: bool = True


class Pasted(NamedTuple):
    """A photograph uint8 [H, W, 3], and where nothing of what was there is left, bool [H, W]."""

    pixels: Pixels
    covered: Mask


def of_size(affine: Floats, size: int, other: int) -> Floats:
    """`Frame.affine` of a crop of `size` pixels a side, for the same crop with `other` pixels a side."""
    scale = size / other
    # Their areas are the same; centres lie half a pixel inside.
    return np.asarray(affine, float) @ np.array([[scale, 0, scale / 2 - 0.5], [0, scale, scale / 2 - 0.5], [0, 0, 1]])


def outline(size: int, *meshes: tuple[Mesh, int]) -> Floats:
    """Points float [K, 2] around a face in the pixels of a crop of `size`: see `Piece`.

    meshes: those of the face that was there and of the new one, so that neither is cut, each with the size of its crop.
    A mesh with a low score or impossible points is replaced by an ellipse that takes in most faces in FFHQ's frame.
    """
    turn = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    x, y, across, down = _ELLIPSE
    ellipse = np.stack([x + across * np.cos(turn), y + down * np.sin(turn)], axis=1) * size - 0.5
    ovals = [(mesh.oval + 0.5) * (size / own) - 0.5 if is_plausible(mesh, own) else ellipse for mesh, own in meshes]
    return np.concatenate(ovals or [ellipse])


def is_plausible(mesh: Mesh, size: int) -> bool:
    """Whether a mesh in a crop of `size` pixels a side can be that of the face in FFHQ's frame."""
    oval = mesh.oval / size
    if not (mesh.score >= _SURE and np.isfinite(oval).all()):
        return False
    low, high = oval.min(axis=0), oval.max(axis=0)
    sides = high - low
    centred = np.abs((low + high) / 2 - [0.5, 0.57]).max() < 0.2
    return bool(centred and low.min() > -0.05 and high.max() < 1.1 and sides.min() > 0.3 and sides.max() < 0.95)


def paste(photo: Pixels, pieces: Sequence[Piece]) -> Pasted:
    """The photograph uint8 [H, W, 3] with these faces in it, the largest first, so that smaller ones lie on top.

    Where faces overlap, a pixel belongs to the face whose middle is nearer, measured by the face's own width. Memory
    beyond that for the result is bounded by the pieces' own sizes.
    """
    result, covered = photo.copy(), np.zeros(photo.shape[:2], np.bool_)
    below: list[_Region] = []
    for piece in sorted(pieces, key=lambda each: -each.pixels.shape[0] * _scale(each.affine)):
        region = _Region(piece, photo.shape[:2])
        source = _Source(piece.pixels, _scale(piece.affine))
        colours = _matched(photo, piece, region) if piece.match_colour else None
        overlapping = [other for other in below if region.overlaps(other)]
        for window in _strips(*region.window):
            left, top, right, bottom = window
            distance = region.distances(window)
            weight = _smooth(1 - distance / region.feather)
            if not weight.any():
                continue
            for other in overlapping:
                # Within its own mask a face yields only to one whose mask is there too: no pixel is left to neither.
                nearer = region.relative(distance) - other.relative(other.distances(window))
                weight *= _smooth(1 - nearer / _SPLIT)
            drawn = source.draw(region.inverse, window)
            if colours is not None:
                colours.match(drawn, distance / region.width)
            there = result[top:bottom, left:right]
            np.clip(drawn, 0, 255, out=drawn)
            drawn -= there
            drawn *= weight[..., None]
            drawn += there
            np.copyto(there, np.rint(drawn, out=drawn).astype(np.uint8), where=(weight > 0)[..., None])
            covered[top:bottom, left:right] |= distance <= 0
        below.append(region)
    return Pasted(result, covered)


class _Region:
    """Where a piece lies in a photograph: signed distances from its mask's edge, in pixels of the piece."""

    def __init__(self, piece: Piece, shape: tuple[int, ...]) -> None:
        size = piece.pixels.shape[0]
        scale = _scale(piece.affine)
        points = np.asarray(piece.outline, float)
        width = max(float(np.ptp(points[:, 0])), 1.0)
        # The fading takes a pixel of the photograph at least, and ends where the crop does.
        self.feather = min(max(_FEATHER * width, 1 / scale), size / 4)
        self.width = width
        inset, grow = self.feather - 0.5, _GROW * width
        points = np.clip(points, inset + grow, size - 1 - inset - grow)
        turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        normals = np.stack([np.cos(turn), np.sin(turn)])  # [2, 96]
        reach = (points @ normals).max(axis=0) + grow  # the hull is what lies behind all of its tangents
        cells = (np.arange(_GRID) + 0.5) * (size / _GRID) - 0.5
        grid = np.stack(np.meshgrid(cells, cells), axis=-1).reshape(-1, 2)
        distance = np.max(grid @ normals - reach, axis=1).reshape(_GRID, _GRID)
        self.grid = distance.astype(np.float32)
        self._image = Image.fromarray(self.grid)
        self._factor = np.full(2, _GRID / size)
        self._depth = max(float(-distance.min()), 1e-6)
        self.inverse = _inverse(piece.affine)
        corners = np.stack([points.min(axis=0), points.max(axis=0)]) + np.array([[-1], [1]]) * (self.feather + grow)
        (left, top), (right, bottom) = corners
        square = np.array([[left, top, 1], [right, top, 1], [right, bottom, 1], [left, bottom, 1]])
        place = square @ np.asarray(piece.affine, float).T
        limit = [shape[1], shape[0]]
        low = np.clip(np.floor(place.min(axis=0)).astype(np.int64) - 1, 0, limit)
        high = np.clip(np.ceil(place.max(axis=0)).astype(np.int64) + 2, 0, limit)
        self.window = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))

    def distances(self, window: Window) -> Floats:
        """float32 [h, w]: of the photograph's pixels in a window, negative within the mask."""
        return _drawn(self._image, self._factor, self.inverse, window, _FAR)

    def relative(self, distance: Floats) -> Floats:
        """0 in the mask's middle, 1 at its edge, growing on."""
        return 1 + distance / self._depth

    def overlaps(self, other: _Region) -> bool:
        left, top, right, bottom = self.window
        others = other.window
        return left < others[2] and others[0] < right and top < others[3] and others[1] < bottom


class _Source:
    """A picture from which windows of a turned and scaled one are drawn without aliasing."""

    def __init__(self, pixels: Pixels, scale: float) -> None:
        """pixels uint8 [h, w, 3]; scale: pixels of what is drawn for one of these."""
        image = Image.fromarray(pixels)
        if scale < 1:
            reduced = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(reduced, Image.Resampling.LANCZOS)
        # Linear interpolation between three times as many pixels is as good as a cubic one between these, and where
        # nothing is turned or scaled, every third is one of these. Floats, as the warp of bytes cuts fractions off.
        finer = (image.width * 3, image.height * 3)
        values = np.asarray(image, np.float32)
        self._channels = [
            Image.fromarray(np.ascontiguousarray(values[..., channel])).resize(finer, Image.Resampling.BICUBIC)
            for channel in range(3)
        ]
        self._factor = np.array([finer[0] / pixels.shape[1], finer[1] / pixels.shape[0]])

    def draw(self, inverse: Floats, window: Window) -> Floats:
        """float32 [h, w, 3]: what lies in a window, of which `inverse` [2, 3] takes points to the picture's."""
        return np.stack([_drawn(each, self._factor, inverse, window, 0.0) for each in self._channels], axis=-1)


def _drawn(image: Image.Image, factor: Floats, inverse: Floats, window: Window, beyond: float) -> Floats:
    """float32 [h, w]: a window of an image in mode F that has `factor` [2] times the pixels that `inverse` leads to."""
    left, top, right, bottom = window
    linear = inverse[:, :2] * factor[:, None]
    # Pillow counts from the corner of the first pixel, half a pixel outside of its centre.
    start = (inverse @ [left - 0.5, top - 0.5, 1] + 0.5) * factor
    data = tuple(float(value) for value in (*linear[0], start[0], *linear[1], start[1]))
    size = (right - left, bottom - top)
    drawn = image.transform(size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=beyond)
    return np.asarray(drawn, np.float32)


class _Shade(NamedTuple):
    """Colours around a median [3], by a spread [3], and the gain [3] and offset [3] that they are changed by."""

    middle: Floats
    spread: Floats
    gain: Floats
    offset: Floats

    def like(self, drawn: Floats) -> Floats:
        """0..1: how near colours float32 [..., 3] are to these."""
        off = (drawn - self.middle) / (3 * self.spread + 16)
        return np.asarray(np.exp(-0.5 * (off * off).mean(axis=-1)))

    def change(self, drawn: Floats) -> Floats:
        """What is to be added to colours [..., 3]."""
        return drawn * (self.gain - 1) + self.offset


class _Colours(NamedTuple):
    """How a piece is matched to the photograph: its skin, and what is behind the face, if that is seen."""

    skin: _Shade
    behind: _Shade | None

    def match(self, drawn: Floats, distance: Floats) -> None:
        """Changes float32 [h, w, 3] in place; distance [h, w] from the mask's edge, as a share of the mask's width."""
        # Towards the edge and beyond it only what looks like skin: a background changed with it would be a halo.
        depth = -distance / _RING[0]
        skin, within = self.skin.like(drawn), _smooth(depth)
        if self.behind is None:
            change = self.skin.change(drawn) * np.maximum(skin, within)[..., None]
        else:
            # Where the new face is narrower than the old one, its background shows; eyes and teeth may be as bright.
            behind = self.behind.like(drawn) * (1 - skin) * _smooth(2 - depth)
            change = self.skin.change(drawn) * np.maximum(skin, within * (1 - behind))[..., None]
            change += self.behind.change(drawn) * behind[..., None]
        drawn += change


def _matched(photo: Pixels, piece: Piece, region: _Region) -> _Colours | None:
    """What brings the piece's colours to the photograph's along the mask's edge."""
    size = piece.pixels.shape[0]
    left, top, right, bottom = region.window
    if right <= left or bottom <= top:
        return None
    affine = of_size(piece.affine, size, _COMPARED) - [[0, 0, left], [0, 0, top]]
    shown = _Source(photo[top:bottom, left:right], 1 / _scale(affine))
    there = shown.draw(affine, (0, 0, _COMPARED, _COMPARED))
    ours = _Source(piece.pixels, _COMPARED / size).draw(
        of_size(np.eye(2, 3), size, _COMPARED), (0, 0, _COMPARED, _COMPARED)
    )
    cells = (np.arange(_COMPARED) + 0.5) / _COMPARED * _GRID
    distance = region.grid[np.ix_(cells.astype(int), cells.astype(int))] / region.width
    x, y = np.meshgrid(np.arange(_COMPARED), np.arange(_COMPARED))
    place = np.stack([x, y, np.ones_like(x)], axis=-1) @ affine.T
    within = (y > _BELOW * _COMPARED) & ((place > 0) & (place < [right - left - 1, bottom - top - 1])).all(axis=-1)
    ring = within & (distance > -_RING[0]) & (distance < -_RING[1])
    skin = _skin(there[ring], ours[ring])
    if skin is None:
        return None
    outside = within & (distance > 0) & (distance < _OUTSIDE)
    return _Colours(skin, _behind(there[outside], ours[outside], skin))


def _skin(there: Floats, ours: Floats) -> _Shade | None:
    """How skin is changed, by colours [N, 3] of the photograph and of the piece along the inside of the mask's edge."""
    if len(ours) < _FEWEST:
        return None
    kept = _usual(there) & _usual(ours)
    if kept.sum() < _FEWEST:
        return None
    there, ours = there[kept], ours[kept]
    deviation, spread = there.std(axis=0), ours.std(axis=0)
    together = ((there - there.mean(axis=0)) * (ours - ours.mean(axis=0))).mean(axis=0)
    # Two faces' contrasts are comparable as far as light and shade fall alike on both: a beard alone is no contrast.
    alike = np.clip(together / (deviation * spread + 1e-3), 0, 1) ** 2
    middle = np.median(ours, axis=0)
    shift = np.clip(np.median(there, axis=0) - middle, -_SHIFT, _SHIFT)
    # Else most of what is missing is taken for light, which leaves black black; the rest spares what is bright.
    light = ((middle + shift).clip(1) / middle.clip(1)) ** 0.75
    gain = np.clip((deviation / (spread + 1e-3)) ** alike * light ** (1 - alike), 1 / _GAIN, _GAIN)
    return _Shade(middle, spread, gain, middle + shift - gain * middle)


def _behind(there: Floats, ours: Floats, skin: _Shade) -> _Shade | None:
    """How what is behind the face is changed, by colours [N, 3] along the outside of the mask's edge."""
    other = skin.like(ours) < 0.3
    if other.sum() < _FEWEST:
        return None
    other[other] = _usual(ours[other])
    middle = np.median(ours[other], axis=0)
    spread = np.minimum(ours[other].std(axis=0), 12)
    return _Shade(middle, spread, np.ones(3, np.float32), np.median(there[other], axis=0) - middle)


def _usual(colours: Floats) -> Mask:
    """Which of colours [N, 3] are near the median in brightness: skin, without what hangs or shines over it."""
    light = colours.mean(axis=1)
    off = np.abs(light - np.median(light))
    return np.asarray(off <= 2.5 * np.median(off) + 1)


def _scale(affine: Floats) -> float:
    """Pixels of the photograph for one of the crop, along one side."""
    return float(np.sqrt(abs(np.linalg.det(np.asarray(affine, float)[:, :2]))))


def _inverse(affine: Floats) -> Floats:
    return np.linalg.inv(np.vstack([np.asarray(affine, float), [0, 0, 1]]))[:2]


def _smooth(share: Floats) -> Floats:
    share = np.clip(share, 0, 1)
    return share * share * (3 - 2 * share)


def _strips(left: int, top: int, right: int, bottom: int) -> Iterator[Window]:
    """A window (left, top, right, bottom) in strips of so many rows that each has at most `_STRIP` pixels."""
    rows = max(1, _STRIP // max(1, right - left))
    for row in range(top, bottom, rows):
        if right > left:
            yield left, row, right, min(bottom, row + rows)
