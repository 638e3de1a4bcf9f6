"""StyleGAN2's layers: modulated convolutions with their styles, noise, bias and activation, and the way to RGB.

Source: StyleGAN2 (Karras, Laine, Aittala, Hellsten, Lehtinen, Aila, CVPR 2020).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceanon_engine.kernels.fir import upsample
from faceanon_engine.kernels.folded_conv import folded_styled_layer, folded_to_rgb, folding_pays
from faceanon_engine.kernels.modulated_conv import epilogue, modulated_conv, weight_energy


class EqualizedLinear(nn.Module):
    """Linear layer whose weight is stored with unit variance and scaled when used (equalised learning rate)."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([outputs], float(bias) / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(inputs)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)


class ModulatedConv(nn.Module):
    """A modulated convolution's weight and its style, with the constants of a frozen weight kept."""

    energy: Tensor | None
    folded: Tensor | None
    fused: ConvConstants | None = None

    def __init__(self, cin: int, cout: int, w_dim: int, *, kernel: int, demodulate: bool, up: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(cout, cin, kernel, kernel))
        self.affine = EqualizedLinear(w_dim, cin, bias=1.0)
        self.gain = 1 / math.sqrt(cin * kernel * kernel)
        self.demodulate = demodulate
        self.up = up
        self.register_buffer("energy", None, persistent=False)
        self.register_buffer("folded", None, persistent=False)

    def freeze(self) -> None:
        """Compute the scaled weight and its demodulation constant once."""
        with torch.no_grad():
            self.folded = self.weight * self.gain
            self.energy = weight_energy(self.folded) if self.demodulate else None

    def thaw(self) -> None:
        """Forget the constants, so that training sees its own weight."""
        self.folded = self.energy = self.fused = None

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight = self.weight * self.gain if self.folded is None else self.folded
        return modulated_conv(x, weight, self.affine(w), energy=self.energy, demodulate=self.demodulate, up=self.up)


class StyledLayer(nn.Module):
    """Modulated 3x3 convolution, fixed noise, bias and activation."""

    noise: Tensor

    def __init__(self, cin: int, cout: int, w_dim: int, resolution: int, *, up: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv(cin, cout, w_dim, kernel=3, demodulate=True, up=up)
        self.bias = nn.Parameter(torch.zeros(cout))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise", torch.randn(1, 1, resolution, resolution))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        conv, noise = self.conv, self.noise * self.noise_strength
        if conv.folded is not None and conv.energy is not None:
            styles = conv.affine(w)
            if folding_pays(x, conv.folded, styles):
                return folded_styled_layer(x, conv.folded, styles, conv.energy, noise, self.bias, conv.up)
        return epilogue(conv(x, w), noise, self.bias)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to three channels, added to the enlarged image so far."""

    def __init__(self, cin: int, w_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(cin, 3, w_dim, kernel=1, demodulate=False, up=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor, image: Tensor | None) -> Tensor:
        conv = self.conv
        styles = conv.affine(w)
        if conv.folded is not None and folding_pays(x, conv.folded, styles):
            rgb = folded_to_rgb(x, conv.folded, styles, self.bias)
        else:
            rgb = conv(x, w) + self.bias[:, None, None]
        return rgb if image is None else rgb + upsample(image)


class ConvConstants(NamedTuple):
    """Of a frozen modulated convolution: what it was made from, and what every step needs of it."""

    folded: Tensor
    weight: Tensor
    """A layer's as `frozen_conv` takes it; toRGB's [3, C] in float32."""
    style_weight: Tensor
    style_bias: Tensor
    noise: Tensor | None
    bias: Tensor
