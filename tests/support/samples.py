"""Samples with as many faces as a test wants, whatever is in their pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.images.align import Face, Frame

WHOLE = np.eye(2, 3)
"""The affine of a crop that is its whole picture."""


def with_faces(sample: Sample, *pixels: np.ndarray) -> Sample:
    """The sample as if it had been read and these faces uint8 [S, S, 3] had been in it."""
    return replace(sample, faces=tuple(Face(each, Frame(WHOLE)) for each in pixels))


def with_two_faces(sample: Sample) -> Sample:
    """The sample with the first of its faces, and another that is a little brighter."""
    pixels = sample.faces[0].pixels
    return with_faces(sample, pixels, pixels + 1)
