"""Drawn people are a function of their vector, stand where FFHQ puts a face, and are what their labels say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from faceanon_engine.demo.people import (
    GROUPS,
    INDEX,
    NAMES,
    SIZE,
    describe,
    group_mask,
    labels,
    personal_mask,
    sample,
    sample_person,
)
from faceanon_engine.demo.render import render, render_codes

Vector = npt.NDArray[np.float32]
PIXELS = 96
NEAR_FRONTAL = {"yaw": 0.1, "pitch": 0.1, "glasses": -1.0}


def person(seed: int = 3, **values: float) -> Vector:
    """A vector whose coordinates are half as far from the middle as a random one's, with some set."""
    u = 0.5 * sample(seed)[0]
    for name, value in values.items():
        u[INDEX[name]] = value
    return u


def difference(before: Vector, after: Vector) -> npt.NDArray[np.float64]:
    """How much each pixel changed, [S, S]."""
    images = render_codes(np.stack([before, after]), PIXELS).astype(np.float64)
    return np.asarray(np.abs(images[1] - images[0]).sum(axis=2))


def focus(change: npt.NDArray[np.float64], points: npt.NDArray[np.floating], radius: float = 0.1) -> float:
    """How many times stronger the change is within `radius` (of the picture's side) of a point than on average."""
    y, x = np.mgrid[0:PIXELS, 0:PIXELS] + 0.5
    near = np.min([np.hypot(x - px, y - py) for px, py in points], axis=0) < radius * PIXELS
    return float(change[near].mean() / change.mean())


def test_groups_share_out_all_coordinates() -> None:
    assert sum(group_mask(name).astype(int) for name in GROUPS).tolist() == [1] * SIZE
    assert len(set(NAMES)) == SIZE <= 80


def test_the_same_vector_gives_the_same_picture() -> None:
    codes = sample(11, 3)
    assert np.array_equal(codes, sample(11, 3))
    assert np.array_equal(render_codes(codes, 48), render_codes(codes, 48))
    assert not np.array_equal(codes, sample(12, 3))


def test_processes_change_nothing() -> None:
    codes = sample(13, 6)
    assert np.array_equal(render_codes(codes, 32), render_codes(codes, 32, processes=2))


@pytest.mark.parametrize("size", [16, 33, 64, 200])
def test_any_size(size: int) -> None:
    picture = render(sample(17)[0], size)
    assert picture.image.shape == (size, size, 3)
    assert picture.image.dtype == np.uint8
    assert picture.image.std() > 10, "an empty picture"


def test_sizes_show_the_same_thing() -> None:
    u = sample(19)[0]
    large = render(u, 128).image.astype(np.float64)
    small = render(u, 32).image.astype(np.float64)
    # Sub-pixel samples differ, most at edges: 2% of the range in the mean.
    assert np.abs(large.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3)) - small).mean() < 5


@pytest.mark.parametrize("seed", range(30, 38))
def test_landmarks_stand_where_ffhq_puts_them(seed: int) -> None:
    right_eye, left_eye, nose, right_mouth, left_mouth = render(sample(seed)[0], PIXELS).landmarks.astype(np.float64)
    # FFHQ's recipe, written with complex numbers: the crop it asks for must be the picture itself.
    eyes = complex(*(right_eye + left_eye) / 2)
    across = complex(*(left_eye - right_eye))
    down = complex(*(right_mouth + left_mouth) / 2) - eyes
    axis = across - 1j * down
    axis *= max(2 * abs(across), 1.8 * abs(down)) / abs(axis)
    centre = eyes + 0.1 * down
    assert centre == pytest.approx(complex(PIXELS / 2, PIXELS / 2), abs=0.01)
    assert axis == pytest.approx(PIXELS / 2, abs=0.01)
    # And it is a face: nose between eyes and mouth, left and right not exchanged.
    assert eyes.imag < nose[1] < (right_mouth + left_mouth)[1] / 2
    assert right_eye[0] < left_eye[0]


def test_what_the_eyes_do_shows_at_their_landmarks() -> None:
    before, after = person(eye_closing=-0.5, **NEAR_FRONTAL), person(eye_closing=3, **NEAR_FRONTAL)
    assert focus(difference(before, after), render(before, PIXELS).landmarks[:2]) > 8


def test_what_the_mouth_does_shows_between_its_landmarks() -> None:
    before, after = person(mouth_opening=-1, **NEAR_FRONTAL), person(mouth_opening=3, **NEAR_FRONTAL)
    middle = render(after, PIXELS).landmarks[3:].mean(axis=0, keepdims=True)
    # Lower corners of the mouth also make the crop a little larger, so that every edge of the head moves.
    assert focus(difference(before, after), middle) > 2


# One coordinate, a low and a high value, the labels that must turn, and the landmarks that the change is strongest at.
TURNS = [
    ("sex", -2, 2, {"Male"}, None),
    ("age", -2, 2.5, {"Young"}, None),
    ("smiling", 0, 2, {"Smiling"}, None),
    ("mouth_opening", -1, 2.5, {"Mouth_Slightly_Open"}, None),
    ("glasses", -1, 2, {"Eyeglasses"}, slice(0, 2)),
    ("haircut", -3, 0, {"Bald", "Brown_Hair"}, None),
    ("hair_grey", -1, 2.5, {"Gray_Hair", "Brown_Hair"}, None),
    ("hair_dark", 0, 2, {"Black_Hair", "Brown_Hair"}, None),
    ("hair_dark", 0, -2, {"Blond_Hair", "Brown_Hair"}, None),
    ("beard", -1, 2.5, {"No_Beard"}, None),
    ("moustache", -1, 2.5, {"Mustache"}, None),
    ("melanin", 0, -2, {"Pale_Skin"}, None),
    ("eye_opening", 0, -2, {"Narrow_Eyes"}, slice(0, 2)),
    ("nose_width", 0, 2.5, {"Big_Nose"}, slice(2, 3)),
    ("hairline", 0, 2, {"Bangs"}, None),
    ("fat", 0, 2.5, {"Chubby"}, None),
    ("cheek_bones", 0, 2, {"High_Cheekbones"}, None),
    ("yaw", -1, 1, {"yaw"}, None),
    ("pitch", -1, 1, {"pitch"}, None),
]
PLAIN = dict.fromkeys(NAMES, 0.0) | {
    "sex": 1.5, "age": -1.0, "beard": -1.0, "moustache": -1.0, "glasses": -1.0, "hair_grey": -1.0,
    "mouth_opening": -1.0, "nose_depth": 0.3, "cheek_volume": 0.3,
}  # fmt: skip


@pytest.mark.parametrize(("name", "low", "high", "turned", "where"), TURNS)
def test_turning_one_parameter_turns_its_labels_and_pixels(
    name: str, low: float, high: float, turned: set[str], where: slice | None
) -> None:
    before, after = person(**PLAIN | {name: low}), person(**PLAIN | {name: high})
    was, became = labels(before), labels(after)
    assert {key for key in was if was[key] != became[key]} == turned
    change = difference(before, after)
    assert (change > 12).sum() > 15, "the label turned, the picture did not"
    if where is not None:
        assert focus(change, render(before, PIXELS).landmarks[where]) > 2


def test_bangs_hang_over_the_forehead_and_no_further() -> None:
    changes = []
    for seed in range(12):
        hairy = NEAR_FRONTAL | {"haircut": 0.3}
        before, after = person(seed, **hairy | {"hairline": 0.0}), person(seed, **hairy | {"hairline": 1.5})
        assert (labels(before)["Bangs"], labels(after)["Bangs"]) == (-1, 1)
        drawn = render(before, PIXELS)
        (left, eyes), (right, _) = drawn.landmarks[:2].round().astype(int)
        change = np.abs(render(after, PIXELS).image.astype(int) - drawn.image)
        changes.append(change[round(eyes - 0.28 * PIXELS) : round(eyes - 0.15 * PIXELS), left:right].mean())
        assert change[eyes + 4 :].mean() < 0.5
    assert min(changes) > 4
    assert np.median(changes) > 20


# Glasses on a man's nose, long hair, coloured clothes and wall: what the other parameters need to be seen at all.
VISIBLE = {
    "glasses": 1.5, "glasses_tint": -1.0, "sex": 1.5, "haircut": 1.5, "melanin": -1.0,
    "clothes_saturation": 1.5, "clothes_value": 1.0, "background_saturation": 1.5, "background_value": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_shows(name: str) -> None:
    # Hues go round: their ends are the same colour.
    high = 0.3 if name.endswith("_hue") else 1.6
    before, after = person(**VISIBLE | {name: -1.6}), person(**VISIBLE | {name: high})
    assert difference(before, after).max() > 12


def test_groups_do_not_leak_into_each_other() -> None:
    u = sample(23)[0]
    for group in GROUPS:
        other = np.where(group_mask(group), sample(24)[0], u)
        changed = {key for key, value in describe(u).items() if describe(other)[key] != value}
        rest = set(GROUPS) - {group}
        for name in rest:
            back = np.where(group_mask(name), sample(25)[0], u)
            also = {key for key, value in describe(u).items() if describe(back)[key] != value}
            assert not changed & also, f"{sorted(changed & also)} depend on both {group} and {name}"


def test_a_person_stays_the_same_on_all_occasions() -> None:
    codes = sample_person(77, 5)
    mask = personal_mask()
    assert np.array_equal(codes[:, mask], np.repeat(codes[:1, mask], 5, axis=0))
    assert len(np.unique(codes[:, ~mask], axis=0)) == 5
    assert np.array_equal(codes[:3], sample_person(77, 5)[:3])
    assert not np.array_equal(codes[0, mask], sample_person(78, 1)[0, mask])
    assert len({tuple(labels(code)[key] for key in ("Male", "Young", "Bald", "Gray_Hair")) for code in codes}) == 1


def test_another_length_of_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=str(SIZE)):
        render_codes(np.zeros((2, SIZE + 1), np.float32), 32)
    with pytest.raises(ValueError, match=str(SIZE)):
        render(np.zeros(SIZE - 1, np.float32), 32)
