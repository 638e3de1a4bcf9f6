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
from faceanon_engine.engine.images.align import Frame, align_face, faces_in, is_aligned, refined, resize_square
from faceanon_engine.engine.images.decode import DecodedImage
from faceanon_engine.engine.images.detect import FaceDetector
from faceanon_engine.engine.images.ffhq import ffhq_frame
from faceanon_engine.engine.images.mesh import FaceMesh


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
        crops.append(align_face(disc(480, points), points, 64)[0].astype(float))
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
    crop, _ = align_face(picture, FACE * 20 + [20, 30], 64)
    assert crop.shape == (64, 64, 3)
    np.testing.assert_allclose(crop, 90, atol=1)


@pytest.mark.parametrize("size", [64, 256])
def test_drawn_faces_are_found_and_pass_as_aligned(detector: FaceDetector, size: int) -> None:
    passed = 0
    codes = sample(31, 20)
    for code in codes:
        picture = render(code, size).image
        try:
            (face,) = faces_in(DecodedImage(picture, "PNG"), "auto", 64, detector).faces
        except InputError:
            continue
        if not face.frame.warped:
            np.testing.assert_array_equal(face.pixels, resize_square(picture, 64)[0])
            passed += 1
    assert passed >= 17


def test_an_ordinary_photo_is_aligned_to_what_the_renderer_draws(detector: FaceDetector) -> None:
    code = sample(32)[0]
    photo = Image.fromarray(render(code, 480, frame_scale=1.9).image).rotate(20, Image.Resampling.BICUBIC)
    (face,) = faces_in(DecodedImage(np.asarray(photo), "PNG"), "auto", 128, detector).faces
    assert face.frame.warped
    detections = detector.detect(face.pixels)
    assert detections
    assert is_aligned(detections[0].landmarks, 128, 128)


def test_two_faces_give_two_outputs_and_none_a_reason(detector: FaceDetector) -> None:
    codes = sample(33, 2)
    pair = np.concatenate([render(code, 240, frame_scale=1.6).image for code in codes], axis=1)
    faces = faces_in(DecodedImage(pair, "PNG"), "auto", 64, detector).faces
    assert [face.frame.warped for face in faces] == [True, True]
    areas = [float(np.prod(face.frame.box[2:] - face.frame.box[:2])) for face in faces if face.frame.box is not None]
    assert len(areas) == 2
    assert areas[0] >= areas[1], "the largest first"
    with pytest.raises(InputError) as caught:
        faces_in(DecodedImage(np.full((200, 300, 3), 120, np.uint8), "PNG"), "auto", 64, detector)
    assert caught.value.reason == "no-face"


def test_never_takes_the_middle(detector: FaceDetector) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    (face,) = faces_in(DecodedImage(wide, "PNG"), "never", 10, None).faces
    np.testing.assert_array_equal(face.pixels, 200)


def ramps(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture whose red says where a pixel is from left to right, and green from top to bottom; its negative."""
    y, x = np.mgrid[:height, :width].astype(float)
    picture = np.stack([20 + x * 215 / width, 20 + y * 215 / height, np.full_like(x, 128)], axis=-1)
    return np.rint(picture).astype(np.uint8), 255 - np.rint(picture).astype(np.uint8)


def assert_shows_what_lies_at(affine: np.ndarray, crops: list[np.ndarray], height: int, width: int) -> None:
    """The crops of both ramps have in every pixel the colour of the place to which the affine takes its centre."""
    size = crops[0].shape[0]
    # Drawing rounds down: with the negative's, which errs the other way, that is gone.
    crop = (crops[0].astype(float) + 255 - crops[1]) / 2
    y, x = np.mgrid[:size, :size]
    places = np.stack([x, y, np.ones_like(x)], axis=-1) @ affine.T  # [size, size, 2]
    inside = ((places > 2) & (places < [width - 3, height - 3])).all(axis=2)
    assert inside.mean() > 0.9
    there = (crop[..., :2] - 20) * [width / 215, height / 215]
    off = (there - places)[inside]
    pixel = np.hypot(*affine[:, 0])  # of the crop, in the photograph's
    assert np.abs(off.mean(axis=0)).max() < 0.04 * max(1, pixel), "a shift of half a pixel would be ten times as much"
    assert np.abs(off).max() < 2 * max(width, height) / 215 + 0.1 * pixel


@pytest.mark.parametrize(("side", "size"), [(240, 64), (1600, 64), (500, 256)])
@pytest.mark.parametrize("angle", [0, 25])
def test_a_warped_crop_shows_what_lies_where_its_affine_says(side: int, size: int, angle: int) -> None:
    """Also of a photograph that is reduced first, which moves the centres of pixels and not their borders."""
    turn = np.radians(angle)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points = FACE @ rotation * (side / 12) + [side * 0.53, side * 0.55]
    height, width = side, side + side // 10
    both = [align_face(picture, points, size) for picture in ramps(height, width)]
    affine = both[0][1]
    assert_shows_what_lies_at(affine, [crop for crop, _ in both], height, width)
    centre, x, y = ffhq_frame(points)
    np.testing.assert_allclose(affine @ [-0.5, -0.5, 1], centre - x - y, atol=side / size / 2)
    np.testing.assert_allclose(affine @ [size - 0.5, size - 0.5, 1], centre + x + y, atol=side / size / 2)


@pytest.mark.parametrize("size", [30, 64, 90, 200])
def test_the_middle_square_lies_where_its_affine_says(size: int) -> None:
    height, width = 90, 140
    both = [resize_square(picture, size) for picture in ramps(height, width)]
    assert_shows_what_lies_at(both[0][1], [crop for crop, _ in both], height, width)
    (face,) = faces_in(DecodedImage(ramps(height, width)[0], "PNG"), "never", size, None).faces
    np.testing.assert_array_equal(face.frame.affine, both[0][1])
    np.testing.assert_array_equal(face.pixels, both[0][0])


def test_a_crop_that_passes_keeps_what_was_detected_and_its_own_place(detector: FaceDetector) -> None:
    for code in sample(31, 20):
        picture = render(code, 128).image
        try:
            (face,) = faces_in(DecodedImage(picture, "PNG"), "auto", 128, detector).faces
        except InputError:
            continue
        if not face.frame.warped:
            break
    largest = detector.detect(picture)[0]
    np.testing.assert_array_equal(face.frame.box, largest.box)
    np.testing.assert_array_equal(face.frame.landmarks, largest.landmarks)
    assert face.frame.score == largest.score
    np.testing.assert_array_equal(face.frame.affine, [[1, 0, 0], [0, 1, 0]])


def test_without_a_detector_a_frame_says_no_more_than_it_knows() -> None:
    (face,) = faces_in(DecodedImage(ramps(40, 40)[0], "PNG"), "never", 20, None).faces
    known = Frame(face.frame.affine)
    assert vars(face.frame) == vars(known)
    assert (known.box, known.landmarks, known.score, known.warped) == (None, None, None, False)


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return FaceMesh(threads=1)


def test_the_mesh_brings_frames_nearer_to_ffhqs(detector: FaceDetector, mesh: FaceMesh) -> None:
    before, after = [], []
    for code in sample(34, 12):
        drawn = render(code, 300, frame_scale=1.6)
        truth = ffhq_frame(drawn.landmarks.astype(float))
        found = detector.detect(drawn.image)[0].landmarks
        better = refined(mesh, drawn.image, found)
        for landmarks, off in ((found, before), (better, after)):
            frame = ffhq_frame(landmarks)
            off.append([np.hypot(*(frame.centre - truth.centre)), abs(frame.angle - truth.angle)])
        assert np.hypot(*(better[1] - better[0])) == pytest.approx(np.hypot(*(found[1] - found[0])))
    assert (np.mean(after, axis=0) < 0.9 * np.mean(before, axis=0)).all()


def test_where_the_mesh_sees_no_face_landmarks_stay(mesh: FaceMesh) -> None:
    for picture in (np.full((300, 300, 3), 90, np.uint8), ramps(300, 300)[0]):
        landmarks = FACE * 30 + 150
        np.testing.assert_array_equal(refined(mesh, picture, landmarks), landmarks)


def test_with_a_mesh_a_photo_is_aligned_as_it_refines(detector: FaceDetector, mesh: FaceMesh) -> None:
    photo = render(sample(32)[0], 480, frame_scale=1.9).image
    (face,) = faces_in(DecodedImage(photo, "PNG"), "auto", 128, detector, mesh).faces
    expected = refined(mesh, photo, detector.detect(photo)[0].landmarks)
    np.testing.assert_array_equal(face.frame.landmarks, expected)
    np.testing.assert_array_equal(face.pixels, align_face(photo, expected, 128)[0])
