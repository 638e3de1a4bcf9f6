"""What a CUDA graph asks of a step, without a GPU: on Torch's meta device, which has shapes and no memory.

Nothing is made on the host and brought over, since such a copy cannot be captured; and what the kernels are launched
with at the official sizes is within a GPU's limits.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.step_gpu import configurations, make_networks
from faceanon_engine.engine.method import compare
from faceanon_engine.engine.method.compare import Targets
from faceanon_engine.engine.method.preset import PRESETS, StoppingRule
from faceanon_engine.engine.method.step import State, StepSettings, begin, draw, step
from faceanon_engine.engine.networks import stylegan2
from faceanon_engine.engine.networks.precision import Networks, lowered
from faceanon_engine.kernels.resize_crop import View, resize_crop_reference

META = torch.device("meta")


class Launch(NamedTuple):
    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: ctypes.Structure
    shared: int


class Recorder:
    """A launcher that runs nothing."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []

    def launch(self, source: str, kernel: str, grid: Any, block: Any, arguments: Any, shared: int = 0) -> None:
        self.launches.append(Launch(kernel, grid, block, arguments, shared))


class Elsewhere(TorchDispatchMode):
    """Notes operations that take or give a tensor outside of the device."""

    def __init__(self, made: list[str]) -> None:
        super().__init__()
        self.made = made

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, torch.Tensor)]
        if any(each.device != META for each in tensors):
            self.made.append(str(function))
        return out


class OfValues(TorchFunctionMode):
    """Notes tensors that are made of Python's values, which the meta device alone does without a copy."""

    def __init__(self, made: list[str]) -> None:
        super().__init__()
        self.made = made

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor):
            self.made.append(str(function))
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def made_on_the_host() -> Iterator[list[str]]:
    """What is made on the host meanwhile."""
    made: list[str] = []
    with OfValues(made), Elsewhere(made):
        yield made


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """What launches on the meta device; it knows no autocast."""
    launcher = Recorder()
    for module in (stylegan2, compare):
        monkeypatch.setattr(module, "launcher_for", lambda device: launcher)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    return launcher


def official(side: int) -> Networks:
    with META:
        return make_networks(configurations(side, tiny=False), META)


def state_of(networks: Networks, batch: int, settings: StepSettings) -> State:
    config, tokens = networks.generator.config, networks.attribute_encoder.config
    w_plus = torch.empty(batch, config.rows, config.w_dim, device=META)
    targets = Targets(
        torch.empty(batch, networks.identity_encoder.config.embedding_dim, device=META),
        torch.empty(batch, tokens.tokens, tokens.width, device=META),
    )
    return begin(networks.generator, w_plus, targets, settings)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "by-torch"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_makes_nothing_on_the_host(
    precision: Any, fused: bool, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fused:
        for module in (stylegan2, compare):
            monkeypatch.setattr(module, "launcher_for", lambda device: None)
    rule = StoppingRule(tolerance=0.02, improvement=0.03, patience=5)
    settings = StepSettings(replace(PRESETS["falco"], stopping=rule), precision=precision)
    networks = official(64)
    state = state_of(networks, 2, settings)
    state.features = state.features.float()  # without autocast the encoders compute in float32, and so do all
    step(networks, state, settings)  # makes the tables and constants that are kept
    with made_on_the_host() as made:
        step(networks, state, settings)
    assert not made
    assert bool(recorder.launches) == fused


def test_the_definition_of_a_view_makes_nothing_on_the_host() -> None:
    view = View(32, 14, (4, 28, 3, 27), (0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    with made_on_the_host() as made:
        resize_crop_reference(torch.empty(1, 3, 64, 64, device=META), view)
    assert not made


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_launches_at_the_official_size_are_within_a_gpus_limits(precision: Any, recorder: Recorder) -> None:
    settings = StepSettings(PRESETS["falco"], precision=precision)
    networks = official(1024)
    state = state_of(networks, 64, settings)
    if precision == "fp32":
        step(networks, state, settings)
    else:
        rows = state.rows.detach().requires_grad_()
        torch.autograd.grad(draw(lowered(networks, precision), state, rows, settings).sum(), [rows])
    kernels = {launch.kernel for launch in recorder.launches}
    assert len(kernels) >= 9
    assert not [kernel for kernel in kernels if kernel.endswith("_any")], "channels are read 16 bytes at a time"
    for launch in recorder.launches:
        assert min(launch.grid) > 0, launch
        assert launch.grid[0] < 2**31, launch
        assert max(launch.grid[1:]) < 2**16, launch
        assert math.prod(launch.block) == 256, launch
        if launch.kernel.startswith(("epilogue", "up_")):
            assert launch.block[0] in (1, 2, 4, 8, 16, 32), "a pixel stays within a warp"
        assert launch.shared <= 48 * 1024, "what every GPU gives without asking"
        values = {name: getattr(launch.arguments, name) for name, *_ in launch.arguments._fields_}
        places = values.get("pixels") or (values.get("height", 0) + 1) * (values.get("width", 0) + 1)
        assert places * values.get("channels", 3) < 2**31, "offsets within an image are of 32 bits"
