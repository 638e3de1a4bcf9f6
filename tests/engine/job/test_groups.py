"""What shares steps is fixed by the listing: whatever was killed, and whoever goes on, gives the same bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError, UserError
from faceanon_engine.engine.job.folder import make_folder
from faceanon_engine.engine.job.groups import Groups, Listed, claimed_inputs, inputs_to_do
from faceanon_engine.engine.job.listing import bring_up_to_date
from faceanon_engine.engine.job.manifest import Manifest
from faceanon_engine.engine.job.samples import find_samples
from faceanon_engine.engine.job.settings import JobSettings
from tests.support.fake_worker import FakeWorker, make_inputs
from tests.support.jobs import items, known, run, stamps
from tests.support.samples import with_faces
from tests.support.shared_worker import Company, CompanyKilled


@pytest.fixture
def job(settings: JobSettings) -> JobSettings:
    make_inputs(settings.input, 11)
    return replace(settings, batch_size=4, steps=1)


def contents(settings: JobSettings) -> dict[str, bytes]:
    return {name: data for name, (_, data) in stamps(settings.output).items()}


def undisturbed(job: JobSettings, **other: Any) -> dict[str, bytes]:
    whole = replace(job, output=job.output.with_name("whole"), **other)
    run(whole, None, Company)
    return contents(whole)


def test_a_result_depends_on_its_company_here(job: JobSettings) -> None:
    """Otherwise the tests below would show nothing."""
    assert undisturbed(job) != contents(job) | undisturbed(replace(job, output=job.output / "x"), batch_size=3)


@pytest.mark.parametrize(
    ("lost", "devices"),
    [
        *[(lost, None) for lost in ([0], [3], [5, 6], [0, 4, 8], [10], list(range(11)), [1, 2, 3, 4])],
        ([0, 4, 8], "cpu,cpu"),
    ],
)
def test_whatever_is_left_of_a_job_becomes_what_it_would_have(
    job: JobSettings, lost: list[int], devices: str | None
) -> None:
    expected = undisturbed(job)
    run(job, None, Company)
    before = stamps(job.output)
    for number in lost:
        (job.folder.release / f"photo-{number:02d}.png").unlink()
    run(replace(job, devices=devices), None, Company)
    assert contents(job) == expected
    after = stamps(job.output)
    assert {name for name in after if after[name] != before[name]} == {f"photo-{number:02d}.png" for number in lost}


def test_a_process_that_is_killed_changes_no_byte(
    job: JobSettings, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = undisturbed(job)
    flag = tmp_path / "kill"
    flag.touch()
    monkeypatch.setenv("FAKE_KILL", str(flag))
    result = run(replace(job, devices="cpu,cpu", batch_size=None), None, CompanyKilled)
    assert (result.exit_code, result.done) == (0, 11)
    assert not flag.exists()
    assert contents(job) == expected
    with Manifest.read(job.folder.manifest) as manifest:
        assert manifest.get("together") == {"cpu": 4}, "as one process of that kind of device would record it"


def test_photos_of_several_people_and_bad_ones_are_in_the_groups_as_they_were(
    job: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: Reader, sample: Sample) -> Sample:
        number = int(sample.key[6:8])
        if number == 2:
            raise InputError("damaged", "it cannot be decoded")
        pictures = [np.full((32, 32, 3), 10 * number + face, np.uint8) for face in range(1 + number % 3)]
        return with_faces(sample, *pictures)

    monkeypatch.setattr(Reader, "read", read)
    expected = undisturbed(job)
    for stop in range(1, 5):
        output = job.output.with_name(f"stopped-{stop}")

        class Interrupted(Company):
            def anonymize(self, images: np.ndarray, on_step: Callable[[int], None], stop: int = stop) -> Any:
                if len(self.batches) >= stop:
                    raise KeyboardInterrupt
                return super().anonymize(images, on_step)

        FakeWorker.batches.clear()
        with pytest.raises(KeyboardInterrupt):
            run(replace(job, output=output), None, Interrupted)
        run(replace(job, output=output), None, Company)
        assert contents(replace(job, output=output)) == expected


def test_the_automatic_batch_of_the_first_run_stays(job: JobSettings) -> None:
    job = replace(job, batch_size=None)

    class Smaller(Company):
        def choose_batch_size(self) -> int:
            return 3

    expected = undisturbed(job)
    run(job, None, Company)
    (job.folder.release / "photo-05.png").unlink()
    run(job, None, Smaller)
    assert contents(job) == expected
    with Manifest.read(job.folder.manifest) as manifest:
        assert manifest.get("together") == {"cpu": 4}


@pytest.mark.parametrize("recorded", [7, [], {"cpu": "4"}, {"cpu": 0}, {"cpu": 10**9}, {"cpu": True}])
def test_a_batch_that_nobody_could_have_recorded_is_refused(job: JobSettings, recorded: Any) -> None:
    job = replace(job, batch_size=None)
    run(job, None, Company)
    (job.folder.release / "photo-05.png").unlink()
    with Manifest.open(job.folder.manifest) as manifest:
        manifest.put({"together": recorded})
    with pytest.raises(UserError, match="together"):
        run(job, None, Company)


def test_inputs_are_claimed_in_groups_with_those_that_are_done(job: JobSettings) -> None:
    samples = find_samples(job)
    make_folder(job.folder)
    with Manifest.open(job.folder.manifest) as manifest:
        bring_up_to_date(job, samples, manifest, *known(manifest))
        manifest.fill_queue(sample.key for sample in samples[:1] + samples[2:])
        groups = Groups(samples[1:], job, 4)
        claims = claimed_inputs(manifest, 0, groups)
        first = next(claims)
        assert (first.sample, first.group, first.is_done) == (samples[1], 0, True)
        assert [row.output for row in first.rows] == ["photo-01.png"]
        assert manifest.queued() == 9, "the first is not there any more"
        assert claimed(claims, 3) == [("photo-02.png", False), ("photo-03.png", False), ("photo-04.png", False)]
        others = list(claimed_inputs(manifest, 1, groups))
        assert [each.group for each in others] == [1, 1, 1, 1, 2, 2]
        assert list(claims) == []


def claimed(claims: Iterator[Listed], count: int) -> list[tuple[str, bool]]:
    return [(each.sample.key, each.is_done) for each in itertools.islice(claims, count)]


def test_groups_of_which_nothing_is_left_are_not_read(job: JobSettings) -> None:
    run(job, None, Company)
    (job.folder.release / "photo-05.png").unlink()
    samples = find_samples(job)
    with Manifest.open(job.folder.manifest) as manifest:
        listing = bring_up_to_date(job, samples, manifest, *known(manifest))
    inputs: Iterable[Listed] = inputs_to_do(listing, Groups(samples, job, 4))
    assert [(each.sample.key[6:8], each.is_done) for each in inputs] == [
        ("04", True),
        ("05", False),
        ("06", True),
        ("07", True),
    ]
    assert len(items(job)) == 11


def test_where_images_stop_early_a_group_is_larger(job: JobSettings) -> None:
    samples = find_samples(job)
    assert [len(Groups(samples, replace(job, preset=name), 2).members(0)) for name in ("falco", "fast")] == [2, 8]
