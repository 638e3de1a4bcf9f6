"""StyleGAN2's synthesis by the fused kernels: one dense convolution and one pass a layer.

The pass after a layer's convolution demodulates, adds noise and bias, activates, multiplies by the next layer's style,
and draws the layer's share of the image where toRGB follows. What `stylegan2.Generator` computes layer by layer is the
definition; here the order of the same operations is another one. The generator's layers are handed in: those of row r
are `layers[r]` and, for odd r, `to_rgbs[r // 2]`; the last row has a toRGB alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from faceanon_engine.engine.networks.stylegan2_layers import ConvConstants, ModulatedConv, StyledLayer, ToRGB
from faceanon_engine.kernels.cuda.launch import SUFFIX, Launcher
from faceanon_engine.kernels.frozen_conv import dense_weight, frozen_conv
from faceanon_engine.kernels.modulated_conv import DEMODULATION_EPSILON, demodulation
from faceanon_engine.kernels.styled_epilogue import RGB, styled_epilogue
from faceanon_engine.kernels.up_epilogue import up_epilogue


class Styles(NamedTuple):
    """Of one row: what the convolution's input is multiplied by [N, Cin], and its output [N, Cout]."""

    before: Tensor
    after: Tensor


def usable(layers: Sequence[StyledLayer], features: Tensor) -> bool:
    """Whether the layers are frozen and their activations are of a type that the kernels know."""
    conv = layers[0].conv
    if conv.folded is None or conv.weight.requires_grad or torch.compiler.is_compiling():
        return False
    return conv.folded.dtype in SUFFIX and features.dtype in SUFFIX


def run(
    layers: Sequence[StyledLayer],
    to_rgbs: Sequence[ToRGB],
    features: Tensor,
    image: Tensor | None,
    rows: Sequence[Tensor],
    first: int,
    stop: int,
    launcher: Launcher,
) -> tuple[Tensor, Tensor | None]:
    """Rows [first, stop) of the synthesis on features [N, C, h, h] and the image so far; rows are [N, w_dim] each.

    Returns features [N, C', h', h'], channels-last, and the image float32 [N, 3, h'', h''] or None. After the last row
    no layer reads the features any more, and an empty tensor stands for them.
    """
    last = min(stop, len(layers))
    styles = _styles(layers, rows, first)
    x = features.to(_layer_constants(layers[0]).weight.dtype)

    if first < stop:
        before = styles.before if styles is not None and first < last else None
        rgb = _rgb(to_rgbs[first // 2], rows[first], image) if first % 2 else None
        if before is not None or rgb is not None:
            z, drawn = styled_epilogue(
                x, next_styles=before, rgb=rgb, activate=False, want_z=first < last, launcher=launcher
            )
            x = x.new_empty(0) if z is None else z
            image = image if rgb is None else drawn

    for row in range(first, last):
        assert styles is not None
        layer, after = layers[row], styles.after
        constants = _layer_constants(layer)
        u = frozen_conv(x, constants.weight, up=layer.conv.up)
        styles = _styles(layers, rows, row + 1) if row + 1 < last else None
        before = None if styles is None else styles.before
        if layer.conv.up:
            x = up_epilogue(u, after, constants.noise, constants.bias, before, launcher=launcher)
            continue
        rgb = _rgb(to_rgbs[row // 2], rows[row + 1], image) if row % 2 == 0 and row + 1 < stop else None
        nobody_reads_on = row + 1 == last and stop == len(layers) + 1
        z, drawn = styled_epilogue(
            u,
            after,
            constants.noise,
            constants.bias,
            next_styles=before,
            rgb=rgb,
            want_z=not nobody_reads_on,
            launcher=launcher,
        )
        x = u.new_empty(0) if z is None else z
        image = image if rgb is None else drawn
    return x, image


def _styles(layers: Sequence[StyledLayer], rows: Sequence[Tensor], row: int) -> Styles | None:
    if row >= len(layers):
        return None
    layer = layers[row]
    constants = _layer_constants(layer)
    before = F.linear(rows[row], constants.style_weight, constants.style_bias)
    assert layer.conv.energy is not None
    after = demodulation(before, layer.conv.energy)
    if constants.weight.dtype == torch.float16:
        # The result is independent of the style's size, which float16 may not hold: it moves behind the convolution.
        size = before.detach().abs().amax(dim=1, keepdim=True).clamp_min(DEMODULATION_EPSILON)
        before, after = before / size, after * size
    return Styles(before, after)


def _rgb(to_rgb: ToRGB, w: Tensor, image: Tensor | None) -> RGB:
    constants = _rgb_constants(to_rgb)
    styles = F.linear(w, constants.style_weight, constants.style_bias)
    return RGB(constants.weight, styles, constants.bias, image)


def _layer_constants(layer: StyledLayer) -> ConvConstants:
    kept = _kept(layer.conv)
    if kept is None:
        folded = layer.conv.folded
        assert folded is not None
        with torch.no_grad():
            kept = ConvConstants(
                folded,
                dense_weight(folded, up=layer.conv.up, dtype=folded.dtype),
                *_affine(layer.conv),
                (layer.noise * layer.noise_strength).float().contiguous(),
                layer.bias.detach().float(),
            )
        layer.conv.fused = kept
    return kept


def _rgb_constants(to_rgb: ToRGB) -> ConvConstants:
    kept = _kept(to_rgb.conv)
    if kept is None:
        folded = to_rgb.conv.folded
        assert folded is not None
        with torch.no_grad():
            # In float32 also where the folded weight is not: three channels cost nothing, and are summed to the image.
            weight = (to_rgb.conv.weight.detach().float() * to_rgb.conv.gain).flatten(1).contiguous()
            kept = ConvConstants(folded, weight, *_affine(to_rgb.conv), None, to_rgb.bias.detach().float())
        to_rgb.conv.fused = kept
    return kept


def _kept(conv: ModulatedConv) -> ConvConstants | None:
    """What was made before, unless the convolution was frozen, moved or lowered since."""
    return conv.fused if conv.fused is not None and conv.fused.folded is conv.folded else None


def _affine(conv: ModulatedConv) -> tuple[Tensor, Tensor]:
    affine = conv.affine
    return (affine.weight * affine.weight_gain).float(), (affine.bias * affine.bias_gain).float()
