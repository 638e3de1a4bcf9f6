"""Photographs given back: every face replaced or redacted, the rest as it was, and nothing where a face is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images import align
from faceanon_engine.engine.images.align import Frame
from faceanon_engine.engine.images.detect import Detection, FaceDetector
from faceanon_engine.engine.job.dry_run import plan_job
from faceanon_engine.engine.job.manifest import InputRow, Manifest
from faceanon_engine.engine.job.report import JobObserver
from faceanon_engine.engine.job.settings import JobSettings, job_settings
from tests.support.fake_worker import FakeWorker
from tests.support.jobs import Told, items, run, visible
from tests.support.scenes import LEFT, RIGHT, make_photos, save, scene


@pytest.fixture
def settings(tmp_path: Path) -> JobSettings:
    return job_settings(tmp_path / "in", tmp_path / "out", {"output": "photos", "steps": 1, "contact_sheet": 0})


def photos(settings: JobSettings) -> dict[str, InputRow]:
    with Manifest.read(settings.folder.manifest) as manifest:
        return manifest.inputs()


def states(settings: JobSettings) -> dict[str, tuple[str | None, str | None]]:
    return {key: (row.state, row.reason) for key, row in photos(settings).items()}


def released(settings: JobSettings, name: str) -> np.ndarray:
    return np.asarray(Image.open(settings.folder.release / name).convert("RGB"))


def around(shape: tuple[int, ...], row: Any, share: float) -> np.ndarray:
    """bool [H, W]: the middle of a face's crop, that share of its side."""
    frame = Frame.from_json(json.loads(row.frame))
    inverse = np.linalg.inv(np.vstack([frame.affine, [0, 0, 1]]))[:2]
    y, x = np.mgrid[: shape[0], : shape[1]]
    place = np.stack([x, y, np.ones_like(x)], axis=-1) @ inverse.T  # in the crop's 32 pixels
    return (np.abs(place - 15.5) < 16 * share).all(axis=-1)


def test_photographs_are_given_back_with_other_faces_and_all_the_rest_as_it_was(settings: JobSettings) -> None:
    make_photos(settings.input)
    observer = Told()
    result = run(settings, observer)
    assert visible(settings.output) == ["one.png", "two.jpg"]
    assert states(settings) == {
        "broken.jpg": ("failed", "not-an-image"),
        "nobody.png": ("withheld", "no-face"),
        "one.png": ("done", None),
        "two.jpg": ("done", None),
    }
    assert (result.done, result.failed, result.exit_code) == (3, 0, 1)
    assert [(failure.input, failure.reason) for failure in result.failures] == [
        ("broken.jpg", "not-an-image"),
        ("nobody.png", "no-face"),
    ]
    assert sorted(observer.finished) == [
        ("broken.jpg", True),
        ("nobody.png", True),
        ("one.png", False),
        ("two.jpg", False),
    ]
    rows = items(settings)
    assert [(row.input, row.face, row.state, row.output) for row in rows] == [
        ("one.png", 0, "done", None),
        ("two.jpg", 0, "done", None),
        ("two.jpg", 1, "done", None),
    ]
    original, given = np.asarray(Image.open(settings.input / "one.png")), released(settings, "one.png")
    assert given.shape == original.shape
    changed = (given != original).any(axis=-1)
    assert not changed[~around(given.shape, rows[0], 1.0)].any(), "outside of the crop not a byte"
    assert changed[around(given.shape, rows[0], 0.4)].mean() > 0.95, "of the face nothing is left"
    assert result.faces is not None
    assert result.photos is not None
    assert (result.faces.found, result.faces.anonymized) == (3, 3)
    assert result.photos.to_json() == {
        "done": 2,
        "withheld": {"no-face": 1},
        "failed": {"not-an-image": 1},
        "pending": 0,
    }


def test_a_second_run_reads_only_what_was_withheld_and_may_allow_it(settings: JobSettings) -> None:
    make_photos(settings.input)
    run(settings)
    before = {name: (settings.folder.release / name).stat().st_mtime_ns for name in visible(settings.output)}
    loads = FakeWorker.batches[:]
    observer = Told()
    result = run(replace(settings, allow_faceless=True), observer)
    assert observer.already == 2
    assert loads == FakeWorker.batches, "no face is optimised again"
    assert visible(settings.output) == ["nobody.png", "one.png", "two.jpg"]
    np.testing.assert_array_equal(released(settings, "nobody.png"), Image.open(settings.input / "nobody.png"))
    assert {name: (settings.folder.release / name).stat().st_mtime_ns for name in before} == before
    assert (result.exit_code, len(result.failures)) == (1, 1)
    assert photos(settings)["nobody.png"] == replace(
        photos(settings)["nobody.png"], state="done", reason=None, message=None, faces=0
    )


def test_what_was_given_back_without_a_face_is_taken_back_where_that_is_no_longer_allowed(
    settings: JobSettings,
) -> None:
    save(settings.input / "nobody.png", scene(())[0])
    save(settings.input / "one.png", scene()[0])
    assert run(replace(settings, allow_faceless=True)).exit_code == 0
    observer = Told()
    result = run(settings, observer)
    assert (visible(settings.output), observer.already, result.exit_code) == (["one.png"], 1, 1)
    assert states(settings) == {"nobody.png": ("withheld", "no-face"), "one.png": ("done", None)}


def detail(pixels: np.ndarray) -> float:
    """How much pixels differ from their neighbours."""
    return float(np.abs(np.diff(pixels.astype(int), axis=0)).mean())


@pytest.mark.parametrize("how", ["blur", "black", "fail"])
def test_a_face_that_is_too_small_is_redacted_or_withholds_its_photograph(
    settings: JobSettings, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(align, "_SMALLEST", 90)
    canvas, _ = scene((LEFT,))
    shrunk, _ = scene((RIGHT,), face=40)
    canvas[:, 210:] = shrunk[:, 210:]
    save(settings.input / "a.png", canvas)
    settings = replace(settings, unhandled=how)
    result = run(settings)
    rows = items(settings)
    assert [(row.state, row.reason) for row in rows] == [
        ("done", None),
        ("failed" if how == "fail" else "redacted", "too-small"),
    ]
    assert result.faces is not None
    assert (result.faces.found, result.faces.too_small) == (2, 1)
    if how == "fail":
        assert states(settings) == {"a.png": ("withheld", "unhandled")}
        assert (visible(settings.output), result.exit_code) == ([], 1)
        assert [failure.reason for failure in result.failures] == ["unhandled"]
        return
    assert (states(settings), result.exit_code) == ({"a.png": ("done", None)}, 0)
    given = released(settings, "a.png")
    left, top, right, bottom = (int(value) for value in json.loads(str(rows[1].frame))["box"])
    middle = np.s_[top + 5 : bottom - 5, left + 5 : right - 5]
    assert (given[middle] == 0).all() if how == "black" else detail(given[middle]) < 0.25 * detail(canvas[middle])
    np.testing.assert_array_equal(given[:30, 230:], canvas[:30, 230:])


class Breaking(FakeWorker):
    """Fails with every face."""

    def anonymize(self, images: np.ndarray, on_step: Callable[[int], None]) -> Any:
        raise ValueError("no")


def test_a_face_that_cannot_be_optimised_is_redacted_and_tried_again_where_that_was_refused(
    settings: JobSettings,
) -> None:
    save(settings.input / "a.png", scene()[0])
    strict = replace(settings, unhandled="fail")
    assert run(strict, None, Breaking).exit_code == 1
    assert states(settings) == {"a.png": ("withheld", "unhandled")}
    assert [(row.state, row.reason) for row in items(settings)] == [("failed", "unexpected")]
    with pytest.raises(UserError, match="unhandled was fail, now blur"):
        run(settings)
    assert run(strict).exit_code == 0
    assert states(settings) == {"a.png": ("done", None)}

    other = replace(settings, output=settings.output / "other")
    result = run(other, None, Breaking)
    assert (states(other), result.exit_code) == ({"a.png": ("done", None)}, 0)
    assert [(row.state, row.reason) for row in items(other)] == [("redacted", "unexpected")]
    assert result.faces is not None
    assert result.faces.redacted == {"unexpected": 1}


def test_a_face_that_nothing_covers_withholds_the_photograph_and_what_a_kill_left(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(settings.input / "a.png", scene()[0])
    box = np.array([300.0, 100, 340, 150])
    monkeypatch.setattr(Reader, "faces_of", lambda self, pixels: [Detection(box, np.zeros((5, 2)), 0.9)])

    class Killed(JobObserver):
        def batch(self, size: int, step: int, steps: int) -> None:
            settings.folder.release.joinpath("a.png").write_bytes(b"written, and killed before it was recorded")

    result = run(settings, Killed())
    assert states(settings) == {"a.png": ("withheld", "uncovered")}
    assert (visible(settings.output), result.exit_code) == ([], 1)
    monkeypatch.undo()
    assert run(settings).exit_code == 0
    assert visible(settings.output) == ["a.png"]


def test_a_run_that_is_stopped_gives_the_same_as_one_that_is_not(settings: JobSettings, tmp_path: Path) -> None:
    for number in range(4):
        save(settings.input / f"{number}.png", scene((LEFT, RIGHT), seed=number)[0])

    class Stop(JobObserver):
        seen = 0

        def batch(self, size: int, step: int, steps: int) -> None:
            type(self).seen += 1
            if self.seen == 2:
                raise KeyboardInterrupt

    whole = replace(settings, output=tmp_path / "whole")
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(settings, Stop())
    assert len(visible(settings.output)) < 4
    assert run(settings).exit_code == 0
    assert [(name, released(settings, name).tobytes()) for name in visible(settings.output)] == [
        (name, released(whole, name).tobytes()) for name in visible(whole.output)
    ]


def test_a_photograph_keeps_its_suffix_and_size_turned_upright_and_without_metadata(settings: JobSettings) -> None:
    canvas, _ = scene()
    exif = Image.Exif()
    exif[0x0112] = 6  # as stored, it is to be turned by a quarter
    exif[0x010E] = "a description"
    save(settings.input / "turned.JPG", np.rot90(canvas).copy(), exif=exif, quality=95)
    save(settings.input / "flat.tif", canvas)
    save(settings.input / "lossless.bmp", canvas)
    save(settings.input / "palette.gif", canvas)
    assert run(settings).exit_code == 0
    assert visible(settings.output) == ["flat.tif", "lossless.bmp", "palette.png", "turned.JPG"]
    with Image.open(settings.folder.release / "turned.JPG") as given:
        assert (given.format, given.size) == ("JPEG", (420, 260))
        assert not given.getexif()
        assert np.abs(np.asarray(given)[:, 250:].astype(int) - canvas[:, 250:]).mean() < 4, "turned upright"
    np.testing.assert_array_equal(released(settings, "flat.tif")[:, 250:], canvas[:, 250:])


def test_names_that_meet_are_told_apart_and_files_of_others_are_left(settings: JobSettings) -> None:
    canvas, _ = scene()
    for name in ("a.gif", "a.png", "b.png"):
        save(settings.input / name, canvas)
    (settings.folder.release).mkdir(parents=True)
    (settings.folder.release / "b.png").write_bytes(b"somebody's")
    result = run(settings)
    assert (settings.folder.release / "b.png").read_bytes() == b"somebody's"
    assert states(settings)["b.png"] == ("failed", "output-exists")
    assert {key: row.output for key, row in photos(settings).items()} == {
        "a.gif": "a.png",
        "a.png": "a.png.png",
        "b.png": None,
    }
    assert (result.exit_code, visible(settings.output)) == (1, ["a.png", "a.png.png", "b.png"])
    (settings.folder.release / "b.png").unlink()
    assert run(settings).exit_code == 0
    assert states(settings)["b.png"] == ("done", None)


def test_another_format_is_for_all(settings: JobSettings) -> None:
    save(settings.input / "a.png", scene()[0])
    assert run(replace(settings, format="webp")).exit_code == 0
    assert Image.open(settings.folder.release / "a.webp").format == "WEBP"


def test_a_photograph_that_changes_is_done_again_and_one_that_vanishes_said(settings: JobSettings) -> None:
    make_photos(settings.input)
    (settings.input / "broken.jpg").unlink()
    run(settings)
    before = (settings.folder.release / "one.png").read_bytes()
    save(settings.input / "one.png", scene((RIGHT,), seed=3)[0])
    (settings.input / "nobody.png").unlink()
    result = run(settings)
    assert (settings.folder.release / "one.png").read_bytes() != before
    assert states(settings)["nobody.png"] == ("failed", "missing")
    assert [(failure.input, failure.reason) for failure in result.failures] == [("nobody.png", "missing")]


def test_a_photograph_that_was_taken_away_is_put_together_again_from_its_faces(settings: JobSettings) -> None:
    save(settings.input / "a.png", scene()[0])
    run(settings)
    given = settings.folder.release / "a.png"
    before, batches = given.read_bytes(), FakeWorker.batches[:]
    given.unlink()
    assert run(settings).exit_code == 0
    assert given.read_bytes() == before
    assert batches == FakeWorker.batches


def test_several_faces_have_their_files_and_codes_in_private_and_a_sheet(settings: JobSettings) -> None:
    save(settings.input / "deep" / "two.jpg", scene((LEFT, RIGHT))[0])
    settings = replace(settings, save_codes=True, contact_sheet=4)
    assert run(settings).exit_code == 0
    private = settings.folder.private
    names = sorted(path.relative_to(private).as_posix() for path in private.rglob("*") if path.is_file())
    assert names == [
        "codes/deep/two.jpg/0.w_plus.npy",
        "codes/deep/two.jpg/1.w_plus.npy",
        "contact-sheet.png",
        "faces/deep/two.jpg/0.png",
        "faces/deep/two.jpg/1.png",
        "manifest.sqlite",
    ]
    assert [row.crop for row in items(settings)] == ["faces/deep/two.jpg/0.png", "faces/deep/two.jpg/1.png"]
    assert visible(settings.output) == ["deep/two.jpg"]


def test_a_dry_run_says_what_a_run_does(settings: JobSettings) -> None:
    make_photos(settings.input)
    plan = plan_job(settings, make_worker=FakeWorker)
    assert not settings.output.exists()
    assert [(item.input, item.face, item.action, item.output, item.reason) for item in plan.items] == [
        ("broken.jpg", 0, "fail", None, "not-an-image"),
        ("nobody.png", 0, "fail", None, "no-face"),
        ("one.png", 0, "anonymize", "one.png", None),
        ("two.jpg", 0, "anonymize", "two.jpg", None),
        ("two.jpg", 1, "anonymize", "two.jpg", None),
    ]
    run(settings)
    again = plan_job(replace(settings, allow_faceless=True), make_worker=FakeWorker)
    assert [(item.input, item.action) for item in again.items][1:] == [
        ("nobody.png", "give back"),
        ("one.png", "keep"),
        ("two.jpg", "keep"),
        ("two.jpg", "keep"),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"output": "photos", "align": "never"}, "align never"),
        ({"unhandled": "black"}, "unhandled is for photographs: add --output photos"),
        ({"allow_faceless": True}, "allow-faceless is for photographs"),
        ({"output": "videos"}, "unknown output 'videos'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        job_settings("in", "out", values)


def test_crops_and_photographs_are_not_mixed_in_a_folder(settings: JobSettings) -> None:
    save(settings.input / "a.png", scene()[0])
    run(settings)
    with pytest.raises(UserError, match="output was photos, now crops"):
        run(replace(settings, results="crops"))


def write_boxes(path: Path, rows: list[tuple[str, list[float]]]) -> Path:
    lines = ["path,left,top,right,bottom", *(",".join([name, *map(str, box)]) for name, box in rows)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_given_boxes_count_beside_what_was_found_and_say_how_much_that_is(settings: JobSettings) -> None:
    canvas, _ = scene((LEFT, RIGHT))
    save(settings.input / "a.png", canvas)
    (face, _other) = Reader("auto", 32).faces_of(canvas)
    boxes = [("a.png", face.box.tolist()), ("a.png", [200, 5, 230, 40]), ("elsewhere.png", [1, 1, 9, 9])]
    settings = replace(settings, boxes=write_boxes(settings.input.parent / "boxes.csv", boxes))
    observer = Told()
    result = run(settings, observer)
    assert [(row.state, row.reason) for row in items(settings)] == [
        ("done", None),
        ("done", None),
        ("redacted", "no-landmarks"),
    ]
    given = released(settings, "a.png")
    assert detail(given[10:35, 205:225]) < 0.4 * detail(canvas[10:35, 205:225])
    assert result.boxes is not None
    assert (result.boxes.recall.found, result.boxes.recall.faces) == (1, 2)
    assert result.boxes.to_json()["recall_95"][0] == pytest.approx(0.0126, abs=1e-4)
    assert any("elsewhere.png" in note for note in observer.notes)
    with pytest.raises(UserError, match="boxes was"):
        run(replace(settings, boxes=None))


def test_a_box_beside_the_photograph_withholds_it_as_nothing_was_redacted(settings: JobSettings) -> None:
    """As boxes of a larger copy are, or of one that was not turned upright."""
    save(settings.input / "a.png", scene(())[0])
    save(settings.input / "b.png", scene()[0])
    save(settings.input / "c.png", scene(())[0])
    boxes = [("a.png", [500, 5, 530, 40]), ("b.png", [200, 280, 230, 310]), ("c.png", [400, 240, 530, 340])]
    result = run(replace(settings, boxes=write_boxes(settings.input.parent / "boxes.csv", boxes)))
    assert states(settings) == {
        "a.png": ("withheld", "unhandled"),
        "b.png": ("withheld", "unhandled"),
        "c.png": ("done", None),
    }
    assert (visible(settings.output), result.exit_code) == (["c.png"], 1)
    assert "420 x 260 pixels" in str(photos(settings)["a.png"].message)


def test_specks_of_a_crowd_are_redacted_without_a_look(settings: JobSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    canvas, _ = scene(())
    save(settings.input / "a.png", canvas)
    boxes = [("a.png", [20.0 * each, 100.0, 20.0 * each + 8, 109.0]) for each in range(20)]
    monkeypatch.setattr(FaceDetector, "look_in", lambda *_: pytest.fail("a look at each takes minutes in a crowd"))
    run(replace(settings, boxes=write_boxes(settings.input.parent / "boxes.csv", boxes)))
    assert [(row.state, row.reason) for row in items(settings)] == [("redacted", "too-small")] * 20
    given = released(settings, "a.png")
    assert detail(given[101:108, 21:27]) < detail(canvas[101:108, 21:27])
    assert states(settings) == {"a.png": ("done", None)}


def test_boxes_of_other_pictures_are_refused(settings: JobSettings) -> None:
    save(settings.input / "a.png", scene()[0])
    boxes = write_boxes(settings.input.parent / "boxes.csv", [("b.png", [1, 1, 9, 9])])
    with pytest.raises(UserError, match="names none of the inputs"):
        run(replace(settings, boxes=boxes))


def test_with_crops_too_what_is_given_and_not_seen_has_a_row(settings: JobSettings) -> None:
    canvas, _ = scene((LEFT, RIGHT))
    save(settings.input / "a.png", canvas)
    boxes = write_boxes(settings.input.parent / "boxes.csv", [("a.png", [200, 5, 230, 40])])
    result = run(replace(settings, results="crops", boxes=boxes))
    assert [(row.state, row.reason, row.output) for row in items(settings)] == [
        ("done", None, "a.png"),
        ("done", None, "a-face1.png"),
        ("skipped", "no-landmarks", None),
    ]
    assert (result.exit_code, result.boxes is not None) == (0, True)


@pytest.mark.parametrize("kind", ["crops", "photos"])
def test_of_an_animation_the_first_picture_is_taken_and_that_is_said(settings: JobSettings, kind: str) -> None:
    settings.input.mkdir()
    first, second = (Image.fromarray(scene(places)[0]) for places in ((LEFT,), (RIGHT,)))
    first.save(settings.input / "moving.webp", save_all=True, append_images=[second], lossless=True)
    save(settings.input / "still.png", scene()[0])
    observer = Told()
    assert run(replace(settings, results=kind), observer).exit_code == 0
    assert {key: row.pictures for key, row in photos(settings).items()} == {"moving.webp": 2, "still.png": None}
    assert any("of moving.webp, which holds 2 pictures, only the first was read" in note for note in observer.notes)


def test_a_dry_run_names_the_photograph_of_faces_that_are_done(settings: JobSettings) -> None:
    save(settings.input / "one.png", scene()[0])
    run(settings)
    plan = plan_job(settings, make_worker=FakeWorker)
    assert [(item.action, item.output) for item in plan.items] == [("keep", "one.png")]
