"""What follows a modulated convolution, in one pass over its output, with the reductions of its gradient.

    v = d * u + noise + bias,  y = sqrt 2 * leaky_relu(v, 0.2)
    z = s_next * y,  image = W_rgb (s_rgb * y) + bias_rgb + up(skip)

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
    THREADS,
    Launcher,
    ceil_div,
    channels_last,
    float32,
    lanes_for,
    launcher_of,
    pointer,
    suffix,
)
from faceanon_engine.kernels.fir import upsample_reference
from faceanon_engine.kernels.modulated_conv import epilogue

_SOURCE = "styled_epilogue"


def _pixels_of_thread(pixels: int, sums: bool = False) -> int:
    """How many pixels a thread goes through: many make few loads of constants and few partial sums, few make blocks."""
    return 8 if sums or pixels >= 64 * 64 else 4


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
    rgb.styles and rgb.skip; the other values are frozen, and no second gradients are given. Without a `launcher` the
    definition is computed.
    """
    launcher = launcher_of(u, launcher)
    if launcher is None:
        return styled_epilogue_reference(
            u, demodulation, noise, bias, next_styles=next_styles, rgb=rgb, activate=activate, want_z=want_z
        )
    height, width = u.shape[2:]
    if rgb is not None and rgb.skip is not None and tuple(rgb.skip.shape) != (len(u), 3, height / 2, width / 2):
        raise ValueError(f"the image so far is {tuple(rgb.skip.shape)}, expected {len(u)} of half {(height, width)}")
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
        *((name, ctypes.c_int) for name in ("pixels", "width", "channels", "strip", "activate")),
    ]


class _Backward(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("u", "signs", "demodulation", "noise", "bias", "next_styles")),
        *((name, ctypes.c_void_p) for name in ("z_grad", "rgb_weight", "rgb_styles", "image_grad", "u_grad")),
        *((name, ctypes.c_void_p) for name in ("demodulation_sums", "next_sums", "rgb_sums")),
        *((name, ctypes.c_int) for name in ("pixels", "channels", "strip", "activate")),
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


class Constants(NamedTuple):
    """What the kernels read beside the activations: contiguous float32, or None where there is nothing."""

    demodulation: Tensor | None
    noise: Tensor | None
    bias: Tensor | None
    next_styles: Tensor | None
    rgb_weight: Tensor | None = None
    rgb_styles: Tensor | None = None

    @classmethod
    def of(cls, shape: tuple[int, ...], *values: Tensor | None) -> Constants:
        """The values, in the order above, for activations [N, C, H, W] of that shape.

        Raises ValueError for one that is of another size: a kernel would read beyond it.
        """
        batch, channels, height, width = shape
        each = batch * channels
        sizes = (each, height * width, channels, each, 3 * channels, each)
        for name, value, size in zip(cls._fields, values, sizes, strict=False):
            if value is not None and value.numel() != size:
                raise ValueError(f"{name} is {tuple(value.shape)}: not what activations {tuple(shape)} need")
        return cls(*map(float32, values))


class Wanted(NamedTuple):
    """Which gradients are asked for."""

    u: bool
    demodulation: bool
    next_styles: bool
    rgb_styles: bool

    @property
    def sums(self) -> bool:
        """Whether one of them is a sum over the pixels."""
        return self.demodulation or self.next_styles or self.rgb_styles


class Gradients(NamedTuple):
    """Gradients [N, C, H, W] of u and [N, C] of the others; None where it is not wanted."""

    u: Tensor | None
    demodulation: Tensor | None
    next_styles: Tensor | None
    rgb_styles: Tensor | None


def epilogue_gradients(
    constants: Constants,
    u: Tensor | None,
    signs: Tensor | None,
    z_grad: Tensor | None,
    image_grad: Tensor | None,
    wanted: Wanted,
    like: Tensor,
    *,
    activate: bool,
    launcher: Launcher,
) -> Gradients:
    """The backward pass, of u where sums are wanted, and of the signs of an activated layer where they were kept.

    z_grad [N, C, H, W] channels-last, image_grad float32 [N, 3, H, W]; `like` has the shape and type of u.
    """
    batch, channels, height, width = like.shape
    lanes = lanes_for(channels)
    rows = THREADS // lanes
    strip = rows * _pixels_of_thread(height * width, wanted.sums)
    strips = ceil_div(height * width, strip)
    u_grad = torch.empty_like(like, memory_format=torch.channels_last) if wanted.u else None
    sums = [like.new_empty(batch, strips, channels, dtype=torch.float32) if each else None for each in wanted[1:]]

    arguments = _Backward(**{name: pointer(value) for name, value in constants._asdict().items()})
    arguments.u, arguments.signs = pointer(u), pointer(signs)
    arguments.z_grad, arguments.image_grad, arguments.u_grad = pointer(z_grad), pointer(image_grad), pointer(u_grad)
    arguments.demodulation_sums, arguments.next_sums, arguments.rgb_sums = map(pointer, sums)
    arguments.pixels, arguments.channels, arguments.strip = height * width, channels, strip
    arguments.activate = activate
    variant = f"{'' if image_grad is None else 'rgb_'}{'sums_' if wanted.sums else ''}"
    grid = (strips, ceil_div(ceil_div(channels, GROUP), lanes), batch)
    shared = THREADS * GROUP * 4 if wanted.sums else 0
    kernel = f"epilogue_backward_{variant}{suffix(like.dtype, channels, u, z_grad, u_grad, *constants)}"
    launcher.launch(_SOURCE, kernel, grid, (lanes, rows, 1), arguments, shared)
    return Gradients(u_grad, *(None if each is None else each.sum(dim=1) for each in sums))


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
        constants = Constants.of(u.shape, demodulation, noise, bias, next_styles, rgb_weight, rgb_styles)
        rgb_bias, skip = float32(rgb_bias), float32(skip)
        wanted = Wanted(*(settings.differentiate and ctx.needs_input_grad[i] for i in (0, 1, 4, 6)))
        z = torch.empty_like(u) if settings.want_z else None
        image = None if rgb_weight is None else u.new_empty(batch, 3, height, width, dtype=torch.float32)
        signs = None
        if settings.activate and wanted.u and not wanted.sums:
            signs = u.new_empty(batch, height * width, ceil_div(channels, GROUP), dtype=torch.uint8)

        lanes = lanes_for(channels)
        rows = THREADS // lanes
        strip = rows * _pixels_of_thread(height * width)
        arguments = _Forward(**{name: pointer(value) for name, value in constants._asdict().items()})
        arguments.u, arguments.z, arguments.signs = pointer(u), pointer(z), pointer(signs)
        arguments.rgb_bias, arguments.skip, arguments.image = pointer(rgb_bias), pointer(skip), pointer(image)
        arguments.pixels, arguments.width, arguments.channels = height * width, width, channels
        arguments.strip, arguments.activate = strip, settings.activate
        kernel = f"epilogue_forward_{'' if image is None else 'rgb_'}{suffix(u.dtype, channels, u, z, *constants)}"
        grid = (ceil_div(height * width, strip), batch, 1)
        settings.launcher.launch(_SOURCE, kernel, grid, (lanes, rows, 1), arguments)

        ctx.save_for_backward(u if wanted.sums else None, signs, *constants)
        ctx.settings, ctx.wanted = settings, wanted
        ctx.like = u.new_empty(()).expand(u.shape)  # shape and type alone
        ctx.set_materialize_grads(False)
        return z, image

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, z_grad: Tensor | None, image_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        kept, signs, *constants = ctx.saved_tensors
        settings, wanted = ctx.settings, ctx.wanted
        if z_grad is None and image_grad is None:
            return (None,) * 10
        z_grad = None if z_grad is None else channels_last(z_grad)
        image_grad = float32(image_grad)
        gradients = Gradients(None, None, None, None)
        if any(wanted):
            gradients = epilogue_gradients(
                Constants(*constants),
                kept,
                signs,
                z_grad,
                image_grad,
                wanted,
                ctx.like,
                activate=settings.activate,
                launcher=settings.launcher,
            )
        skip_grad = None
        if ctx.needs_input_grad[8] and image_grad is not None:
            skip_grad = skip_gradient(image_grad, settings.launcher)
        u, demodulation, next_styles, rgb_styles = gradients
        # Without its output's gradient a sum was not added up, and there is nothing to add.
        next_styles = None if z_grad is None else next_styles
        rgb_styles = None if image_grad is None else rgb_styles
        return u, demodulation, None, None, next_styles, None, rgb_styles, None, skip_grad, None
