"""What landmarks are measured against lies where it is said to lie."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="the renderer's packages are not installed")

from benchmarks.frame_landmarks import copy_of, errors, mirrored
from faceanon_engine.engine.images.ffhq import ffhq_frame

FACE = np.array([[110.0, 120], [170, 124], [140, 160], [120, 190], [162, 194]])


@pytest.mark.parametrize("angle", [0, 30, 90, -150])
@pytest.mark.parametrize("side", [60.0, 170.0])
def test_the_reference_follows_the_face(angle: float, side: float) -> None:
    """Every landmark is drawn as a spot of its own colour, and found where its copy's landmark is."""
    pixels = np.zeros((260, 300, 3), np.uint8)
    pixels[..., 2] = 255
    for number, (x, y) in enumerate(FACE.astype(int)):
        pixels[y - 6 : y + 7, x - 6 : x + 7] = (255, 0, 0) if number % 2 else (0, 255, 0)
    copy = copy_of(pixels, FACE, side, angle, np.random.default_rng(0))
    assert copy.frame.side == pytest.approx(side, rel=0.02)
    assert (copy.frame.angle - ffhq_frame(FACE).angle - angle + 180) % 360 - 180 == pytest.approx(0, abs=0.5)
    assert copy.landmarks is not None
    y, x = np.mgrid[: copy.pixels.shape[0], : copy.pixels.shape[1]]
    for number, point in enumerate(copy.landmarks):
        # As far as its own spot reaches, which is 13 pixels of the picture wide.
        near = np.hypot(x - point[0], y - point[1]) < 12 * side / ffhq_frame(FACE).side
        weight = np.clip(copy.pixels[..., 1 - number % 2].astype(float) - 60, 0, None) * near
        weight *= copy.pixels[..., 2] < 150
        assert (
            np.hypot((weight * x).sum() / weight.sum() - point[0], (weight * y).sum() / weight.sum() - point[1]) < 0.4
        )


def test_a_mirrored_face_is_the_face() -> None:
    np.testing.assert_array_equal(mirrored(mirrored(FACE, 300), 300), FACE)
    assert ffhq_frame(mirrored(FACE, 300)).side == pytest.approx(ffhq_frame(FACE).side)


def test_errors_are_shares_of_the_side() -> None:
    frame = ffhq_frame(FACE)
    assert errors(FACE, frame, FACE) == pytest.approx((0,) * 6)
    corners, centre, side, angle, eyes, mouth = errors(FACE + np.array([3, 4]), frame, FACE)
    assert (corners, centre, eyes, mouth) == pytest.approx((5 / frame.side,) * 4)
    assert (side, angle) == pytest.approx((0, 0))
    larger = (FACE - frame.centre) * 1.1 + frame.centre
    assert errors(larger, frame, None) == pytest.approx((0.1 * 0.5**0.5, 0, 0.1, 0))
