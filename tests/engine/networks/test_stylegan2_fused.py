"""The whole synthesis by the fused kernels, the same sources on the host, is the layer-by-layer one."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor

from faceanon_engine.engine.networks import stylegan2
from faceanon_engine.engine.networks.stylegan2 import Generator, GeneratorConfig
from faceanon_engine.engine.networks.stylegan2_layers import ModulatedConv
from tests.kernels.host_launcher import HostLauncher

ROWS = 8
# Of the largest magnitude, after seven layers and back: float32 in another order; 16 bits round every activation.
TOLERANCE = {torch.float32: (2e-6, 5e-6), torch.float16: (3e-3, 2e-2), torch.bfloat16: (2e-2, 1e-1)}


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    made = Generator(GeneratorConfig(resolution=32, z_dim=8, w_dim=8, channel_base=256, channel_max=24))
    for layer in made.layers:
        layer.noise_strength.data.fill_(0.3)
        layer.bias.data.normal_()
    return made.freeze()


def compute(generator: Generator, trained: range = range(3, 7)) -> dict[str, Tensor]:
    """Images and lower images of two codes, and the gradient to the rows that are optimised."""
    w_plus = torch.randn(2, ROWS, 8, generator=torch.Generator().manual_seed(1))
    rows = w_plus[:, trained].clone().requires_grad_()
    codes = [*w_plus[:, : trained.start].unbind(1), *rows.unbind(1), *w_plus[:, trained.stop :].unbind(1)]
    with torch.no_grad():
        prefix = generator.prefix(w_plus, trained.start)
    image = generator.synthesis_from(prefix, codes)
    lower = generator.skip_output_from(prefix, codes, 16)
    cotangent = torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((image * cotangent).sum() + lower.sum(), [rows])
    values = {"image": image.detach(), "lower": lower.detach(), "whole": generator.synthesis(w_plus).detach()}
    return values | {"features": prefix.features, "gradient": gradient}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("first", [3, 4])
def test_the_fused_synthesis_is_the_layer_by_layer_one(
    first: int, dtype: torch.dtype, generator: Generator, host: HostLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = compute(generator, range(first, 7))
    lowered = copy.deepcopy(generator)
    for module in lowered.modules():
        if isinstance(module, ModulatedConv):
            assert module.folded is not None
            module.folded = module.folded.to(dtype)
    monkeypatch.setattr(stylegan2, "launcher_for", lambda device: host)
    fused = compute(lowered, range(first, 7))
    assert fused["image"].dtype == torch.float32
    assert fused["features"].dtype == dtype
    for name, value in expected.items():
        error = float((fused[name].float() - value).abs().max() / value.abs().max())
        assert error < TOLERANCE[dtype][name == "gradient"], f"{name}: {error:.1e}"


def test_a_step_reads_and_writes_each_activation_as_often_as_it_must(
    generator: Generator, host: HostLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stylegan2, "launcher_for", lambda device: host)
    w_plus = torch.randn(1, ROWS, 8)
    with torch.no_grad():
        prefix = generator.prefix(w_plus, 3)
    host.launched = Counter()
    rows = w_plus[:, 3:5].clone().requires_grad_()
    codes = [*w_plus[:, :3].unbind(1), *rows.unbind(1), *w_plus[:, 5:].unbind(1)]
    image = generator.synthesis_from(prefix, codes)
    forward, host.launched = host.launched, Counter()
    torch.autograd.grad(image.sum(), [rows])
    # Rows 3 and 5 enlarge, rows 4 and 6 draw with their own pass; before row 3 its style and its block's toRGB.
    assert forward == {"up_forward_f32": 2, "epilogue_forward_rgb_f32": 3}
    # Above row 4 no style is trained: the last layer reads nothing but the image's gradient and its bits.
    assert host.launched == {
        "epilogue_backward_rgb_f32": 1,
        "up_backward_f32": 2,
        "epilogue_backward_rgb_sums_f32": 1 + 1,
        "epilogue_backward_sums_f32": 1,
        "skip_backward": 2,
    }


def test_constants_are_made_once_and_again_after_freezing(
    generator: Generator, host: HostLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stylegan2, "launcher_for", lambda device: host)
    changed = copy.deepcopy(generator)
    conv = changed.layers[2].conv
    before = compute(changed)["image"]
    kept = conv.fused
    assert torch.equal(compute(changed)["image"], before)
    assert conv.fused is kept
    conv.weight.data.mul_(-1.0)
    changed.freeze()
    assert not torch.allclose(compute(changed)["image"], before)
    changed.train()
    assert conv.fused is None


def test_a_generator_in_training_is_left_alone(
    generator: Generator, host: HostLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stylegan2, "launcher_for", lambda device: host)
    trained = copy.deepcopy(generator).train().requires_grad_(True)
    host.launched = Counter()
    trained.synthesis(torch.randn(1, ROWS, 8)).sum().backward()
    assert trained.layers[0].conv.weight.grad is not None
    assert not host.launched
