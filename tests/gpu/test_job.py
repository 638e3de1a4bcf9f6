"""Whole jobs with the demo bundle on the GPU."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import faceanon_engine
from faceanon_engine.engine.models.bundle import demo_path

pytestmark = pytest.mark.gpu
SAMPLES = Path(__file__).resolve().parents[2] / "demo" / "samples"


@pytest.fixture(scope="module")
def monkeypatch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Any]]:
    """The folder and the rows of the job that the others are compared with; it takes longer than all of them."""
    folder = tmp_path_factory.mktemp("on_cpu") / "cpu"
    return folder, run(folder, monkeypatch, device="cpu")


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[tuple[Any, ...]]:
    monkeypatch.setenv("FACEANON_HOME", str(folder.parent / "home"))
    chosen: dict[str, Any] = {"device": "cuda", "limit": 10, "align": "never", "pool_size": 256, "contact_sheet": 0}
    result = faceanon_engine.anonymize(SAMPLES, folder, bundle=demo_path(), **(chosen | settings))
    assert (result.done, result.failed) == (10, 0)
    columns = "input, identity_after, attribute_before, attribute_after, steps, neighbour_id, output"
    with sqlite3.connect(folder / "private" / "manifest.sqlite") as connection:
        return connection.execute(f"select {columns} from items order by input").fetchall()


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_a_job_on_the_gpu_ends_where_one_on_the_cpu_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_cpu: tuple[Path, list[Any]], precision: Any
) -> None:
    folder, cpu = on_cpu
    gpu = run(tmp_path / "gpu", monkeypatch, optimise_precision=precision)
    assert [row[5] for row in gpu] == [row[5] for row in cpu], "the same neighbours"
    assert {row[4] for row in gpu} == {50}
    assert max(abs(row[1]) for row in gpu) < 0.05
    means = [float(np.mean([row[3] for row in rows])) for rows in (gpu, cpu)]
    assert abs(means[0] / means[1] - 1) < 0.02
    if precision == "fp32":
        pictures = [
            np.asarray(Image.open(place / "release" / row[6]), float)
            for place, rows in ((tmp_path / "gpu", gpu), (folder, cpu))
            for row in rows
        ]
        assert np.abs(np.stack(pictures[:10]) - np.stack(pictures[10:])).mean() < 3


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_preset_fast_stops_images_at_their_own_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    rows = run(tmp_path / "out", monkeypatch, preset="fast", batch_size=batch_size, optimise_precision="bf16")
    steps = [row[4] for row in rows]
    assert min(steps) < 50
    assert len(set(steps)) > 1
    # The rule asks for 0.02 in bfloat16, which is off by up to 0.04; what is recorded is of float32.
    assert all(abs(row[1]) < 0.08 for row in rows)


def test_a_proxy_resolution_runs_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run(tmp_path / "out", monkeypatch, proxy_resolution=32)
    assert all(row[3] < row[2] for row in rows)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_share_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = run(tmp_path / "one", monkeypatch)
    together = run(tmp_path / "two", monkeypatch, devices="cuda:0,cuda:1")
    assert [row[5] for row in alone] == [row[5] for row in together]
    assert all(abs(a[3] / b[3] - 1) < 0.05 for a, b in zip(alone, together, strict=True))


def test_one_gpu_serves_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run(tmp_path / "out", monkeypatch, devices="cuda:0,cuda:0", batch_size=4)
    assert {row[4] for row in rows} == {50}
