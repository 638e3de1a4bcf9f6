"""Opened networks, sessions and a pool, composed: each network opened once, each original looked at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faceanon_engine.engine.choices import ROLES
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import from_uint8
from faceanon_engine.engine.method import falco as method_falco
from faceanon_engine.engine.method.falco import Falco
from faceanon_engine.engine.method.pairing import NearestNeighbours
from faceanon_engine.engine.method.pool import Pool, PoolSpec
from faceanon_engine.engine.method.preset import PRESETS, Preset
from faceanon_engine.engine.method.stages import embed_attributes
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.networks.vit import AttributeEncoder
from faceanon_engine.engine.sessions.runs import Runs
from tests.support.opened import Opened
from tests.support.tiny_bundle import write_tiny_bundle

RUNS = Runs("torch", "fp32", "cpu")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEANON_HOME", str(tmp_path / "home"))


def short(name: str = "falco", steps: int = 2) -> Preset:
    return replace(PRESETS[name], steps=steps)


def originals(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(("preset", "passes"), [("falco", 1), ("falco-released", 2)])
def test_an_original_goes_through_the_attribute_encoder_once(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, preset: str, passes: int
) -> None:
    """Twice where the preset shows the encoder other pixels for pairing than for the loss."""
    falco = Falco.open(bundle, RUNS, PoolSpec(bundle.digest, 6), short(preset))
    seen: list[int] = []
    whole = AttributeEncoder.encode
    monkeypatch.setattr(AttributeEncoder, "encode", lambda self, x: (seen.append(len(x)), whole(self, x))[1])
    falco._prepare(list(originals(3)), [0, 1, 2], {})
    assert seen == [3] * passes


@pytest.mark.parametrize("preset", ["falco", "falco-released"])
def test_an_original_is_paired_by_the_embedding_that_the_stage_gives(bundle: Bundle, preset: str) -> None:
    opened = Opened(bundle, short(preset))
    pool = opened.pool(PoolSpec(bundle.digest, 9))
    falco = Falco(opened.networks, opened.sessions, pool, opened.preset)
    pixels = from_uint8(originals(4))
    expected = opened.pair(pixels, pool)
    result = falco.anonymize(pixels)
    np.testing.assert_array_equal(result.neighbour_id, expected.ids[:, 0])
    np.testing.assert_allclose(result.neighbour_distance, expected.distances[:, 0], rtol=1e-5)


def test_in_16_bits_originals_are_embedded_as_the_pools_faces_were(bundle: Bundle) -> None:
    """Not by the optimisation's float32 encoder: pairing compares like with like."""
    sixteen = Runs("torch", "bf16", "cpu")
    spec, preset = PoolSpec(bundle.digest, 9), short()
    falco = Falco.open(bundle, sixteen, spec, preset)
    pixels = from_uint8(originals(4))
    embeddings = embed_attributes(falco.sessions, pixels, preset.pairing_real)
    index = NearestNeighbours(falco.pool.embedding(preset.pairing_generated, "bf16"))
    result = falco.anonymize(pixels)
    np.testing.assert_array_equal(result.neighbour_distance, index.search(embeddings).distances[:, 0])
    exact = Falco.open(bundle, RUNS, spec, preset).anonymize(pixels)
    assert np.abs(result.neighbour_distance - exact.neighbour_distance).max() > 0


def test_every_network_is_loaded_once_also_where_the_pool_is_made(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    whole = Bundle.load

    def load(self: Bundle, role: str, *more: Any, **named: Any) -> Any:
        loaded.append(role)
        return whole(self, role, *more, **named)

    monkeypatch.setattr(Bundle, "load", load)
    falco = Falco.open(bundle, RUNS, PoolSpec(bundle.digest, 4), short())
    falco.anonymize(originals(2), include_intermediates=True)
    assert sorted(loaded) == ["attribute_encoder", "generator", "identity_encoder", "inverter"]


def test_bytes_floats_and_tensors_come_to_the_same(bundle: Bundle) -> None:
    falco = Falco.open(bundle, RUNS, PoolSpec(bundle.digest, 6), short())
    pixels = originals(2)
    given = [pixels, torch.from_numpy(pixels), from_uint8(pixels), from_uint8(torch.from_numpy(pixels))]
    results = [falco.anonymize(each) for each in given]
    for result in results[1:]:
        np.testing.assert_allclose(result.codes, results[0].codes, atol=1e-4)
        np.testing.assert_array_equal(result.neighbour_id, results[0].neighbour_id)


def test_intermediates_are_the_inversion_and_the_paired_face(bundle: Bundle) -> None:
    opened = Opened(bundle, short())
    pool = opened.pool(PoolSpec(bundle.digest, 6))
    falco = Falco(opened.networks, opened.sessions, pool, opened.preset)
    pixels = originals(2)
    result = falco.anonymize(pixels, include_intermediates=True)
    w = np.array(pool.w[result.neighbour_id])
    fakes = opened.three.generator.broadcast(torch.from_numpy(w))
    assert result.inversions is not None
    assert result.neighbours is not None
    np.testing.assert_array_equal(result.neighbours, opened.synthesise(fakes))
    np.testing.assert_array_equal(result.inversions, opened.synthesise(opened.invert(from_uint8(pixels))))


def test_originals_of_another_shape_are_refused(bundle: Bundle) -> None:
    falco = Falco.open(bundle, RUNS, PoolSpec(bundle.digest, 4), short())
    with pytest.raises(ValueError, match=r"expected \[N, 3, 32, 32\]"):
        falco.anonymize(np.zeros((1, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="at least one"):
        falco.anonymize(np.zeros((0, 32, 32, 3), np.uint8))


def test_opening_with_a_finished_pool_loads_each_network_once_to_check_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = PoolSpec(bundle.digest, 4)
    made = Falco.open(bundle, RUNS, spec, short()).pool
    loaded: list[str] = []
    load = Bundle.load
    monkeypatch.setattr(Bundle, "load", lambda self, role, *more: (loaded.append(role), load(self, role, *more))[1])
    falco = Falco.open(bundle, RUNS, spec, short(), margin=0.5)
    assert (falco.pool.path, falco.resolution) == (made.path, 32)
    falco.anonymize(originals(1))
    assert sorted(loaded) == sorted(ROLES)


def test_a_pool_of_another_bundle_is_refused(bundle: Bundle) -> None:
    opened = Opened(bundle, short())
    pool = opened.pool(PoolSpec(bundle.digest, 4))
    other = PoolSpec("b" * 64, 4)
    with pytest.raises(ValueError, match="names another bundle"):
        Falco.open(bundle, RUNS, other, short())
    with pytest.raises(UserError, match="was made by another bundle than 'tiny'"):
        Falco(opened.networks, opened.sessions, Pool(pool.path, other, pool.checksums), short())


@pytest.mark.parametrize("margin", [-0.1, 1.1, float("nan")])
def test_a_margin_that_no_cosine_has_is_refused(bundle: Bundle, margin: float) -> None:
    with pytest.raises(UserError, match=f"margin {margin} is outside 0 to 1"):
        Falco.open(bundle, RUNS, PoolSpec(bundle.digest, 4), short(), margin=margin)


def test_on_a_cpu_the_automatic_batch_follows_from_the_networks_and_the_steps(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from how long anything took here: on that, and with it on how sums are rounded, results must not depend."""
    monkeypatch.setattr(method_falco, "steps_that_fit", lambda *_: 64)
    falco = Falco.open(bundle, RUNS, PoolSpec(bundle.digest, 4), short())
    assert {falco.choose_batch_size() for _ in range(3)} == {8}
    counted: list[int] = []
    monkeypatch.setattr(method_falco, "steps_in_time", lambda operations, steps: counted.append(operations) or steps)
    assert falco.choose_batch_size() == 2
    assert counted[0] > 10**5
    monkeypatch.setattr(method_falco, "steps_that_fit", lambda *_: 1)
    assert falco.choose_batch_size() == 1
