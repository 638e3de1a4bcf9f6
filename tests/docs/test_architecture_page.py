"""The page for newcomers shows the rooms as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.draw_architecture import ORDER, PICTURE, arrows, data, data_of, draw, floors, places
from docs.import_graph import ROOT, room_graph

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_picture_shows_todays_imports() -> None:
    assert data_of(PICTURE) == data(), "the rooms have changed: run 'python -m docs.draw_architecture'"


def test_every_room_is_in_the_picture_and_lies_above_what_it_imports_from() -> None:
    # `engine/__init__.py` imports nothing and is imported by nobody within.
    assert arrows().keys() == room_graph().keys() - {"engine"} == set(ORDER)
    heights = floors(arrows())
    for room, below in arrows().items():
        assert all(heights[target] < heights[room] for target in below), room


def test_no_rooms_lie_on_each_other_and_no_arrow_crosses_one() -> None:
    at, paths = places(arrows())
    boxes = list(at.values())
    assert all(abs(x1 - x2) > 2.4 for x1, y1 in boxes for x2, y2 in boxes if y1 == y2 and x1 != x2)
    assert len(set(boxes)) == len(boxes)
    for points in paths.values():
        for x, y in points[1:-1]:
            assert all(abs(x - other) > 1.2 for other, floor in boxes if floor == y), "it passes between rooms"


def test_it_can_be_drawn() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[dev]'")
    texts = {text.get_text() for text in draw().axes[0].texts}
    assert {"cli", "engine/method", "kernels"} <= texts


def test_every_file_that_the_page_names_is_there() -> None:
    names = set(re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?|engine/[a-z_]+\.py)`", PAGE))
    assert len(names) > 30
    missing = [name for name in sorted(names) if not (ROOT / name).exists()]
    assert not missing
    links = [target for target in re.findall(r"\]\(([^)]+)\)", PAGE) if "://" not in target]
    assert all((Path(PICTURE).parent / target).exists() for target in links)


def test_every_room_has_its_line() -> None:
    for room in ORDER:
        folder = room.replace(".", "/")
        assert f"`{folder}/`" in PAGE or f"`{folder}.py`" in PAGE, f"docs/architecture.md does not name {folder}"
