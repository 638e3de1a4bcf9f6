"""Images are optimised together without seeing each other, and nothing is computed again that cannot change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.method.compare import real_targets
from faceanon_engine.engine.method.falco import Falco
from faceanon_engine.engine.method.pool import PoolSpec, automatic_size, sample_z
from faceanon_engine.engine.method.pool_making import create_pool
from faceanon_engine.engine.method.preset import PRESETS
from faceanon_engine.engine.method.reference import optimise
from faceanon_engine.engine.method.step import mix_codes
from faceanon_engine.engine.system.devices import resolve_for_torch
from tests.support.opened import Opened, embed_with
from tests.support.tiny_bundle import write_tiny_bundle

FALCO = PRESETS["falco"]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return Opened(write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def run(stages: Opened, real: torch.Tensor, **settings: Any) -> Any:
    fake = torch.from_numpy(sample_z(3, 0, len(real), 16)) if "fake" not in settings else settings.pop("fake")
    generator, identity_encoder, attribute_encoder = stages.three
    w_plus = mix_codes(torch.from_numpy(stages.invert(real)), generator.broadcast(generator.mapping(fake)), FALCO)
    targets = real_targets(identity_encoder, attribute_encoder, real, FALCO)
    networks = (generator, identity_encoder, attribute_encoder)
    return w_plus, optimise(*networks, w_plus, targets, FALCO, **settings)


def test_an_image_comes_out_the_same_alone_and_in_any_company(stages: Opened) -> None:
    real, fake = images(5), torch.from_numpy(sample_z(3, 0, 5, 16))
    _, together = run(stages, real, fake=fake, steps=20)
    for index in range(5):
        _, alone = run(stages, real[index : index + 1], fake=fake[index : index + 1], steps=20)
        # Twenty Adam steps of 0.01 each magnify rounding; a neighbour's influence would be of the size of a step.
        torch.testing.assert_close(alone.w_plus[0], together.w_plus[index], rtol=1e-3, atol=2e-4)


def test_what_company_changes_is_rounding_and_nothing_else(stages: Opened) -> None:
    """In float64 there is none to speak of, however many steps magnify it."""
    generator, identity, attributes, inverter = (
        stages.bundle.load(role).double() for role in ("generator", "identity_encoder", "attribute_encoder", "inverter")
    )
    generator.freeze()
    real, z = images(4).double(), torch.from_numpy(sample_z(3, 0, 4, 16)).double()

    def optimised(chosen: slice) -> torch.Tensor:
        w_plus = mix_codes(inverter(real[chosen]), generator.broadcast(generator.mapping(z[chosen])), FALCO)
        targets = real_targets(identity, attributes, real[chosen], FALCO)
        return optimise(generator, identity, attributes, w_plus, targets, FALCO).w_plus

    together = optimised(slice(4))
    for index in range(4):
        torch.testing.assert_close(optimised(slice(index, index + 1))[0], together[index], rtol=0, atol=1e-9)


def test_only_the_five_rows_move_and_the_losses_fall(stages: Opened) -> None:
    before, result = run(stages, images(3), steps=40)
    moved = (result.w_plus - before).abs().amax(dim=(0, 2)) > 0
    assert moved.tolist() == [3 <= row < 8 for row in range(8)]
    weights = [FALCO.identity_weight, FALCO.attribute_weight]
    first, last = [weights[0] * s.identity + weights[1] * s.attribute for s in (result.before, result.after)]
    assert (last < first).all()


def test_the_margin_is_what_the_cosine_goes_to(stages: Opened) -> None:
    for margin in (0.0, 0.5):
        _, result = run(stages, images(3), steps=60, margin=margin)
        assert (result.after.identity < result.before.identity + 0.02).all()
        torch.testing.assert_close(result.after.identity, (result.after.cosine - margin).abs())


def test_no_frozen_weight_gets_a_gradient(stages: Opened) -> None:
    run(stages, images(1), steps=1)
    for network in stages.three:
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())


def test_the_constant_rows_are_drawn_once(stages: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda *_, row=row: calls.append(row))
        for row, layer in enumerate(stages.three.generator.layers)
    ]
    run(stages, images(1), steps=4)
    for hook in hooks:
        hook.remove()
    # The prefix once; the rest at each of four steps and for the final picture.
    assert [calls.count(row) for row in range(4)] == [1, 1, 1, 5]


def test_the_prefix_changes_no_image(stages: Opened) -> None:
    w_plus = torch.randn(2, 8, 16)
    whole = stages.three.generator.synthesis(w_plus)
    for row in range(9):
        torch.testing.assert_close(
            stages.three.generator.synthesis_from(stages.three.generator.prefix(w_plus, row), w_plus),
            whole,
            rtol=0,
            atol=0,
        )


def arguments_of(stages: Opened) -> tuple[Any, ...]:
    """What `create_pool` needs besides a specification."""
    generator, _, encoder = stages.three
    recipe = FALCO.pairing_generated
    return generator, recipe, embed_with(generator, encoder, recipe)


def test_a_pool_depends_on_its_seed_and_shares_its_beginning(stages: Opened, tmp_path: Path) -> None:
    digest = stages.bundle.digest

    def make(size: int, seed: int, root: str, batch: int) -> Any:
        spec = PoolSpec(digest, size, 0.7, seed)
        return create_pool(spec, *arguments_of(stages), root=tmp_path / root, batch_size=batch)

    small, large, other = make(5, 1, "a", 2), make(9, 1, "b", 4), make(5, 2, "c", 5)
    np.testing.assert_array_equal(small.w, large.w[:5])
    recipe = FALCO.pairing_generated
    np.testing.assert_allclose(small.embedding(recipe), large.embedding(recipe)[:5], rtol=1e-4, atol=1e-5)
    assert np.abs(small.w - other.w).max() > 0.01
    assert small.digest != other.digest
    drawn = [
        stages.three.generator.synthesis(stages.three.generator.broadcast(torch.tensor(w[2:3])))
        for w in (small.w, large.w)
    ]
    torch.testing.assert_close(*drawn, rtol=0, atol=0)


def test_an_interrupted_pool_goes_on(stages: Opened, tmp_path: Path) -> None:
    spec = PoolSpec(stages.bundle.digest, 12, 0.7, 0)
    arguments = (spec, *arguments_of(stages))

    def stop(done: float, total: float | None, what: str = "") -> None:
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_pool(*arguments, root=tmp_path, batch_size=3, progress=stop)
    seen: list[int] = []
    resumed = create_pool(*arguments, root=tmp_path, batch_size=3, progress=lambda done, *_: seen.append(done))
    assert seen == [9, 12]
    whole = create_pool(*arguments, root=tmp_path / "other", batch_size=3)
    recipe = FALCO.pairing_generated
    np.testing.assert_allclose(resumed.embedding(recipe), whole.embedding(recipe), rtol=1e-5, atol=1e-6)


def test_a_pool_of_another_bundle_is_refused(stages: Opened, tmp_path: Path) -> None:
    spec = PoolSpec("0" * 64, 3)
    pool = create_pool(spec, *arguments_of(stages), root=tmp_path)
    with pytest.raises(UserError, match="another bundle"):
        Falco(stages.networks, stages.sessions, pool, FALCO)
    with pytest.raises(ValueError, match="another bundle"):
        stages.pool(spec, root=tmp_path)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_margin_out_of_range_is_refused(stages: Opened, tmp_path: Path, value: float) -> None:
    pool = create_pool(PoolSpec(stages.bundle.digest, 3), *arguments_of(stages), root=tmp_path)
    with pytest.raises(UserError, match="margin"):
        Falco(stages.networks, stages.sessions, pool, FALCO, margin=value)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="auto, cpu or cuda"):
        resolve_for_torch("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cpu"):
            resolve_for_torch("cuda")


def test_automatic_pools_hold_more_fakes_than_originals() -> None:
    assert automatic_size(1) == 1024
    assert all(automatic_size(n) >= 2 * n for n in (100, 1000, 29_999))
    assert automatic_size(10**6) == 60_000
