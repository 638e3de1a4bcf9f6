"""The folded styled layer computes what its definition says, values and gradients."""

from __future__ import annotations

import pytest
import torch

from faceanon_engine.engine.networks.stylegan2 import Generator, GeneratorConfig
from faceanon_engine.kernels.folded_conv import (
    folded_styled_layer,
    folded_to_rgb,
    folding_pays,
    styled_layer_reference,
)
from faceanon_engine.kernels.modulated_conv import modulated_conv_reference, weight_energy


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 3, 4, 5, 7), (2, 8, 3, 4, 4), (3, 1, 2, 9, 5)]
)  # batch, Cin, Cout, height, width
def test_the_folded_layer_matches_its_definition(shape: tuple[int, ...], up: bool) -> None:
    batch, cin, cout, height, width = shape
    torch.manual_seed(1)
    scale = 2 if up else 1
    x = torch.randn(batch, cin, height, width).double().requires_grad_()
    weight, styles = torch.randn(cout, cin, 3, 3).double(), torch.randn(batch, cin).double()
    noise, bias = torch.randn(1, 1, scale * height, scale * width).double(), torch.randn(cout).double()
    expected = styled_layer_reference(x, weight, styles, noise, bias, up)
    actual = folded_styled_layer(x, weight, styles, weight_energy(weight), noise, bias, up)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad((expected * cotangent).sum(), x)
    (got,) = torch.autograd.grad((actual * cotangent).sum(), x)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batch", [1, 3])
def test_folded_to_rgb_matches_its_definition(batch: int) -> None:
    torch.manual_seed(2)
    x = torch.randn(batch, 5, 6, 4).double().requires_grad_()
    weight, styles, bias = torch.randn(3, 5, 1, 1).double(), torch.randn(batch, 5).double(), torch.randn(3).double()
    expected = modulated_conv_reference(x, weight, styles, demodulate=False) + bias[:, None, None]
    actual = folded_to_rgb(x, weight, styles, bias)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    (got,) = torch.autograd.grad(actual.square().sum(), x)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_folding_is_left_where_a_style_or_a_weight_asks_for_a_gradient() -> None:
    x, weight, styles = torch.randn(1, 4, 16, 16), torch.randn(4, 4, 3, 3), torch.randn(1, 4)
    assert folding_pays(x, weight, styles)
    assert not folding_pays(x, weight, styles.clone().requires_grad_())
    assert not folding_pays(x, weight.clone().requires_grad_(), styles)
    assert not folding_pays(x[:, :, :4, :4], weight, styles), "few pixels: scaling them is less than scaling the weight"
    with torch.no_grad():
        assert folding_pays(x, weight, styles.clone().requires_grad_())


def test_rows_given_one_by_one_give_the_same_picture_and_gradient() -> None:
    torch.manual_seed(3)
    generator = Generator(GeneratorConfig(resolution=32, z_dim=8, w_dim=8, channel_base=128, channel_max=8)).freeze()
    for layer in generator.layers:
        layer.noise_strength.fill_(0.3)  # type: ignore[union-attr, operator]
    w_plus = torch.randn(2, generator.config.rows, 8)
    whole = w_plus.clone().requires_grad_()
    image = generator.synthesis(whole)
    (wanted,) = torch.autograd.grad(image.square().sum(), whole)
    rows = [row.clone().requires_grad_(3 <= index < 5) for index, row in enumerate(w_plus.unbind(1))]
    again = generator.synthesis_from(generator.prefix(w_plus, 3), rows)
    torch.testing.assert_close(again, image, rtol=1e-5, atol=1e-5)
    for gradient, index in zip(torch.autograd.grad(again.square().sum(), rows[3:5]), (3, 4), strict=True):
        torch.testing.assert_close(gradient, wanted[:, index], rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="expected"):
        generator.synthesis_from(generator.prefix(w_plus, 3), rows[:-1])
