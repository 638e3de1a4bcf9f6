"""FFHQ's frame: the turned square in which the networks know faces. Source: FFHQ (Karras et al., CVPR 2019)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


class Square(NamedTuple):
    """A turned square: its centre [2] and its half axes, to the face's own right on the picture [2] and down [2]."""

    centre: Floats
    x: Floats
    y: Floats

    @property
    def side(self) -> float:
        """In the picture's pixels."""
        return float(np.hypot(*self.x)) * 2

    @property
    def angle(self) -> float:
        """Degrees in (-180, 180] by which its x axis is turned from the picture's, clockwise on the screen."""
        return float(np.degrees(np.arctan2(self.x[1], self.x[0])))

    @property
    def corners(self) -> Floats:
        """[4, 2]: top left, bottom left, bottom right, top right, as the face stands."""
        centre, x, y = self
        return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def ffhq_frame(landmarks: Floats) -> Square:
    """FFHQ's crop of landmarks [5, 2]: eyes, nose, mouth corners, those on the left of an upright face first."""
    eyes = landmarks[:2].mean(axis=0)
    across = landmarks[1] - landmarks[0]
    mouth = landmarks[3:].mean(axis=0) - eyes
    x = across - np.array([-mouth[1], mouth[0]])
    x = x / np.hypot(*x) * max(np.hypot(*across) * 2, np.hypot(*mouth) * 1.8)
    return Square(eyes + mouth * 0.1, x, np.array([-x[1], x[0]]))
