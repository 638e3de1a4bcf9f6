"""What is to be done: inputs that are new, changed, lost, gone, or whose name is taken."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images.align import Frame, Unhandled
from faceanon_engine.engine.job.folder import make_folder
from faceanon_engine.engine.job.listing import (
    bring_up_to_date,
    fail_faces,
    fits,
    look_through,
    plan_faces,
    plan_row,
)
from faceanon_engine.engine.job.manifest import ItemRow, Manifest
from faceanon_engine.engine.job.rows import by_input
from faceanon_engine.engine.job.samples import find_samples
from faceanon_engine.engine.job.settings import JobSettings
from tests.support.fake_worker import make_inputs
from tests.support.jobs import items, known, run, stamps
from tests.support.samples import WHOLE, with_faces


def test_new_inputs_join_and_a_larger_limit_goes_on(settings: JobSettings) -> None:
    make_inputs(settings.input, 4)
    assert run(replace(settings, limit=2)).done == 2
    before = stamps(settings.output)
    assert run(replace(settings, limit=3)).done == 3
    make_inputs(settings.input / "more", 1)
    assert run(settings).done == 5
    assert before.items() <= stamps(settings.output).items()


def test_a_missing_result_is_made_again(settings: JobSettings) -> None:
    make_inputs(settings.input, 3)
    run(settings)
    before = stamps(settings.output)
    (settings.folder.release / "photo-01.png").unlink()
    result = run(settings)
    assert (result.done, result.done_before) == (3, 2)
    after = stamps(settings.output)
    assert {name for name in after if after[name] != before[name]} == {"photo-01.png"}


def test_a_changed_input_is_done_again(settings: JobSettings) -> None:
    paths = make_inputs(settings.input, 2)
    run(settings)
    before = stamps(settings.output)
    Image.new("RGB", (32, 32), (200, 0, 200)).save(paths[0])
    os.utime(paths[0], ns=(1, 1))
    assert run(settings).done == 2
    after = stamps(settings.output)
    assert after["photo-00.png"][1] != before["photo-00.png"][1]
    assert after["photo-01.png"] == before["photo-01.png"]


def test_a_file_of_somebody_else_is_never_overwritten(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    make_folder(settings.folder)
    theirs = settings.folder.release / "photo-00.png"
    theirs.write_text("mine")
    result = run(settings)
    assert theirs.read_text() == "mine"
    assert [failure.reason for failure in result.failures] == ["output-exists"]
    assert result.done == 1
    theirs.unlink()
    assert run(settings).done == 2


def test_an_original_beside_the_results_is_never_overwritten(settings: JobSettings) -> None:
    (path,) = make_inputs(settings.folder.release, 1)
    before = path.read_bytes()
    result = run(replace(settings, input=path))
    assert path.read_bytes() == before
    assert [failure.reason for failure in result.failures] == ["output-exists"]


def test_codes_that_are_not_ours_are_left_alone(settings: JobSettings) -> None:
    settings = replace(settings, save_codes=True)
    make_inputs(settings.input, 1)
    theirs = settings.folder.private / "codes/photo-00.w_plus.npy"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"a year of work")
    assert [failure.reason for failure in run(settings).failures] == ["output-exists"]
    assert theirs.read_bytes() == b"a year of work"


def test_an_input_that_was_listed_and_is_gone_says_so(settings: JobSettings) -> None:
    paths = make_inputs(settings.input, 3)
    paths[1].write_bytes(b"broken")
    run(settings)
    paths[0].unlink()
    paths[1].unlink()
    result = run(settings)
    assert [(failure.input, failure.reason) for failure in result.failures] == [("photo-01.png", "missing")]
    assert result.done == 2, "what is done stays done"


def test_a_name_that_a_changed_input_gives_up_is_free(settings: JobSettings) -> None:
    settings = replace(settings, save_codes=True)
    (path,) = make_inputs(settings.input, 1)
    run(settings)
    Image.new("RGB", (32, 32), (200, 0, 200)).save(path)
    os.utime(path, ns=(1, 1))
    Image.new("RGB", (32, 32), (9, 9, 9)).save(settings.input / "photo-00.jpg")
    assert (run(settings).done, run(settings).failed) == (2, 0)
    outputs = {row.input: row.output for row in items(settings)}
    assert outputs == {"photo-00.jpg": "photo-00.png", "photo-00.png": "photo-00.png.png"}


def test_a_name_given_up_is_no_leave_to_overwrite_one_in_large_letters(settings: JobSettings) -> None:
    (path,) = make_inputs(settings.input, 1)
    run(settings)
    theirs = settings.folder.release / "PHOTO-00.png"
    if theirs.exists():
        pytest.skip("this file system does not tell small from large letters")
    theirs.write_text("a year of work")
    os.utime(path, ns=(1, 1))
    Image.new("RGB", (32, 32), (9, 9, 9)).save(settings.input / "PHOTO-00.bmp")
    result = run(settings)
    assert [(failure.input, failure.reason) for failure in result.failures] == [("PHOTO-00.bmp", "output-exists")]
    assert theirs.read_text() == "a year of work"


def test_looking_through_writes_nothing_and_says_what_the_manifest_does_not_know(settings: JobSettings) -> None:
    paths = make_inputs(settings.input, 4)
    paths[3].write_bytes(b"broken")
    run(settings)
    os.utime(paths[0], ns=(1, 1))
    (settings.folder.release / "photo-01.png").unlink()
    paths[3].unlink()
    make_inputs(settings.input / "new", 1)
    before = stamps(settings.output)
    with Manifest.read(settings.folder.manifest) as manifest:
        known, rows = manifest.inputs(), by_input(manifest.items())
    listing, update = look_through(settings, find_samples(settings), known, rows)
    assert stamps(settings.output) == before
    assert [sample.key for sample in listing.todo] == ["photo-00.png", "photo-01.png", "new/photo-00.png"]
    assert update.changed == ("photo-00.png",)
    assert update.given_up == ("release/photo-00.png",)
    assert [row.path for row in update.inputs] == ["photo-00.png", "new/photo-00.png"]
    assert [(row.input, row.state) for row in update.items] == [
        ("photo-00.png", "pending"),
        ("new/photo-00.png", "pending"),
    ]
    assert [(row.input, row.reason) for row in update.vanished] == [("photo-03.png", "missing")]
    assert [row.state for row in listing.rows["photo-01.png"]] == ["done"], "lost, and not planned anew"
    assert look_through(replace(settings, limit=9), find_samples(settings), known, rows)[1].vanished == ()


def test_what_is_listed_once_is_not_new_again(settings: JobSettings) -> None:
    make_inputs(settings.input, 3)
    samples = find_samples(settings)
    make_folder(settings.folder)
    with Manifest.open(settings.folder.manifest) as manifest:
        listing = bring_up_to_date(settings, samples, manifest, *known(manifest))
        assert listing.todo == samples
        assert {row.output for rows in listing.rows.values() for row in rows} == {
            row.output for row in manifest.items()
        }
        _, update = look_through(settings, samples, manifest.inputs(), by_input(manifest.items()))
        assert (update.inputs, update.items, update.changed) == ((), (), ())
        assert bring_up_to_date(settings, samples, manifest, *known(manifest)).rows == {
            key: list(rows) for key, rows in listing.rows.items()
        }


def test_more_faces_are_planned_and_fewer_forgotten(settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    samples = find_samples(settings)
    listing, _ = look_through(settings, samples, {}, {})
    (sample,), face = samples, np.zeros((8, 8, 3), np.uint8)
    three = with_faces(sample, face, face, face)
    rows = plan_faces(settings, listing.names, three, listing.rows["photo-00.png"])
    assert [row.output for row in rows] == ["photo-00.png", "photo-00-face1.png", "photo-00-face2.png"]
    assert fits(three, rows)
    one = with_faces(sample, face)
    assert not fits(one, rows)
    assert plan_faces(settings, listing.names, one, rows) == rows[:1]
    left = replace(one, unhandled=(Unhandled(Frame(WHOLE), "too-small", "it is small"),))
    assert not fits(left, rows)
    planned = plan_faces(settings, listing.names, left, rows)
    assert [(row.state, row.reason, row.output) for row in planned] == [
        ("pending", None, "photo-00.png"),
        ("skipped", "too-small", None),
    ]
    assert fits(left, planned)
    again = plan_faces(settings, listing.names, with_faces(sample, face, face), planned)
    assert [row.output for row in again] == ["photo-00.png", "photo-00.png-face1.png"], "nothing is left without a name"


def test_what_is_done_does_not_fail_with_the_rest(settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    run(settings)
    (done,) = items(settings)
    rows = fail_faces(settings.output, [done, ItemRow("photo-00.png", 1)], InputError("empty", "no bytes"))
    assert rows[0] == done
    assert (rows[1].state, rows[1].reason, rows[1].message) == ("failed", "empty", "no bytes")


def test_a_name_given_up_protects_nobody_who_comes_after(settings: JobSettings) -> None:
    """Somebody's file that appears during the run under the name of a result which the run has deleted."""
    (path,) = make_inputs(settings.input, 1)
    run(settings)
    os.utime(path, ns=(1, 1))
    with Manifest.open(settings.folder.manifest) as manifest:
        listing = bring_up_to_date(settings, find_samples(settings), manifest, *known(manifest))
    assert not (settings.folder.release / "photo-00.png").exists()
    (settings.folder.release / "photo-00.png").write_text("a year of work")
    names = replace(listing.names, taken=set())
    assert plan_row(settings, names, "photo-00.png", 0).reason == "output-exists"
