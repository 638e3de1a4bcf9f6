"""The options of the optimisation as a job has them: announced, recorded, refused when changed, and true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import faceanon_engine
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import to_uint8
from faceanon_engine.engine.job.manifest import Manifest
from faceanon_engine.engine.job.report import JobResult
from faceanon_engine.engine.models.bundle import Bundle, demo_path
from tests.support.tiny_bundle import write_tiny_bundle


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEANON_HOME", str(tmp_path / "home"))


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    random = np.random.default_rng(5)
    for number in range(3):
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def run(originals: Path, name: str, bundle: Path, **settings: Any) -> JobResult:
    chosen: dict[str, Any] = {"align": "never", "pool_size": 8, "contact_sheet": 0, "device": "cpu"}
    return faceanon_engine.anonymize(originals, originals.parent / name, bundle=bundle, **(chosen | settings))


def test_a_proxy_early_stopping_and_precision_are_announced_recorded_and_kept(originals: Path) -> None:
    settings: dict[str, Any] = {"preset": "fast", "proxy_resolution": 32, "optimise_precision": "bf16", "steps": 12}
    result = run(originals, "out", demo_path(), limit=2, save_codes=True, **settings)
    assert result.about["optimisation"] == "bf16"
    assert result.about["proxy"] == "32 px until the last 10 steps"
    assert "within 0.02 of the margin" in result.about["stopping"]
    with Manifest.read(result.manifest) as manifest:
        recorded, rows = manifest.get("settings"), manifest.items("done")
    assert (recorded["proxy_resolution"], recorded["optimise_precision"]) == (32, "bf16")
    assert recorded["stopping"] == result.about["stopping"]
    assert all(row.steps is not None and 0 < row.steps <= 12 for row in rows)
    for change in ({"proxy_resolution": None}, {"optimise_precision": "fp32"}):
        with pytest.raises(UserError, match="was begun with other settings"):
            run(originals, "out", demo_path(), limit=2, save_codes=True, **(settings | change))
    # What is delivered is the final code's picture in float32, though the steps were made in bfloat16.
    generator = Bundle.open(demo_path()).load("generator")
    for row in rows:
        code = torch.from_numpy(np.load(result.output / "private" / str(row.codes)))[None]
        with torch.no_grad():
            expected = to_uint8(generator.synthesis(code))[0].numpy()
        written = np.asarray(Image.open(result.release / str(row.output))).astype(int)
        assert np.abs(written - expected).max() <= 1


def test_nothing_of_it_is_on_by_default(originals: Path, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    result = run(originals, "out", tmp_path / "tiny", steps=1)
    assert result.about["optimisation"] == "fp32"
    assert not {"proxy", "stopping"} & set(result.about)
    with Manifest.read(result.manifest) as manifest:
        assert {manifest.get("settings")[key] for key in ("proxy_resolution", "stopping")} == {None}
        assert [row.steps for row in manifest.items()] == [1, 1, 1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"proxy_resolution": 48}, "proxy-resolution 48 is no side"),
        ({"proxy_resolution": 64}, "use one of 32"),
        ({"optimise_precision": "tf32"}, "tf32 needs an NVIDIA GPU"),
        ({"optimise_precision": "fp8"}, "unknown optimise-precision"),
        ({"devices": ","}, "names none"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(
    originals: Path, settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        run(originals, "out", demo_path(), **settings)
    assert not (originals.parent / "out").exists()
