"""Whose faces stay in their photographs: those who are recognised, at a rate of mistakes that was measured."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceanon_engine.demo.people import HELD_OUT_SEED, sample_person
from faceanon_engine.demo.render import render
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.faceres import FaceRes
from faceanon_engine.engine.job.dry_run import plan_job
from faceanon_engine.engine.job.keep import FALSE_ACCEPTS, people_digest, threshold_of
from faceanon_engine.engine.job.settings import JobSettings, job_settings
from tests.support.fake_worker import FakeWorker
from tests.support.jobs import Told, items, run, visible

ANNA, BERT = HELD_OUT_SEED + 7002, HELD_OUT_SEED + 7003


@cache
def strangers() -> np.ndarray:
    """uint8 [10, 64, 64, 3]: a face each of people who are in no photograph."""
    return np.stack([render(sample_person(HELD_OUT_SEED + 7100 + n, 1)[0], 64).image for n in range(10)])


class Worker(FakeWorker):
    """Knows faces of nobody."""

    resolution = 64

    def fakes(self, count: int) -> np.ndarray:
        return strangers()[:count]


@cache
def portrait(person: int, picture: int, side: int = 260) -> np.ndarray:
    return render(sample_person(person, picture + 1)[picture], side, 1.6).image


@pytest.fixture
def settings(tmp_path: Path) -> JobSettings:
    """A photograph of Anna and Bert, of whom Anna, of whom there are two other pictures, is kept."""
    both = np.concatenate([portrait(ANNA, 0), portrait(BERT, 0)], axis=1)
    people = tmp_path / "people" / "anna"
    people.mkdir(parents=True)
    (tmp_path / "in").mkdir()
    Image.fromarray(both).save(tmp_path / "in" / "both.png")
    for picture in (1, 2):
        Image.fromarray(portrait(ANNA, picture)).save(people / f"{picture}.png")
    values = {"output": "photos", "steps": 1, "contact_sheet": 0, "keep": tmp_path / "people"}
    return job_settings(tmp_path / "in", tmp_path / "out", values)


def test_who_is_recognised_stays_and_the_others_are_replaced(settings: JobSettings) -> None:
    result = run(settings, None, Worker)
    assert result.exit_code == 0
    states = {row.state: row.message for row in items(settings)}
    assert states == {"kept": "taken for anna", "done": None}
    original = np.asarray(Image.open(settings.input / "both.png"))
    given = np.asarray(Image.open(settings.folder.release / "both.png"))
    np.testing.assert_array_equal(given[:, :230], original[:, :230], "Anna's half")
    assert (given[100:160, 350:430] != original[100:160, 350:430]).mean() > 0.9, "Bert's face"
    assert result.faces is not None
    assert (result.faces.found, result.faces.kept, result.faces.anonymized) == (2, 1, 1)


def test_other_pictures_of_the_people_are_another_job(settings: JobSettings) -> None:
    run(settings, None, Worker)
    Image.fromarray(portrait(BERT, 1)).save(settings.input.parent / "people" / "bert.png")
    with pytest.raises(UserError, match="keep was"):
        run(settings, None, Worker)
    with pytest.raises(UserError, match="keep was"):
        run(replace(settings, keep=None), None, Worker)


def test_a_dry_run_says_what_it_does_not_know(settings: JobSettings) -> None:
    plan = plan_job(settings, make_worker=Worker)
    assert any("who is kept is not said" in line for line in plan.left_out)


def test_what_is_kept_stays_so_in_the_next_run(settings: JobSettings) -> None:
    run(settings, None, Worker)
    (settings.folder.release / "both.png").unlink()
    observer = Told()
    assert run(settings, observer, Worker).exit_code == 0
    assert {row.state for row in items(settings)} == {"kept", "done"}
    assert visible(settings.output) == ["both.png"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda people: shutil.rmtree(people), "is no folder"),
        (lambda people: [path.unlink() for path in people.rglob("*.png")], "there are no pictures"),
        (lambda people: (people / "carl.png").write_bytes(b"no picture"), "carl.png cannot be used to keep somebody"),
        (
            lambda people: Image.new("RGB", (200, 200), (90, 120, 90)).save(people / "tree.png"),
            "tree.png cannot be used to keep somebody: no face was found",
        ),
    ],
)
def test_people_who_cannot_be_known_stop_a_job_before_it_begins(
    settings: JobSettings, spoil: object, message: str
) -> None:
    spoil(settings.input.parent / "people")  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        run(settings, None, Worker)
    assert visible(settings.output) == []


def test_crops_keep_nobody() -> None:
    with pytest.raises(UserError, match="keep is for photographs"):
        job_settings("in", "out", {"keep": "people"})


def test_networks_that_draw_one_face_alone_keep_nobody(settings: JobSettings) -> None:
    class Alike(Worker):
        def fakes(self, count: int) -> np.ndarray:
            return np.repeat(strangers()[:1], 3, axis=0)

    with pytest.raises(UserError, match="cannot tell generated faces apart"):
        run(settings, None, Alike)


def test_the_threshold_lets_so_many_strangers_pass_whatever_the_number_of_people() -> None:
    random = np.random.default_rng(3)
    vectors = random.normal(size=(500, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (vectors @ vectors.T)[np.triu_indices(500, 1)]
    one, ten, many = (threshold_of(vectors, people) for people in (1, 10, 100_000))
    assert (cosines >= one).mean() == pytest.approx(FALSE_ACCEPTS, rel=0.02)
    assert (cosines >= ten).mean() == pytest.approx(FALSE_ACCEPTS / 10, rel=0.1)
    assert many == cosines.max()


def test_a_recogniser_knows_people_again_and_takes_any_size() -> None:
    recogniser = FaceRes()
    people = [HELD_OUT_SEED + 7200 + n for n in range(6)]
    first, second = (
        recogniser.embed([render(sample_person(person, 2)[picture], 128).image for person in people])
        for picture in (0, 1)
    )
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    cosines = first @ second.T
    assert np.mean(np.diag(cosines)) > np.mean(cosines[~np.eye(6, dtype=bool)]) + 0.2
    assert recogniser.embed([]).shape == (0, 1024)
    again = recogniser.embed([np.asarray(Image.fromarray(render(sample_person(people[0], 1)[0], 128).image))])
    np.testing.assert_array_equal(again[0], first[0])


def test_the_digest_is_that_of_the_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    before = people_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing")
    assert people_digest(tmp_path) == before
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "b.png")
    assert people_digest(tmp_path) != before
