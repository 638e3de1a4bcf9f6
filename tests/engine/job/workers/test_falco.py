"""The job with the method behind it, on networks small enough to run anywhere."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

import faceanon_engine
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.dry_run import plan_job
from faceanon_engine.engine.job.report import JobObserver
from faceanon_engine.engine.job.settings import JobSettings, job_settings
from faceanon_engine.engine.job.workers.falco import FalcoWorker
from faceanon_engine.engine.method.falco import Falco
from tests.support.fake_worker import make_inputs
from tests.support.tiny_bundle import write_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FACEANON_HOME", str(tmp_path / "home"))
    write_tiny_bundle(tmp_path / "tiny")
    return str(tmp_path / "tiny")


def rows(output: Path) -> pandas.DataFrame:
    return pandas.read_sql("select * from items", sqlite3.connect(output / "private" / "manifest.sqlite"))


def noise_inputs(folder: Path, count: int) -> None:
    folder.mkdir()
    random = np.random.default_rng(5)
    for number in range(count):
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number}.png")


@pytest.mark.parametrize("preset", ["falco", "falco-released"])
def test_a_job_runs_the_method_and_records_what_it_did(tmp_path: Path, bundle: str, preset: str) -> None:
    noise_inputs(tmp_path / "in", 3)
    made: list[int] = []

    class Pools(JobObserver):
        def progress(self, done: float, total: float | None, what: str = "") -> None:
            made.append(total)

    def anonymize(output: str, batch_size: int) -> pandas.DataFrame:
        result = faceanon_engine.anonymize(
            tmp_path / "in",
            tmp_path / output,
            bundle=bundle,
            preset=preset,  # type: ignore[arg-type]
            steps=4,
            batch_size=batch_size,
            align="never",
            device="cpu",
            pool_size=40,
            contact_sheet=2,
            save_codes=True,
            observer=Pools(),
        )
        assert (result.done, result.failed) == (3, 0)
        assert result.contact_sheet is not None
        assert {"device", "backend", "precision", "threads", "bundle", "pool"} <= set(result.about)
        return rows(tmp_path / output)

    together, alone = anonymize("together", 3), anonymize("alone", 1)
    assert set(made) == {40}
    assert len(made) <= 40, "the second job takes the pool of the first"
    assert together.steps.tolist() == [4, 4, 4]
    assert together.neighbour_id.between(0, 39).all()
    assert together.neighbour_id.tolist() == alone.neighbour_id.tolist()
    # What an image becomes does not depend on its company: sums of float32 in another order are all that differs.
    for column in ("identity_after", "attribute_after", "neighbour_distance"):
        np.testing.assert_allclose(together[column], alone[column], rtol=1e-3, atol=1e-4)
    for row in together.itertuples():
        codes = [np.load(tmp_path / job / "private" / row.codes) for job in ("together", "alone")]
        assert codes[0].shape == (8, 16)
        np.testing.assert_allclose(codes[0], codes[1], atol=2e-3)
        assert Image.open(tmp_path / "together" / "release" / row.output).size == (32, 32)


def test_an_automatic_pool_size_is_kept_when_a_larger_pool_appears(tmp_path: Path, bundle: str) -> None:
    make_inputs(tmp_path / "in", 2)

    def anonymize(output: str, pool_size: int | None, limit: int) -> int:
        return faceanon_engine.anonymize(
            tmp_path / "in",
            tmp_path / output,
            bundle=bundle,
            steps=0,
            align="never",
            pool_size=pool_size,
            limit=limit,
            contact_sheet=0,
        ).done

    assert anonymize("first", 24, 2) == 2
    assert anonymize("automatic", None, 1) == 1
    assert anonymize("larger", 30, 2) == 2
    assert anonymize("automatic", None, 2) == 2


def test_originals_of_another_size_are_brought_to_the_networks(tmp_path: Path, bundle: str) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (100, 100), (90, 60, 30)).save(tmp_path / "in" / "large.png")
    Image.new("L", (20, 20), 90).save(tmp_path / "in" / "small.png")
    result = faceanon_engine.anonymize(
        tmp_path / "in", tmp_path / "out", bundle=bundle, steps=1, align="never", pool_size=8, contact_sheet=0
    )
    assert (result.done, result.failed) == (2, 0)
    assert Image.open(tmp_path / "out" / "release" / "large.png").size == (32, 32)


@pytest.mark.parametrize(("name", "chosen"), [("cuda:0", [0]), ("cuda:1", [1])])
def test_the_gpu_that_was_asked_for_becomes_the_current_one(
    name: str, chosen: list[int], bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def arrive(*_: Any, **__: Any) -> None:
        raise InterruptedError("the device is chosen")

    monkeypatch.setattr(torch._C, "_cuda_setDevice", made.append, raising=False)
    monkeypatch.setattr(Falco, "open", arrive)
    worker = FalcoWorker(JobSettings(tmp_path, tmp_path / "out", bundle=bundle, device="cpu"), {}, 1)
    worker._device = name
    with pytest.raises(InterruptedError):
        worker.load(lambda done, total, what="": None)
    assert made == chosen


def test_a_dry_run_finds_networks_that_are_damaged(tmp_path: Path, bundle: str) -> None:
    make_inputs(tmp_path / "in", 1)
    settings = job_settings(tmp_path / "in", tmp_path / "out", {"bundle": bundle, "align": "never", "device": "cpu"})
    assert plan_job(settings).exit_code == 0
    file = Path(bundle) / "inverter.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"inverter\.safetensors"):
        plan_job(settings)
