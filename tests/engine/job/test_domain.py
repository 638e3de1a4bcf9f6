"""A job says when the networks do not know its faces: before anything is made, at the end, and afterwards."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from faceanon_engine.cli.status import status
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.domain import LOOKED_AT
from faceanon_engine.engine.job.dry_run import plan_job
from faceanon_engine.engine.job.manifest import Manifest
from faceanon_engine.engine.job.settings import JobSettings
from tests.support.fake_worker import GREEN, FakeWorker, make_inputs
from tests.support.jobs import Told, run, visible

KNOWN, UNKNOWN = "5", "2"
"""Limits above and below what the worker makes of a grey square: 3."""
ODD = (250, 250, 200)


class Following(Told):
    """Also remembers what had been told of when a batch began."""

    def __init__(self) -> None:
        super().__init__()
        self.before_first_batch: list[str] | None = None

    def batch(self, size: int, step: int, steps: int) -> None:
        if self.before_first_batch is None:
            self.before_first_batch = list(self.notes)


def said(settings: JobSettings) -> str:
    return CliRunner().invoke(status, [str(settings.output)], catch_exceptions=False, standalone_mode=False).output


def test_unknown_faces_are_told_of_before_and_after(settings: JobSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_LIMIT", UNKNOWN)
    make_inputs(settings.input, 3)
    observer = Following()
    result = run(settings, observer)
    assert observer.before_first_batch is not None
    (note,) = observer.before_first_batch
    assert "3 of 3 faces are unlike what the networks know (grey squares)" in note
    assert result.domain is not None
    assert (result.domain.verdict, result.domain.outside, result.exit_code) == ("outside", 3, 0)
    told = result.to_json()["domain"]
    assert told == {"verdict": "outside", "faces": 3, "outside": 3, "trained_on": "grey squares"}
    assert "warning: 3 of 3 faces are unlike what the networks know (grey squares)" in said(settings)


def test_known_faces_are_worth_a_line_in_the_status_and_no_more(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LIMIT", KNOWN)
    make_inputs(settings.input, 3)
    observer = Told()
    result = run(replace(settings, strict=True), observer)
    assert (observer.notes, result.exit_code, result.done) == ([], 0, 3)
    assert "0 of 3 faces are unlike" in said(settings)
    assert "warning" not in said(settings)


def test_one_odd_face_among_many_is_counted_and_refuses_nothing(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LIMIT", KNOWN)
    make_inputs(settings.input, 6, {2: ODD})
    observer = Told()
    result = run(replace(settings, strict=True), observer)
    assert observer.notes == []
    assert result.domain is not None
    assert (result.domain.verdict, result.domain.outside, result.exit_code) == ("inside", 1, 0)
    shown = CliRunner().invoke(status, [str(settings.output), "--json"], catch_exceptions=False, standalone_mode=False)
    rows = json.loads(shown.output)["items"]
    assert [row["input"] for row in rows if row["domain"] == "outside"] == ["photo-02.png"]
    assert {row["domain"] for row in rows} == {"inside", "outside"}


def test_strict_refuses_before_anything_is_made_and_may_be_left_out_later(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LIMIT", UNKNOWN)
    make_inputs(settings.input, 3)
    FakeWorker.batches.clear()
    with pytest.raises(UserError, match=r"3 of 3 faces are unlike .*: strict refuses"):
        run(replace(settings, strict=True))
    assert FakeWorker.batches == []
    assert visible(settings.output) == []
    assert run(settings).done == 3
    again = run(replace(settings, strict=True))
    assert (again.done_before, again.exit_code) == (3, 1), "what is there already is told of"


def test_what_a_look_at_a_few_did_not_show_fails_a_strict_job_at_its_end(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LIMIT", KNOWN)
    make_inputs(settings.input, 4, dict.fromkeys(range(4), ODD))
    monkeypatch.setattr(FakeWorker, "first_loss", lambda self, image: 1.0)
    result = run(replace(settings, strict=True))
    assert (result.done, result.failed, result.exit_code) == (4, 0, 1)
    assert run(settings).exit_code == 0


def test_strict_needs_a_bundle_that_says_what_it_knows(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    for act in (run, lambda strict: plan_job(strict, make_worker=FakeWorker)):
        with pytest.raises(UserError, match="models calibrate"):
            act(replace(settings, strict=True))
    assert not settings.output.exists()
    observer = Told()
    result = run(settings, observer)
    assert observer.notes == []
    assert result.domain is not None
    assert (result.domain.verdict, result.domain.trained_on) == ("unknown", None)
    assert "unlike" not in said(settings)


def test_few_inputs_are_looked_at_spread_over_all(settings: JobSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_LIMIT", KNOWN)
    make_inputs(settings.input, 2 * LOOKED_AT + 1)
    looked: list[int] = []

    def first_loss(self: FakeWorker, image: object) -> float:
        looked.append(int(image[0, 0, 0]) - 20)  # type: ignore[index]
        return 1.0

    monkeypatch.setattr(FakeWorker, "first_loss", first_loss)
    run(settings)
    assert len(looked) == LOOKED_AT
    assert looked[0] == 0
    assert looked[-1] >= 2 * LOOKED_AT - 2
    looked.clear()
    run(settings)
    assert looked == [], "nothing is left to do"


def test_inputs_that_cannot_be_looked_at_fail_in_their_turn(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LIMIT", UNKNOWN)
    make_inputs(settings.input, 3, {1: GREEN})
    (settings.input / "bad.png").write_bytes(b"no picture")
    good = FakeWorker.first_loss

    def first_loss(self: FakeWorker, image: object) -> float:
        if tuple(image[0, 0]) == GREEN:  # type: ignore[index]
            raise ValueError("this image breaks the method")
        return good(self, image)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeWorker, "first_loss", first_loss)
    observer = Told()
    result = run(settings, observer)
    assert (result.done, result.failed) == (2, 2)
    assert "2 of 2 faces" in observer.notes[0]


@pytest.mark.parametrize("recorded", [7, {"trained_on": "x"}, {"trained_on": "", "before": 1.0, "after": None}])
def test_a_manifest_with_limits_that_are_none_is_refused(settings: JobSettings, recorded: object) -> None:
    make_inputs(settings.input, 1)
    run(settings)
    with Manifest.open(settings.folder.manifest) as manifest:
        manifest.put({"domain": recorded})
    for act in (lambda: said(settings), lambda: run(settings)):
        with pytest.raises(UserError, match="domain"):
            act()


def test_processes_of_a_job_are_looked_ahead_for_as_well(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LIMIT", UNKNOWN)
    make_inputs(settings.input, 2)
    with pytest.raises(UserError, match="strict refuses"):
        run(replace(settings, devices="cpu,cpu", strict=True))
    assert visible(settings.output) == []
