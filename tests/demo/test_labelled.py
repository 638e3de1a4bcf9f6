"""Written data sets: the table says what is in the pictures, and comes when all of them are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from faceanon_engine.demo.labelled import LABELS, pictures, write
from faceanon_engine.demo.people import HELD_OUT_SEED, PERSONAL, labels, sample_person
from faceanon_engine.demo.render import render


def test_every_row_describes_its_picture(tmp_path: Path) -> None:
    steps = list(write(tmp_path, people=3, per_person=2, size=32, seed=HELD_OUT_SEED))
    assert steps[-1] == (6, 6)
    table = pyarrow.parquet.read_table(tmp_path / LABELS)
    rows = table.to_pylist()
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [row["image_id"] for row in rows]
    assert [row["identity"] for row in rows] == [0, 0, 1, 1, 2, 2]
    assert len(table.schema.metadata[b"identity_vector"].split()) == len(PERSONAL)
    for row in rows:
        code = np.array(row["code"], np.float32)
        assert np.array_equal(np.asarray(Image.open(tmp_path / row["image_id"])), render(code, 32).image)
        for name, value in labels(code).items():
            assert row[name] == pytest.approx(value, abs=1e-4)
    vectors = np.array([row["identity_vector"] for row in rows])
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[0], vectors[2])


def test_a_larger_set_begins_like_a_smaller_one() -> None:
    few, many = pictures(2, 3, 5), pictures(4, 3, 5)
    assert all(a.image_id == b.image_id and np.array_equal(a.code, b.code) for a, b in zip(few, many[:6], strict=True))
    assert np.array_equal(many[9].code, sample_person(8, 3)[0])


def test_no_table_stands_beside_an_unfinished_set(tmp_path: Path) -> None:
    drawing = write(tmp_path, people=2, per_person=2, size=16, seed=1)
    next(drawing)
    drawing.close()
    assert not (tmp_path / LABELS).exists()
