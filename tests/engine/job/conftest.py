"""A job's settings, and workers that count from nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from faceanon_engine.engine.job.settings import JobSettings, job_settings
from tests.support.fake_worker import ContinuousWorker, FakeWorker


@pytest.fixture(autouse=True)
def _fresh_worker() -> None:
    FakeWorker.loads = 0
    FakeWorker.batches = []
    ContinuousWorker.under_way = []
    ContinuousWorker.fail_at = None


@pytest.fixture
def settings(tmp_path: Path) -> JobSettings:
    return job_settings(tmp_path / "in", tmp_path / "out", {"align": "never", "steps": 2, "contact_sheet": 0})
