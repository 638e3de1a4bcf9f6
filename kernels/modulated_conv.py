"""Modulated convolution and what follows it. Source: StyleGAN2 (Karras et al., CVPR 2020), section 2.2.

    y[n] = d[n] * conv(W, s[n] * x[n]),  d[n, o] = (sum_i s[n, i]^2 Q[o, i] + eps)^(-1/2),  Q[o, i] = sum_k W[o, i, k]^2

The definition forms one weight a sample. Scaling the input by the style and the output by the demodulation is the
same function, so one dense convolution serves the whole batch, and with a frozen weight Q is a constant.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from faceanon_engine.kernels.fir import blur, blur_reference

DEMODULATION_EPSILON = 1e-8
LEAKY_SLOPE = 0.2
ACTIVATION_GAIN = math.sqrt(2)


def modulated_conv_reference(
    x: Tensor, weight: Tensor, styles: Tensor, *, demodulate: bool = True, up: bool = False
) -> Tensor:
    """The definition: x [N, Cin, H, W], weight [Cout, Cin, k, k], styles [N, Cin] -> [N, Cout, H, W]; up doubles."""
    batch, cin, height, width = x.shape
    cout, k = weight.shape[0], weight.shape[-1]
    each = weight[None] * styles[:, None, :, None, None]  # [N, Cout, Cin, k, k]
    if demodulate:
        each = each * (each.square().sum(dim=(2, 3, 4), keepdim=True) + DEMODULATION_EPSILON).rsqrt()
    x = x.reshape(1, batch * cin, height, width)
    if up:
        kernel = each.transpose(1, 2).reshape(batch * cin, cout, k, k)
        y = F.conv_transpose2d(x, kernel, stride=2, groups=batch)
        return blur_reference(y.reshape(batch, cout, *y.shape[2:]), (1, 1))
    y = F.conv2d(x, each.reshape(batch * cout, cin, k, k), padding=k // 2, groups=batch)
    return y.reshape(batch, cout, height, width)


def weight_energy(weight: Tensor) -> Tensor:
    """Q [Cout, Cin] of a weight [Cout, Cin, k, k]: the constant that demodulation needs."""
    return weight.square().sum(dim=(2, 3))


def demodulation(styles: Tensor, energy: Tensor) -> Tensor:
    """d [N, Cout] of styles [N, Cin] and Q [Cout, Cin], in float32 at least: in 16 bits the squares overflow."""
    wide = torch.promote_types(styles.dtype, torch.float32)
    return (styles.to(wide).square() @ energy.to(wide).t() + DEMODULATION_EPSILON).rsqrt()


def modulated_conv(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    energy: Tensor | None = None,
    demodulate: bool = True,
    up: bool = False,
) -> Tensor:
    """As `modulated_conv_reference`, without per-sample weights; `energy` is `weight_energy(weight)` when known."""
    if demodulate and x.dtype == torch.float16:
        # Demodulation makes the result independent of the style's size, which float16 could not hold.
        styles = styles / styles.detach().abs().amax(dim=1, keepdim=True).clamp_min(DEMODULATION_EPSILON)
    y = x * styles[:, :, None, None].to(x.dtype)
    scale = demodulation(styles, weight_energy(weight) if energy is None else energy) if demodulate else None
    if up:
        # Demodulation commutes with the filter: applied before it, it touches the smaller buffer last written.
        y = blur(F.conv_transpose2d(y, weight.transpose(0, 1), stride=2), (1, 1))
    else:
        y = F.conv2d(y, weight, padding=weight.shape[-1] // 2)
    return y if scale is None else y * scale[:, :, None, None].to(y.dtype)


def epilogue(y: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    """Noise [1, 1, H, W] (strength applied), bias [C], leaky ReLU with slope 0.2, gain sqrt 2, on [N, C, H, W]."""
    # Leaky ReLU is homogeneous, so the gain may go first, where it is a multiplication of small tensors.
    y = y + (noise + bias[:, None, None]).to(y.dtype)
    return F.leaky_relu(y, LEAKY_SLOPE) * ACTIVATION_GAIN
