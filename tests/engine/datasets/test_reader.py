"""Faces are read by several threads, and what takes much memory by one at a time."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from faceanon_engine.engine.datasets import reader as reading
from faceanon_engine.engine.datasets.reader import Reader, prefetch
from faceanon_engine.engine.datasets.sample import Sample, sample_at
from faceanon_engine.engine.errors import InputError


def together(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many of the samples were being read at once, at most."""
    faces_in, guard, active, most = reading.faces_in, threading.Lock(), [0], [0]
    meeting = threading.Barrier(len(samples))

    def watched(*arguments: Any, **options: Any) -> Any:
        with guard:
            active[0] += 1
            most[0] = max(most[0], active[0])
        with contextlib.suppress(threading.BrokenBarrierError):  # the others do not come while this one is here
            meeting.wait(timeout=0.2)
        with guard:
            active[0] -= 1
        return faces_in(*arguments, **options)

    monkeypatch.setattr(reading, "faces_in", watched)
    reader = Reader("never", 16)
    with ThreadPoolExecutor(len(samples)) as executor:
        assert all(len(sample.faces) == 1 for sample in executor.map(reader.read, samples))
    return most[0]


def test_large_pictures_are_read_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MEMORY", 64 * 64 * 30)
    samples = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (64, 64)).save(path)
        samples.append(sample_at(path))
    assert together(samples, monkeypatch) == 1
    monkeypatch.undo()
    monkeypatch.setattr(reading, "MEMORY", 64 * 64 * 40)
    assert together(samples, monkeypatch) == 2


def test_a_large_picture_that_is_damaged_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MEMORY", 1)
    path = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:300])
    reader = Reader("never", 16)
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            reader.read(sample_at(path))
        assert caught.value.reason == "truncated"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    outcome: list[str] = []

    def read() -> None:
        try:
            Reader("never", 16).read(sample_at(tmp_path / "pipe.png"))
        except InputError as error:
            outcome.append(error.reason)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert outcome == ["unreadable"]


def test_a_sample_comes_back_with_its_faces_and_is_otherwise_as_it_was(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (1, 2, 3)).save(tmp_path / "a.png")
    sample = sample_at(tmp_path / "a.png")
    read = Reader("never", 10).read(sample)
    assert sample.faces == ()
    assert (read.key, read.path, read.relative, read.labels) == (
        sample.key,
        sample.path,
        sample.relative,
        sample.labels,
    )
    (face,) = read.faces
    np.testing.assert_array_equal(face.pixels, np.full((10, 10, 3), (1, 2, 3)))
    assert (face.frame.box, face.frame.landmarks, face.frame.score, face.frame.warped) == (None, None, None, False)
    np.testing.assert_allclose(face.frame.affine, [[2, 0, 5.5], [0, 2, 0.5]])


def test_a_detected_face_brings_its_frame(tmp_path: Path) -> None:
    samples = Path(__file__).resolve().parents[3] / "demo" / "samples"
    (photo,) = [path for path in samples.iterdir() if path.stem == "photo-of-two"]
    faces = Reader("auto", 64).read(sample_at(photo)).faces
    assert len(faces) == 2
    for face in faces:
        frame = face.frame
        assert frame.warped
        assert frame.box is not None
        assert frame.landmarks is not None
        assert frame.score is not None
        assert 0.5 < frame.score <= 1
        inside = (frame.landmarks > frame.box[:2]) & (frame.landmarks < frame.box[2:])
        assert inside.all()
        # FFHQ's crop is wider than the face: the middle of the box lies in it, near its own middle.
        middle = frame.affine @ [31.5, 31.5, 1]
        assert np.abs((frame.box[:2] + frame.box[2:]) / 2 - middle).max() < np.hypot(*frame.affine[:, 0]) * 64 / 4


def test_no_more_is_begun_than_was_allowed_ahead() -> None:
    begun: list[int] = []

    def items() -> Any:
        for number in range(9):
            begun.append(number)
            yield number

    with ThreadPoolExecutor(2) as executor:
        for number, future in prefetch(executor, lambda each: each * each, items(), 3):
            assert future.result() == number * number
            assert begun == list(range(min(number + 3, 9)))


def test_a_sample_says_of_how_many_pictures_it_is_the_first(tmp_path: Path) -> None:
    first = Image.new("RGB", (64, 64), "red")
    first.save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (64, 64), "blue")])
    first.save(tmp_path / "a.png")
    reader = Reader("never", 16)
    moving = reader.read(sample_at(tmp_path / "a.gif"))
    assert moving.pictures == 2
    assert moving.faces[0].pixels[8, 8].tolist() == [255, 0, 0]
    assert reader.read(sample_at(tmp_path / "a.png")).pictures == 1
