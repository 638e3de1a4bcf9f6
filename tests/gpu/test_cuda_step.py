"""Captured steps are the plain steps, on the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.step_gpu import configurations, filled, image_state, make_networks
from faceanon_engine.engine.method.capacity import measured_capacity
from faceanon_engine.engine.method.compare import real_targets
from faceanon_engine.engine.method.continuous import Finished, PlainStepper, Ticket, make_lanes, optimise_continuously
from faceanon_engine.engine.method.cuda_graph import GraphStepper, stepper_for
from faceanon_engine.engine.method.preset import PRESETS, StoppingRule
from faceanon_engine.engine.method.step import StepSettings, begin
from faceanon_engine.engine.networks.precision import Networks, lowered

pytestmark = pytest.mark.gpu
FALCO = PRESETS["falco"]
CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def tiny() -> Networks:
    return make_networks(configurations(64, tiny=True), CUDA)


@pytest.fixture(scope="module")
def ffhq_shaped() -> Networks:
    return make_networks(configurations(64, tiny=False), CUDA)


def originals(networks: Networks, count: int, settings: StepSettings) -> Iterator[Ticket]:
    config = networks.generator.config
    random = torch.Generator().manual_seed(3)
    w_plus = (torch.randn(count, config.rows, config.w_dim, generator=random) * 0.7).to(CUDA)
    real = (torch.rand(count, 3, config.resolution, config.resolution, generator=random) * 2 - 1).to(CUDA)
    state = begin(networks.generator, w_plus, real_targets(*networks[1:], real, settings.preset), settings)
    for index in range(count):
        yield Ticket(index, state.part(index, 1))


def run(networks: Networks, settings: StepSettings, capacity: int, count: int, make: Any) -> dict[int, Finished]:
    low = lowered(networks, settings.precision)
    lanes = make_lanes(low, settings, capacity, make)
    groups = list(optimise_continuously(low, lanes, originals(networks, count, settings)))
    return {result.key: result for group in groups for result in group}


# Rounding differs between algorithms that cuDNN may choose for the two; Adam's steps of 0.01 magnify it with their
# number. float16 and bfloat16 have 11 and 8 bits.
TOLERANCES = {"fp32": 2e-3, "tf32": 1e-2, "fp16": 1e-2, "bf16": 4e-2}


@pytest.mark.parametrize("precision", list(TOLERANCES))
@pytest.mark.parametrize("capacity", [1, 3, 8])
def test_graphs_give_what_plain_steps_give(ffhq_shaped: Networks, precision: Any, capacity: int) -> None:
    settings = StepSettings(replace(FALCO, steps=5), precision=precision)
    plain = run(ffhq_shaped, settings, capacity, 5, PlainStepper)
    graphs = run(ffhq_shaped, settings, capacity, 5, stepper_for(CUDA))
    assert sorted(graphs) == sorted(plain) == list(range(5))
    for index, result in graphs.items():
        assert result.steps == 5
        tolerance = TOLERANCES[precision]
        torch.testing.assert_close(result.cosine, plain[index].cosine, rtol=0, atol=tolerance)
        torch.testing.assert_close(result.attribute, plain[index].attribute, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(result.first_attribute, plain[index].first_attribute, rtol=tolerance, atol=tolerance)


def test_a_step_is_captured_and_not_stepped_plainly(ffhq_shaped: Networks) -> None:
    settings = StepSettings(FALCO)
    state = filled(image_state(ffhq_shaped, settings, CUDA), 4)
    stepper = stepper_for(CUDA)(ffhq_shaped, settings)
    assert isinstance(stepper, GraphStepper)
    before = state.rows.clone()
    stepper(state, 4, False)
    assert stepper.refused is None
    assert state.updates.tolist() == [1] * 4, "the warm-up steps are made on a copy"
    moved = (state.rows - before).abs().amax(dim=(1, 2))
    # The first step of Adam has the length of the learning rate wherever there is a gradient.
    torch.testing.assert_close(moved, torch.full_like(moved, FALCO.learning_rate), rtol=1e-3, atol=0)
    stepper(state, 3, False)
    assert state.updates.tolist() == [2] * 4, "three images are stepped by the graph of four"
    stepper(state, 2, False)
    assert state.updates.tolist() == [3, 3, 2, 2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_leave_and_enter_captured_slots(tiny: Networks, precision: Any) -> None:
    rule = StoppingRule(tolerance=0.3, improvement=0.01, patience=3)
    settings = StepSettings(replace(FALCO, steps=30, stopping=rule), margin=0.3, precision=precision)
    alone = run(tiny, settings, 1, 9, PlainStepper)
    together = run(tiny, settings, 4, 9, stepper_for(CUDA))
    assert len({result.steps for result in alone.values()}) > 1
    for index, result in together.items():
        if precision == "fp32" and result.steps == alone[index].steps:
            # Where a gradient is about zero rounding decides its sign, and Adam moves by 0.01 either way.
            torch.testing.assert_close(result.w_plus, alone[index].w_plus, rtol=1e-2, atol=3e-2)
        else:
            assert abs(result.steps - alone[index].steps) <= 6, "rounding may move a stop, not by much"


def test_a_proxy_is_captured_too(ffhq_shaped: Networks) -> None:
    settings = StepSettings(replace(FALCO, steps=8, proxy_resolution=32, proxy_finish=3))
    plain = run(ffhq_shaped, settings, 2, 5, PlainStepper)
    graphs = run(ffhq_shaped, settings, 2, 5, stepper_for(CUDA))
    for index, result in graphs.items():
        torch.testing.assert_close(result.attribute, plain[index].attribute, rtol=5e-3, atol=5e-3)


def test_the_capacity_that_is_measured_can_be_stepped(ffhq_shaped: Networks) -> None:
    settings = StepSettings(FALCO, precision="bf16")
    low = lowered(ffhq_shaped, "bf16")
    image = image_state(ffhq_shaped, settings, CUDA)
    free = min(8 * 2**30, torch.cuda.mem_get_info()[0])
    capacity = measured_capacity(low, settings, image, free=free, limit=64)
    assert capacity >= 1
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    stepper = stepper_for(CUDA)(low, settings)
    assert isinstance(stepper, GraphStepper)
    stepper(filled(image, capacity), capacity, False)
    assert stepper.refused is None
    assert torch.cuda.max_memory_allocated() - before <= free


def test_float32_is_float32(ffhq_shaped: Networks) -> None:
    """PyTorch rounds convolutions to TensorFloat-32 unless it is told not to: steps in fp32 must not be."""
    settings = StepSettings(replace(FALCO, steps=1))
    results = run(ffhq_shaped, settings, 2, 2, stepper_for(CUDA))
    host = Networks(*(network.to("cpu") for network in make_networks(configurations(64, tiny=False), CUDA)))
    tickets = list(originals(ffhq_shaped, 2, settings))
    state = tickets[0].state.each(lambda value: value.cpu())
    (group,) = optimise_continuously(host, make_lanes(host, settings, 1), [Ticket(0, state)])
    torch.testing.assert_close(results[0].first_attribute.cpu(), group[0].first_attribute, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(results[0].first_cosine.cpu(), group[0].first_cosine, rtol=0, atol=2e-4)
