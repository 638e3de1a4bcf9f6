"""What is redacted cannot be recognized, what is not stays as it was, and a face that nobody covered is found."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from faceanon_engine.demo.people import sample
from faceanon_engine.demo.render import render
from faceanon_engine.engine.images.detect import Detection, FaceDetector
from faceanon_engine.engine.images.paste import Piece, outline, paste
from faceanon_engine.engine.images.redact import covered_share, redact, uncovered

Box = tuple[float, float, float, float]


def noise(height: int, width: int, seed: int = 0, block: int = 1) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (-(-height // block), -(-width // block), 3), np.uint8)
    return np.repeat(np.repeat(small, block, 0), block, 1)[:height, :width]


def detail(picture: np.ndarray, radius: float) -> np.ndarray:
    """What is finer than `radius`."""
    grey = Image.fromarray(picture).convert("L")
    return np.asarray(grey, float) - np.asarray(grey.filter(ImageFilter.GaussianBlur(radius)), float)


def detected(*box: float) -> Detection:
    return Detection(np.array(box), np.zeros((5, 2)), 0.9)


coordinate = st.floats(-80, 180)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), min_size=1, max_size=3),
    st.sampled_from(["blur", "black"]),
    st.sampled_from(["ellipse", "box"]),
    st.integers(1, 100),
    st.integers(1, 90),
)
def test_boxes_are_covered_and_the_rest_is_untouched(
    boxes: list[Box], how: Literal["blur", "black"], shape: Literal["ellipse", "box"], width: int, height: int
) -> None:
    photo = noise(height, width)
    done = redact(photo, [np.array(box) for box in boxes], how, shape)
    np.testing.assert_array_equal(done.pixels[~done.covered], photo[~done.covered])
    if how == "black":
        assert not done.pixels[done.covered].any()
    y, x = np.mgrid[:height, :width]
    beyond = np.ones((height, width), bool)
    for left, top, right, bottom in boxes:
        left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
        assert done.covered[(x >= left) & (x <= right) & (y >= top) & (y <= bottom)].all()
        across, down = 0.3 * (right - left) + 1, 0.3 * (bottom - top) + 1
        beyond &= (x < left - across) | (x > right + across) | (y < top - down) | (y > bottom + down)
    assert not done.covered[beyond].any()


@pytest.mark.parametrize("side", [40, 150, 600])
def test_no_detail_of_a_face_is_left(side: int) -> None:
    picture = render(sample(5)[0], side).image
    box = np.array([0.22, 0.25, 0.78, 0.9]) * side
    done = redact(picture, [box])
    left, top, right, bottom = box.astype(int)
    inside = np.s_[top:bottom, left:right]
    before, after = detail(picture, side / 30)[inside], detail(done.pixels, side / 30)[inside]
    assert after.std() < 0.12 * before.std()
    if side > 100:  # of fewer pixels the rounding alone is left
        assert abs(np.corrcoef(before.ravel(), after.ravel())[0, 1]) < 0.2


def test_what_is_left_are_a_few_numbers_however_large_the_face() -> None:
    """Over many pictures, what is drawn spans no more dimensions than there are cells: nothing else can be restored."""
    box = np.array([40.0, 40, 120, 136])
    drawn = []
    for seed in range(70):
        done = redact(noise(180, 160, seed, block=9), [box])
        drawn.append(done.pixels[done.covered][:, 0].astype(float))
    values = np.linalg.svd(np.stack(drawn) - np.mean(drawn, axis=0), compute_uv=False)
    # Rounding makes noise of 0.3 a pixel: sqrt(12,000) times that, and cut-off peaks a little more.
    assert (values > 150).sum() <= 20
    assert values[0] > 1000


def test_masks_are_redacted_as_they_are() -> None:
    photo, mask = noise(60, 70), np.zeros((60, 70), bool)
    mask[10:30, 20:50] = np.random.default_rng(1).random((20, 30)) > 0.4
    done = redact(photo, [mask], "black")
    np.testing.assert_array_equal(done.covered, mask)
    assert not done.pixels[mask].any()
    np.testing.assert_array_equal(done.pixels[~mask], photo[~mask])
    np.testing.assert_array_equal(redact(photo, [np.zeros((60, 70), bool)]).pixels, photo)


@pytest.mark.parametrize(
    "place", [np.array([0, 0, np.nan, 5]), np.array([0, 0, 5, np.inf]), np.zeros(3), np.zeros((9, 9), bool)]
)
def test_a_place_that_cannot_be_redacted_is_an_error_never_skipped(place: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected four finite numbers|the photograph"):
        redact(noise(20, 20), [place])


def test_one_place_does_not_bring_back_what_another_hides() -> None:
    photo = noise(100, 100, block=4)
    boxes = [np.array([20.0, 20, 60, 60]), np.array([40.0, 40, 80, 80])]
    done = redact(photo, boxes, "black")
    soft = redact(done.pixels, boxes[1:])
    both = redact(photo, boxes)
    assert done.covered[50, 50]
    assert soft.pixels[50, 50].max() < 90
    assert np.abs(both.pixels[50, 50].astype(int) - photo[50, 50]).max() > 0


def test_a_face_counts_as_covered_by_its_middle() -> None:
    covered = np.zeros((100, 100), bool)
    covered[30:70, 30:70] = True
    assert covered_share(np.array([30.0, 30, 70, 70]), covered) == 1
    assert covered_share(np.array([50.0, 30, 90, 70]), covered) < 0.5
    faces = [detected(30, 30, 70, 70), detected(0, 0, 25, 25), detected(10, 10, 90, 90), detected(60, 60, 100, 100)]
    assert uncovered(faces, covered) == faces[1:]
    # What lies beyond the picture, or nowhere, is explained by nothing.
    strange = [detected(200, 200, 240, 240), detected(np.nan, 0, 5, 5)]
    assert uncovered(strange, np.ones((100, 100), bool)) == strange
    assert uncovered([detected(-20, 30, 12, 70)], np.ones((100, 100), bool)) == []


def test_a_second_look_tells_pasted_and_redacted_faces_from_forgotten_ones() -> None:
    detector = FaceDetector(threads=1)
    people = [render(code, 160).image for code in sample(62, 5)]
    photo = np.concatenate(people[:3], axis=1)
    faces = sorted(detector.detect(photo), key=lambda each: each.box[0])
    assert len(faces) == 3
    affine = np.array([[1.0, 0, 0], [0, 1, 0]])
    pasted = paste(photo, [Piece(people[3], affine, outline(160))])
    redacted = redact(pasted.pixels, [faces[2].box])
    again = detector.detect(redacted.pixels)
    assert any(each.box[0] < 160 for each in again), "the new face is seen too"
    (forgotten,) = uncovered(again, pasted.covered | redacted.covered)
    assert 160 < forgotten.box[0] < 320
