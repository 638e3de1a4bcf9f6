"""The filter after a transposed convolution, with what follows it in the same pass, and the gradient of both.

    t = blur(u),  v = d * t + noise + bias,  z = s_next * sqrt 2 * leaky_relu(v, 0.2)

The filter is separable and its last pass carries the rest. Its gradient is the same filter over a border one pixel
wider; where no gradient to d or s_next is asked for, the activation's own gradient, one kept bit a value, is applied as
the filter reads. Otherwise t is kept, too, and the pass with the sums comes first. Source: StyleGAN2, appendix B.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor

from faceanon_engine.kernels.cuda.launch import (
    GROUP,
    THREADS,
    Launcher,
    ceil_div,
    channels_last,
    lanes_for,
    launcher_of,
    pointer,
    suffix,
)
from faceanon_engine.kernels.fir import blur_reference
from faceanon_engine.kernels.styled_epilogue import (
    Constants,
    Wanted,
    epilogue_gradients,
    styled_epilogue_reference,
)

_SOURCE = "up_epilogue"


def up_epilogue_reference(
    u: Tensor, demodulation: Tensor, noise: Tensor | None, bias: Tensor | None, next_styles: Tensor | None = None
) -> Tensor:
    """The definition, in float32 at least."""
    t = blur_reference(u.to(torch.promote_types(u.dtype, torch.float32)), (1, 1))
    z = styled_epilogue_reference(t, demodulation, noise, bias, next_styles=next_styles).z
    assert z is not None
    return z.to(u.dtype)


def up_epilogue(
    u: Tensor,
    demodulation: Tensor,
    noise: Tensor | None,
    bias: Tensor | None,
    next_styles: Tensor | None = None,
    *,
    launcher: Launcher | None = None,
) -> Tensor:
    """As `up_epilogue_reference`, by one kernel where there is one for the device and the type of u.

    u [N, C, H + 1, W + 1] float32, float16 or bfloat16, channels-last; demodulation [N, C], noise [1, 1, H, W],
    bias [C], next_styles [N, C] -> z [N, C, H, W] of the type of u. Gradients go to u, demodulation and next_styles,
    once. Without a `launcher` the definition is computed.
    """
    launcher = launcher_of(u, launcher)
    if launcher is None:
        return up_epilogue_reference(u, demodulation, noise, bias, next_styles)
    settings = _Settings(torch.is_grad_enabled(), launcher)
    z: Tensor = _UpEpilogue.apply(u, demodulation, noise, bias, next_styles, settings)
    return z


class _Settings(NamedTuple):
    differentiate: bool
    launcher: Launcher


class _Forward(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("u", "demodulation", "noise", "bias", "next_styles")),
        *((name, ctypes.c_void_p) for name in ("z", "signs", "filtered")),
        *((name, ctypes.c_int) for name in ("height", "width", "channels", "strip")),
    ]


class _Backward(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("gradient", "signs", "demodulation", "next_styles", "u_grad")),
        *((name, ctypes.c_int) for name in ("height", "width", "channels", "strip")),
    ]


def _launch(kernel: str, arguments: _Forward | _Backward, shape: tuple[int, int, int, int], by: Launcher) -> None:
    """Over outputs of that shape: a thread has one column of a strip, eight channels wide."""
    batch, channels, height, width = shape
    lanes = lanes_for(channels)
    columns = THREADS // lanes
    # Three rows more are read than written: long strips waste less, short ones fill the GPU at the small sides.
    strip = 32 if height >= 512 else 16 if height >= 128 else 4
    arguments.height, arguments.width, arguments.channels, arguments.strip = height, width, channels, strip
    chunks = ceil_div(ceil_div(channels, GROUP), lanes)
    grid = (ceil_div(width, columns) * chunks, ceil_div(height, strip), batch)
    by.launch(_SOURCE, kernel, grid, (lanes, columns, 1), arguments)


class _UpEpilogue(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        demodulation: Tensor,
        noise: Tensor | None,
        bias: Tensor | None,
        next_styles: Tensor | None,
        settings: _Settings,
    ) -> Tensor:
        batch, channels, height, width = u.shape
        shape = (batch, channels, height - 1, width - 1)
        u = channels_last(u)
        constants = Constants.of(shape, demodulation, noise, bias, next_styles)
        of_u, of_demodulation, of_next = (settings.differentiate and ctx.needs_input_grad[i] for i in (0, 1, 4))
        wanted = Wanted(of_u, of_demodulation, of_next, False)
        z = torch.empty(shape, dtype=u.dtype, device=u.device, memory_format=torch.channels_last)
        # In 16 bits the filtered values that are kept may lie on the other side of the activation than those it saw.
        filtered = torch.empty_like(z) if wanted.sums else None
        signs = None
        if any(wanted):
            signs = z.new_empty(batch, shape[2] * shape[3], ceil_div(channels, GROUP), dtype=torch.uint8)

        arguments = _Forward(u=pointer(u), z=pointer(z), signs=pointer(signs), filtered=pointer(filtered))
        for name in ("demodulation", "noise", "bias", "next_styles"):
            setattr(arguments, name, pointer(getattr(constants, name)))
        kernel = f"up_forward_{suffix(u.dtype, channels, u, z, filtered, *constants)}"
        _launch(kernel, arguments, shape, settings.launcher)
        ctx.save_for_backward(filtered, signs, *constants)
        ctx.wanted, ctx.launcher = wanted, settings.launcher
        return z

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, z_grad: Tensor) -> tuple[Tensor | None, ...]:
        filtered, signs, *saved = ctx.saved_tensors
        constants, wanted, launcher = Constants(*saved), ctx.wanted, ctx.launcher
        if not any(wanted):
            return (None,) * 6
        gradient = channels_last(z_grad)
        of_demodulation = of_next = None
        if wanted.sums:
            gradients = epilogue_gradients(
                constants, filtered, signs, gradient, None, wanted, gradient, activate=True, launcher=launcher
            )
            signs, of_demodulation, of_next = None, gradients.demodulation, gradients.next_styles
            if gradients.u is None:
                return None, of_demodulation, None, None, of_next, None
            gradient = gradients.u

        batch, channels, height, width = gradient.shape
        shape = (batch, channels, height + 1, width + 1)
        u_grad = torch.empty(shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last)
        arguments = _Backward(gradient=pointer(gradient), signs=pointer(signs), u_grad=pointer(u_grad))
        arguments.demodulation, arguments.next_styles = pointer(constants.demodulation), pointer(constants.next_styles)
        kernel = f"up_backward_{suffix(gradient.dtype, channels, gradient, u_grad, *constants)}"
        _launch(kernel, arguments, shape, launcher)
        return u_grad, of_demodulation, None, None, of_next, None
