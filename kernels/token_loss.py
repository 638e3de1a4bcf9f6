"""The attribute loss on token features, and its gradient. Source: FALCO, section 3.3.

    loss[n] = sum_t mean_c |tokens[n, t, c] - reference[n, t, c]|

The difference is never stored: the gradient is its sign, found again from the two tensors.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from faceanon_engine.kernels.cuda.launch import (
    GROUP,
    THREADS,
    Launcher,
    ceil_div,
    float32,
    launcher_of,
    pointer,
    suffix,
)

_SOURCE = "token_loss"
_BATCH = 4  # groups of values of a thread, as in the source


def token_loss_reference(tokens: Tensor, reference: Tensor) -> Tensor:
    """The definition, in float32 at least."""
    wide = torch.promote_types(tokens.dtype, torch.float32)
    return (tokens.to(wide) - reference.to(wide)).abs().mean(dim=2).sum(dim=1)


def token_loss(tokens: Tensor, reference: Tensor, *, launcher: Launcher | None = None) -> Tensor:
    """As `token_loss_reference`, by a kernel where there is one for the device and the type of the tokens.

    tokens [N, T, C] float32, float16 or bfloat16; reference [N, T, C], a constant, best kept as float32 -> float32
    [N]. The gradient goes to the tokens, once. Without a `launcher` the definition is computed.
    """
    launcher = launcher_of(tokens, launcher)
    if launcher is None:
        return token_loss_reference(tokens, reference)
    if tokens.shape != reference.shape:
        raise ValueError(f"tokens are {tuple(tokens.shape)} and those of the original {tuple(reference.shape)}")
    loss: Tensor = _TokenLoss.apply(tokens, reference, launcher)
    return loss


class _Forward(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("tokens", "reference", "partial")),
        *((name, ctypes.c_int) for name in ("values",)),
    ]


class _Backward(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("tokens", "reference", "loss_grad", "tokens_grad")),
        ("factor", ctypes.c_float),
        *((name, ctypes.c_int) for name in ("values",)),
    ]


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, reference: Tensor, launcher: Launcher) -> Tensor:
        tokens, constant = tokens.contiguous(), float32(reference)
        batch, values = len(tokens), tokens[0].numel()
        blocks = ceil_div(values, THREADS * GROUP * _BATCH)
        partial = tokens.new_empty(batch, blocks, dtype=torch.float32)
        arguments = _Forward(pointer(tokens), pointer(constant), pointer(partial), values)
        kernel = f"token_forward_{suffix(tokens.dtype, values, tokens, constant)}"
        launcher.launch(_SOURCE, kernel, (blocks, batch, 1), (THREADS, 1, 1), arguments, THREADS // 32 * 4)
        ctx.save_for_backward(tokens, constant)
        ctx.launcher = launcher
        return partial.sum(dim=1) / tokens.shape[2]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, loss_grad: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[0]:
            return None, None, None
        tokens, constant = ctx.saved_tensors
        batch, values = len(tokens), tokens[0].numel()
        gradient = torch.empty_like(tokens)
        slopes = float32(loss_grad)
        arguments = _Backward(pointer(tokens), pointer(constant), pointer(slopes), pointer(gradient))
        arguments.factor, arguments.values = 1 / tokens.shape[2], values
        grid = (ceil_div(values, THREADS * GROUP * _BATCH), batch, 1)
        kernel = f"token_backward_{suffix(tokens.dtype, values, tokens, constant, gradient)}"
        ctx.launcher.launch(_SOURCE, kernel, grid, (THREADS, 1, 1), arguments)
        return gradient, None, None
