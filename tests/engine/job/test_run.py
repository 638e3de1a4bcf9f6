"""What a job does with its inputs, with a worker that has no networks."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError, UserError
from faceanon_engine.engine.job import run as job_module
from faceanon_engine.engine.job.manifest import ItemRow, Manifest
from faceanon_engine.engine.job.report import JobObserver, JobResult
from faceanon_engine.engine.job.run import plan
from faceanon_engine.engine.job.settings import JobSettings, job_settings
from faceanon_engine.engine.system.files import TEMPORARY_PATTERN
from tests.support.fake_worker import BLUE, GREEN, RED, WHITE, FakeWorker, make_inputs
from tests.support.samples import with_faces, with_two_faces


@pytest.fixture(autouse=True)
def _fresh_worker() -> None:
    FakeWorker.loads = 0
    FakeWorker.batches = []


class Notes(JobObserver):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.finished: list[tuple[str, bool]] = []
        self.already = -1

    def started(self, about: Mapping[str, str], inputs: int, already: int) -> None:
        self.already = already

    def note(self, message: str) -> None:
        self.notes.append(message)

    def input_finished(self, path: str, failed: bool) -> None:
        self.finished.append((path, failed))


@pytest.fixture
def settings(tmp_path: Path) -> JobSettings:
    return job_settings(tmp_path / "in", tmp_path / "out", {"align": "never", "steps": 2, "contact_sheet": 0})


def run(settings: JobSettings, observer: JobObserver | None = None) -> JobResult:
    return job_module.run(settings, observer=observer, make_worker=FakeWorker)


def items(settings: JobSettings, state: str | None = None) -> list[ItemRow]:
    with Manifest.read(settings.output / "manifest.sqlite") as manifest:
        return manifest.items(state)


def visible(folder: Path) -> list[str]:
    """Files in an output folder, but for the job's own."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.startswith((".faceanon", "manifest.sqlite")))


def stamps(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {name: ((folder / name).stat().st_mtime_ns, (folder / name).read_bytes()) for name in visible(folder)}


def test_every_input_becomes_an_output_at_the_same_place_and_a_full_row(settings: JobSettings) -> None:
    make_inputs(settings.input, 5)
    make_inputs(settings.input / "deeper" / "still", 2)
    observer = Notes()
    result = run(settings, observer)
    assert (result.inputs, result.done, result.failed, result.exit_code) == (7, 7, 0, 0)
    expected = [f"deeper/still/photo-0{n}.png" for n in range(2)] + [f"photo-0{n}.png" for n in range(5)]
    assert visible(settings.output) == expected
    assert sorted(path for path, failed in observer.finished if not failed) == expected
    assert FakeWorker.batches == [4, 3]
    for row in items(settings):
        missing = [name for name in ("reason", "message", "codes") if getattr(row, name) is not None]
        assert missing == []
        empty = [name for name, value in vars(row).items() if value is None]
        assert empty == ["reason", "message", "codes"]
        assert (row.state, row.steps, row.preset, row.bundle) == ("done", 2, "falco", "b" * 64)
        original = np.asarray(Image.open(settings.input / row.input))
        np.testing.assert_array_equal(np.asarray(Image.open(settings.output / str(row.output))), 255 - original)
        assert row.neighbour_id == int(original.mean())


def test_a_second_run_touches_nothing_and_opens_no_network(settings: JobSettings) -> None:
    settings = replace(settings, contact_sheet=2, save_codes=True)
    make_inputs(settings.input, 3)
    run(settings)
    before = stamps(settings.output)
    assert "contact-sheet.png" in before
    observer = Notes()
    result = run(settings, observer)
    assert (result.done, result.done_before, observer.already) == (3, 3, 3)
    assert stamps(settings.output) == before
    assert FakeWorker.loads == 1


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
    (settings.output / "photo-01.png").unlink()
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


def test_out_of_memory_halves_the_batch_and_loses_nothing(settings: JobSettings) -> None:
    make_inputs(settings.input, 9, {2: RED})
    observer = Notes()
    assert run(settings, observer).done == 9
    assert FakeWorker.batches[:3] == [4, 2, 2], "the first four are tried as two pairs"
    assert max(FakeWorker.batches[1:]) <= 2, "the smaller size is kept"
    assert any("out of memory" in note for note in observer.notes)


def test_a_batch_that_fails_costs_only_the_image_that_fails_alone(settings: JobSettings) -> None:
    make_inputs(settings.input, 8, {1: GREEN, 6: BLUE})
    result = run(settings)
    assert (result.done, result.failed) == (7, 1)
    (row,) = items(settings, "failed")
    assert (row.input, row.reason) == ("photo-01.png", "unexpected")
    assert row.message == "ValueError: this image breaks the method"


def test_values_that_are_not_finite_are_not_written(settings: JobSettings) -> None:
    make_inputs(settings.input, 3, {1: WHITE})
    result = run(settings)
    assert [failure.reason for failure in result.failures] == ["not-finite"]
    assert visible(settings.output) == ["photo-00.png", "photo-02.png"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"margin": 0.9}, "margin was 0.0, now 0.9"),
        ({"steps": 3}, "steps was 2, now 3"),
        ({"format": "jpeg"}, "format was png, now jpeg; quality was unset, now 95"),
        ({"preset": "falco-released"}, "preset was falco, now falco-released"),
        ({"pool_size": 77}, "pool-size was 4, now 77"),
        ({"save_codes": True}, "save-codes was False, now True"),
    ],
)
def test_a_changed_setting_is_refused_with_the_difference(
    settings: JobSettings, change: dict[str, Any], expected: str
) -> None:
    make_inputs(settings.input, 2)
    run(settings)
    before = stamps(settings.output)
    for refused in (run, lambda changed: plan(changed, make_worker=FakeWorker)):
        with pytest.raises(UserError) as raised:
            refused(replace(settings, **change))
        assert expected in str(raised.value)
    assert stamps(settings.output) == before


def test_another_bundle_is_refused(settings: JobSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(settings.input, 1)
    run(settings)
    monkeypatch.setenv("FAKE_BUNDLE", "c" * 64)
    with pytest.raises(UserError, match="bundle was bbbbbbbbbbbb, now cccccccccccc"):
        run(settings)


def test_what_does_not_change_results_may_change(settings: JobSettings) -> None:
    make_inputs(settings.input, 3)
    run(replace(settings, limit=1))
    assert run(replace(settings, batch_size=1, contact_sheet=1, device="cpu")).done == 3


def test_an_automatic_pool_stays_as_it_was(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    run(settings)
    make_inputs(settings.input, 6)
    assert run(settings).done == 6


def test_names_that_meet_are_kept_apart(settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    for name in ("photo-00.bmp", "photo-00.jpg", "contact-sheet.bmp", "PHOTO-00.webp"):
        Image.new("RGB", (32, 32), (9, 9, 9)).save(settings.input / name)
    folder = settings.input / "a.png"
    make_inputs(folder, 1)
    Image.new("RGB", (32, 32), (9, 9, 9)).save(settings.input / "a.bmp")
    result = run(settings)
    assert (result.done, result.failed) == (7, 0)
    outputs = [str(row.output) for row in items(settings)]
    assert len({name.casefold() for name in outputs}) == 7
    assert {"a.png/photo-00.png", "a.bmp.png", "contact-sheet.bmp.png"} <= set(outputs)
    before = {row.input: row.output for row in items(settings)}
    again = replace(settings, output=settings.output.with_name("again"))
    run(again)
    assert {row.input: row.output for row in items(again)} == before


def test_a_file_of_somebody_else_is_never_overwritten(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    settings.output.mkdir()
    theirs = settings.output / "photo-00.png"
    theirs.write_text("mine")
    result = run(settings)
    assert theirs.read_text() == "mine"
    assert [failure.reason for failure in result.failures] == ["output-exists"]
    assert result.done == 1
    theirs.unlink()
    assert run(settings).done == 2


def test_half_written_files_of_a_killed_run_are_removed_and_others_left(settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    (settings.output / "sub").mkdir(parents=True)
    left = settings.output / "sub" / TEMPORARY_PATTERN.replace("*", "x")
    left.write_bytes(b"half")
    other = settings.output / "sub" / "notes.tmp"
    other.write_text("keep")
    run(settings)
    assert not left.exists()
    assert other.read_text() == "keep"


@pytest.mark.parametrize("where", ["in", "in/deeper", "."])
def test_output_and_input_may_not_overlap(tmp_path: Path, settings: JobSettings, where: str) -> None:
    make_inputs(settings.input, 1)
    with pytest.raises(UserError, match="INPUT"):
        run(replace(settings, output=tmp_path / where))


def test_an_original_beside_the_output_is_never_overwritten(tmp_path: Path, settings: JobSettings) -> None:
    (path,) = make_inputs(settings.input, 1)
    before = path.read_bytes()
    result = run(replace(settings, input=path, output=settings.input))
    assert path.read_bytes() == before
    assert [failure.reason for failure in result.failures] == ["output-exists"]


@pytest.mark.parametrize(("suffix", "format"), [(".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP")])
def test_the_format_asked_for_is_written(settings: JobSettings, suffix: str, format: str) -> None:
    make_inputs(settings.input, 1)
    run(replace(settings, format=format.lower()))
    assert visible(settings.output) == ["photo-00" + suffix]
    assert Image.open(settings.output / ("photo-00" + suffix)).format == format


def test_codes_lie_beside_their_image(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    run(replace(settings, save_codes=True))
    for row in items(settings):
        codes = np.load(settings.output / str(row.codes))
        assert codes.shape == (1, 8)
        assert int(codes[0, 0]) == row.neighbour_id


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
    (settings.output / "photo-01.png-face1.png").unlink()
    run(settings)
    after = stamps(settings.output)
    assert {name for name in after if after[name] != before[name]} == {"photo-01.png-face1.png"}


def test_a_full_disk_stops_the_job_and_what_was_done_stays(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(settings.input, 8)
    rename, count = os.replace, itertools.count(1)  # threads call it, in any order

    def fills_up(source: str, target: Path) -> None:
        if target.suffix == ".png" and next(count) > 6:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fills_up)
    with pytest.raises(UserError, match="No space left on device"):
        run(settings)
    first = [str(row.output) for row in items(settings, "done")]
    assert len(first) == 6
    assert visible(settings.output) == first, "what is recorded is there, and what is there is recorded"
    before = stamps(settings.output)
    monkeypatch.undo()
    assert run(settings).done == 8
    assert before.items() <= stamps(settings.output).items()


def test_an_interrupted_job_records_what_is_being_written(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(settings.input, 8)
    rename, begun = os.replace, threading.Event()

    def slowly(source: str, target: Path) -> None:
        if target.suffix == ".png":
            begun.set()
            time.sleep(0.05)
        rename(source, target)

    class Impatient(JobObserver):
        def batch(self, size: int, step: int, steps: int) -> None:
            if len(FakeWorker.batches) == 2:
                assert begun.wait(60)
                raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", slowly)
    with pytest.raises(KeyboardInterrupt):
        run(settings, Impatient())
    first = [str(row.output) for row in items(settings, "done")]
    assert first
    assert visible(settings.output) == first
    before = stamps(settings.output)
    assert run(settings).done == 8
    assert before.items() <= stamps(settings.output).items()


def test_no_inputs_are_refused(settings: JobSettings) -> None:
    with pytest.raises(UserError):
        run(settings)
    settings.input.mkdir()
    with pytest.raises(UserError, match="no images"):
        run(settings)
    assert not settings.output.exists()


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    (settings.input / "bad.jpg").write_bytes(b"")
    planned = plan(settings, make_worker=FakeWorker)
    assert [(item.input, item.action, item.output) for item in planned.items] == [
        ("bad.jpg", "fail", None),
        ("photo-00.png", "anonymize", "photo-00.png"),
        ("photo-01.png", "anonymize", "photo-01.png"),
    ]
    assert planned.exit_code == 1
    assert not settings.output.exists()
    run(replace(settings, limit=2))
    (keep,) = [item for item in plan(settings, make_worker=FakeWorker).items if item.action == "keep"]
    assert keep.input == "photo-00.png"
    assert FakeWorker.loads == 1
    json.dumps(planned.to_json())


def test_the_contact_sheet_grows_with_the_job_and_can_be_left_out(settings: JobSettings) -> None:
    make_inputs(settings.input, 3)
    sheet = settings.output / "contact-sheet.png"
    assert run(settings).contact_sheet is None
    assert not sheet.exists()
    assert run(replace(settings, contact_sheet=1)).contact_sheet == sheet
    small = Image.open(sheet).size
    run(replace(settings, contact_sheet=3))
    assert Image.open(sheet).size[1] > small[1]
    assert FakeWorker.batches == [3], "the results themselves are not made again"


def test_a_strange_file_name_is_kept_and_recorded(settings: JobSettings) -> None:
    settings.input.mkdir()
    name = os.fsdecode(b"caf\xe9 [bold] \n.png")
    Image.new("RGB", (32, 32), (9, 9, 9)).save(settings.input / name)
    assert run(settings).done == 1
    (row,) = items(settings)
    assert row.input == "caf\\xe9 [bold] \n.png"
    assert run(settings).done_before == 1


def test_the_python_api_is_the_same_job(settings: JobSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    import faceanon_engine

    monkeypatch.setattr(job_module, "FalcoWorker", FakeWorker)
    make_inputs(settings.input, 2)
    result = faceanon_engine.anonymize(settings.input, str(settings.output), align="never", steps=2, contact_sheet=0)
    assert result.done == 2
    assert run(settings).done_before == 2
    with pytest.raises(faceanon_engine.UserError, match="margin"):
        faceanon_engine.anonymize(settings.input, settings.output, margin=2)


def test_a_list_may_name_files_of_one_name_in_different_places(tmp_path: Path, settings: JobSettings) -> None:
    make_inputs(tmp_path / "here", 1)
    make_inputs(tmp_path / "there", 1, {0: (1, 2, 3)})
    listed = tmp_path / "here" / "list.txt"
    listed.write_text(f"photo-00.png\n../photo-00.png\n# a remark\n{tmp_path / 'there' / 'photo-00.png'}\n")
    (tmp_path / "photo-00.png").write_bytes((tmp_path / "there" / "photo-00.png").read_bytes())
    result = run(replace(settings, input=listed))
    assert (result.inputs, result.done) == (3, 3)
    assert {"photo-00.png", "photo-00~2.png"} <= {row.input for row in items(settings)}
    assert all((settings.output / str(row.output)).resolve().is_relative_to(settings.output) for row in items(settings))


def test_files_that_are_no_inputs_are_mentioned(settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    for name in ("labels.csv", "README", ".hidden"):
        (settings.input / name).write_text("x")
    observer = Notes()
    assert run(settings, observer).inputs == 1
    assert observer.notes == ["left out, having no image's suffix: README and 1 more"]


def test_an_input_that_was_listed_and_is_gone_says_so(settings: JobSettings) -> None:
    paths = make_inputs(settings.input, 3)
    paths[1].write_bytes(b"broken")
    run(settings)
    paths[0].unlink()
    paths[1].unlink()
    result = run(settings)
    assert [(failure.input, failure.reason) for failure in result.failures] == [("photo-01.png", "missing")]
    assert result.done == 2, "what is done stays done"


def test_names_as_long_as_they_may_be_get_results(settings: JobSettings) -> None:
    settings = replace(settings, format="webp", save_codes=True, contact_sheet=1)
    (picture,) = make_inputs(settings.input, 1)
    folder = settings.input / os.fsdecode(b"\xe9" * 255)  # four times as long when it is spelled
    folder.mkdir()
    long = ["a" * 251 + ".png", "a" * 250 + "b.png", "\u5730" * 83 + ".png"]
    for place in (settings.input, folder):
        for name in long:
            (place / name).write_bytes(picture.read_bytes())
    result = run(settings)
    assert (result.done, result.failed) == (7, 0)
    outputs = [str(row.output) for row in items(settings)]
    assert len(set(outputs)) == 7
    assert all((settings.output / name).is_file() for name in outputs)
    assert run(settings).done_before == 7


def test_a_listed_path_that_no_file_can_have_is_a_row(tmp_path: Path, settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    listed = settings.input / "list.txt"
    listed.write_text(f"photo-00.png\n{'x' * 300}.png\n")
    result = run(replace(settings, input=listed))
    assert (result.done, [failure.reason for failure in result.failures]) == (1, ["unreadable"])


@pytest.mark.parametrize("place", ["input", "output"])
def test_a_path_that_leads_nowhere_is_refused_in_words(tmp_path: Path, settings: JobSettings, place: str) -> None:
    make_inputs(settings.input, 1)
    (tmp_path / "round").symlink_to("round")
    for path in (tmp_path / "round", tmp_path / ("x" * 300)):
        wrong: dict[str, Any] = {place: path}
        with pytest.raises(UserError, match=path.name):
            run(replace(settings, **wrong))


def test_links_to_folders_are_mentioned_also_before_the_job(tmp_path: Path, settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    make_inputs(tmp_path / "elsewhere", 1)
    (settings.input / "linked").symlink_to(tmp_path / "elsewhere")
    said = ("left out, being a link to a folder: linked",)
    assert plan(settings, make_worker=FakeWorker).left_out == said
    observer = Notes()
    assert run(settings, observer).inputs == 1
    assert tuple(observer.notes) == said


def test_a_sheet_of_originals_goes_when_none_is_wanted(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    assert run(replace(settings, contact_sheet=2)).contact_sheet is not None
    assert run(settings).contact_sheet is None
    assert "contact-sheet.png" not in visible(settings.output)
    assert run(replace(settings, contact_sheet=2)).contact_sheet is not None


def test_a_sheet_that_is_not_ours_is_left_alone(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    theirs = settings.output / "contact-sheet.png"
    theirs.parent.mkdir()
    theirs.write_bytes(b"a year of work")
    observer = Notes()
    result = run(replace(settings, contact_sheet=2), observer)
    assert (result.done, result.contact_sheet, theirs.read_bytes()) == (2, None, b"a year of work")
    assert any("contact-sheet.png is already" in note for note in observer.notes)
    run(settings)
    assert theirs.read_bytes() == b"a year of work"


def test_codes_that_are_not_ours_are_left_alone(settings: JobSettings) -> None:
    settings = replace(settings, save_codes=True)
    make_inputs(settings.input, 1)
    theirs = settings.output / "photo-00.w_plus.npy"
    theirs.parent.mkdir()
    theirs.write_bytes(b"a year of work")
    assert [failure.reason for failure in run(settings).failures] == ["output-exists"]
    assert theirs.read_bytes() == b"a year of work"


def test_what_is_done_stays_done_when_the_rest_of_a_photo_fails(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the faces of a photo which cannot be read when it is run again."""
    (photo,) = make_inputs(settings.input, 1)
    pixels = np.asarray(Image.open(photo))
    monkeypatch.setattr(Reader, "read", lambda reader, sample: with_faces(sample, pixels, pixels))
    run(settings)
    (settings.output / "photo-00-face1.png").unlink()

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
        (settings.output / "photo-00.png").unlink()


def test_originals_that_cannot_be_read_any_more_are_not_on_the_sheet(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(settings.input, 2)
    run(settings)
    read, closed = Reader.read, {"photo-00.png"}

    def partly(reader: Reader, sample: Sample) -> Sample:
        if sample.key in closed:
            raise InputError("unreadable", "it may not be read")
        return read(reader, sample)

    monkeypatch.setattr(Reader, "read", partly)
    assert run(replace(settings, contact_sheet=2)).contact_sheet is not None
    closed.add("photo-01.png")
    assert run(replace(settings, contact_sheet=1)).contact_sheet is None


def test_an_empty_manifest_is_as_good_as_none(settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    settings.output.mkdir()
    (settings.output / "manifest.sqlite").touch()
    assert [item.action for item in plan(settings, make_worker=FakeWorker).items] == ["anonymize"]
    assert run(settings).done == 1
