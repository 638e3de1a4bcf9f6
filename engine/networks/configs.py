"""The frozen configurations of the four networks: what shape each has, checked when one is made.

They are read from other people's files. What no network has is refused here, before anything is built of it: a number
that is none, sides and widths that do not fit each other, and sizes far beyond any network of these kinds. Torch is not
needed, so that a bundle's description can be judged without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

# No network of these kinds comes near; within them a network without weights ("meta") is built in a second or two.
_SIDE = 4096
_WIDTH = 8192
_LAYERS = 256
_UNITS = 64  # of one stage; IR-SE100 has 30
_ROWS = 64


@dataclass(frozen=True)
class GeneratorConfig:
    """Shape of a generator; the defaults are the 1024 px FFHQ network (config F).

    resolution: side in pixels, a power of two of at least 8. z_dim, w_dim: widths of the codes.
    channel_base, channel_max: a layer at side r has min(channel_base // r, channel_max) channels.
    mapping_layers: fully connected layers from z to w; their learning rate is multiplied by mapping_lr_multiplier.
    Raises ValueError for a shape that no generator has.
    """

    resolution: int = 1024
    z_dim: int = 512
    w_dim: int = 512
    channel_base: int = 32768
    channel_max: int = 512
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01

    def __post_init__(self) -> None:
        _power_of_two("resolution", self.resolution, 8)
        _whole("z_dim", self.z_dim, 1, _WIDTH)
        _whole("w_dim", self.w_dim, 1, _WIDTH)
        _whole("channel_base", self.channel_base, self.resolution, _SIDE * _WIDTH)
        _whole("channel_max", self.channel_max, 1, _WIDTH)
        _whole("mapping_layers", self.mapping_layers, 1, _LAYERS)
        _number("mapping_lr_multiplier", self.mapping_lr_multiplier, 1e-6, 1e3)

    @property
    def blocks(self) -> int:
        """Number of resolutions from 4 px on."""
        return int(math.log2(self.resolution)) - 1

    @property
    def rows(self) -> int:
        """Rows of a w+ code: one a convolution, and one for the last toRGB."""
        return 2 * self.blocks

    def channels(self, resolution: int) -> int:
        """Channels of the layers at that side."""
        return min(self.channel_base // resolution, self.channel_max)


@dataclass(frozen=True)
class InverterConfig:
    """Shape of an inverter; the defaults are e4e's for the 1024 px FFHQ generator.

    input_size: side the network sees, a power of two of at least 32. rows, w_dim: of the generator's w+.
    units, widths: residual units and channels of the four stages. middle_row, fine_row: first rows that read the
    middle and the fine level of the pyramid. Raises ValueError for a shape that no inverter has.
    """

    input_size: int = 256
    rows: int = 18
    w_dim: int = 512
    units: tuple[int, ...] = (3, 4, 14, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    reduction: int = 16
    middle_row: int = 3
    fine_row: int = 7

    def __post_init__(self) -> None:
        _power_of_two("input_size", self.input_size, 32)
        _whole("rows", self.rows, 1, _ROWS)
        _whole("w_dim", self.w_dim, 1, _WIDTH)
        _residual_stages(self.units, self.widths, self.reduction)
        _whole("fine_row", self.fine_row, 0, _ROWS)
        _whole("middle_row", self.middle_row, 0, self.fine_row)


@dataclass(frozen=True)
class IdentityEncoderConfig:
    """Shape and preprocessing of an identity encoder; the defaults are ArcFace IR-SE50.

    input_size: side the network sees, a multiple of 16. resize: shorter side before the crop; None: input_size.
    crop: (top, bottom, left, right) of the resized square, area-averaged to input_size; None crops nothing.
    units, widths: residual units and channels of the four stages, each of which halves the side.
    Raises ValueError for a shape that no identity encoder has.
    """

    input_size: int = 112
    resize: int | None = 256
    crop: tuple[int, int, int, int] | None = (35, 223, 32, 220)
    units: tuple[int, ...] = (3, 4, 14, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    reduction: int = 16
    embedding_dim: int = 512
    dropout: float = 0.6

    def __post_init__(self) -> None:
        _whole("input_size", self.input_size, 16, _SIDE)
        if self.input_size % 16:
            raise ValueError(f"input_size {self.input_size} is not a multiple of 16")
        if self.resize is not None:
            _whole("resize", self.resize, 1, _SIDE)
        if self.crop is not None:
            _several("crop", self.crop, 4)
            for first, last in (self.crop[:2], self.crop[2:]):
                _whole("crop", last, 1, self.resize or self.input_size)
                _whole("crop", first, 0, last - 1)
        _residual_stages(self.units, self.widths, self.reduction)
        _whole("embedding_dim", self.embedding_dim, 1, _WIDTH)
        _number("dropout", self.dropout, 0, 1)


@dataclass(frozen=True)
class AttributeEncoderConfig:
    """Shape and normalisation of an attribute encoder; the defaults are FaRL's ViT-B/16.

    input_size: side the network sees; patch: side of a patch; width, layers, heads: of the transformer.
    mean, std: normalisation of pixels in [0, 1]. Raises ValueError for a shape that no attribute encoder has.
    """

    input_size: int = 224
    patch: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    embedding_dim: int = 512
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        _whole("input_size", self.input_size, 1, _SIDE)
        _whole("patch", self.patch, 1, self.input_size)
        _whole("width", self.width, 1, _WIDTH)
        _whole("layers", self.layers, 1, _LAYERS)
        _whole("heads", self.heads, 1, self.width)
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        _whole("embedding_dim", self.embedding_dim, 1, _WIDTH)
        _several("mean", self.mean, 3)
        _several("std", self.std, 3)
        for mean, std in zip(self.mean, self.std, strict=True):
            _number("mean", mean, -1e3, 1e3)
            _number("std", std, 1e-6, 1e3)

    @property
    def tokens(self) -> int:
        """Number of tokens: one a patch and the class token, which comes first."""
        return (self.input_size // self.patch) ** 2 + 1


CONFIGS: dict[str, type] = {
    "generator": GeneratorConfig,
    "inverter": InverterConfig,
    "identity_encoder": IdentityEncoderConfig,
    "attribute_encoder": AttributeEncoderConfig,
}


def make_config(role: str, values: Mapping[str, Any], *, whole: bool = False) -> Any:
    """The role's configuration from plain values, as read from JSON.

    Raises ValueError naming an unknown key, a value that cannot be and, with `whole`, a key that is missing.
    """
    kind = CONFIGS[role]
    known = {field.name for field in fields(kind)}
    unknown = sorted(str(key) for key in set(values) - known)
    if unknown:
        raise ValueError(f"{role}: unknown configuration key {_shown(unknown[0])} (and {len(unknown) - 1} more)")
    missing = [field.name for field in fields(kind) if field.name not in values]
    if whole and missing:
        raise ValueError(f"{role}: the configuration lacks {', '.join(missing)}")
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except ValueError as error:
        raise ValueError(f"{role}: {error}") from None


def _shown(value: object) -> str:
    """A value of somebody's file, short: numbers of any length, and lists within lists, would fill the screen."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    text = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _whole(name: str, value: object, low: int, high: int) -> None:
    # True is an int to Python, and no size.
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {_shown(value)}, not a whole number from {low} to {high}")


def _number(name: str, value: object, low: float, high: float) -> None:
    # Not a number compares as false.
    if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{name} is {_shown(value)}, not a number from {low:g} to {high:g}")


def _power_of_two(name: str, value: object, low: int) -> None:
    _whole(name, value, low, _SIDE)
    assert isinstance(value, int)
    if value & (value - 1):
        raise ValueError(f"{name} {value} is not a power of two of at least {low}")


def _several(name: str, value: object, count: int) -> None:
    if not isinstance(value, tuple):
        raise ValueError(f"{name} is {_shown(value)}, not a list of {count} numbers")
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} numbers, not {count}")


def _residual_stages(units: object, widths: object, reduction: object) -> None:
    for name, values, high in (("units", units, _UNITS), ("widths", widths, _WIDTH)):
        _several(name, values, 4)
        assert isinstance(values, tuple)
        for value in values:
            _whole(name, value, 1, high)
    assert isinstance(widths, tuple)
    _whole("reduction", reduction, 1, min(widths))
