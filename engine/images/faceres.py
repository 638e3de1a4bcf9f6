"""A face recogniser that no optimisation works against: HSE FaceRes through ONNX Runtime.

Source: Savchenko, "Efficient Facial Representations for Age, Gender and Identity Recognition in Organizing Photo Albums
using Multi-output ConvNet" (PeerJ Computer Science 2019). Weights, trained on VGGFace2: see `engine/assets/README.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import Floats, Pixels
from faceanon_engine.engine.system.printable import first_line

WEIGHTS = Path(__file__).parents[1] / "assets" / "faceres.onnx"
_SIDE = 224
_PLACE = (0.5, 0.58, 0.5, 0.66)
"""Centre, width and height of what the network takes, as shares of FFHQ's crop: the box a detector sees there."""
_MEANS = np.array([103.939, 116.779, 123.68], np.float32)
"""Blue, green, red."""


class FaceRes:
    """The network on a CPU, some 30 milliseconds a face; safe to use from several threads."""

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
                f"the recogniser {WEIGHTS} cannot be opened ({first_line(error)}): reinstall the package"
            ) from None
        self._input = self._session.get_inputs()[0].name

    def embed(self, crops: Iterable[Pixels]) -> Floats:
        """float32 [N, 1024] of unit length: of crops uint8 [S, S, 3] RGB with upright faces in FFHQ's frame."""
        found = [self._embed(crop) for crop in crops]
        return np.stack(found) if found else np.zeros((0, 1024), np.float32)

    def _embed(self, crop: Pixels) -> Floats:
        x, y, width, height = (share * crop.shape[0] for share in _PLACE)
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        drawn = Image.fromarray(crop).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, box)
        values = np.asarray(drawn, np.float32)[..., ::-1] - _MEANS
        (features,) = self._session.run(["global_pooling/Mean"], {self._input: values[None]})
        vector = np.asarray(features[0], np.float32)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)
