"""The surface of one face: MediaPipe's FaceMesh through ONNX Runtime, 468 points of an upright face in FFHQ's frame.

Source: Kartynnik, Ablavatski, Grishchenko, Grundmann, "Real-time Facial Surface Geometry from Monocular Video on Mobile
GPUs" (CVPR Workshops 2019). Weights: see `engine/assets/README.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import Pixels
from faceanon_engine.engine.system.printable import first_line

Floats = npt.NDArray[np.floating[Any]]

WEIGHTS = Path(__file__).parents[1] / "assets" / "facemesh.onnx"
# fmt: off
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)
# fmt: on
"""The 36 points along the face's border, from the forehead's middle on, clockwise on the screen."""
_EYES, _NOSE, _MOUTH = ((33, 133), (362, 263)), 1, (61, 291)
"""Corners of the eyes, the nose's tip, and corners of the mouth, those on the left of an upright face first."""
_SIDE = 192
_PLACE = (0.5, 0.54, 0.93)
"""Centre and side of what the network takes, as shares of FFHQ's crop: the box a detector sees there, times 1.5."""


class Mesh(NamedTuple):
    """Points float [468, 2] in the crop's pixels (centres at whole numbers), and in 0..1 how sure it is of a face."""

    points: Floats
    score: float

    @property
    def oval(self) -> Floats:
        """[36, 2]"""
        return self.points[list(OVAL)]

    @property
    def landmarks(self) -> Floats:
        """[5, 2]: eyes, nose tip, mouth corners, as a detector gives them."""
        eyes = [self.points[list(corners)].mean(axis=0) for corners in _EYES]
        return np.stack([*eyes, self.points[_NOSE], *self.points[list(_MOUTH)]])


class FaceMesh:
    """The network on a CPU, a few milliseconds a face; safe to use from several threads."""

    def __init__(self, threads: int = 0) -> None:
        """`threads` 0 leaves their number to ONNX Runtime. Raises UserError when the weights cannot be opened."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(WEIGHTS), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UserError(
                f"the face mesh {WEIGHTS} cannot be opened ({first_line(error)}): reinstall the package"
            ) from None
        self._input = self._session.get_inputs()[0].name

    def look(self, crop: Pixels) -> Mesh:
        """The face of a crop uint8 [S, S, 3] RGB in FFHQ's frame; of what is no face, points that mean nothing."""
        size = crop.shape[0]
        x, y, side = (share * size for share in _PLACE)
        left, top = x - side / 2, y - side / 2
        # Only the lowest rows may lie beyond the crop: they repeat the last one.
        beyond = max(0, int(np.ceil(top + side)) - size)
        image = Image.fromarray(np.pad(crop, ((0, beyond), (0, 0), (0, 0)), "edge"))
        drawn = image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        values = np.asarray(drawn, np.float32)[None] / np.float32(255)
        score, points = self._session.run(["Identity_1", "Identity_2"], {self._input: values})
        place = np.asarray(points[0], np.float64).reshape(-1, 3)[:, :2]
        # From the centres of the network's pixels to those of the crop's.
        place = (place + 0.5) * (side / _SIDE) + [left - 0.5, top - 0.5]
        return Mesh(place, float(score.ravel()[0]))
