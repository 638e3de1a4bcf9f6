"""Dense convolution with a frozen weight: its gradient goes to the data alone, and nothing is kept for it.

Torch's own convolution keeps its input for a weight gradient that nobody asks for.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _FrozenConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, up: bool) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.up = up
        return frozen_conv_reference(x, weight, up=up)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        if ctx.up:
            return F.conv2d(gradient, weight, stride=2), None, None
        return F.conv_transpose2d(gradient, weight, padding=weight.shape[-1] // 2), None, None


def frozen_conv_reference(x: Tensor, weight: Tensor, *, up: bool = False) -> Tensor:
    """The definition, with Torch's own gradient."""
    if up:
        return F.conv_transpose2d(x, weight, stride=2)
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


def frozen_conv(x: Tensor, weight: Tensor, *, up: bool = False) -> Tensor:
    """x [N, Cin, H, W] -> [N, Cout, H, W] with weight [Cout, Cin, k, k] of odd k.

    up: transposed with stride 2 and weight [Cin, Cout, 3, 3], to [N, Cout, 2 H + 1, 2 W + 1].
    """
    return _FrozenConv.apply(x, weight, up)


def dense_weight(weight: Tensor, *, up: bool, dtype: torch.dtype) -> Tensor:
    """A modulated convolution's weight [Cout, Cin, k, k] as `frozen_conv` wants it: that type, channels-last."""
    weight = weight.detach().transpose(0, 1) if up else weight.detach()
    return weight.to(dtype).contiguous(memory_format=torch.channels_last)
