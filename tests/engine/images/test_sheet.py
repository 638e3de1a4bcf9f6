"""The sheet shows every picture where its title says, large enough to see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from faceanon_engine.engine.images.sheet import SheetRow, draw_sheet

COLOURS = ((200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0))


def row(side: int, label: str = "a.png") -> SheetRow:
    pictures = [np.full((side, side, 3), colour, np.uint8) for colour in COLOURS]
    return SheetRow(*pictures, label=label, identity_before=0.5, identity_after=0.02, neighbour_distance=3.0)


@pytest.mark.parametrize(("side", "tile"), [(64, 128), (128, 128), (200, 200), (1024, 256)])
@pytest.mark.parametrize("count", [1, 4, 7, 16])
def test_every_picture_is_there_once_in_every_row(side: int, tile: int, count: int) -> None:
    sheet = draw_sheet([row(side)] * count, "falco")
    for colour in COLOURS:
        # Enlarging smooths nothing at the edges of a flat picture, so its area is exact.
        assert (sheet == colour).all(axis=2).sum() == count * tile * tile
    columns = [int(np.argwhere((sheet == colour).all(axis=2))[:, 1].min()) for colour in COLOURS]
    assert columns == sorted(columns)


def test_labels_of_any_length_and_script_fit() -> None:
    plain = draw_sheet([row(64)], "falco")
    strange = draw_sheet([row(64, label="地" * 10 + "x" * 500)], "t" * 900)
    assert plain.shape == strange.shape
    assert not np.array_equal(plain, strange)


def test_no_results_make_no_sheet() -> None:
    with pytest.raises(ValueError, match="at least one"):
        draw_sheet([], "falco")


@pytest.mark.parametrize("label", ["two\nlines.png", "tab\tand\x1b[31mred.png", "no\udcfftext.png"])
def test_a_name_that_is_no_line_of_text_is_drawn_as_one(label: str) -> None:
    assert draw_sheet([row(64, label=label)], "falco").shape == draw_sheet([row(64)], "falco").shape


def test_a_face_that_the_networks_do_not_know_is_marked_and_the_warning_has_its_line() -> None:
    red = (170, 30, 30)

    def red_in(sheet: np.ndarray) -> int:
        return int((np.abs(sheet.astype(int) - red).sum(axis=2) < 30).sum())

    plain = draw_sheet([row(128)], "falco")
    marked = draw_sheet([replace(row(128), unknown=True)], "falco")
    assert marked.shape == plain.shape
    assert red_in(marked) > red_in(plain)
    warned = draw_sheet([row(128)], "falco", "3 of 3 faces are unlike what the networks know (" + "x" * 400 + ")")
    assert warned.shape[0] > plain.shape[0]
    assert warned.shape[1] == plain.shape[1]
    assert red_in(warned) > red_in(plain)
