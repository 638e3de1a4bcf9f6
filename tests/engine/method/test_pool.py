"""A pool's place on the disk: what names it, what is left of an interrupted one, and what happens when it is full."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.method.pool import Pool, PoolSpec, choose_spec
from faceanon_engine.engine.method.pool_making import create_pool
from faceanon_engine.engine.method.preset import PRESETS
from tests.support.opened import embed_with
from tests.support.tiny_bundle import write_tiny_bundle

RECIPE = PRESETS["falco"].pairing_generated


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    return bundle.load("generator"), bundle.load("attribute_encoder")


def make(spec: PoolSpec, networks: tuple[Any, Any], root: Path, **more: Any) -> Pool:
    return create_pool(spec, networks[0], RECIPE, embed_with(*networks, RECIPE), root=root, batch_size=4, **more)


def contents(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    return np.array(pool.w), np.array(pool.embedding(RECIPE))


def test_pools_of_any_two_truncations_lie_apart(networks: tuple[Any, Any], tmp_path: Path) -> None:
    near, exact = PoolSpec("b" * 64, 4, 0.7000001), PoolSpec("b" * 64, 4, 0.7)
    assert near.directory_name != exact.directory_name
    make(near, networks, tmp_path)
    assert make(exact, networks, tmp_path).spec == exact


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_random_numbers_cannot_take_is_refused(seed: int) -> None:
    with pytest.raises(UserError, match="seed"):
        PoolSpec("b" * 64, 4, 0.7, seed)


def test_the_largest_seed_makes_a_pool(networks: tuple[Any, Any], tmp_path: Path) -> None:
    assert make(PoolSpec("b" * 64, 2, 0.7, 2**64 - 1), networks, tmp_path).size == 2


def test_a_disk_that_fills_up_is_a_line_and_the_pool_goes_on_later(
    networks: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map of the file would end the process there: what fails here is an ordinary write."""
    spec = PoolSpec("b" * 64, 12)
    written = []

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 9:  # in the middle of the features
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device"):
            make(spec, networks, tmp_path / "a")
    seen: list[int] = []
    resumed = make(spec, networks, tmp_path / "a", progress=lambda done, *_: seen.append(done))
    whole = make(spec, networks, tmp_path / "b")
    for actual, expected in zip(contents(resumed), contents(whole), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert sorted(path.name for path in resumed.path.iterdir()) == sorted(path.name for path in whole.path.iterdir())


@pytest.mark.parametrize(
    "damage", ["cut", "another shape", "no counter", "a counter of nonsense", "a counter too large"]
)
def test_a_damaged_beginning_is_made_again(networks: tuple[Any, Any], tmp_path: Path, damage: str) -> None:
    spec = PoolSpec("b" * 64, 12)

    def stop(done: float, total: float | None, what: str = "") -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(spec, networks, tmp_path / "a", progress=stop)
    folder = tmp_path / "a" / spec.directory_name
    partial, counter = (
        folder / "embedding-unit-normalised.npy.partial",
        folder / "embedding-unit-normalised.npy.progress",
    )
    assert counter.read_text() == "8"
    if damage == "cut":
        os.truncate(partial, partial.stat().st_size // 2)
    elif damage == "another shape":
        np.save(partial.open("wb"), np.ones((12, 3), np.float32))
    elif damage == "no counter":
        counter.unlink()
    else:
        counter.write_text("nonsense" if "nonsense" in damage else "999")
    for actual, expected in zip(
        contents(make(spec, networks, tmp_path / "a")), contents(make(spec, networks, tmp_path / "b")), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)


def test_a_pool_without_features_is_not_chosen_unasked(networks: tuple[Any, Any], tmp_path: Path) -> None:
    """Its making was stopped, perhaps because it was too large to wait for."""

    def stop(done: float, total: float | None, what: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(PoolSpec("b" * 64, 3000), networks, tmp_path, progress=stop)
    assert choose_spec("b" * 64, None, 0.7, 0, inputs=3, root=tmp_path).size == 1024


def test_who_waits_for_a_pool_that_another_makes_says_so(
    networks: tuple[Any, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = PoolSpec("b" * 64, 4)
    place = tmp_path / spec.directory_name
    place.mkdir(parents=True)
    made: list[Pool] = []
    waiter = threading.Thread(target=lambda: made.append(make(spec, networks, tmp_path)))
    with caplog.at_level(logging.WARNING), FileLock(f"{place}.lock"):
        waiter.start()
        patience = time.monotonic() + 30
        while "waiting" not in caplog.text and time.monotonic() < patience:
            time.sleep(0.01)
        assert "waiting" in caplog.text
        assert not made
    waiter.join(30)
    assert made[0].spec == spec


@pytest.mark.parametrize(("inputs", "size"), [(10, 20), (11, 1024), (5000, 16384), (10**6, 60_000)])
def test_a_small_pool_of_an_earlier_trial_does_not_serve_a_large_job(
    networks: tuple[Any, Any], tmp_path: Path, inputs: int, size: int
) -> None:
    for existing in (6, 20):
        make(PoolSpec("b" * 64, existing), networks, tmp_path)
    assert choose_spec("b" * 64, None, 0.7, 0, inputs=inputs, root=tmp_path).size == size
    assert choose_spec("b" * 64, 7, 0.7, 0, inputs=inputs, root=tmp_path).size == 7
