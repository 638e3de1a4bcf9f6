"""The styled layer with its style, demodulation and gain folded into one weight a sample, for large pictures on a CPU.

Above the optimised rows no style asks for a gradient, and where a picture has many more pixels than a weight has
elements, scaling the weight costs nothing while every pass over the activations costs memory traffic. What is left is
one convolution with its bias, the noise and the activation in place, and a backward pass of one convolution that needs
the layer's own output alone. The definition is `modulated_conv_reference` followed by `epilogue`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from faceanon_engine.kernels.fir import TAPS
from faceanon_engine.kernels.modulated_conv import (
    ACTIVATION_GAIN,
    LEAKY_SLOPE,
    demodulation,
    epilogue,
    modulated_conv_reference,
)


def styled_layer_reference(x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor, bias: Tensor, up: bool) -> Tensor:
    """The definition: x [N, Cin, H, W], weight [Cout, Cin, 3, 3], styles [N, Cin], noise [H', W'], bias [Cout]."""
    return epilogue(modulated_conv_reference(x, weight, styles, up=up), noise, bias)


def folding_pays(x: Tensor, weight: Tensor, styles: Tensor) -> bool:
    """Whether `folded_styled_layer` can be used, and moves less memory than scaling the activations would."""
    if (
        x.device.type != "cpu"
        or x.dtype.itemsize < 4
        or weight.requires_grad
        or (torch.is_grad_enabled() and styles.requires_grad)
    ):
        return False
    return x.shape[2] * x.shape[3] >= weight[:, 0].numel() and not torch.compiler.is_compiling()


def folded_styled_layer(
    x: Tensor, weight: Tensor, styles: Tensor, energy: Tensor, noise: Tensor, bias: Tensor, up: bool
) -> Tensor:
    """As `styled_layer_reference`, differentiable in x alone; `energy` is `weight_energy(weight)`."""
    y: Tensor = _FoldedStyledLayer.apply(x, weight, styles, energy, noise, bias, up)
    return y


def folded_to_rgb(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor) -> Tensor:
    """Modulated 1x1 convolution without demodulation: x [N, Cin, H, W], weight [3, Cin, 1, 1] -> [N, 3, H, W].

    Differentiable in x alone.
    """
    rgb: Tensor = _FoldedToRGB.apply(x, weight, styles, bias)
    return rgb


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _blur(x: Tensor, padding: int, bias: Tensor | None = None) -> Tensor:
    """The filter of both axes in one pass over [N, C, H, W]: a depthwise 4x4 kernel, its own mirror image."""
    taps = torch.tensor(TAPS, dtype=x.dtype, device=x.device)
    kernel = torch.outer(taps, taps) * (4.0 / sum(TAPS) ** 2)
    channels = x.shape[1]
    return F.conv2d(x, kernel.expand(channels, 1, 4, 4), bias, padding=padding, groups=channels)


class _FoldedStyledLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, styles: Tensor, energy: Tensor, noise: Tensor, bias: Tensor, up: bool
    ) -> Tensor:
        scale = demodulation(styles, energy).to(weight.dtype) * ACTIVATION_GAIN  # [N, Cout]
        each = weight[None] * styles[:, None, :, None, None].to(weight.dtype) * scale[:, :, None, None, None]
        if up:
            each = each.transpose(1, 2)
        bias, noise = bias * ACTIVATION_GAIN, noise * ACTIVATION_GAIN
        parts = []
        for sample, kernel in zip(x.split(1), each, strict=True):
            kernel = kernel.contiguous(memory_format=torch.channels_last)
            if up:
                y = _blur(F.conv_transpose2d(sample, kernel, stride=2), 1, bias)
            else:
                y = F.conv2d(sample, kernel, bias, padding=1)
            parts.append(F.leaky_relu(y.add_(noise), LEAKY_SLOPE, inplace=True))
        y = _join(parts)
        ctx.up = up
        ctx.save_for_backward(each, y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        each, y = ctx.saved_tensors
        parts = []
        for kernel, out, g in zip(each, y.split(1), gradients[0].split(1), strict=True):
            g = g.contiguous(memory_format=torch.channels_last)
            g = torch.ops.aten.leaky_relu_backward(g, out, LEAKY_SLOPE, True)
            if ctx.up:
                parts.append(F.conv2d(_blur(g, 2), kernel.contiguous(memory_format=torch.channels_last), stride=2))
            else:
                # The transposed convolution, written as one with the mirrored kernel: three times as quick where few
                # channels meet many pixels.
                mirrored = kernel.transpose(0, 1).flip(2, 3)
                parts.append(F.conv2d(g, mirrored.contiguous(memory_format=torch.channels_last), padding=1))
        return (_join(parts), None, None, None, None, None, None)


class _FoldedToRGB(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor) -> Tensor:
        each = weight[None] * styles[:, None, :, None, None].to(weight.dtype)
        ctx.save_for_backward(each)
        return _join([F.conv2d(sample, kernel, bias) for sample, kernel in zip(x.split(1), each, strict=True)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (each,) = ctx.saved_tensors
        pairs = zip(gradients[0].split(1), each.transpose(1, 2), strict=True)
        # As a convolution of three channels; in the memory order of the gradient that it will be added to.
        parts = [F.conv2d(g.contiguous(memory_format=torch.channels_last), kernel) for g, kernel in pairs]
        return _join(parts), None, None, None
