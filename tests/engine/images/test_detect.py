"""Faces are found at any size and angle, each once, in its frame."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.find_faces import People, background, matched, off
from faceanon_engine.engine.images import detect
from faceanon_engine.engine.images.detect import Detection, FaceDetector
from faceanon_engine.engine.images.ffhq import Square


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector(threads=1)


@pytest.fixture(scope="module")
def people() -> People:
    return People(4)


def found_right(truth: list[Square], detector: FaceDetector, canvas: np.ndarray) -> None:
    frames = [face.frame for face in detector.detect(canvas)]
    assert len(frames) == len(truth)
    for each in truth:
        hit = matched(each, frames)
        assert hit is not None, "a face was not found"
        centre, side, angle = off(each, hit)
        assert centre < 0.05
        assert 0.85 < side < 1.2
        assert angle < 10


@pytest.mark.parametrize("angle", [0, 60, 120, 180, -90, -135])
def test_a_turned_face_is_framed_as_it_stands(detector: FaceDetector, people: People, angle: int) -> None:
    canvas = background(np.random.default_rng(1), 480, 400)
    found_right([people.place(canvas, 0, (240, 190), 90, angle)], detector, canvas)


def test_small_faces_of_a_large_picture_are_found_each_once_where_tiles_meet_too(
    detector: FaceDetector, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "_TILE", 480)  # so that a small picture is a large one
    canvas = background(np.random.default_rng(2), 1300, 800)
    truth = [
        people.place(canvas, 1, (448, 120), 32, 0),
        people.place(canvas, 2, (620, 430), 60, -20),
        people.place(canvas, 3, (1000, 400), 230, 10),
        people.place(canvas, 0, (200, 600), 28, 5),
    ]
    found_right(truth, detector, canvas)


def test_nobody_is_found_where_nobody_is(detector: FaceDetector) -> None:
    random = np.random.default_rng(3)
    assert detector.detect(background(random, 700, 500)) == []
    assert detector.detect(np.full((3, 900, 3), 80, np.uint8)) == []
    assert detector.detect(random.integers(0, 256, (1, 1, 3), dtype=np.uint8)) == []


def test_faces_below_the_least_size_are_left_alone(people: People) -> None:
    canvas = background(np.random.default_rng(4), 700, 400)
    people.place(canvas, 0, (150, 200), 32, 0)
    large = people.place(canvas, 1, (480, 200), 120, 0)
    found_right([large], FaceDetector(threads=1, min_face=60), canvas)


@pytest.mark.parametrize("side", [1, 95, 1024, 1025, 1953, 4000, 12_345])
def test_tiles_cover_a_side_with_what_they_share(side: int) -> None:
    starts, length = detect._tiles(side)
    assert starts[0] == 0
    assert starts[-1] + length >= side
    assert length <= max(side, 1) or len(starts) > 1
    assert length <= detect._TILE
    for before, after in itertools.pairwise(starts):
        assert before + length - after >= detect._OVERLAP - 1


def test_of_nearly_the_same_frames_the_best_stays() -> None:
    def face(x: float, size: float, score: float) -> Detection:
        points = np.array([[-1, -1], [1, -1], [0, 0], [-0.8, 1.1], [0.8, 1.1]]) * size + [x, 100]
        return Detection(np.array([x - size, 100 - size, x + size, 100 + size]), points, score)

    faces = [face(100, 20, 0.7), face(104, 22, 0.9), face(100, 6, 0.8), face(190, 20, 0.6)]
    assert [each.score for each in detect._merged(faces)] == [0.9, 0.8, 0.6]


@pytest.mark.parametrize(("face", "angle"), [(16, 0), (40, 150), (110, 90)])
def test_the_face_in_somebodys_box_is_found_whatever_its_size(
    detector: FaceDetector, people: People, face: float, angle: float
) -> None:
    canvas = background(np.random.default_rng(5), 500, 400)
    truth = people.place(canvas, 2, (230, 210), face, angle)
    head = np.concatenate([truth.centre - 0.8 * face, truth.centre + 0.8 * face])  # hair and neck with it
    found = detector.look_in(canvas, head)
    assert found is not None
    centre, side, turn = off(truth, found.frame)
    assert centre < 0.06
    assert 0.85 < side < 1.2
    assert turn < 10
    assert np.abs((found.box[:2] + found.box[2:]) / 2 - truth.centre).max() < 0.3 * face


def test_each_box_has_its_own_face(detector: FaceDetector, people: People) -> None:
    canvas = background(np.random.default_rng(6), 500, 300)
    for person, x in enumerate((150, 300)):
        truth = people.place(canvas, person, (x, 150), 70, 0)
        found = detector.look_in(canvas, np.array([x - 30, 115, x + 30, 190]))
        assert found is not None
        assert off(truth, found.frame)[0] < 0.06
    # Between two faces there is none, though both are near.
    assert detector.look_in(canvas, np.array([200, 115, 250, 190])) is None


@pytest.mark.parametrize(
    "box",
    [
        [0, 0, 90, 90],
        [-500, -500, -10, -10],
        [400, 10, 500, 60],
        [50, 50, 50, 90],
        [90, 90, 50, 50],
        [np.nan, 1, 2, 3],
        [-np.inf, 0, np.inf, 90],
        [1e300, 1e300, 1.1e300, 1.1e300],
        [-1e6, -1e6, 1e6, 1e6],
        [3, 3, 3.2, 3.1],
    ],
)
def test_a_box_without_a_face_has_none(detector: FaceDetector, box: list[float]) -> None:
    assert detector.look_in(background(np.random.default_rng(7), 300, 200), np.array(box)) is None
    assert detector.look_in(np.zeros((1, 1, 3), np.uint8), np.array(box)) is None
