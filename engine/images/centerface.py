"""The face detection network: CenterFace through ONNX Runtime, one pass over one picture as it is.

Source: CenterFace (Xu, Yan, Yang, Li, Zhang, 2019). Weights: see `engine/assets/README.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import Pixels
from faceanon_engine.engine.system.budget import Budget
from faceanon_engine.engine.system.printable import first_line

Floats = npt.NDArray[np.floating[Any]]

WEIGHTS = Path(__file__).parents[1] / "assets" / "centerface.onnx"
_STRIDE = 4
"""Pixels a cell of the network's heat map stands for."""
_MULTIPLE = 32
"""Sides of what the network takes are multiples of this."""
_PIXELS_AT_ONCE = 1_400_000
"""That all threads together have the network look at: it takes about 180 bytes for each, and keeps them."""


class Seen(NamedTuple):
    """Faces in a picture's pixels: boxes float [K, 4] (left, top, right, bottom), landmarks float [K, 5, 2], scores
    float [K] in 0..1; of overlapping ones the best, in the order of their scores."""

    boxes: Floats
    landmarks: Floats
    scores: Floats


class CenterFace:
    """The network on a CPU. Faces of about 20 to 400 pixels are seen, upright ones best; safe to use from threads."""

    def __init__(self, threads: int = 0) -> None:
        """`threads` 0 leaves their number to ONNX Runtime. Raises UserError when the weights cannot be opened."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # A plan of the memory for each size that comes, and pictures come in all sizes.
        options.enable_mem_pattern = False
        try:
            self._session = onnxruntime.InferenceSession(str(WEIGHTS), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UserError(
                f"the face detector {WEIGHTS} cannot be opened ({first_line(error)}): reinstall the package"
            ) from None
        self._input = self._session.get_inputs()[0].name
        self._pixels = Budget(_PIXELS_AT_ONCE)

    def look(self, pixels: Pixels, threshold: float) -> Seen:
        """Faces with at least this score in a picture uint8 [H, W, 3] RGB, at the size that it has."""
        height, width = pixels.shape[:2]
        rows, columns = (-(-side // _MULTIPLE) * _MULTIPLE for side in (height, width))
        with self._pixels.taken(rows * columns):
            frame = np.zeros((1, 3, rows, columns), np.float32)
            frame[0, :, :height, :width] = pixels.transpose(2, 0, 1)
            seen = _decode(self._session.run(None, {self._input: frame}), threshold)
        kept = suppress(seen.boxes, seen.scores)
        return Seen(seen.boxes[kept], seen.landmarks[kept], seen.scores[kept])


def _decode(outputs: list[Floats], threshold: float) -> Seen:
    heat, sizes, offsets, points = (np.asarray(output[0], np.float64) for output in outputs)
    row, column = np.nonzero(heat[0] > threshold)
    height, width = np.exp(sizes[0, row, column]) * _STRIDE, np.exp(sizes[1, row, column]) * _STRIDE
    top = (row + offsets[0, row, column] + 0.5) * _STRIDE - height / 2
    left = (column + offsets[1, row, column] + 0.5) * _STRIDE - width / 2
    x = points[1::2, row, column] * width + left  # [5, K]
    y = points[0::2, row, column] * height + top
    boxes = np.stack([left, top, left + width, top + height], axis=1)
    return Seen(boxes, np.stack([x, y], axis=-1).transpose(1, 0, 2), heat[0, row, column])


def suppress(boxes: Floats, scores: Floats, overlap: float = 0.3) -> list[int]:
    """Indices that remain, the best score first, when of boxes that share more than `overlap` only the best stays."""
    order = np.argsort(-scores, kind="stable")
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while len(order):
        best, order = int(order[0]), order[1:]
        kept.append(best)
        corner = np.maximum(boxes[best, :2], boxes[order, :2])
        far = np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = np.prod(np.clip(far - corner, 0, None), axis=1)
        order = order[shared <= overlap * (area[best] + area[order] - shared)]
    return kept
