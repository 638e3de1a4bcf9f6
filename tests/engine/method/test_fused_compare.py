"""The loss side by the fused kernels, the same sources on the host, is the method's."""

from __future__ import annotations

import functools

import pytest
import torch

from faceanon_engine.engine.method.compare import compare, fused_compare, real_targets
from faceanon_engine.engine.method.preset import PRESETS
from faceanon_engine.engine.networks.irse import IdentityEncoder, IdentityEncoderConfig
from faceanon_engine.engine.networks.vit import AttributeEncoder, AttributeEncoderConfig
from tests.kernels.host_launcher import HostLauncher

IDENTITY = {
    "crop": IdentityEncoderConfig(16, 32, (3, 29, 2, 28), (1, 1, 1, 1), (8, 8, 16, 16), 4, 16),
    "whole": IdentityEncoderConfig(16, None, None, (1, 1, 1, 1), (8, 8, 16, 16), 4, 16),
}


@pytest.mark.parametrize("preset", ["falco", "falco-released"])
@pytest.mark.parametrize("crop", IDENTITY)
def test_losses_and_the_images_gradient_are_those_of_the_method(crop: str, preset: str, host: HostLauncher) -> None:
    torch.manual_seed(0)
    identity = IdentityEncoder(IDENTITY[crop]).eval().requires_grad_(False)
    attribute = AttributeEncoder(AttributeEncoderConfig(24, 8, 16, 1, 2, 16)).eval().requires_grad_(False)
    settings = PRESETS[preset]
    targets = real_targets(identity, attribute, torch.rand(2, 3, 48, 48) * 2 - 1, settings)
    images = (torch.rand(2, 3, 48, 48) * 2 - 1).requires_grad_()
    results = []
    for losses in (
        compare(identity, attribute, images, targets, settings),
        fused_compare(identity, attribute, images, targets, settings, host),
    ):
        (gradient,) = torch.autograd.grad((losses[0] * 10 + losses[1] * 0.1).sum(), [images])
        results.append([*(loss.detach() for loss in losses), gradient])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_the_encoders_run_in_the_order_of_the_definition(host: HostLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = IdentityEncoder(IDENTITY["whole"]).eval().requires_grad_(False)
    attribute = AttributeEncoder(AttributeEncoderConfig(24, 8, 16, 1, 2, 16)).eval().requires_grad_(False)
    targets = real_targets(identity, attribute, torch.rand(1, 3, 48, 48), PRESETS["falco"])
    order: list[str] = []
    for encoder, method in ((identity, "embed"), (attribute, "encode")):
        own = getattr(encoder, method)
        monkeypatch.setattr(encoder, method, lambda x, own=own, name=method: (order.append(name), own(x))[1])
    for by in (compare, functools.partial(fused_compare, launcher=host)):
        by(identity, attribute, torch.rand(1, 3, 48, 48), targets, PRESETS["falco"])
    assert order == ["embed", "encode"] * 2


def test_under_autocast_the_losses_stay_wide(host: HostLauncher) -> None:
    torch.manual_seed(0)
    identity = IdentityEncoder(IDENTITY["whole"]).eval().requires_grad_(False)
    attribute = AttributeEncoder(AttributeEncoderConfig(24, 8, 16, 1, 2, 16)).eval().requires_grad_(False)
    targets = real_targets(identity, attribute, torch.rand(1, 3, 48, 48) * 2 - 1, PRESETS["falco"])
    images = (torch.rand(1, 3, 48, 48) * 2 - 1).requires_grad_()
    expected = fused_compare(identity, attribute, images, targets, PRESETS["falco"], host)
    host.launched.clear()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        losses = fused_compare(identity, attribute, images, targets, PRESETS["falco"], host)
    assert host.launched["resize_forward_bf16"] == 2
    (gradient,) = torch.autograd.grad((losses[0] + losses[1]).sum(), [images])
    assert torch.isfinite(gradient).all()
    for a, b in zip(losses, expected, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=2e-2, atol=2e-2)
