"""What follows a modulated convolution, in one pass over its output, with the reductions of its gradient.

    v = d * u + noise + bias,  y = sqrt 2 * leaky_relu(v, 0.2),  z = s_next * y,  image = W_rgb (s_rgb * y) + bias + up(skip)

u is the dense convolution's output, d its demodulation, z the next convolution's input, image that of the skip
architecture. Where no gradient to d, s_next or s_rgb is asked for, all that is kept for the backward pass is one bit
a value: on which side of the activation it fell. Otherwise u is kept, and the sums

    dL/dd = sum g_v u,  dL/ds_next = sum g_z y,  dL/ds_rgb = sum y (W_rgb^T g_image)

over the pixels come out of the pass that writes the gradient of u. Source: StyleGAN2 (Karras et al., CVPR 2020).
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor

from faceanon_engine.kernels.cuda.launch import (
    GROUP,
    SUFFIX,
    THREADS,
    Launcher,
    aligned,
    ceil_div,
    channels_last,
    float32,
    lanes_for,
    launcher_for,
    pointer,
)
from faceanon_engine.kernels.fir import upsample_reference
from faceanon_engine.kernels.modulated_conv import epilogue

_SOURCE = "styled_epilogue"
_PIXELS = 4  # of a forward thread, as in the source
_ROWS_OF_SUMS = 8  # pixels a thread goes through where sums are wanted: more make fewer partial sums and fewer blocks


class RGB(NamedTuple):
    """toRGB: weight [3, C], styles [N, C], bias [3], and the image so far [N, 3, H / 2, W / 2] or None."""

    weight: Tensor
    styles: Tensor
    bias: Tensor
    skip: Tensor | None


class Styled(NamedTuple):
    """z [N, C, H, W] of the type of u, and image float32 [N, 3, H, W]; None where it was not asked for."""

    z: Tensor | None
    image: Tensor | None


def styled_epilogue_reference(
    u: Tensor,
    demodulation: Tensor | None = None,
    noise: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    next_styles: Tensor | None = None,
    rgb: RGB | None = None,
    activate: bool = True,
    want_z: bool = True,
) -> Styled:
    """The definition, in float32 at least."""
    y = u.to(torch.promote_types(u.dtype, torch.float32))
    if demodulation is not None:
        y = y * demodulation[:, :, None, None]
    zero = y.new_zeros(())
    bias = y.new_zeros(y.shape[1]) if bias is None else bias
    noise = zero if noise is None else noise
    y = epilogue(y, noise, bias) if activate else y + (noise + bias[:, None, None])
    image = None
    if rgb is not None:
        image = torch.einsum("nchw,nc,jc->njhw", y, rgb.styles, rgb.weight) + rgb.bias[:, None, None]
        if rgb.skip is not None:
            image = image + upsample_reference(rgb.skip)
    if not want_z:
        return Styled(None, image)
    z = y if next_styles is None else y * next_styles[:, :, None, None]
    return Styled(z.to(u.dtype), image)


def styled_epilogue(
    u: Tensor,
    demodulation: Tensor | None = None,
    noise: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    next_styles: Tensor | None = None,
    rgb: RGB | None = None,
    activate: bool = True,
    want_z: bool = True,
    launcher: Launcher | None = None,
) -> Styled:
    """As `styled_epilogue_reference`, by one kernel where there is one for the device and the type of u.

    u [N, C, H, W] float32, float16 or bfloat16, channels-last; demodulation [N, C], noise [1, 1, H, W], bias [C],
    next_styles [N, C]. Without an activation there is no gain either. Gradients go to u, demodulation, next_styles,
    rgb.styles and rgb.skip; the other values are frozen, and no second gradients are given. `launcher` defaults to
    the device's own.
    """
    launcher = launcher or launcher_for(u.device)
    if launcher is None or u.dtype not in SUFFIX or u.numel() == 0:
        return styled_epilogue_reference(
            u, demodulation, noise, bias, next_styles=next_styles, rgb=rgb, activate=activate, want_z=want_z
        )
    height, width = u.shape[2:]
    if rgb is not None and rgb.skip is not None and tuple(rgb.skip.shape[2:]) != (height / 2, width / 2):
        raise ValueError(f"the image so far is {tuple(rgb.skip.shape[2:])}, expected half of {(height, width)}")
    if noise is not None and noise.numel() != height * width:
        raise ValueError(f"noise is {tuple(noise.shape)}, expected one value for each of {(height, width)}")
    weight, styles, rgb_bias, skip = rgb or (None, None, None, None)
    settings = _Settings(activate, want_z, torch.is_grad_enabled(), launcher)
    z, image = _StyledEpilogue.apply(
        u, demodulation, noise, bias, next_styles, weight, styles, rgb_bias, skip, settings
    )
    return Styled(z, image)


class _Settings(NamedTuple):
    activate: bool
    want_z: bool
    differentiate: bool
    launcher: Launcher


class _Forward(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("u", "demodulation", "noise", "bias", "next_styles", "z", "signs")),
        *((name, ctypes.c_void_p) for name in ("rgb_weight", "rgb_styles", "rgb_bias", "skip", "image")),
        *((name, ctypes.c_int) for name in ("pixels", "width", "channels", "activate", "whole")),
    ]


class _Backward(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("u", "signs", "demodulation", "noise", "bias", "next_styles")),
        *((name, ctypes.c_void_p) for name in ("z_grad", "rgb_weight", "rgb_styles", "image_grad", "u_grad")),
        *((name, ctypes.c_void_p) for name in ("demodulation_sums", "next_sums", "rgb_sums")),
        *((name, ctypes.c_int) for name in ("pixels", "channels", "strip", "activate", "whole")),
    ]


class _SkipBackward(ctypes.Structure):
    _fields_ = [
        ("image_grad", ctypes.c_void_p),
        ("skip_grad", ctypes.c_void_p),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
    ]


def skip_gradient(image_grad: Tensor, launcher: Launcher) -> Tensor:
    """Gradient [N, 3, H / 2, W / 2] of the image so far, of that of the image float32 [N, 3, H, W]."""
    batch, planes, height, width = image_grad.shape
    out = image_grad.new_empty(batch, planes, height // 2, width // 2)
    arguments = _SkipBackward(pointer(image_grad), pointer(out), height // 2, width // 2)
    grid = (ceil_div(out.shape[2] * out.shape[3], THREADS), batch * planes, 1)
    launcher.launch(_SOURCE, "skip_backward", grid, (THREADS, 1, 1), arguments)
    return out


class _StyledEpilogue(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        demodulation: Tensor | None,
        noise: Tensor | None,
        bias: Tensor | None,
        next_styles: Tensor | None,
        rgb_weight: Tensor | None,
        rgb_styles: Tensor | None,
        rgb_bias: Tensor | None,
        skip: Tensor | None,
        settings: _Settings,
    ) -> tuple[Tensor | None, Tensor | None]:
        batch, channels, height, width = u.shape
        u = channels_last(u)
        constants = [float32(x) for x in (demodulation, noise, bias, next_styles, rgb_weight, rgb_styles)]
        rgb_bias, skip = float32(rgb_bias), float32(skip)
        of_u, of_demodulation, of_next, of_styles = (ctx.needs_input_grad[i] for i in (0, 1, 4, 6))
        sums = settings.differentiate and (of_demodulation or of_next or of_styles)
        keep_signs = settings.differentiate and settings.activate and of_u and not sums
        z = torch.empty_like(u, memory_format=torch.channels_last) if settings.want_z else None
        image = None if rgb_weight is None else u.new_empty(batch, 3, height, width, dtype=torch.float32)
        groups = ceil_div(channels, GROUP)
        signs = u.new_empty(batch, height * width, groups, dtype=torch.uint8) if keep_signs else None

        lanes = lanes_for(channels)
        rows = THREADS // lanes
        d, n, b, s, w, r = map(pointer, constants)
        arguments = _Forward(u=pointer(u), demodulation=d, noise=n, bias=b, next_styles=s, rgb_weight=w, rgb_styles=r)
        arguments.z, arguments.signs, arguments.image = pointer(z), pointer(signs), pointer(image)
        arguments.rgb_bias, arguments.skip = pointer(rgb_bias), pointer(skip)
        arguments.pixels, arguments.width, arguments.channels = height * width, width, channels
        arguments.activate = settings.activate
        whole = channels % GROUP == 0 and aligned(u, z, *constants)
        arguments.whole = whole
        kernel = f"epilogue_forward_{'' if image is None else 'rgb_'}{SUFFIX[u.dtype]}"
        grid = (ceil_div(height * width, rows * _PIXELS), batch, 1)
        settings.launcher.launch(_SOURCE, kernel, grid, (lanes, rows, 1), arguments)

        ctx.save_for_backward(u if sums else None, signs, *constants)
        ctx.settings, ctx.sums, ctx.shape, ctx.dtype = settings, sums, u.shape, u.dtype
        ctx.set_materialize_grads(False)
        return z, image

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, z_grad: Tensor | None, image_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        u, signs, *constants = ctx.saved_tensors
        batch, channels, height, width = ctx.shape
        settings: _Settings = ctx.settings
        of_u, of_demodulation, of_next, of_styles, of_skip = (ctx.needs_input_grad[i] for i in (0, 1, 4, 6, 8))
        nothing = (None,) * 10
        if z_grad is None and image_grad is None:
            return nothing
        present = z_grad if z_grad is not None else image_grad
        assert present is not None
        z_grad = None if z_grad is None else channels_last(z_grad)
        image_grad = float32(image_grad)
        with_rgb = image_grad is not None
        of_demodulation, of_next = ctx.sums and of_demodulation, ctx.sums and of_next and z_grad is not None
        of_styles = ctx.sums and of_styles and with_rgb

        u_grad = None
        if of_u:
            u_grad = torch.empty(ctx.shape, dtype=ctx.dtype, device=present.device, memory_format=torch.channels_last)
        lanes = lanes_for(channels)
        rows = THREADS // lanes
        strip = rows * (_ROWS_OF_SUMS if ctx.sums else _PIXELS)
        strips = ceil_div(height * width, strip)
        partial = [
            present.new_empty(batch, strips, channels, dtype=torch.float32) if wanted else None
            for wanted in (of_demodulation, of_next, of_styles)
        ]
        d, n, b, s, w, r = map(pointer, constants)
        arguments = _Backward(u=pointer(u), signs=pointer(signs), demodulation=d, noise=n, bias=b, next_styles=s)
        arguments.z_grad, arguments.image_grad = pointer(z_grad), pointer(image_grad)
        arguments.rgb_weight, arguments.rgb_styles, arguments.u_grad = w, r, pointer(u_grad)
        arguments.demodulation_sums, arguments.next_sums, arguments.rgb_sums = map(pointer, partial)
        arguments.pixels, arguments.channels, arguments.strip = height * width, channels, strip
        arguments.activate = settings.activate
        arguments.whole = channels % GROUP == 0 and aligned(u, z_grad, u_grad, *constants)
        kernel = f"epilogue_backward_{'rgb_' if with_rgb else ''}{'sums_' if ctx.sums else ''}{SUFFIX[ctx.dtype]}"
        grid = (strips, ceil_div(ceil_div(channels, GROUP), lanes), batch)
        shared = THREADS * GROUP * 4 if ctx.sums else 0
        if of_u or ctx.sums:
            settings.launcher.launch(_SOURCE, kernel, grid, (lanes, rows, 1), arguments, shared)

        demodulation_grad, next_grad, styles_grad = (None if x is None else x.sum(dim=1) for x in partial)
        skip_grad = skip_gradient(image_grad, settings.launcher) if of_skip and image_grad is not None else None
        return u_grad, demodulation_grad, None, None, next_grad, None, styles_grad, None, skip_grad, None
