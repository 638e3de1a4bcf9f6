"""Every face is counted once, by what became of it."""

from __future__ import annotations

import json

from faceanon_engine.engine.datasets.recall import Recall
from faceanon_engine.engine.job.counts import BoxCounts, count_boxes, count_faces, count_photos, first_of_several
from faceanon_engine.engine.job.manifest import InputRow, ItemRow


def frame(side: float) -> str:
    return json.dumps({"box": [0.0, 0.0, side / 2, side]})


ROWS = [
    ItemRow("a", 0, "done", frame=frame(300)),
    ItemRow("a", 1, "redacted", "too-small", frame=frame(19)),
    ItemRow("a", 2, "redacted", "low-score", frame=frame(30)),
    ItemRow("a", 3, "kept", message="taken for anna", frame=frame(64)),
    ItemRow("b", 0, "failed", "no-face", "no face was found"),
    ItemRow("c", 0, "failed", "not-finite", frame=frame(40)),
    ItemRow("d", 0, "skipped", "beside", frame=frame(28)),
    ItemRow("e", 0),
]


def test_faces_by_what_became_of_them_and_by_size() -> None:
    counts = count_faces(ROWS)
    assert counts.to_json() == {
        "found": 6,
        "anonymized": 1,
        "kept": 1,
        "redacted": {"too-small": 1, "low-score": 1},
        "skipped": {"beside": 1},
        "failed": {"no-face": 1, "not-finite": 1},
        "pending": 1,
        "sizes": {"<20": 1, "28-40": 2, "40-64": 1, "64-128": 1, "256+": 1},
        "too_small": 1,
    }
    assert str(counts) == (
        "6 faces found, 1 anonymized, 1 kept, 1 pending, 2 redacted (1 low-score, 1 too-small), 1 skipped (1 beside), "
        "2 failed (1 no-face, 1 not-finite)"
    )
    assert str(count_faces(ROWS[:1])) == "1 face found, 1 anonymized"


def test_photographs_are_counted_where_some_are_given_back() -> None:
    assert count_photos([InputRow("a", 1, 1, 1)]) is None
    rows = [
        InputRow("a", 1, 1, 1, state="done", output="a.png"),
        InputRow("b", 1, 1, 0, state="withheld", reason="no-face"),
        InputRow("c", 1, 1, 0, state="failed", reason="empty"),
        InputRow("d", 1, 1, state="pending", output="d.png"),
    ]
    assert str(count_photos(rows)) == ("1 photograph given back, 1 withheld (1 no-face), 1 failed (1 empty), 1 pending")


def test_recall_has_an_interval_and_none_without_boxes() -> None:
    assert count_boxes([InputRow("a", 1, 1, 1)]) is None
    counts = count_boxes(
        [InputRow("a", 1, 1, 9, boxes=8, boxes_found=8), InputRow("b", 1, 1, 3, boxes=2, boxes_found=1)]
    )
    assert counts == BoxCounts(Recall(9, 10))
    assert str(counts) == "of 10 given faces the detector found 9 by itself: recall 0.900 [0.555, 0.997]"
    assert str(BoxCounts(Recall(0, 0))) == "none of the given boxes lies in these inputs"
    assert BoxCounts(Recall(0, 0)).to_json()["recall"] is None


def test_files_with_several_pictures_are_told_in_a_line() -> None:
    assert first_of_several([InputRow("a", 1, 1, 1)]) == ()
    rows = [InputRow("a.gif", 1, 1, 1, pictures=3), InputRow("b.gif", 1, 1, 1, pictures=2)]
    assert first_of_several(rows[:1]) == ("of a.gif, which holds 3 pictures, only the first was read",)
    assert first_of_several(rows) == ("of a.gif, which holds 3 pictures, and 1 more only the first was read",)
