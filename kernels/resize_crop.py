"""From the generated image straight to what the encoders look at: antialiased resize, crop, averaging, normalisation.

All of it is linear and separable: along an axis an output is a short weighted sum of neighbouring inputs. The weights
are read off the reference operations themselves, applied to the unit vectors of an axis, so the two cannot disagree.
One pass makes a view; one pass gives the image's gradient from both views' at once.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from faceanon_engine.kernels.cuda.launch import SUFFIX, Launcher, ceil_div, float32, pointer

_SOURCE = "resize_crop"
_TILE = (32, 8)  # outputs of a block, as in the source
_MOST_SHARED = 48 * 1024

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """What an encoder sees of an image.

    resize: the shorter side becomes this, antialiased bilinear, and the middle square of that side is kept.
    crop: (top, bottom, left, right) of that square; None keeps all of it.
    size: side that the crop is averaged to (adaptively); the crop's own leaves it as it is.
    scale, shift: what a channel is multiplied by, and what is added then.
    """

    resize: int
    size: int
    crop: tuple[int, int, int, int] | None = None
    scale: Colour = (1.0, 1.0, 1.0)
    shift: Colour = (0.0, 0.0, 0.0)


def _resized(side: int, other: int, resize: int) -> tuple[int, int]:
    """Length of a side after the resize, and where the middle square begins on it."""
    length = resize * side // min(side, other)
    return length, round((length - resize) / 2)


def _box(view: View) -> tuple[int, int, int, int]:
    return view.crop or (0, view.resize, 0, view.resize)


def resize_crop_reference(image: Tensor, view: View) -> Tensor:
    """The definition: image [N, 3, H, W] -> [N, 3, size, size]."""
    height, width = image.shape[2:]
    (rows, first_row), (columns, first_column) = (
        _resized(height, width, view.resize),
        _resized(width, height, view.resize),
    )
    if min(height, width) != view.resize:
        image = F.interpolate(image, (rows, columns), mode="bilinear", antialias=True, align_corners=False)
    top, bottom, left, right = _box(view)
    image = image[:, :, first_row + top : first_row + bottom, first_column + left : first_column + right]
    if image.shape[2:] != (view.size, view.size):
        image = F.adaptive_avg_pool2d(image, view.size)
    # Made on the image's device: a copy from the host could not be captured in a graph.
    scale, shift = (torch.cat([image.new_full((1, 1, 1), x) for x in each]) for each in (view.scale, view.shift))
    return image * scale + shift


def axis_weights(side: int, other: int, view: View, axis: int) -> Tensor:
    """Float64 [size, side]: what every output along an axis (0: rows, 1: columns) takes of every input."""
    length, first = _resized(side, other, view.resize)
    start, stop = _box(view)[2 * axis : 2 * axis + 2]
    # A channel an input, along the rows. Two equal columns: of one alone the interpolation makes something else.
    unit = torch.eye(side, dtype=torch.float64)[None, :, :, None].repeat(1, 1, 1, 2)
    if min(side, other) != view.resize:
        unit = F.interpolate(unit, (length, 2), mode="bilinear", antialias=True, align_corners=False)
    unit = unit[:, :, first + start : first + stop]
    if unit.shape[2] != view.size:
        unit = F.adaptive_avg_pool2d(unit, (view.size, 2))
    return unit[0, :, :, 0].t()


class Axis(NamedTuple):
    """start int32 [outputs]: the first input; taps float32 [K, outputs]: the weights from there on."""

    start: Tensor
    taps: Tensor


def band(weights: Tensor) -> Axis:
    """The weights [outputs, inputs], which are zero far from the diagonal, as an axis whose inputs all exist."""
    used = weights != 0
    inputs = weights.shape[1]
    position = torch.arange(inputs)
    first = torch.where(used, position, inputs).amin(dim=1).clamp(max=inputs - 1)
    last = torch.where(used, position, -1).amax(dim=1)
    count = max(int((last - first).max()) + 1, 1)
    start = first.clamp(max=inputs - count)
    taps = weights.gather(1, start[:, None] + torch.arange(count))
    return Axis(start.to(torch.int32), taps.t().to(torch.float32).contiguous())


class _Tables(NamedTuple):
    """An axis a direction: from the image to the view for the values, the other way for the gradient."""

    rows: Axis
    columns: Axis
    rows_back: Axis
    columns_back: Axis
    scale: Tensor
    shift: Tensor
    span: int


@functools.cache  # for good: graphs that were captured read these addresses
def _tables(height: int, width: int, view: View, device: torch.device) -> _Tables:
    weights = axis_weights(height, width, view, 0), axis_weights(width, height, view, 1)
    bands = [band(matrix) for matrix in (*weights, *(w.t() for w in weights))]
    starts, reach = bands[1].start.tolist(), len(bands[1].taps)
    ends = [starts[min(first + _TILE[0], view.size) - 1] for first in range(0, view.size, _TILE[0])]
    span = max(end + reach - first for first, end in zip(starts[:: _TILE[0]], ends, strict=True))
    scale, shift = (torch.tensor(x, dtype=torch.float32, device=device) for x in (view.scale, view.shift))
    rows, columns, rows_back, columns_back = (Axis(*(x.to(device) for x in each)) for each in bands)
    return _Tables(rows, columns, rows_back, columns_back, scale, shift, span)


def resize_crop(
    image: Tensor,
    views: Sequence[View],
    *,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
    launcher: Launcher | None = None,
) -> tuple[Tensor, ...]:
    """As `resize_crop_reference` for one or two views, by kernels where there are some for the device and the type.

    image [N, 3, H, W], read as float32 -> a [N, 3, size, size] of `dtype` (default: the image's) for every view. The
    gradient goes to the image, once. The tables of a shape are made when it is first met, which must not be while a
    CUDA graph is captured. Without a `launcher` the definition is computed.
    """
    if not 1 <= len(views) <= 2:
        raise ValueError(f"{len(views)} views: one or two are made at a time")
    dtype = dtype or image.dtype
    if launcher is None or dtype not in SUFFIX or image.dtype not in SUFFIX or image.numel() == 0:
        return tuple(resize_crop_reference(image, view).to(dtype, memory_format=memory_format) for view in views)
    tables = tuple(_tables(*image.shape[2:], view, image.device) for view in views)
    if any(_TILE[1] * each.span * 4 > _MOST_SHARED for each in tables):  # a very large picture made very small
        return tuple(resize_crop_reference(image, view).to(dtype, memory_format=memory_format) for view in views)
    outputs: tuple[Tensor, ...] = _ResizeCrop.apply(image, tables, dtype, memory_format, launcher)
    return outputs


class _AxisArguments(ctypes.Structure):
    _fields_ = [
        ("start", ctypes.c_void_p),
        ("taps", ctypes.c_void_p),
        ("count", ctypes.c_int),
        ("outputs", ctypes.c_int),
    ]

    @classmethod
    def of(cls, axis: Axis) -> _AxisArguments:
        return cls(pointer(axis.start), pointer(axis.taps), *axis.taps.shape)


_STRIDES = [(name, ctypes.c_int) for name in ("stride_n", "stride_c", "stride_y", "stride_x")]


class _Forward(ctypes.Structure):
    _fields_ = [
        ("image", ctypes.c_void_p),
        ("rows", _AxisArguments),
        ("columns", _AxisArguments),
        *((name, ctypes.c_void_p) for name in ("scale", "shift", "output")),
        *_STRIDES,
        *((name, ctypes.c_int) for name in ("height", "width", "span")),
    ]


class _ViewArguments(ctypes.Structure):
    _fields_ = [
        ("gradient", ctypes.c_void_p),
        ("rows", _AxisArguments),
        ("columns", _AxisArguments),
        ("scale", ctypes.c_void_p),
        *_STRIDES,
    ]


class _Backward(ctypes.Structure):
    _fields_ = [
        ("views", _ViewArguments * 2),
        ("image_grad", ctypes.c_void_p),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
    ]


class _ResizeCrop(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        tables: tuple[_Tables, ...],
        dtype: torch.dtype,
        memory_format: torch.memory_format,
        launcher: Launcher,
    ) -> tuple[Tensor, ...]:
        pixels = float32(image)
        assert pixels is not None
        batch, _, height, width = image.shape
        outputs = []
        for each in tables:
            rows, columns = _AxisArguments.of(each.rows), _AxisArguments.of(each.columns)
            output = torch.empty(
                batch, 3, rows.outputs, columns.outputs, dtype=dtype, device=image.device, memory_format=memory_format
            )
            arguments = _Forward(pointer(pixels), rows, columns, pointer(each.scale), pointer(each.shift))
            arguments.output = pointer(output)
            arguments.stride_n, arguments.stride_c, arguments.stride_y, arguments.stride_x = output.stride()
            arguments.height, arguments.width, arguments.span = height, width, each.span
            tiles = ceil_div(columns.outputs, _TILE[0]) * ceil_div(rows.outputs, _TILE[1])
            shared = _TILE[1] * each.span * 4
            launcher.launch(
                _SOURCE, f"resize_forward_{SUFFIX[dtype]}", (tiles, 3, batch), (*_TILE, 1), arguments, shared
            )
            outputs.append(output)
        ctx.tables, ctx.launcher, ctx.dtype = tables, launcher, dtype
        ctx.shape, ctx.image_dtype = image.shape, image.dtype
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        present = next((each for each in gradients if each is not None), None)
        if present is None or not ctx.needs_input_grad[0]:
            return (None,) * 5
        batch, _, height, width = ctx.shape
        image_grad = present.new_empty(ctx.shape, dtype=torch.float32)
        arguments = _Backward(image_grad=pointer(image_grad), height=height, width=width)
        for view, each, gradient in zip(arguments.views, ctx.tables, gradients, strict=False):
            if gradient is None:
                continue
            view.gradient, view.scale = pointer(gradient), pointer(each.scale)
            view.rows, view.columns = _AxisArguments.of(each.rows_back), _AxisArguments.of(each.columns_back)
            view.stride_n, view.stride_c, view.stride_y, view.stride_x = gradient.stride()
        tiles = ceil_div(width, _TILE[0]) * ceil_div(height, _TILE[1])
        kernel = f"resize_backward_{SUFFIX[ctx.dtype]}"
        ctx.launcher.launch(_SOURCE, kernel, (tiles, batch, 1), (*_TILE, 1), arguments)
        return image_grad.to(ctx.image_dtype), None, None, None, None
