"""A sample knows its name, its file, and, once it was read, its faces."""

from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path, PurePosixPath

import pytest

from faceanon_engine.engine.datasets.sample import sample_at


def test_the_key_is_the_relative_path_as_text() -> None:
    sample = sample_at(Path("/data/a/b.png"), PurePosixPath("a/b.png"))
    assert (sample.key, sample.labels, sample.faces) == ("a/b.png", {}, ())
    assert sample_at(Path("/data/a/b.png")).key == "b.png"


def test_bytes_that_are_no_text_are_spelled_in_the_key_alone() -> None:
    name = os.fsdecode(b"caf\xe9.png")
    sample = sample_at(Path("/data") / name)
    assert sample.key == "caf\\xe9.png"
    assert os.fsencode(sample.path) == b"/data/caf\xe9.png"
    assert sample.relative.name == name


def test_nobody_changes_a_sample_and_it_travels_between_processes() -> None:
    sample = sample_at(Path("/data/a.png"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.key = "b.png"  # type: ignore[misc]
    assert vars(pickle.loads(pickle.dumps(sample))) == vars(sample)
