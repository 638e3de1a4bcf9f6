"""The sample images are what their table and README say: held-out people, stored in the ways cameras store them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image, ImageOps

from faceanon_engine.demo.labelled import LABELS
from faceanon_engine.demo.make_samples import PEOPLE, PHOTOS, SIZE, TURNED, VIEWS, sample_name
from faceanon_engine.demo.people import HELD_OUT_SEED, sample_person
from faceanon_engine.demo.render import render

SAMPLES = Path(__file__).resolve().parents[2] / "demo" / "samples"


def test_table_and_files_agree() -> None:
    rows = pyarrow.parquet.read_table(SAMPLES / LABELS).to_pylist()
    listed = {row["image_id"] for row in rows}
    assert len(rows) == PEOPLE * len(VIEWS) >= 48
    assert listed | set(PHOTOS) == {path.name for path in SAMPLES.iterdir()} - {LABELS, "README.md"}
    for row in rows:
        views = sample_person(HELD_OUT_SEED + row["identity"], len(VIEWS))
        # The table keeps float32 exactly.
        assert any(np.array_equal(np.array(row["code"], np.float32), view) for view in views)


@pytest.mark.parametrize(("person", "view"), [(0, 0), (7, 1), *((person, 1) for person in TURNED)])
def test_a_sample_is_its_drawing_the_right_way_up(person: int, view: int) -> None:
    stored = Image.open(SAMPLES / sample_name(person, view))
    assert (stored.getexif().get(0x0112, 1) != 1) == (view == 1 and person in TURNED)
    upright = np.asarray(ImageOps.exif_transpose(stored)).astype(int)
    drawn = render(sample_person(HELD_OUT_SEED + person, len(VIEWS))[view], SIZE).image
    # JPEG at quality 95 is off by about one level in the mean; another processor may round a few samples otherwise.
    assert np.abs(upright - drawn).mean() < 2


def test_the_detector_finds_one_face_in_every_sample() -> None:
    from faceanon_engine.engine.images.detect import FaceDetector

    detector = FaceDetector(threads=1)
    missed = [
        path.name
        for path in sorted(SAMPLES.glob("person-*"))
        if len(detector.detect(np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")))) != 1
    ]
    assert not missed
