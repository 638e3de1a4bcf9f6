"""Images that come and go between steps become what they become alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.method.compare import Targets, real_targets
from faceanon_engine.engine.method.continuous import Finished, PlainStepper, Ticket, make_lanes, optimise_continuously
from faceanon_engine.engine.method.falco import checked_proxy
from faceanon_engine.engine.method.pool import sample_z
from faceanon_engine.engine.method.preset import PRESETS, Preset, StoppingRule
from faceanon_engine.engine.method.reference import learning_rate, optimise
from faceanon_engine.engine.method.step import State, StepSettings, adam, begin, draw, is_met, mix_codes, with_view
from faceanon_engine.engine.models.bundle import Bundle, demo_path
from faceanon_engine.engine.networks.precision import lowered
from tests.support.opened import Opened
from tests.support.tiny_bundle import write_tiny_bundle

FALCO = PRESETS["falco"]
RULE = StoppingRule(tolerance=0.25, improvement=0.01, patience=3)


class Case:
    """Networks, and codes and targets of a few originals."""

    def __init__(self, bundle: Bundle, count: int, real: torch.Tensor) -> None:
        stages = Opened(bundle)
        self.networks = stages.three
        generator = self.networks.generator
        fake = generator.mapping(torch.from_numpy(sample_z(3, 0, count, generator.config.z_dim)))
        fake = generator.broadcast(generator.truncate(fake, 0.7))
        self.w_plus = mix_codes(torch.as_tensor(stages.invert(real)), fake, FALCO)
        self.targets = real_targets(*self.networks[1:], real, FALCO)

    def alone(self, preset: Preset, index: int, **more: Any) -> Any:
        target = Targets(self.targets.identity[index : index + 1], self.targets.tokens[index : index + 1])
        return optimise(*self.networks, self.w_plus[index : index + 1], target, preset, **more)

    def tickets(self, settings: StepSettings) -> Iterator[Ticket]:
        state = begin(self.networks.generator, self.w_plus, self.targets, settings)
        for index in range(len(self.w_plus)):
            yield Ticket(index, state.part(index, 1))

    def together(self, settings: StepSettings, capacity: int) -> dict[int, Finished]:
        networks = lowered(self.networks, settings.precision)
        lanes = make_lanes(networks, settings, capacity)
        groups = list(optimise_continuously(networks, lanes, self.tickets(settings)))
        return {result.key: result for group in groups for result in group}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Case:
    real = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Case(write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"), 5, real)


@pytest.fixture(scope="module")
def demo() -> Case:
    from PIL import Image

    folder = Path(__file__).resolve().parents[3] / "demo" / "samples"
    names = ("person-01-a.png", "person-04-a.png", "person-09-b.png")
    pixels = np.stack([np.asarray(Image.open(folder / name).convert("RGB").resize((64, 64))) for name in names])
    real = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    return Case(Bundle.open(demo_path()), len(names), real)


@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 8])
def test_any_number_of_slots_gives_what_one_at_a_time_gives(tiny: Case, capacity: int) -> None:
    preset = replace(FALCO, steps=12)
    results = tiny.together(StepSettings(preset, margin=0.1), capacity)
    assert sorted(results) == [0, 1, 2, 3, 4]
    for index, result in results.items():
        alone = tiny.alone(preset, index, margin=0.1)
        assert result.steps == 12
        torch.testing.assert_close(result.w_plus, alone.w_plus[0], rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(result.image, alone.images[0], rtol=1e-3, atol=1e-3)
        pairs = (
            (result.cosine, alone.after.cosine),
            (result.attribute, alone.after.attribute),
            (result.first_cosine, alone.before.cosine),
            (result.first_attribute, alone.before.attribute),
        )
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs[0], rtol=1e-4, atol=1e-5)


def test_the_demo_networks_give_the_same_too(demo: Case) -> None:
    preset = replace(FALCO, steps=6)
    for index, result in demo.together(StepSettings(preset), 2).items():
        alone = demo.alone(preset, index)
        # Six Adam steps of 0.01 magnify rounding where a gradient is near zero.
        torch.testing.assert_close(result.w_plus, alone.w_plus[0], rtol=1e-3, atol=2e-4)
        torch.testing.assert_close(result.attribute, alone.after.attribute[0], rtol=1e-3, atol=1e-3)


def first_stop(rule: StoppingRule, cosines: list[float], losses: list[float], margin: float) -> int | None:
    """The rule in words of one image: the first step at which it is met."""
    best, stale = float("inf"), 0
    for number, (cosine, loss) in enumerate(zip(cosines, losses, strict=True)):
        if loss < np.float32(best) * np.float32(1 - rule.improvement):
            best, stale = loss, 0
        else:
            stale += 1
        if stale >= rule.patience and abs(np.float32(cosine) - np.float32(margin)) <= np.float32(rule.tolerance):
            return number
    return None


@pytest.mark.parametrize("capacity", [1, 3])
def test_an_image_stops_at_its_own_time_and_delivers_the_code_it_stopped_at(tiny: Case, capacity: int) -> None:
    preset = replace(FALCO, steps=25, stopping=RULE)
    results = tiny.together(StepSettings(preset, margin=0.3), capacity)
    stops = []
    for index, result in results.items():
        whole = tiny.alone(preset, index, margin=0.3)
        records = [*whole.history, whole.after]
        stop = first_stop(RULE, [float(r.cosine) for r in records], [float(r.attribute) for r in records], 0.3)
        stop = 25 if stop is None else stop
        assert result.steps == stop
        # The schedule of the learning rate is laid out for all the steps, whenever an image leaves.
        alone = tiny.alone(preset, index, margin=0.3, steps=stop, schedule_steps=25)
        torch.testing.assert_close(result.w_plus, alone.w_plus[0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(result.attribute, records[stop].attribute[0], rtol=1e-4, atol=1e-4)
        stops.append(stop)
    assert len(set(stops)) > 1, "the images of this test are to stop at different steps"
    assert min(stops) < 25


losses_of_some_steps = st.lists(
    st.tuples(st.floats(-1, 1, width=32), st.floats(0.5, 100, width=32)), min_size=1, max_size=30
)


@settings(max_examples=60, deadline=None)
@given(losses_of_some_steps, st.floats(0, 1, width=32), st.integers(1, 6), st.sampled_from([0.0, 0.01, 0.1]))
def test_the_rule_on_tensors_is_the_rule_in_words(
    run: list[tuple[float, float]], margin: float, patience: int, improvement: float
) -> None:
    rule = StoppingRule(tolerance=0.2, improvement=improvement, patience=patience)
    state = blank(1)
    state.best.fill_(torch.inf)
    met = [bool(is_met(rule, state, torch.tensor([c]), torch.tensor([loss]), margin)) for c, loss in run]
    expected = first_stop(rule, [c for c, _ in run], [loss for _, loss in run], margin)
    assert (met.index(True) if True in met else None) == expected


def blank(count: int, width: int = 4) -> State:
    rows, each = torch.zeros(count, 2, width), torch.zeros(count)
    values = {"w_plus": rows, "identity": rows, "tokens": rows, "features": rows, "image": None, "residual": None}
    values |= {name: rows.clone() for name in ("rows", "evaluated", "mean", "square")}
    values |= {name: each.clone() for name in ("first_cosine", "first_attribute", "best", "stale")}
    return State(**values, updates=each.double(), scale=torch.ones(count))  # type: ignore[arg-type]


def test_every_image_has_the_adam_and_the_schedule_of_its_own_step_count() -> None:
    preset = replace(FALCO, steps=8)
    random = torch.Generator().manual_seed(1)
    gradients = torch.randn(8, 3, 2, 4, generator=random)
    starts = torch.randn(3, 2, 4, generator=random)
    state = blank(3)
    state.rows.copy_(starts)
    expected = []
    for index, begins in enumerate((0, 2, 5)):
        parameter = starts[index].clone().requires_grad_(True)
        optimiser = torch.optim.Adam([parameter], lr=preset.learning_rate)
        for step in range(8 - begins):
            optimiser.param_groups[0]["lr"] = learning_rate(step, 8, preset)
            parameter.grad = gradients[begins + step, index]
            optimiser.step()
        expected.append(parameter.detach())
    for step in range(8):
        for index, begins in enumerate((0, 2, 5)):
            if step >= begins:
                adam(state.part(index, 1), gradients[step, index : index + 1], preset)
    torch.testing.assert_close(state.rows, torch.stack(expected), rtol=1e-6, atol=1e-7)
    assert state.updates.tolist() == [8, 6, 3]


def test_a_gradient_out_of_range_costs_its_image_one_update_and_no_other_image_anything() -> None:
    state, other = blank(2), blank(2)
    state.scale.fill_(256)
    gradient = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(2))
    spoiled = gradient * 256
    spoiled[0, 1, 2] = torch.inf
    adam(state, spoiled, FALCO, scaled=True)
    adam(other, gradient, FALCO)
    assert (state.rows[0] == 0).all()
    torch.testing.assert_close(state.rows[1], other.rows[1])
    assert state.scale.tolist() == [128, 256]
    assert state.updates.tolist() == [0, 1]


def test_no_more_images_are_taken_than_there_are_slots_and_a_free_slot_is_taken_at_once(tiny: Case) -> None:
    preset = replace(FALCO, steps=30, stopping=RULE)
    step_settings = StepSettings(preset, margin=0.3)
    together: list[int] = []
    taken, finished = 0, 0

    def arrivals() -> Iterator[Ticket]:
        nonlocal taken
        for ticket in tiny.tickets(step_settings):
            taken += 1
            assert taken - finished <= 2
            yield ticket

    lanes = make_lanes(tiny.networks, step_settings, 2)
    for group in optimise_continuously(tiny.networks, lanes, arrivals(), lambda count, _: together.append(count)):
        finished += len(group)
    assert finished == 5
    assert set(together) <= {1, 2}
    # With two slots and five images, one image is alone at most while the last of them is under way.
    assert together[: together.index(1) if 1 in together else None] == [2] * together.count(2)


def test_a_proxy_begins_with_the_whole_picture_reduced_and_ends_at_full_resolution(demo: Case) -> None:
    preset = replace(FALCO, steps=6, proxy_resolution=32, proxy_finish=2)
    settings_small = StepSettings(preset, resolution=32)
    (ticket, *_) = demo.tickets(settings_small)
    state = with_view(demo.networks, ticket.state, settings_small)
    whole = draw(demo.networks, state, state.rows, StepSettings(preset))
    reduced = torch.nn.functional.interpolate(whole, (32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(draw(demo.networks, state, state.rows, settings_small), reduced, rtol=0, atol=1e-5)
    sides: list[int] = []

    class Watched(PlainStepper):
        def __call__(self, state: State, count: int, last: bool) -> Any:
            outcome = super().__call__(state, count, last)
            sides.append(outcome.images.shape[-1])
            return outcome

    step_settings = StepSettings(preset)
    lanes = make_lanes(demo.networks, step_settings, 2, Watched)
    groups = list(optimise_continuously(demo.networks, lanes, demo.tickets(step_settings)))
    results = {result.key: result for group in groups for result in group}
    # Two images make four steps below and two above, and are looked at once more; then the third does.
    assert sides == ([32] * 4 + [64] * 3) * 2
    for index, result in results.items():
        assert result.steps == 6
        assert result.image.shape == (3, 64, 64)
        start, stop = preset.trainable_rows
        drawn = demo.networks.generator.synthesis(result.w_plus[None])[0]
        torch.testing.assert_close(result.image, drawn, rtol=0, atol=1e-4)
        moved = (result.w_plus - demo.w_plus[index]).abs().amax(dim=1) > 0
        assert moved.tolist() == [start <= row < stop for row in range(10)]
        before, after = (
            FALCO.identity_weight * abs(float(cosine)) + FALCO.attribute_weight * float(attribute)
            for cosine, attribute in (
                (result.first_cosine, result.first_attribute),
                (result.cosine, result.attribute),
            )
        )
        assert after < before


@pytest.mark.parametrize(("proxy", "resolution", "ok"), [(32, 64, True), (256, 1024, True), (64, 64, False)])
def test_a_proxy_is_a_side_of_the_generator_that_all_optimised_rows_reach(
    proxy: int, resolution: int, ok: bool
) -> None:
    preset = replace(FALCO, proxy_resolution=proxy)
    if ok:
        assert checked_proxy(preset, resolution) is preset
    for bad in (16, 48, resolution, 2 * resolution):
        with pytest.raises(UserError, match="proxy-resolution"):
            checked_proxy(replace(preset, proxy_resolution=bad), resolution)


def test_a_generator_without_lower_sides_says_so() -> None:
    with pytest.raises(UserError, match="has none"):
        checked_proxy(replace(FALCO, proxy_resolution=16), 32)


def test_bfloat16_ends_where_float32_ends(demo: Case) -> None:
    """Identity cosine and attribute loss after a whole run; benchmarks/demo_runs.py has more images."""
    preset = replace(FALCO, steps=50)
    exact = demo.together(StepSettings(preset), 3)
    narrow = demo.together(StepSettings(preset, precision="bf16"), 3)
    for index, result in narrow.items():
        # Steps of 0.01 to the end: around the margin the cosine swings by about as much in float32, too.
        assert abs(float(result.cosine - exact[index].cosine)) < 0.05
    mean, expected = (float(np.mean([float(r.attribute) for r in runs.values()])) for runs in (narrow, exact))
    assert -0.05 < mean / expected - 1 < 0.02, "three images alone: a mean that is lower is no loss"


def test_float16_stays_in_range_and_close(tiny: Case) -> None:
    preset = replace(FALCO, steps=10)
    exact, narrow = (tiny.together(StepSettings(preset, precision=p), 5) for p in ("fp32", "fp16"))
    for index, result in narrow.items():
        assert abs(float(result.cosine - exact[index].cosine)) < 0.02
        assert abs(float(result.attribute / exact[index].attribute) - 1) < 0.02


def test_lowered_networks_keep_their_float32_islands(tiny: Case) -> None:
    low = lowered(tiny.networks, "bf16")
    assert lowered(tiny.networks, "fp32") is tiny.networks
    layer = low.generator.layers[4]
    assert layer.conv.folded is not None
    assert layer.conv.folded.dtype == torch.bfloat16
    for island in (layer.conv.affine.weight, layer.conv.energy, layer.noise, layer.bias):
        assert island is not None
        assert island.dtype == torch.float32
    assert low.attribute_encoder.blocks[0].mlp.c_fc.weight.dtype == torch.bfloat16
    assert low.attribute_encoder.positional_embedding.dtype == torch.float32
    assert tiny.networks.attribute_encoder.blocks[0].mlp.c_fc.weight.dtype == torch.float32, "copies, not the networks"
