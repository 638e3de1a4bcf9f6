"""The fast forms compute what their definitions say, values and gradients, in float64."""

from __future__ import annotations

import pytest
import torch

from faceanon_engine.kernels.fir import blur, blur_reference, upsample, upsample_reference
from faceanon_engine.kernels.modulated_conv import (
    epilogue,
    modulated_conv,
    modulated_conv_reference,
    weight_energy,
)

SHAPES = [(1, 3, 4, 5, 7), (2, 8, 3, 4, 4), (3, 1, 2, 9, 5), (4, 6, 6, 8, 8)]  # batch, Cin, Cout, height, width


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_modulated_convolution_matches_per_sample_weights(
    shape: tuple[int, ...], up: bool, demodulate: bool, kernel: int
) -> None:
    if up and kernel == 1:
        pytest.skip("only 3x3 kernels enlarge")
    batch, cin, cout, height, width = shape
    torch.manual_seed(1)
    x, styles = torch.randn(batch, cin, height, width).double(), torch.randn(batch, cin).double()
    weight = torch.randn(cout, cin, kernel, kernel).double()
    inputs = [x.requires_grad_(), styles.requires_grad_()]
    expected = modulated_conv_reference(x, weight, styles, demodulate=demodulate, up=up)
    actual = modulated_conv(x, weight, styles, energy=weight_energy(weight), demodulate=demodulate, up=up)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad((actual * cotangent).sum(), inputs),
        torch.autograd.grad((expected * cotangent).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_modulated_convolutions_gradient_is_right() -> None:
    torch.manual_seed(2)
    weight = torch.randn(3, 2, 3, 3).double()
    inputs = (torch.randn(2, 2, 3, 4).double().requires_grad_(), torch.randn(2, 2).double().requires_grad_())
    for up in (False, True):
        assert torch.autograd.gradcheck(lambda x, s, up=up: modulated_conv(x, weight, s, up=up), inputs)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8)])
def test_the_separable_filters_match_the_definition(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size).double()
    torch.testing.assert_close(upsample(x), upsample_reference(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(blur(x, (2, 2)), blur_reference(x, (2, 2)), rtol=1e-12, atol=1e-12)


def test_upsampling_keeps_a_constant_inside() -> None:
    assert torch.allclose(upsample(torch.ones(1, 1, 6, 6))[:, :, 1:-1, 1:-1], torch.ones(()))


def test_the_epilogue_is_noise_bias_leaky_relu_gain() -> None:
    y = torch.tensor([[[[-3.0, 2.0]]]])
    activated = epilogue(y, torch.tensor([[[[0.5, -0.5]]]]), torch.tensor([1.0]))
    assert activated.flatten().tolist() == pytest.approx([-1.5 * 0.2 * 2**0.5, 2.5 * 2**0.5])
