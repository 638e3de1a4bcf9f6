"""From inputs to faces: several in one photo, none in another, and what cannot be read."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceanon_engine.engine.datasets.reader import Reader, prefetch
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.job.faces import faces_to_do
from faceanon_engine.engine.job.folder import make_folder
from faceanon_engine.engine.job.groups import Listed
from faceanon_engine.engine.job.listing import bring_up_to_date
from faceanon_engine.engine.job.manifest import ItemRow, Manifest
from faceanon_engine.engine.job.recording import Recorder
from faceanon_engine.engine.job.samples import find_samples
from faceanon_engine.engine.job.settings import JobSettings
from tests.support.fake_worker import make_inputs
from tests.support.jobs import Told, items, known, run, stamps, visible
from tests.support.samples import with_faces, with_two_faces


def test_bad_inputs_become_rows_and_the_others_are_done(settings: JobSettings) -> None:
    paths = make_inputs(settings.input, 2)
    (settings.input / "empty.jpg").write_bytes(b"")
    (settings.input / "cut.png").write_bytes(paths[0].read_bytes()[:60])
    (settings.input / "letter.jpg").write_bytes(b"Dear all, this is no picture. " * 20)
    result = run(settings)
    assert (result.done, result.failed, result.exit_code) == (2, 3, 1)
    assert visible(settings.output) == ["photo-00.png", "photo-01.png"]
    failed = {row.input: row for row in items(settings, "failed")}
    assert set(failed) == {"empty.jpg", "cut.png", "letter.jpg"}
    assert all(row.reason and row.message for row in failed.values())
    assert {failure.input for failure in result.failures} == set(failed)
    json.dumps(result.to_json())


def test_what_failed_is_tried_again(settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    bad = settings.input / "bad.png"
    bad.write_bytes(b"nothing")
    assert run(settings).failed == 1
    Image.new("RGB", (32, 32), (1, 2, 3)).save(bad)
    result = run(settings)
    assert (result.done, result.failed, result.exit_code) == (2, 0, 0)


def test_several_faces_give_several_outputs(settings: JobSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(settings.input, 3)
    Image.new("RGB", (32, 32), (9, 9, 9)).save(settings.input / "photo-01-face1.png")
    read = Reader.read

    def two_in_the_second(self: Reader, sample: Sample) -> Sample:
        return with_two_faces(read(self, sample)) if sample.key == "photo-01.png" else read(self, sample)

    monkeypatch.setattr(Reader, "read", two_in_the_second)
    result = run(settings)
    assert (result.inputs, result.done) == (4, 5)
    rows = {(row.input, row.face): row.output for row in items(settings)}
    assert rows[("photo-01.png", 0)] == "photo-01.png"
    assert rows[("photo-01.png", 1)] == "photo-01.png-face1.png", "photo-01-face1.png is another input's"
    before = stamps(settings.output)
    (settings.folder.release / "photo-01.png-face1.png").unlink()
    run(settings)
    after = stamps(settings.output)
    assert {name for name in after if after[name] != before[name]} == {"photo-01.png-face1.png"}


def test_a_listed_path_that_no_file_can_have_is_a_row(tmp_path: Path, settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    listed = settings.input / "list.txt"
    listed.write_text(f"photo-00.png\n{'x' * 300}.png\n")
    result = run(replace(settings, input=listed))
    assert (result.done, [failure.reason for failure in result.failures]) == (1, ["unreadable"])


def test_what_is_done_stays_done_when_the_rest_of_a_photo_fails(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the faces of a photo which cannot be read when it is run again."""
    (photo,) = make_inputs(settings.input, 1)
    pixels = np.asarray(Image.open(photo))
    monkeypatch.setattr(Reader, "read", lambda reader, sample: with_faces(sample, pixels, pixels))
    run(settings)
    (settings.folder.release / "photo-00-face1.png").unlink()

    def unreadable(reader: Reader, sample: Sample) -> Sample:
        raise InputError("unreadable", "it may not be read")

    with monkeypatch.context() as closed:
        closed.setattr(Reader, "read", unreadable)
        assert run(settings).failed == 1
    assert [row.state for row in items(settings)] == ["done", "failed"]
    assert visible(settings.output) == ["photo-00.png"]
    assert run(settings).done == 2


def test_a_face_that_is_not_found_again_leaves_no_picture(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another version of the detector goes on with a job."""
    (photo,) = make_inputs(settings.input, 1)
    pixels = np.asarray(Image.open(photo))
    for count in (3, 1, 2):
        monkeypatch.setattr(Reader, "read", lambda reader, sample, n=count: with_faces(sample, *[pixels] * n))
        assert run(settings).done == count
        assert len(visible(settings.output)) == count
        (settings.folder.release / "photo-00.png").unlink()


def test_faces_come_with_their_sample_their_pixels_and_their_row(settings: JobSettings) -> None:
    """Also of an input of which the first face is done, and of one whose reading fails between the others."""
    make_inputs(settings.input, 2)
    samples = find_samples(settings)
    pictures = [np.full((32, 32, 3), value, np.uint8) for value in range(3)]
    make_folder(settings.folder)
    with Manifest.open(settings.folder.manifest) as manifest, ThreadPoolExecutor(1) as executor:
        listing = bring_up_to_date(settings, samples, manifest, *known(manifest))
        done = ItemRow("photo-00.png", 0, state="done", output="photo-00.png")
        (settings.folder.release / "photo-00.png").touch()
        observer = Told()
        recorder = Recorder(settings, "b" * 64, manifest, observer, executor)

        def read(listed: Listed) -> Sample:
            if listed.sample.key == "photo-01.png":
                raise InputError("damaged", "it cannot be decoded")
            return with_faces(listed.sample, *pictures)

        inputs = [Listed(samples[0], [done], 0), Listed(samples[1], listing.rows["photo-01.png"], 0)]
        (faces,) = faces_to_do(settings, listing.names, prefetch(executor, read, inputs, 2), recorder, None)
    assert [face.row.output for face in faces] == ["photo-00.png", "photo-00-face1.png", "photo-00-face2.png"]
    assert [face.is_done for face in faces] == [True, False, False], "the first is here for the others' sake"
    for number, face in enumerate(faces):
        assert (face.sample.key, len(face.sample.faces)) == ("photo-00.png", 3)
        assert face.face is face.sample.faces[number]
        np.testing.assert_array_equal(face.face.pixels, pictures[number])
    assert observer.finished == [("photo-01.png", True)]
    recorded = {(row.input, row.face): (row.state, row.reason) for row in items(settings)}
    assert recorded[("photo-01.png", 0)] == ("failed", "damaged")
    assert recorded[("photo-00.png", 2)] == ("pending", None)
