"""Faces are put back to where they were cut, exactly; nothing of the old face is left, nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceanon_engine.demo.people import sample
from faceanon_engine.demo.render import render
from faceanon_engine.engine.images.align import align_face
from faceanon_engine.engine.images.mesh import Mesh
from faceanon_engine.engine.images.paste import Piece, is_plausible, of_size, outline, paste
from faceanon_engine.engine.images.pixels import Pixels


def affine_of(size: int, side: float, x: float, y: float, degrees: float = 0.0) -> np.ndarray:
    """`Frame.affine` of a crop of `size` pixels whose area is a square of `side` pixels around (x, y), turned."""
    turn, scale = np.radians(degrees), side / size
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * scale
    return np.column_stack([linear, [x, y] - linear @ np.full(2, (size - 1) / 2)])


def plain(colour: int | tuple[int, int, int], affine: np.ndarray, size: int = 64) -> Piece:
    """A piece of one colour."""
    return Piece(np.full((size, size, 3), colour, np.uint8), affine, outline(size), match_colour=False)


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(one.astype(float) - other).mean()))


def oval(x: float, y: float, across: float, down: float, score: float = 1.0) -> Mesh:
    turn = np.linspace(0, 2 * np.pi, 468, endpoint=False)
    return Mesh(np.stack([x + across * np.cos(turn), y + down * np.sin(turn)], axis=1), score)


def test_a_crop_of_another_size_lies_in_the_same_place() -> None:
    affine = affine_of(256, 300.0, 40.0, 50.0, 25.0)
    np.testing.assert_allclose(of_size(affine, 256, 64), affine_of(64, 300.0, 40.0, 50.0, 25.0), atol=1e-9)
    np.testing.assert_allclose(of_size(of_size(affine, 256, 1000), 1000, 256), affine, atol=1e-9)


@pytest.mark.parametrize("degrees", [0, 33, -90, 171])
@pytest.mark.parametrize(("side", "size", "least"), [(60, 256, 33), (180, 256, 37), (256, 256, 36), (320, 256, 33)])
def test_the_face_that_was_cut_out_pastes_back_as_it_was(degrees: float, side: int, size: int, least: float) -> None:
    drawn = render(sample(3)[0], 400, frame_scale=400 / side)
    turn = np.radians(degrees)
    # The same people in a turned picture: what matters is that the frame is turned, so landmarks are, about the middle.
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    landmarks = (drawn.landmarks - 199.5) @ rotation + 199.5
    crop, affine = align_face(drawn.image, landmarks, size)
    done = paste(drawn.image, [Piece(crop, affine, outline(size))])
    assert done.covered.sum() > 0.25 * side**2
    assert psnr(done.pixels[done.covered], drawn.image[done.covered]) > least


@settings(deadline=None, max_examples=30)
@given(
    st.floats(-180, 180),
    st.floats(20, 250),
    st.integers(24, 300),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.booleans(),
)
def test_places_are_exact_to_a_fraction_of_a_pixel(
    degrees: float, side: float, size: int, part: tuple[float, float], mirrored: bool
) -> None:
    shape = (280, 300)
    affine = affine_of(size, side, 145 + part[0], 135 + part[1], degrees)
    if mirrored:
        affine = affine @ np.array([[-1, 0, size - 1], [0, 1, 0], [0, 0, 1]])
    slope = 80 / side
    y, x = np.mgrid[: shape[0], : shape[1]]

    def ramps(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        values = [0.93 * slope * (x - 145), 1.07 * slope * (y - 135), slope * (x - y - 10) / 2]
        return np.stack(values, axis=-1) + 127.3

    row, column = np.mgrid[:size, :size]
    place = np.stack([column, row, np.ones_like(row)], axis=-1) @ affine.T
    # Rounded at random, so that roundings average out.
    dither = np.random.default_rng(1).random((size, size, 3))
    crop = np.floor(ramps(place[..., 0], place[..., 1]) + dither).astype(np.uint8)
    done = paste(np.zeros((*shape, 3), np.uint8), [Piece(crop, affine, outline(size), match_colour=False)])
    off = done.pixels[done.covered] - ramps(x, y)[done.covered]
    # A shift of half a pixel, of the photograph or of the crop, would show as half a slope.
    pixel = slope * max(1.0, side / size)
    assert np.abs(off.mean(axis=0)).max() < 0.2 * pixel + 4 / side
    assert np.abs(off).max() < 0.5 * pixel + 3


@pytest.mark.parametrize("degrees", [0.0, 17.0, 45.0])
def test_a_crop_larger_than_its_place_is_averaged(degrees: float) -> None:
    board = (np.indices((512, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    piece = Piece(np.stack([board] * 3, -1), affine_of(512, 71, 60, 60, degrees), outline(512), match_colour=False)
    done = paste(np.zeros((120, 120, 3), np.uint8), [piece])
    np.testing.assert_allclose(done.pixels[done.covered], 127.5, atol=3)


def test_a_crop_smaller_than_its_place_has_no_steps() -> None:
    crop = np.zeros((32, 32, 3), np.uint8)
    crop[:, 16:] = 240
    done = paste(np.zeros((700, 700, 3), np.uint8), [Piece(crop, affine_of(32, 640, 350, 350), outline(32), False)])
    line = done.pixels[360, 300:400, 0].astype(int)
    assert np.abs(np.diff(line)).max() <= 20, "a pixel of the crop is 20 of the photograph's"


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.floats(-60, 260), st.floats(-60, 210), st.floats(8, 500), st.floats(-180, 180)),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 200),
    st.integers(1, 150),
)
def test_nothing_of_the_old_faces_is_left_and_nothing_else_is_touched(
    places: list[tuple[float, float, float, float]], width: int, height: int
) -> None:
    pieces = [
        plain((60 * index, 255 - 60 * index, 9), affine_of(64, side, x, y, degrees))
        for index, (x, y, side, degrees) in enumerate(places)
    ]
    photos = noise(height, width, 1), noise(height, width, 2)
    one, other = (paste(photo, pieces) for photo in photos)
    np.testing.assert_array_equal(one.covered, other.covered)
    # Whatever was there, what is drawn over it is the same.
    np.testing.assert_array_equal(one.pixels[one.covered], other.pixels[one.covered])
    # Outside of the squares themselves every byte is as it was.
    y, x = np.mgrid[:height, :width]
    beyond = np.ones((height, width), bool)
    for (cx, cy, side, degrees), _ in zip(places, pieces, strict=True):
        turn = np.radians(degrees)
        across, down = (
            (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn),
            (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn),
        )
        beyond &= np.maximum(np.abs(across), np.abs(down)) > side / 2
    for photo, done in zip(photos, (one, other), strict=True):
        np.testing.assert_array_equal(done.pixels[beyond], photo[beyond])
    assert not one.covered[beyond].any()


def test_the_new_face_fades_out_within_a_twentieth_of_its_width() -> None:
    done = paste(np.zeros((400, 400, 3), np.uint8), [plain(255, affine_of(64, 300, 200, 200))])
    row = done.pixels[221, :, 0].astype(int)  # through the ellipse's middle
    width = int(done.covered[221].sum())
    # Half axes 0.32 of the side, grown by 3 % of the width.
    assert width == pytest.approx(300 * 0.64 * 1.06, abs=2)
    faded = int(((row > 0) & (row < 255)).sum()) / 2
    assert faded == pytest.approx(0.05 * 300 * 0.64, abs=2)
    middle = int(np.flatnonzero(row == 255)[0])
    assert (np.diff(row[:middle]) >= 0).all()
    assert np.abs(np.diff(row)).max() < 60, "no step"


def test_overlapping_faces_each_keep_their_own_middle() -> None:
    left, right = plain((250, 0, 0), affine_of(64, 200, 130, 150)), plain((0, 250, 0), affine_of(64, 200, 230, 150))
    done = paste(np.full((300, 360, 3), 90, np.uint8), [left, right])
    row = done.pixels[164].astype(int)
    assert done.covered[164, 130:230].all()
    np.testing.assert_array_equal(row[80:160, 0], 250)
    np.testing.assert_array_equal(row[200:280, 1], 250)
    # The line between them is the middle, and it is blended.
    border = int(np.argmax(row[:, 1] >= 125))
    assert abs(border - 180) < 12
    assert 3 < ((row[130:230, 0] > 0) & (row[130:230, 1] > 0)).sum() < 30


def test_smaller_faces_lie_on_top_whatever_their_order() -> None:
    large, small = plain((250, 0, 0), affine_of(64, 400, 200, 200)), plain((0, 250, 0), affine_of(64, 60, 270, 240))
    one, other = paste(noise(400, 400), [large, small]), paste(noise(400, 400), [small, large])
    np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(one.pixels[243, 270], [0, 250, 0])
    assert (one.pixels[..., 1][200:290, 230:310] == 250).sum() > 400


@pytest.mark.parametrize("gain", [0.8, 0.9, 1.15])
def test_a_gain_and_an_offset_of_a_channel_are_found_again(gain: float) -> None:
    drawn = render(sample(9)[0], 256).image
    gains, offsets = np.array([gain, 1.0, 1 / gain]), np.array([12, -8, 5])
    changed = np.clip(np.rint(drawn * gains + offsets), 0, 255).astype(np.uint8)
    pasted = {}
    for match in (True, False):
        piece = Piece(changed, affine_of(256, 230, 160, 150, 11.0), outline(256), match)
        photo = paste(
            np.full((300, 320, 3), 90, np.uint8),
            [Piece(drawn, piece.affine, np.array([[0, 0], [255, 0], [255, 255], [0, 255.0]]), False)],
        )
        done = paste(photo.pixels, [piece])
        pasted[match] = np.abs(done.pixels[done.covered].astype(float) - photo.pixels[done.covered]).mean()
    assert pasted[True] < 0.35 * pasted[False]
    assert pasted[True] < 4


def test_what_is_behind_the_new_face_is_matched_to_what_was_behind_the_old_one() -> None:
    y, x = np.mgrid[:256, :256]
    grain = np.random.default_rng(3).integers(-6, 7, (256, 256, 3))

    def person(width: float, skin: list[int], behind: list[int]) -> Pixels:
        face = ((x - 127.5) / width) ** 2 + ((y - 145) / 85) ** 2 < 1
        return np.clip(np.where(face[..., None], skin, behind) + grain, 0, 255).astype(np.uint8)

    photo = person(80, [170, 130, 110], [40, 60, 80])
    new = person(74, [150, 120, 110], [245, 240, 240])
    beside = np.s_[140:150, 45:51]  # within the mask, outside of the narrower new face
    affine = np.array([[1.0, 0, 0], [0, 1, 0]])
    around = outline(256, (oval(128, 145, 80, 85), 256), (oval(128, 145, 74, 85), 256))
    matched, plainly = (paste(photo, [Piece(new, affine, around, match)]) for match in (True, False))
    assert matched.covered[beside].all()
    assert plainly.pixels[beside].min() > 200
    np.testing.assert_allclose(matched.pixels[beside].mean(axis=(0, 1)), [40, 60, 80], atol=15)
    np.testing.assert_allclose(matched.pixels[140:150, 120:130].mean(axis=(0, 1)), [170, 130, 110], atol=6)


def test_colours_are_moved_within_bounds_and_not_where_nothing_can_be_compared() -> None:
    white = np.full((300, 300, 3), 255, np.uint8)
    dark = Piece(np.full((64, 64, 3), 20, np.uint8), affine_of(64, 200, 150, 150), outline(64))
    middle = paste(white, [dark]).pixels[160, 150]
    assert (middle > 20).all()
    assert (middle <= 20 + 64).all()
    beside = Piece(dark.pixels, affine_of(64, 200, 150, -90), outline(64))
    done = paste(white, [beside])
    assert not done.covered.any() or (done.pixels[done.covered] <= 20 + 64).all()
    tiny = Piece(dark.pixels, affine_of(64, 6, 150, 150), outline(64))
    assert paste(white, [tiny]).covered.sum() > 5


def test_the_outline_takes_in_both_faces_and_an_ellipse_where_a_mesh_is_none() -> None:
    narrow, wide = oval(128, 146, 50, 80), oval(64, 73, 36, 30)
    assert is_plausible(narrow, 256)
    assert is_plausible(wide, 128)
    both = outline(256, (narrow, 256), (wide, 128))
    assert np.ptp(both[:, 0]) > 140
    assert np.ptp(both[:, 1]) > 155
    usual = outline(256)
    broken = oval(128, 146, 50, 80)
    broken.points[10] = np.nan
    for bad in (
        oval(128, 146, 50, 80, score=0.2),
        broken,
        oval(30, 146, 60, 80),
        oval(128, 146, 8, 80),
        oval(128, 146, 250, 250),
    ):
        assert not is_plausible(bad, 256)
        np.testing.assert_array_equal(outline(256, (bad, 256)), usual)
    assert np.isfinite(usual).all()


@pytest.mark.parametrize(
    "points", [np.array([[32.0, 32.0]]), np.array([[-900.0, 20.0], [5000.0, 60.0]]), np.full((3, 2), 63.0)]
)
def test_outlines_of_any_shape_stay_within_the_crop(points: np.ndarray) -> None:
    photo = noise(200, 200)
    done = paste(photo, [Piece(np.zeros((64, 64, 3), np.uint8), affine_of(64, 100, 100, 100), points, False)])
    np.testing.assert_array_equal(done.pixels[:49], photo[:49])
    np.testing.assert_array_equal(done.pixels[:, 151:], photo[:, 151:])
    # What is black at the crop's border was mixed with the photograph: the fading ends there.
    assert not (done.pixels[50:150, 50:52] == 0).all(axis=-1).any()


def test_without_pieces_the_photograph_is_a_copy() -> None:
    photo = noise(20, 30)
    done = paste(photo, [])
    np.testing.assert_array_equal(done.pixels, photo)
    assert done.pixels is not photo
    assert not done.covered.any()
