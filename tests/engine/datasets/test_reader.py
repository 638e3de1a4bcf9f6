"""Faces are read by several threads, and what takes much memory by one at a time."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from PIL import Image

from faceanon_engine.engine.datasets.folder import InputFile
from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images import align
from faceanon_engine.engine.images import decode as images


def together(files: list[InputFile], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many of the files were being prepared at once, at most."""
    prepare, guard, active, most = align.prepare, threading.Lock(), [0], [0]
    meeting = threading.Barrier(len(files))

    def watched(*arguments: Any) -> Any:
        with guard:
            active[0] += 1
            most[0] = max(most[0], active[0])
        with contextlib.suppress(threading.BrokenBarrierError):  # the others do not come while this one is here
            meeting.wait(timeout=0.2)
        with guard:
            active[0] -= 1
        return prepare(*arguments)

    monkeypatch.setattr(align, "prepare", watched)
    reader = Reader("never", 16)
    with ThreadPoolExecutor(len(files)) as executor:
        assert all(len(faces) == 1 for faces in executor.map(reader.faces_of, files))
    return most[0]


def test_large_pictures_are_read_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGE_PIXELS", 40 * 40)
    files = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (64, 64)).save(path)
        files.append(InputFile(path, PurePosixPath(path.name)))
    assert together(files, monkeypatch) == 1


def test_a_large_picture_that_is_damaged_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGE_PIXELS", 0)
    path = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:300])
    reader = Reader("never", 16)
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            reader.faces_of(InputFile(path, PurePosixPath(path.name)))
        assert caught.value.reason == "truncated"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    outcome: list[str] = []

    def read() -> None:
        try:
            Reader("never", 16).faces_of(InputFile(tmp_path / "pipe.png", PurePosixPath("pipe.png")))
        except InputError as error:
            outcome.append(error.reason)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert outcome == ["unreadable"]
