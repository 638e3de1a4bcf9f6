"""The stages alone: what each gives, which networks it needs for that, and what it refuses."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job import stages
from faceanon_engine.engine.job.report import JobObserver
from faceanon_engine.engine.job.settings import JobSettings, job_settings
from faceanon_engine.engine.job.stages import OpenedStages
from faceanon_engine.engine.job.tables import Table
from faceanon_engine.engine.method.pool import PoolSpec, list_pools
from faceanon_engine.engine.models.bundle import Bundle
from tests.support.fake_worker import make_inputs
from tests.support.jobs import Told
from tests.support.opened import Opened
from tests.support.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def settings(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobSettings:
    """Three crops, the tiny bundle, and a home without a pool."""
    monkeypatch.setenv("FACEANON_HOME", str(tmp_path / "home"))
    make_inputs(tmp_path / "in", 3)
    values = {"bundle": bundle.path, "align": "never", "device": "cpu", "pool_size": 8}
    return job_settings(tmp_path / "in", "", values)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The roles of the networks that are loaded from now on."""
    roles: list[str] = []
    whole = Bundle.load

    def load(self: Bundle, role: str, *more: Any, **named: Any) -> Any:
        roles.append(role)
        return whole(self, role, *more, **named)

    monkeypatch.setattr(Bundle, "load", load)
    return roles


def test_extract_loads_the_encoders_alone(settings: JobSettings, bundle: Bundle, loaded: list[str]) -> None:
    result = stages.extract(settings)
    assert sorted(loaded) == ["attribute_encoder", "identity_encoder"]
    assert (result.exit_code, result.failures) == (0, ())
    table = result.table
    assert (table.inputs, table.faces) == (["photo-00.png", "photo-01.png", "photo-02.png"], [0, 0, 0])
    assert table.bundle == bundle.digest
    shapes = {name: (array.dtype.name, array.shape) for name, array in table.arrays.items()}
    assert shapes == {"attribute_embedding": ("float32", (3, 16)), "identity_embedding": ("float32", (3, 16))}
    np.testing.assert_allclose(np.linalg.norm(table.arrays["identity_embedding"], axis=1), 1, atol=1e-5)


def test_invert_loads_the_inverter_alone(settings: JobSettings, loaded: list[str]) -> None:
    codes = stages.invert(settings).table.arrays
    assert loaded == ["inverter"]
    assert {name: (array.dtype.name, array.shape) for name, array in codes.items()} == {
        "w_plus": ("float32", (3, 8, 16))
    }


def test_what_is_given_does_not_depend_on_what_is_processed_together(settings: JobSettings) -> None:
    for stage in (stages.extract, stages.invert):
        one, many = (stage(replace(settings, batch_size=size)).table for size in (1, 2))
        assert one.inputs == many.inputs
        for name, array in one.arrays.items():
            np.testing.assert_allclose(many.arrays[name], array, atol=1e-5, err_msg=name)


def test_pair_makes_the_pool_once_and_then_loads_the_attribute_encoder_alone(
    settings: JobSettings, bundle: Bundle, loaded: list[str]
) -> None:
    first = stages.pair(settings, neighbours=3)
    (pool,) = list_pools()
    assert pool.spec == PoolSpec(bundle.digest, 8)
    loaded.clear()
    second = stages.pair(settings, neighbours=3)
    assert loaded == ["attribute_encoder"]
    ids, distances = (first.table.arrays[f"neighbour_{name}"] for name in ("id", "distance"))
    assert (ids.dtype, distances.dtype, ids.shape, distances.shape) == (np.int64, np.float64, (3, 3), (3, 3))
    assert (np.diff(distances, axis=1) >= 0).all(), "nearest first"
    np.testing.assert_array_equal(second.table.arrays["neighbour_id"], ids)


def test_pair_gives_the_nearest_faces_of_the_pool(settings: JobSettings, bundle: Bundle) -> None:
    features = stages.extract(settings).table.arrays["attribute_embedding"]
    opened = Opened(bundle)
    pool = opened.pool(PoolSpec(bundle.digest, 8)).embedding(opened.preset.pairing_generated)
    distances = np.linalg.norm(features[:, None].astype(np.float64) - pool[None], axis=2)
    arrays = stages.pair(settings, neighbours=8).table.arrays
    np.testing.assert_allclose(arrays["neighbour_distance"], np.sort(distances, axis=1), rtol=1e-5)
    np.testing.assert_allclose(
        np.take_along_axis(distances, arrays["neighbour_id"], axis=1), arrays["neighbour_distance"], rtol=1e-5
    )


def test_pair_of_a_table_needs_no_network_where_the_pool_is_there(
    settings: JobSettings, tmp_path: Path, loaded: list[str]
) -> None:
    expected = stages.pair(settings).table
    features = tmp_path / "features.npz"
    stages.extract(settings).table.write(features)
    loaded.clear()
    paired = stages.pair(replace(settings, input=features)).table
    assert loaded == []
    assert (paired.inputs, paired.faces, paired.bundle) == (expected.inputs, expected.faces, expected.bundle)
    np.testing.assert_array_equal(paired.arrays["neighbour_id"], expected.arrays["neighbour_id"])


@pytest.mark.parametrize(
    ("array", "of", "message"),
    [
        ("w_plus", None, "holds no attribute_embedding: give a file that 'extract' wrote, or images"),
        ("attribute_embedding", "c" * 64, "was made with bundle cccccccccccc, this is"),
    ],
)
def test_pair_refuses_a_table_that_means_something_else(
    settings: JobSettings, tmp_path: Path, array: str, of: str | None, message: str
) -> None:
    Table(["a.png"], [0], {array: np.ones((1, 16), np.float32)}, of).write(tmp_path / "t.npz")
    with pytest.raises(UserError, match=message):
        stages.pair(replace(settings, input=tmp_path / "t.npz"))
    assert list_pools() == [], "it is refused before a pool is made"


def test_more_neighbours_than_the_pool_holds_are_refused_before_anything_is_opened(settings: JobSettings) -> None:
    nowhere = replace(settings, bundle="no such bundle")
    with pytest.raises(UserError, match="9 neighbours were asked for, the pool holds 8"):
        stages.pair(nowhere, neighbours=9)


def test_a_bad_input_is_a_failure_and_the_rest_have_rows(settings: JobSettings) -> None:
    (settings.input / "bad.png").write_bytes(b"")
    told = Told()
    result = stages.extract(settings, observer=told)
    assert [(failure.input, failure.face) for failure in result.failures] == [("bad.png", 0)]
    assert result.failures[0].reason
    assert result.exit_code == 1
    assert result.table.inputs == ["photo-00.png", "photo-01.png", "photo-02.png"]
    assert told.finished == [("bad.png", True), *((name, False) for name in result.table.inputs)]


def test_only_the_first_inputs_are_read_where_a_limit_is_given(settings: JobSettings) -> None:
    assert stages.invert(replace(settings, limit=2)).table.inputs == ["photo-00.png", "photo-01.png"]


def test_inputs_of_which_none_can_be_used_are_refused(settings: JobSettings, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    with pytest.raises(UserError, match="no images in"):
        stages.extract(replace(settings, input=bad))
    for name in ("a.png", "b.png"):
        (bad / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 2 inputs in .*bad could be used: "):
        stages.extract(replace(settings, input=bad))


def test_a_pool_is_made_once_and_tells_how_far_it_is(
    settings: JobSettings, bundle: Bundle, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counted(JobObserver):
        def __init__(self) -> None:
            self.done: list[tuple[float, float | None]] = []

        def progress(self, done: float, total: float | None, what: str = "") -> None:
            self.done.append((done, total))

    spec, observer = PoolSpec(bundle.digest, 5), Counted()
    opened = OpenedStages.open(replace(settings, batch_size=2))
    pool = opened.pool(spec, observer)
    assert (pool.spec, pool.has_embedding(opened.preset.pairing_generated)) == (spec, True)
    assert sorted(loaded) == ["attribute_encoder", "generator"]
    assert observer.done[-1] == (5, 5)
    assert observer.done == sorted(observer.done)
    loaded.clear()
    observer.done.clear()
    # What makes pools needs Torch: opening one that is there does without.
    monkeypatch.setitem(sys.modules, "faceanon_engine.engine.method.pool_making", None)
    assert opened.pool(spec, observer).path == pool.path
    assert (loaded, observer.done) == ([], [])


def test_what_runs_is_said_for_people(settings: JobSettings, bundle: Bundle) -> None:
    about = OpenedStages.open(settings).about()
    assert (about["device"], about["precision"], about["bundle"]) == ("cpu", "fp32", f"tiny ({bundle.digest[:12]})")
    assert about["backend"].startswith("torch")
