"""Finds faces and five landmarks with CenterFace through ONNX Runtime.

Source: CenterFace (Xu, Yan, Yang, Li, Zhang, 2019). Weights: see `engine/assets/README.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import Pixels
from faceanon_engine.engine.system.printable import first_line

Floats = npt.NDArray[np.floating[Any]]

_WEIGHTS = Path(__file__).parents[1] / "assets" / "centerface.onnx"
_LONGEST = 960
"""Photos are scaled down to this longer side; faces below about 1/30 of it are not found."""
_SHORTEST = 256
"""Small crops are scaled up to this shorter side, so that a face is as large as the network expects."""
_MARGIN = 0.25
"""Share of the longer side added around the picture: a face that fills the frame is found in a wider one."""
_GREY = 127
"""Value of that margin. Repeated border pixels make streaks that hide one face in forty at 64 px, grey hides none."""


@dataclass(frozen=True, eq=False)
class Detection:
    """A face as the detector sees it.

    box float [4]: left, top, right, bottom; landmarks float [5, 2]: eyes, nose tip, mouth corners, from the
    picture's left to its right; all in the picture's pixels. score in 0..1.
    """

    box: Floats
    landmarks: Floats
    score: float


class FaceDetector:
    """CenterFace on a CPU."""

    def __init__(self, *, threshold: float = 0.5, threads: int = 0) -> None:
        """`threshold` is the lowest score; `threads` 0 leaves their number to ONNX Runtime.

        Raises UserError when the weights are missing or unreadable.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(_WEIGHTS), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UserError(
                f"the face detector {_WEIGHTS} cannot be opened ({first_line(error)}): reinstall the package"
            ) from None
        self._input = self._session.get_inputs()[0].name
        self._threshold = threshold

    def detect(self, pixels: Pixels) -> list[Detection]:
        """Faces of a picture uint8 [H, W, 3] RGB, the largest first."""
        # What the margin still hides is found without it.
        return self._detect(pixels, _MARGIN) or self._detect(pixels, 0.0)

    def _detect(self, pixels: Pixels, margin_share: float) -> list[Detection]:
        height, width = pixels.shape[:2]
        margin = int(margin_share * max(height, width))
        scale = min(max(1.0, _SHORTEST / min(height, width)), _LONGEST / (max(height, width) + 2 * margin))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        scaled = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), np.float32)
        around = round(margin * scale)
        padded = np.pad(scaled, ((around, around), (around, around), (0, 0)), constant_values=_GREY)
        rows, columns = (-(-side // 32) * 32 for side in padded.shape[:2])
        frame = np.zeros((rows, columns, 3), np.float32)
        frame[: padded.shape[0], : padded.shape[1]] = padded
        outputs = self._session.run(None, {self._input: frame.transpose(2, 0, 1)[None]})
        boxes, landmarks, scores = _decode(outputs, self._threshold)
        faces = []
        for index in _suppress(boxes, scores):
            box = (boxes[index] - around) / scale
            points = (landmarks[index] - around) / scale
            centre = (box[:2] + box[2:]) / 2
            if not (0 <= centre[0] <= width and 0 <= centre[1] <= height):
                continue  # nothing that lies in the margin is in the picture
            faces.append(Detection(box, points, float(scores[index])))
        return sorted(faces, key=lambda face: -float((face.box[2] - face.box[0]) * (face.box[3] - face.box[1])))


def _decode(outputs: list[Floats], threshold: float) -> tuple[Floats, Floats, Floats]:
    """Boxes [K, 4], landmarks [K, 5, 2] and scores [K] above the threshold, in the frame's pixels."""
    heat, sizes, offsets, points = (np.asarray(output[0]) for output in outputs)
    row, column = np.nonzero(heat[0] > threshold)
    height, width = np.exp(sizes[0, row, column]) * 4, np.exp(sizes[1, row, column]) * 4
    top = (row + offsets[0, row, column] + 0.5) * 4 - height / 2
    left = (column + offsets[1, row, column] + 0.5) * 4 - width / 2
    x = points[1::2, row, column] * width + left  # [5, K]
    y = points[0::2, row, column] * height + top
    boxes = np.stack([left, top, left + width, top + height], axis=1)
    return boxes, np.stack([x, y], axis=-1).transpose(1, 0, 2), heat[0, row, column]


def _suppress(boxes: Floats, scores: Floats, overlap: float = 0.3) -> list[int]:
    """Indices that remain when of overlapping boxes only the best stays."""
    order = list(np.argsort(-scores, kind="stable"))
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while order:
        best = int(order.pop(0))
        kept.append(best)
        rest = np.array(order, int)
        corner = np.maximum(boxes[best, :2], boxes[rest, :2])
        far = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.prod(np.clip(far - corner, 0, None), axis=1)
        order = [int(i) for i in rest[shared <= overlap * (area[best] + area[rest] - shared)]]
    return kept
