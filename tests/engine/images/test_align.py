"""Faces are found and brought into FFHQ's frame; crops that are in it pass untouched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from faceanon_engine.demo.people import sample
from faceanon_engine.demo.render import render
from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images.align import align_face, ffhq_frame, is_aligned, prepare, resize_square
from faceanon_engine.engine.images.decode import DecodedImage
from faceanon_engine.engine.images.detect import FaceDetector


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector(threads=1)


def disc(size: int, landmarks: np.ndarray) -> np.ndarray:
    """A picture with a bright blob at each landmark."""
    y, x = np.mgrid[:size, :size]
    picture = np.zeros((size, size, 3))
    for index, (px, py) in enumerate(landmarks):
        blob = np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * (size / 60) ** 2))
        picture[..., index % 3] += 255 * blob
    return np.clip(picture, 0, 255).astype(np.uint8)


FACE = np.array([[-1.0, -1.0], [1.0, -1.0], [0.0, 0.0], [-0.8, 1.1], [0.8, 1.1]])


@settings(deadline=None, max_examples=15)
@given(st.floats(-60, 60), st.floats(28, 45), st.floats(-15, 15), st.floats(-15, 15))
def test_the_same_face_gives_the_same_crop_wherever_it_is(angle: float, scale: float, dx: float, dy: float) -> None:
    turn = np.radians(angle)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    crops = []
    for points in (FACE * 36 + 240, FACE @ rotation * scale + [240 + dx, 240 + dy]):
        crops.append(align_face(disc(480, points), points, 64).astype(float))
    centres = []
    for crop in crops:
        y, x = np.mgrid[:64, :64]
        weight = crop.sum(axis=2) + 1e-9
        centres.append([(x * weight).sum() / weight.sum(), (y * weight).sum() / weight.sum()])
    np.testing.assert_allclose(centres[0], centres[1], atol=0.6)


def test_the_frame_is_ffhqs() -> None:
    centre, x, y = ffhq_frame(FACE)
    # Eyes' centre (0, -1), mouth (0, 2.1) below it, eyes 2 apart: half a side is max(2 * 2, 1.8 * 2.1).
    np.testing.assert_allclose(centre, [0, -0.79])
    np.testing.assert_allclose(x, [4.0, 0], atol=1e-12)
    np.testing.assert_allclose(y, [0, 4.0], atol=1e-12)


def test_a_face_at_the_border_is_filled_up() -> None:
    picture = np.full((100, 100, 3), 90, np.uint8)
    crop = align_face(picture, FACE * 20 + [20, 30], 64)
    assert crop.shape == (64, 64, 3)
    np.testing.assert_allclose(crop, 90, atol=1)


@pytest.mark.parametrize("size", [64, 256])
def test_drawn_faces_are_found_and_pass_as_aligned(detector: FaceDetector, size: int) -> None:
    passed = 0
    codes = sample(31, 20)
    for code in codes:
        picture = render(code, size).image
        try:
            (face,) = prepare(DecodedImage(picture, "PNG"), "auto", 64, detector)
        except InputError:
            continue
        if not face.warped:
            np.testing.assert_array_equal(face.pixels, resize_square(picture, 64))
            passed += 1
    assert passed >= 17


def test_an_ordinary_photo_is_aligned_to_what_the_renderer_draws(detector: FaceDetector) -> None:
    code = sample(32)[0]
    photo = Image.fromarray(render(code, 480, frame_scale=1.9).image).rotate(20, Image.Resampling.BICUBIC)
    (face,) = prepare(DecodedImage(np.asarray(photo), "PNG"), "auto", 128, detector)
    assert face.warped
    found = detector.detect(face.pixels)
    assert found
    assert is_aligned(found[0].landmarks, 128, 128)


def test_two_faces_give_two_outputs_and_none_a_reason(detector: FaceDetector) -> None:
    codes = sample(33, 2)
    pair = np.concatenate([render(code, 240, frame_scale=1.6).image for code in codes], axis=1)
    faces = prepare(DecodedImage(pair, "PNG"), "auto", 64, detector)
    assert [(face.index, face.faces, face.warped) for face in faces] == [(0, 2, True), (1, 2, True)]
    with pytest.raises(InputError) as caught:
        prepare(DecodedImage(np.full((200, 300, 3), 120, np.uint8), "PNG"), "auto", 64, detector)
    assert caught.value.reason == "no-face"


def test_never_takes_the_middle(detector: FaceDetector) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    (face,) = prepare(DecodedImage(wide, "PNG"), "never", 10, None)
    np.testing.assert_array_equal(face.pixels, 200)
