"""Brings faces into FFHQ's frame; crops that already are in it pass. Source: FFHQ (Karras et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from faceanon_engine.engine.errors import InputError, Reason
from faceanon_engine.engine.images.decode import DecodedImage
from faceanon_engine.engine.images.ffhq import ffhq_frame
from faceanon_engine.engine.images.overlap import overlaps
from faceanon_engine.engine.images.paste import is_plausible
from faceanon_engine.engine.images.pixels import Pixels

if TYPE_CHECKING:
    from faceanon_engine.engine.images.detect import Detection, FaceDetector
    from faceanon_engine.engine.images.mesh import FaceMesh

Floats = npt.NDArray[np.floating[Any]]

_CENTRE_TOLERANCE = 0.05
_SIZE_TOLERANCE = 0.28
_TILT_TOLERANCE = 11.0
"""How far, as shares of the side and in degrees, a crop's own frame may lie from the picture's for it to count as
aligned: of pictures that are aligned exactly, five landmarks put the frame off by up to 0.04, 0.26 and 10.4."""
_SMALLEST = 24
"""A face whose frame has fewer pixels a side is too small to be drawn again."""
_LEAST_BOX = 10
"""Longer side of a given box in pixels: frames are 1 / 0.62 of a face's box, and some box brows to mouth only."""
SURE = 0.5
"""Lowest score of a face that is replaced; a detector that is asked for less finds some that are only redacted."""
_ALIKE = 0.4
"""Least overlap (IoU) of a given box with the box of a face that was found for them to be the same face."""
_LOOK = 256
"""Pixels a side of the crop that the mesh looks at."""
_BAND_PIXELS = 2**18


@dataclass(frozen=True, eq=False)
class Frame:
    """Where a crop lies in its photograph, which is upright as `read_image` gives it.

    Points have pixel centres at whole numbers, as OpenCV's have: (0, 0) is the centre of the first pixel, and a picture
    W pixels wide reaches from -0.5 to W - 0.5.
    """

    affine: Floats
    """float [2, 3]: takes a point (x, y, 1) of the crop to (x, y) in the photograph."""
    box: Floats | None = None
    """float [4]: left, top, right, bottom of the face in the photograph; None where nothing was detected."""
    landmarks: Floats | None = None
    """float [5, 2]: eyes, nose tip, mouth corners in the photograph; None where nothing was detected."""
    score: float | None = None
    """The detector's, 0 to 1; None where nothing was detected."""
    warped: bool = False
    """Whether the crop was turned and scaled into FFHQ's frame; the others are the photograph's middle square."""

    @property
    def angle(self) -> float:
        """Degrees in (-180, 180] by which the crop's x axis is turned in the photograph, clockwise on the screen."""
        return float(np.degrees(np.arctan2(self.affine[1, 0], self.affine[0, 0])))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Frame:
        """The frame of what `to_json` gave, to its precision."""

        def array(name: str) -> Floats | None:
            return None if values[name] is None else np.asarray(values[name], float)

        return cls(
            np.asarray(values["affine"], float), array("box"), array("landmarks"), values["score"], values["warped"]
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values, lengths in the photograph's pixels to a thousandth."""
        return {
            "affine": [[round(float(value), 6) for value in row] for row in self.affine],
            "angle": round(self.angle, 2),
            "box": None if self.box is None else [round(float(value), 3) for value in self.box],
            "landmarks": None
            if self.landmarks is None
            else [[round(float(value), 3) for value in point] for point in self.landmarks],
            "score": None if self.score is None else round(self.score, 4),
            "warped": self.warped,
        }


@dataclass(frozen=True, eq=False)
class Face:
    """A crop uint8 [S, S, 3] with a face in FFHQ's frame, and where it lies in its photograph."""

    pixels: Pixels
    frame: Frame


@dataclass(frozen=True, eq=False)
class Unhandled:
    """A face that was found and that no other can take the place of, where it lies in its photograph, and why."""

    frame: Frame
    reason: Reason
    message: str


class Found(NamedTuple):
    """What was found in a picture: faces with their crops and others, the largest first; and of given boxes how many
    the detector found by itself, None where none were given."""

    faces: list[Face]
    unhandled: list[Unhandled]
    boxes_found: int | None = None


def align_face(pixels: Pixels, landmarks: Floats, size: int) -> tuple[Pixels, Floats]:
    """FFHQ's crop of a picture uint8 [H, W, 3] by landmarks [5, 2], as uint8 [size, size, 3], and its `Frame.affine`.

    Where the frame reaches over the picture's border, the picture is reflected and blurred, as FFHQ does.
    """
    frame = ffhq_frame(np.asarray(landmarks, float))
    quad, side = frame.corners, frame.side
    height, width = pixels.shape[:2]
    to_photo = np.array([1.0, 1.0])  # pixels of the photograph in one of the picture that is drawn from

    shrink = int(np.floor(side / size * 0.5))
    if shrink > 1:
        reduced = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        scale = np.array(reduced) / np.array([width, height])
        # A channel at a time, which gives the same: the library's copies of all would take twice the picture's memory.
        channels = (Image.fromarray(pixels[..., channel]).resize(reduced, Image.Resampling.BOX) for channel in range(3))
        pixels = np.stack([np.asarray(channel) for channel in channels], axis=-1)
        width, height = reduced
        quad, side = quad * scale, side * float(scale.mean())
        to_photo = 1 / scale
    affine = _affine_of(quad, size, to_photo)

    border = max(round(side * 0.1), 3)
    low, high = np.floor(quad.min(axis=0)).astype(int) - border, np.ceil(quad.max(axis=0)).astype(int) + border
    left, top = max(low[0], 0), max(low[1], 0)
    right, bottom = min(high[0], width), min(high[1], height)
    if right <= left or bottom <= top:
        raise InputError("no-face", "what looks like a face lies outside of the picture")
    pixels = pixels[top:bottom, left:right]
    quad = quad - [left, top]

    beyond = [max(0, left - low[0]), max(0, top - low[1]), max(0, high[0] - right), max(0, high[1] - bottom)]
    if max(beyond) > border:
        pad = np.maximum(beyond, round(side * 0.3))
        pixels = _reflected(pixels, pad, side)
        quad = quad + pad[:2]

    # Draw at a multiple of the size and average, so that the warp does not alias.
    factor = max(1, min(4, round(side / size)))
    data = tuple((quad + 0.5).flatten())
    drawn = Image.fromarray(pixels).transform(
        (size * factor,) * 2, Image.Transform.QUAD, data, Image.Resampling.BILINEAR
    )
    if factor > 1:
        drawn = drawn.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(drawn, np.uint8), affine


def crop_at(pixels: Pixels, frame: Frame, size: int) -> Pixels:
    """The crop of a picture whose frame is known, as `faces_in` gave it."""
    if frame.warped and frame.landmarks is not None:
        return align_face(pixels, frame.landmarks, size)[0]
    return resize_square(pixels, size)[0]


def _affine_of(quad: Floats, size: int, to_photo: Floats) -> Floats:
    """`Frame.affine` of a crop with these corners [4, 2] in a picture that was reduced by `to_photo` [2].

    The corners are those of the crop's area, half a pixel outside of the centres of its corner pixels.
    """
    right, down = (quad[3] - quad[0]) / size, (quad[1] - quad[0]) / size  # of one pixel of the crop
    start = quad[0] + (right + down) / 2  # centre of its first pixel
    # Reducing keeps the borders of a picture where they are, and they lie half a pixel outside of the centres.
    return np.stack([right * to_photo, down * to_photo, (start + 0.5) * to_photo - 0.5], axis=1)


def _reflected(pixels: Pixels, pad: Floats, side: float) -> Pixels:
    left, top, right, bottom = (int(p) for p in pad)
    pixels = np.pad(pixels, ((top, bottom), (left, right), (0, 0)), "reflect")
    height, width = pixels.shape[:2]
    y, x = np.ogrid[:height, :width]
    # 1 at the padded border, 0 where the picture is: the greater of what a column and a row say.
    near_x = 1 - np.minimum(x / max(left, 1), (width - 1 - x) / max(right, 1))  # [1, W]
    near_y = 1 - np.minimum(y / max(top, 1), (height - 1 - y) / max(bottom, 1))  # [H, 1]
    bands = [slice(row, row + max(1, _BAND_PIXELS // width)) for row in range(0, height, max(1, _BAND_PIXELS // width))]

    # A channel at a time, and its values twice: a large photograph's as float32 would take more than itself.
    for channel in range(3):
        sharp = np.ascontiguousarray(pixels[..., channel])
        blurred = np.asarray(Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(side * 0.02)))

        def blended(band: slice, sharp: Pixels = sharp, blurred: Pixels = blurred) -> Floats:
            values = sharp[band].astype(np.float32)
            weight = np.clip(np.maximum(near_x, near_y[band]) * 3 + 1, 0, 1)
            values += (blurred[band].astype(np.float32) - values) * weight
            return values

        plane = np.empty((height, width), np.float32)
        for band in bands:
            plane[band] = blended(band)
        median = np.median(plane, overwrite_input=True)
        del plane
        for band in bands:
            values = blended(band)
            values += (median - values) * np.clip(np.maximum(near_x, near_y[band]), 0, 1)
            pixels[band, :, channel] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels


def refined(mesh: FaceMesh, pixels: Pixels, landmarks: Floats) -> Floats:
    """Landmarks [5, 2] by the mesh, which looks at the crop that these [5, 2] give; these, where it sees no face.

    The eyes stay as far apart as in these, on the line through the mesh's: behind glasses its eyes are too far apart,
    in all else its frames are nearer to FFHQ's (benchmarks/results/frame_landmarks.json).
    """
    crop, affine = align_face(pixels, landmarks, _LOOK)
    seen = mesh.look(crop)
    if not is_plausible(seen, _LOOK):
        return landmarks
    points = seen.landmarks @ affine[:, :2].T + affine[:, 2]
    half = (points[1] - points[0]) / 2
    half = half * np.hypot(*(landmarks[1] - landmarks[0])) / 2 / np.hypot(*half)
    middle = points[:2].mean(axis=0)
    return np.stack([middle - half, middle + half, *points[2:]])


def is_aligned(landmarks: Floats, height: int, width: int) -> bool:
    """Whether a square picture's own frame is, within tolerances, FFHQ's frame of the landmarks [5, 2]."""
    if abs(height - width) > 0.02 * max(height, width):
        return False
    frame = ffhq_frame(np.asarray(landmarks, float))
    off = np.abs(frame.centre + 0.5 - np.array([width, height]) / 2).max() / width
    near = off < _CENTRE_TOLERANCE and abs(frame.side / width - 1) < _SIZE_TOLERANCE
    return bool(near and abs(frame.angle) < _TILT_TOLERANCE)


def resize_square(pixels: Pixels, size: int) -> tuple[Pixels, Floats]:
    """The middle square of a picture uint8 [H, W, 3], as uint8 [size, size, 3], and its `Frame.affine`."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    scale = side / size
    affine = np.array([[scale, 0, left + scale / 2 - 0.5], [0, scale, top + scale / 2 - 0.5]])
    resized = square if side == size else square.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(resized, np.uint8), affine


def faces_in(
    decoded: DecodedImage,
    mode: str,
    size: int,
    detector: FaceDetector | None,
    mesh: FaceMesh | None = None,
    *,
    photo: bool = False,
    boxes: Floats | None = None,
) -> Found:
    """The faces of a picture, each [size, size, 3], and those from which no crop is made.

    mode "never" takes the picture's middle square as an aligned crop. "auto" finds faces: a crop that already is in
    FFHQ's frame passes as it is, others are warped. With a mesh, landmarks are `refined`. boxes float [N, 4]: left,
    top, right, bottom of faces that are known; those that were not found are looked for there. photo: whether all that
    is in the picture counts, as it is given back. Otherwise an aligned crop is one face, those beside it being left
    alone, and InputError with reason "no-face", "too-small" or "no-landmarks" is raised where there is none.
    """
    pixels = decoded.pixels
    if mode == "never":
        crop, affine = resize_square(pixels, size)
        return Found([Face(crop, Frame(affine))], [])
    if detector is None:
        raise ValueError("mode 'auto' needs a detector")
    detections, unseen, boxes_found = _with_given(detector, pixels, boxes)
    if not photo and not detections and not len(unseen):
        raise InputError("no-face", "no face was found: crop to the face, or use --align never for aligned crops")
    if mesh is not None:
        detections = [
            (replace(each, landmarks=refined(mesh, pixels, each.landmarks)), sure) for each, sure in detections
        ]
    height, width = pixels.shape[:2]
    faces: list[Face] = []
    unhandled = [
        Unhandled(_frame_of_box(box, size), "no-landmarks", "in its box no upright face is seen")
        if _is_drawable(box)
        else Unhandled(_frame_of_box(box, size), "too-small", f"its box has fewer than {_LEAST_BOX} pixels")
        for box in unseen
    ]
    for number, (each, sure) in enumerate(detections):
        frame = Frame(
            _affine_of(each.frame.corners, size, np.ones(2)), each.box, each.landmarks, each.score, warped=True
        )
        if number == 0 and min(height, width) >= _SMALLEST and is_aligned(each.landmarks, height, width):
            crop, affine = resize_square(pixels, size)
            faces.append(Face(crop, replace(frame, affine=affine, warped=False)))
        elif each.frame.side < _SMALLEST:
            message = f"its frame has fewer than {_SMALLEST} pixels: use a larger picture"
            unhandled.append(Unhandled(frame, "too-small", message))
        elif not photo and faces and not faces[0].frame.warped:
            unhandled.append(Unhandled(frame, "beside", "it lies beside the face of an aligned crop"))
        elif not sure:
            unhandled.append(Unhandled(frame, "low-score", f"the detector is not sure of it, {each.score:.2f} of 1"))
        else:
            crop, affine = align_face(pixels, each.landmarks, size)
            faces.append(Face(crop, replace(frame, affine=affine)))
    if not photo and not faces:
        first = unhandled[-1]  # the largest of those that were seen, or a box that was given
        raise InputError(first.reason, first.message)
    return Found(faces, unhandled, boxes_found)


def _with_given(
    detector: FaceDetector, pixels: Pixels, boxes: Floats | None
) -> tuple[list[tuple[Detection, bool]], list[Floats], int | None]:
    """Faces of a picture, the largest first, and whether each is one for sure; boxes [4] in which none was seen; and of
    the given ones how many the detector found by itself, None where none were given.

    A face in a given box is one for sure, as somebody says so.
    """
    detections = detector.detect(pixels)
    given = np.zeros((0, 4)) if boxes is None else boxes
    matches = _matches(given, detections)
    found = [(face, face.score >= SURE or number in matches.values()) for number, face in enumerate(detections)]
    unseen: list[Floats] = []
    for number, box in enumerate(given):
        if number in matches:
            continue
        # Looking takes a third of a second, crowds have hundreds of specks, and those are redacted in any case.
        face = detector.look_in(pixels, box) if _is_drawable(box) else None
        if face is None:
            unseen.append(box)
        elif not _matches(face.box[None], [other for other, _ in found]):
            found.append((face, True))
    found.sort(key=lambda each: -each[0].frame.side)
    return found, unseen, None if boxes is None else len(matches)


def _is_drawable(box: Floats) -> bool:
    """Whether the frame of a face in a given box [4] can be as large as one has to be that is drawn again."""
    return bool(max(box[2:] - box[:2]) >= _LEAST_BOX)


def _frame_of_box(box: Floats, size: int) -> Frame:
    """The frame of a face of which nothing but a box [4] is known: the upright square about it."""
    centre, half = (box[:2] + box[2:]) / 2, max(box[2:] - box[:2]) / 2
    scale = 2 * half / size
    start = centre - half + scale / 2
    return Frame(np.array([[scale, 0, start[0]], [0, scale, start[1]]]), np.asarray(box, float))


def _matches(boxes: Floats, detections: list[Detection]) -> dict[int, int]:
    """Which of the boxes [N, 4] are those of faces that were found, and of which: as many as possible, one each."""
    if not len(boxes) or not detections:
        return {}
    from scipy.optimize import linear_sum_assignment

    enough = overlaps(boxes, np.stack([each.box for each in detections])) >= _ALIKE
    pairs = zip(*linear_sum_assignment(enough, maximize=True), strict=True)
    return {int(box): int(face) for box, face in pairs if enough[box, face]}
