"""A pool's place on the disk: what names it, what is left of an interrupted one, and what happens when it is full."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.method.pool import Pool, PoolSpec, check_pool, choose_spec, find_pool
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


# -- damaged pools -------------------------------------------------------------------------------------------------


def use(path: Path) -> None:
    """What a job does with a pool that is there."""
    pool = Pool.open(path)
    np.array(pool.w[[0]])
    pool.embedding(RECIPE)


@pytest.fixture(scope="module")
def whole(networks: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make(PoolSpec("b" * 64, 6), networks, tmp_path_factory.mktemp("pools"))


@pytest.fixture
def copy(whole: Pool, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole.path, tmp_path / "copied"))


def record(path: Path, **values: Any) -> None:
    """Change the pool's record, and none of its arrays."""
    content = json.loads((path / "pool.json").read_text())
    (path / "pool.json").write_text(json.dumps(content | values))


EMBEDDING = "embedding-unit-normalised.npy"


@pytest.mark.parametrize("name", ["w.npy", EMBEDDING])
@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "a bit", "zeros", "float64", "pickle", "archive", "3-d"])
def test_a_damaged_array_is_one_line(copy: Path, name: str, damage: str) -> None:
    file, values = copy / name, np.load(copy / name)
    if damage in ("empty", "cut", "longer"):
        os.truncate(file, {"empty": 0, "cut": file.stat().st_size - 4, "longer": file.stat().st_size + 4}[damage])
    elif damage == "a bit":
        content = bytearray(file.read_bytes())
        content[-7] ^= 1
        file.write_bytes(content)
    elif damage == "archive":
        with file.open("wb") as stream:
            np.savez(stream, values)
    else:
        other = {"zeros": 0 * values, "float64": values.astype(float), "3-d": values[None]}.get(damage)
        np.save(file, np.array([values, None], object) if other is None else other, allow_pickle=True)
    with pytest.raises(UserError, match=f"{name} .*: delete the folder, it is made again") as refused:
        use(copy)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["w.npy", EMBEDDING])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_though_the_checksum_holds(copy: Path, name: str, value: float) -> None:
    values = np.load(copy / name)
    values[3, 1] = value
    np.save(copy / name, values)
    checksums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in copy.glob("*.npy")}
    record(copy, sha256=checksums)
    with pytest.raises(UserError, match=f"{name} holds numbers that are not finite"):
        use(copy)


@pytest.mark.parametrize("name", ["w.npy", EMBEDDING])
def test_rows_that_are_all_the_same_are_refused_though_the_checksum_holds(copy: Path, name: str) -> None:
    values = np.load(copy / name)
    np.save(copy / name, np.zeros_like(values) + values[:1])
    record(copy, sha256={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in copy.glob("*.npy")})
    with pytest.raises(UserError, match=f"{name} says the same of every face"):
        use(copy)


@pytest.mark.parametrize(
    "values",
    [
        {"format": True},
        {"format": "2"},
        {"format": 3},
        {"format": None},
        {"spec": None},
        {"spec": {}},
        {"spec": {"size": 10**30}},
        {"spec": {"size": 6.0}},
        {"spec": {"size": 5}},
        {"spec": {"size": 0}},
        {"spec": {"size": True}},
        {"spec": {"seed": -1}},
        {"spec": {"seed": "0"}},
        {"spec": {"truncation_psi": float("nan")}},
        {"spec": {"truncation_psi": 7}},
        {"spec": {"truncation_psi": [0.7]}},
        {"spec": {"bundle": 5}},
        {"spec": {"bundle": "../../elsewhere"}},
        {"spec": {"more": 1}},
        {"sha256": None},
        {"sha256": {}},
        {"sha256": {"w.npy": 5}},
        {"sha256": {"w.npy": "é" * 64}},
        {"sha256": {"w.npy": "0" * 64}},
        {"sha256": {"w.npy": "0" * 64, "../embedding-a.npy": "0" * 64}},
    ],
)
def test_a_record_that_cannot_be_is_one_line(whole: Pool, copy: Path, values: dict[str, Any]) -> None:
    if values.get("spec"):
        spec = json.loads((whole.path / "pool.json").read_text())["spec"]
        values = {"spec": spec | values["spec"]}
    record(copy, **values)
    with pytest.raises(UserError, match=r"copied.*(delete the folder|made again)") as refused:
        use(copy)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("text", ["", "null", "[]", "[" * 100_000, '{"format": 1e999}', "\ufeff{}", '"' + "a" * 2**21])
def test_a_record_that_is_no_record_is_one_line(copy: Path, text: str) -> None:
    (copy / "pool.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="delete the folder") as refused:
        use(copy)
    assert len(str(refused.value)) < 600


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
@pytest.mark.parametrize("name", ["pool.json", "w.npy"])
def test_a_pipe_in_a_files_place_is_not_waited_for(copy: Path, name: str) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    writer = threading.Timer(10, lambda: os.close(os.open(copy / name, os.O_RDWR)))  # ends the wait where there is one
    writer.start()
    try:
        with pytest.raises(UserError, match=f"{name} cannot be read .*(delete the folder)"):
            use(copy)
        assert writer.is_alive()
    finally:
        writer.cancel()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_damage_is_anything_but_one_line(whole: Pool, data: st.DataObject) -> None:
    """Whatever bytes change in a pool's files: it is opened with what was made, or refused."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(whole.path, Path(folder) / "pool"))
        file = copy / data.draw(st.sampled_from(["pool.json", "w.npy", EMBEDDING]))
        content = bytearray(file.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, min(len(content), 300)))
            content[start : start + data.draw(st.integers(0, 40))] = data.draw(
                st.binary(max_size=8) | st.sampled_from([b"-", b"9" * 20, b"nan", b"null", b"(((", b"\x80", b"'O'"])
            )
        file.write_bytes(content)
        try:
            pool = Pool.open(copy)
            opened = np.array(pool.w), np.array(pool.embedding(RECIPE))
        except UserError:
            return
        for actual, expected in zip(opened, contents(whole), strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_a_damaged_pool_is_refused_rather_than_completed_or_made_over(
    networks: tuple[Any, Any], tmp_path: Path
) -> None:
    spec = PoolSpec("b" * 64, 6)
    pool = make(spec, networks, tmp_path)
    os.truncate(pool.path / "w.npy", 100)
    for _ in range(2):
        with pytest.raises(UserError, match=r"is damaged, w\.npy"):
            make(spec, networks, tmp_path)
        with pytest.raises(UserError, match=r"is damaged, w\.npy"):
            check_pool(spec, RECIPE, root=tmp_path)


def test_a_pool_in_the_place_of_another_is_refused(networks: tuple[Any, Any], tmp_path: Path) -> None:
    spec, other = PoolSpec("b" * 64, 6), PoolSpec("b" * 64, 6, seed=1)
    shutil.move(make(other, networks, tmp_path).path, tmp_path / spec.directory_name)
    assert find_pool(spec, RECIPE, root=tmp_path) is None
    for refusing in (lambda: make(spec, networks, tmp_path), lambda: check_pool(spec, RECIPE, root=tmp_path)):
        with pytest.raises(UserError, match="is another pool's"):
            refusing()


def test_a_pool_without_checksums_is_made_anew(
    networks: tuple[Any, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = PoolSpec("b" * 64, 6)
    pool = make(spec, networks, tmp_path)
    expected = contents(pool)
    content = json.loads((pool.path / "pool.json").read_text())
    (pool.path / "pool.json").write_text(json.dumps({"format": 1, "spec": content["spec"]}))
    np.save(pool.path / "w.npy", np.zeros_like(expected[0]))
    with pytest.raises(UserError, match="has no checksums: delete the folder, it is made again"):
        Pool.open(pool.path)
    assert find_pool(spec, RECIPE, root=tmp_path) is None
    check_pool(spec, RECIPE, root=tmp_path)
    for actual, wanted in zip(contents(make(spec, networks, tmp_path)), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert "has no checksums: it is made anew" in caplog.text


def test_features_that_are_not_finite_make_no_pool(networks: tuple[Any, Any], tmp_path: Path) -> None:
    spec = PoolSpec("b" * 64, 6)

    def embed(w: np.ndarray) -> np.ndarray:
        return np.full((len(w), 3), np.nan, np.float32)

    with pytest.raises(UserError, match="features that are not finite for faces 0 to 3"):
        create_pool(spec, networks[0], RECIPE, embed, root=tmp_path, batch_size=4)


def test_a_pool_that_was_stopped_between_its_record_and_its_name_goes_on(
    networks: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = PoolSpec("b" * 64, 6)
    rename = os.replace

    def stopped(source: Any, target: Any) -> None:
        if Path(target).name == EMBEDDING:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as at_once:
        at_once.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            make(spec, networks, tmp_path)
    assert find_pool(spec, RECIPE, root=tmp_path) is None
    made: list[float] = []
    pool = make(spec, networks, tmp_path, progress=lambda done, *_: made.append(done))
    assert made == [], "the features were there"
    np.testing.assert_array_equal(pool.embedding(RECIPE), make(spec, networks, tmp_path / "b").embedding(RECIPE))
