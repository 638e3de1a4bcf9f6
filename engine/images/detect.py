"""Finds faces in photographs: of any size from a few pixels on, turned by any angle, each with its frame.

A picture is looked at in its own size and in smaller ones (a pyramid), tile by tile where it is large. The network was
trained on upright faces: a turned one still lights up, with a lower score and landmarks that mean nothing. So whatever
lights up is only a candidate. It is cut out upright, in the four directions where nothing says which is the right one,
looked at again, and only what the network takes for an upright face there counts; its landmarks are those of the last
look, repeated until the frame stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from faceanon_engine.engine.images.centerface import CenterFace, suppress
from faceanon_engine.engine.images.ffhq import Square, ffhq_frame
from faceanon_engine.engine.images.overlap import overlaps
from faceanon_engine.engine.images.pixels import Pixels

Floats = npt.NDArray[np.floating[Any]]

_THRESHOLD = 0.5
"""Lowest score of a face that was looked at upright."""
_CANDIDATE = 0.1
"""Lowest score of what is looked at again: faces turned by 160 degrees have been seen at 0.46, lying ones of 40 pixels
at 0.1."""
_UNCERTAIN = 0.25
"""Candidates below this score are not tried in the four directions between the quarters, too."""
_UPSIDE_DOWN = 0.62
"""Scale, as a share, at which a picture is looked at once more on its head: of faces that stand on it the network sees
at its own scale three in four."""
_SMALL = 960
_WHOLE = 640
"""Longer side, margin included, at which a picture is looked at whole: pictures that fit into the first are looked at
once; of larger ones that is the smallest level, for faces that no other takes in."""
_LEAST = 256
"""Small crops are scaled up to this shorter side, so that a face is as large as the network expects."""
_MARGIN = 0.25
"""Share of the longer side added around a picture looked at whole: a face that fills it is found in a wider one."""
_GREY = 127
"""Value of that margin. Repeated border pixels make streaks that hide one face in forty at 64 px, grey hides none."""
_STEP = 3.0
"""Ratio of sides from one level of the pyramid to the next: the network sees faces of 20 to 20 times as many pixels."""
_TILE = 1024
"""Longest side of a tile in pixels: larger ones share less with their neighbours, and take more memory."""
_OVERLAP = 96
"""Of tiles, in pixels: larger faces are found at the next level, where they are whole."""
_FACE = 20
"""Pixels that the smallest face that is looked for has at the level where it is found."""
_LOOK = 224
_GLANCE = 128
_LOOK_SHARE = 1.6
"""Side of the cut-out that is looked at again, in pixels, and as a multiple of the frame's; the smaller one is enough
to tell which way a face stands."""
_GLANCED = 0.2
"""Lowest score of a face in that smaller one."""
_STABLE = 0.015
"""Share of its side by which a frame may still move when it counts as found."""
_MOST_LOOKS = 3
_AROUND = 0.5
"""Of the longer side of a box that somebody else gives, on each side: what is looked at for the face in it."""
_SAME = 0.3
"""Least share of the union by which a face is the one in such a box: that of a whole head shares 0.5 with its face's,
a neighbour's face or one on a shirt shares less."""
_VOUCHED = 0.3
"""Lowest score of such a face."""


@dataclass(frozen=True, eq=False)
class Detection:
    """A face as the detector sees it.

    box float [4]: left, top, right, bottom; landmarks float [5, 2]: eyes, nose tip, mouth corners, those first that are
    on the left when the face is upright; all in the picture's pixels. score in 0..1.
    """

    box: Floats
    landmarks: Floats
    score: float

    @property
    def frame(self) -> Square:
        """FFHQ's frame of the face."""
        return ffhq_frame(self.landmarks)


class FaceDetector:
    """Faces of whole photographs, on a CPU; safe to use from several threads."""

    def __init__(self, *, threshold: float = _THRESHOLD, min_face: float = _FACE, threads: int = 0) -> None:
        """`threshold`: the lowest score of an upright face. min_face: pixels of the longer side of the smallest box
        that is looked for. `threads` 0 leaves their number to ONNX Runtime.

        Raises UserError when the weights are missing or unreadable.
        """
        self._network = CenterFace(threads)
        self._threshold = threshold
        self._min_face = min_face

    def detect(self, pixels: Pixels) -> list[Detection]:
        """Faces of a picture uint8 [H, W, 3] RGB, the largest first."""
        # What the margin still hides is found without it.
        found = self._confirmed(pixels, self._candidates(pixels)) or self._confirmed(pixels, self._whole(pixels, 0.0))
        return sorted(_merged(found), key=lambda face: -face.frame.side)

    def look_in(self, pixels: Pixels, box: Floats) -> Detection | None:
        """The face that somebody says is in a box float [4] of a picture uint8 [H, W, 3] RGB; None where none is seen.

        A box of the head is enough: of the faces in and around it that share `_SAME` with it the one that shares most.
        Its size does not matter, and its score may be lower than that of a face nobody vouches for. None, too, for a
        box that is not finite or has no area in the picture.
        """
        height, width = pixels.shape[:2]
        box = np.asarray(box, float)
        inside = np.clip(box, 0, [width, height, width, height])
        if not np.isfinite(box).all() or (inside[2:] - inside[:2]).min() <= 0:
            return None
        around = max(box[2:] - box[:2]) * _AROUND
        low = np.floor(np.clip(box[:2] - around, 0, [width, height])).astype(int)
        high = np.ceil(np.clip(box[2:] + around, 0, [width, height])).astype(int)
        start, there = np.tile(low, 2), pixels[low[1] : high[1], low[0] : high[0]]
        vouched = Detection(box - start, np.zeros((5, 2)), 1.0)
        faces = [self._settled(there, each, _VOUCHED) for each in self._whole(there, _MARGIN) if _stands(each)]
        near = _nearest(faces, vouched.box)
        for turn in (0, 45):
            if near is None:
                near = _nearest([self._turned(there, vouched, turn, _VOUCHED)], vouched.box)
        return None if near is None else Detection(near.box + start, near.landmarks + low, near.score)

    def _confirmed(self, pixels: Pixels, candidates: list[Detection]) -> list[Detection]:
        return [face for face in (self._look_again(pixels, each) for each in candidates) if face is not None]

    def _candidates(self, pixels: Pixels) -> list[Detection]:
        """Whatever lights up at some level, in the picture's pixels; of overlapping ones the best."""
        seen = self._whole(pixels, _MARGIN)
        height, width = pixels.shape[:2]
        largest = scale = min(1.0, _FACE / self._min_face)
        smallest = _whole_scale(height, width, _MARGIN)
        while scale > smallest * 1.2:
            seen += self._tiled(pixels, scale)
            scale /= _STEP
        if scale < largest:
            upside_down = self._tiled(pixels, _UPSIDE_DOWN * largest, on_its_head=True)
            seen += [_on_its_head(each, height, width) for each in upside_down]
        if not seen:
            return []
        kept = suppress(np.stack([each.box for each in seen]), np.array([each.score for each in seen]), 0.4)
        return [seen[index] for index in kept]

    def _whole(self, pixels: Pixels, margin_share: float) -> list[Detection]:
        """Candidates of the whole picture at once, scaled to what the network takes for a face of usual size."""
        height, width = pixels.shape[:2]
        margin = int(margin_share * max(height, width))
        scale = _whole_scale(height, width, margin_share)
        around = round(margin * scale)
        scaled = _resized(pixels, scale)
        seen = self._network.look(
            np.pad(scaled, ((around, around), (around, around), (0, 0)), constant_values=_GREY), _CANDIDATE
        )
        faces = []
        for box, landmarks, score in zip(*seen, strict=True):
            box, landmarks = (box - around) / scale, (landmarks - around) / scale
            centre = (box[:2] + box[2:]) / 2
            # Nothing that lies in the margin is in the picture.
            if 0 <= centre[0] <= width and 0 <= centre[1] <= height:
                faces.append(Detection(box, landmarks, float(score)))
        return faces

    def _tiled(self, pixels: Pixels, scale: float, *, on_its_head: bool = False) -> list[Detection]:
        """Candidates of the picture at a scale, tile by tile; on its head: of the picture turned by half a turn."""
        scaled = _resized(pixels, scale)
        scaled = scaled[::-1, ::-1] if on_its_head else scaled
        faces = []
        tops, height = _tiles(scaled.shape[0])
        lefts, width = _tiles(scaled.shape[1])
        for top in tops:
            for left in lefts:
                tile = scaled[top : top + height, left : left + width]
                start = np.array([left, top], float)
                for box, landmarks, score in zip(*self._network.look(tile, _CANDIDATE), strict=True):
                    place = (box + np.tile(start, 2)) / scale
                    faces.append(Detection(place, (landmarks + start) / scale, float(score)))
        return faces

    def _look_again(self, pixels: Pixels, candidate: Detection) -> Detection | None:
        """The candidate as an upright face, None where it is none."""
        face = self._settled(pixels, candidate, self._threshold) if _stands(candidate) else None
        for turn in (0, 45) if candidate.score >= _UNCERTAIN else (0,):
            if face is None:
                face = self._turned(pixels, candidate, turn, self._threshold)
        if face is None or max(face.box[2:] - face.box[:2]) < 0.8 * self._min_face:
            return None
        return face

    def _turned(self, pixels: Pixels, candidate: Detection, turn: float, threshold: float) -> Detection | None:
        """The candidate's box as a face that stands in one of the four directions, turned by so many degrees."""
        glances = [self._look_at(pixels, square, _GLANCE) for square in _directions(candidate, turn)]
        seen = [each for each in glances if each is not None and each.score >= _GLANCED]
        return self._settled(pixels, max(seen, key=lambda each: each.score), threshold) if seen else None

    def _settled(self, pixels: Pixels, start: Detection, threshold: float) -> Detection | None:
        """A face that stands, looked at until its frame stays; None where it is none, or never scores enough."""
        face, best, looks = start, start.score, 0
        while looks < _MOST_LOOKS:
            after = self._look_at(pixels, face.frame, _LOOK)
            if after is None:
                break
            before, face, looks = face, after, looks + 1
            best = max(best, face.score)
            if looks > 1 and _moved(before.frame, face.frame) < _STABLE:
                break
        # What scored once and is not seen again where its own landmarks say it stands was no face.
        return Detection(face.box, face.landmarks, best) if looks and best >= threshold else None

    def _look_at(self, pixels: Pixels, frame: Square, size: int) -> Detection | None:
        """The face that stands upright in the middle of this frame, seen at `size` pixels; None where there is none."""
        place = Square(frame.centre, frame.x * _LOOK_SHARE, frame.y * _LOOK_SHARE)
        seen = self._network.look(_cut_out(pixels, place, size), _CANDIDATE)
        middle = size / 2
        best = None
        for box, landmarks, score in zip(*seen, strict=True):
            centre, side = (box[:2] + box[2:]) / 2, max(box[2:] - box[:2])
            near = np.abs(centre - middle).max() < 0.2 * size and 0.15 * size < side < 0.95 * size
            upright = Detection(box, landmarks, float(score))
            if near and _stands(upright) and (best is None or score > best.score):
                best = upright
        if best is None:
            return None
        # From the cut-out's pixels to the picture's: its corners are those of its area.
        axes = np.stack([place.x, place.y]) * 2 / size

        def back(points: Floats) -> Floats:
            return np.asarray((points + 0.5 - middle) @ axes + place.centre)

        left, top, right, bottom = best.box
        corners = back(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]))
        # The box stays as large as it is on the upright face: that of its corners would grow with the angle.
        centre, half = corners.mean(axis=0), _half_of_turned(corners)
        return Detection(np.concatenate([centre - half, centre + half]), back(best.landmarks), best.score)


def _whole_scale(height: int, width: int, margin_share: float) -> float:
    margin = int(margin_share * max(height, width))
    longer = max(height, width) + 2 * margin
    enlarge = max(1.0, _LEAST / min(height, width))
    return enlarge if longer * enlarge <= _SMALL else min(enlarge, max(_WHOLE, _SMALL if enlarge > 1 else 0) / longer)


def _on_its_head(face: Detection, height: int, width: int) -> Detection:
    """What was seen in a picture turned by half a turn, in the picture."""
    size = np.array([width, height], float)
    box = np.concatenate([size - face.box[2:], size - face.box[:2]])
    return Detection(box, size - face.landmarks, face.score)


def _resized(pixels: Pixels, scale: float) -> Pixels:
    height, width = pixels.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return pixels
    # One channel at a time: Pillow holds a picture of three in four bytes a pixel.
    scaled = np.empty((size[1], size[0], 3), np.uint8)
    for channel in range(3):
        scaled[..., channel] = Image.fromarray(pixels[..., channel]).resize(size, Image.Resampling.BILINEAR)
    return scaled


def _tiles(side: int) -> tuple[list[int], int]:
    """Where tiles begin along a side, evenly spread, and their length, which wastes none of it."""
    count = max(1, -(-(side - _OVERLAP) // (_TILE - _OVERLAP)))
    length = -(-(side + (count - 1) * _OVERLAP) // count)
    return [round((side - length) * index / max(1, count - 1)) for index in range(count)], length


def _stands(face: Detection) -> bool:
    """Whether the landmarks are those of an upright face: eyes above the nose above the mouth, the box not lying."""
    (left_eye, right_eye, nose, left_mouth, right_mouth) = face.landmarks
    width, height = face.box[2:] - face.box[:2]
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    down = mouth - eyes
    return bool(
        width < 0.95 * height
        and down[1] > 0.2 * height
        and abs(down[0]) < 0.6 * down[1]
        and eyes[1] < nose[1] < mouth[1]
        and right_eye[0] > left_eye[0]
        and right_mouth[0] > left_mouth[0]
        and abs(right_eye[1] - left_eye[1]) < 0.7 * down[1]
    )


def _directions(candidate: Detection, turn: float) -> Iterator[Square]:
    """Frames in which the candidate may stand upright: by its box alone, turned by so many degrees and quarters."""
    centre = (candidate.box[:2] + candidate.box[2:]) / 2
    half = max(candidate.box[2:] - candidate.box[:2]) / 0.62 / 2
    x = half * np.array([np.cos(np.radians(turn)), np.sin(np.radians(turn))])
    y = np.array([-x[1], x[0]])
    for _ in range(4):
        # A frame's centre lies above the box's, near the eyes.
        yield Square(centre - y * 0.08, x, y)
        x, y = y, -x


def _cut_out(pixels: Pixels, place: Square, size: int) -> Pixels:
    """A turned square of the picture as uint8 [size, size, 3], grey where it reaches beyond the border."""
    height, width = pixels.shape[:2]
    corners = place.corners
    low = np.clip(np.floor(corners.min(axis=0)).astype(int) - 2, 0, [width, height])
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 2, 0, [width, height])
    if (high - low).min() < 1:
        return np.full((size, size, 3), _GREY, np.uint8)
    image = Image.fromarray(pixels[low[1] : high[1], low[0] : high[0]])
    quad = corners + 0.5 - low
    # Averaged first where several pixels become one, so that the turn does not alias.
    shrink = int(place.side / size)
    if shrink > 1:
        image = image.reduce(shrink)
        quad = quad / shrink
    data = tuple(float(value) for value in quad.flatten())
    drawn = image.transform(
        (size, size), Image.Transform.QUAD, data, Image.Resampling.BILINEAR, fillcolor=(_GREY, _GREY, _GREY)
    )
    return np.asarray(drawn, np.uint8)


def _half_of_turned(corners: Floats) -> Floats:
    """Half width and height [2] of the upright box about a turned one [4, 2] that an ellipse inside it needs."""
    across, down = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    return np.hypot(across, down)


def _moved(before: Square, after: Square) -> float:
    """How far two frames are from each other, as a share of the side."""
    return float(np.abs(before.corners - after.corners).max() / after.side)


def _nearest(faces: Sequence[Detection | None], box: Floats) -> Detection | None:
    """The face that shares most with a box [4], None where none shares enough to be the one in it."""
    there = [face for face in faces if face is not None]
    if not there:
        return None
    shared = overlaps(np.stack([face.box for face in there]), box[None])[:, 0]
    best = int(shared.argmax())
    return there[best] if shared[best] >= _SAME else None


def _merged(faces: list[Detection]) -> list[Detection]:
    """One detection a face: of frames that are nearly the same the one with the best score."""
    kept: list[Detection] = []
    for face in sorted(faces, key=lambda each: -each.score):
        frame = face.frame
        for other in kept:
            near = np.hypot(*(other.frame.centre - frame.centre)) < 0.35 * max(frame.side, other.frame.side)
            if near and 0.5 < frame.side / other.frame.side < 2:
                break
        else:
            kept.append(face)
    return kept
