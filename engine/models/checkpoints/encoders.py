"""Checkpoints of the three encoders, brought into our layouts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from faceanon_engine.engine.networks.e4e import InverterConfig
from faceanon_engine.engine.networks.irse import IdentityEncoderConfig
from faceanon_engine.engine.networks.vit import AttributeEncoderConfig

State = Mapping[str, Tensor]


def _stages(state: State) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Residual units and channels of each stage: a stage ends where the channels change."""
    units: list[int] = []
    widths: list[int] = []
    index = 0
    while (key := f"body.{index}.res_layer.1.weight") in state:
        width = state[key].shape[0]
        if not widths or widths[-1] != width:
            widths.append(width)
            units.append(0)
        units[-1] += 1
        index += 1
    return tuple(units), tuple(widths)


def _reduction(state: State) -> int:
    return state["body.0.res_layer.5.fc2.weight"].shape[0] // state["body.0.res_layer.5.fc2.weight"].shape[1]


def from_arcface(state: State) -> tuple[IdentityEncoderConfig, dict[str, Tensor]]:
    """ArcFace's IR-SE in the layout of `model_ir_se50.pth`."""
    units, widths = _stages(state)
    features = state["output_layer.3.weight"]
    input_size = 16 * math.isqrt(features.shape[1] // widths[-1])
    standard = IdentityEncoderConfig()
    crops = input_size == standard.input_size
    config = IdentityEncoderConfig(
        input_size=input_size,
        resize=standard.resize if crops else None,
        crop=standard.crop if crops else None,
        units=units,
        widths=widths,
        reduction=_reduction(state),
        embedding_dim=features.shape[0],
    )
    return config, dict(state)


def from_e4e_encoder(state: State, latent_avg: Tensor) -> tuple[InverterConfig, dict[str, Tensor]]:
    """e4e's encoder, keys without `encoder.`, relative to `latent_avg` [rows, w_dim] or [w_dim]."""
    units, widths = _stages(state)
    counts = Counter(m[1] for key in state if (m := re.fullmatch(r"styles\.(\d+)\.convs\.\d+\.weight", key)))
    depths: list[int] = []
    while f"styles.{len(depths)}.linear.weight" in state:
        depths.append(counts[str(len(depths))])
    rows = len(depths)
    w_dim = state["styles.0.linear.weight"].shape[0]
    if not {depths[0] + 1, depths[0] + 2} <= {*depths}:
        raise ValueError("its heads are not of the three depths that e4e's have")
    config = InverterConfig(
        input_size=16 * 2 ** min(depths[0], 62),
        rows=rows,
        w_dim=w_dim,
        units=units,
        widths=widths,
        reduction=_reduction(state),
        middle_row=depths.index(depths[0] + 1),
        fine_row=depths.index(depths[0] + 2),
    )
    return config, {**state, "latent_avg": latent_avg.reshape(-1, w_dim).expand(rows, w_dim).clone()}


def from_clip(state: State) -> tuple[AttributeEncoderConfig, dict[str, Tensor]]:
    """CLIP's vision transformer, with or without `visual.` prefixes and a text tower beside it."""
    if any(key.startswith("visual.") for key in state):
        state = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    ours = {
        key.replace("transformer.resblocks.", "blocks."): value
        for key, value in state.items()
        if not key.startswith(("mean", "std"))
    }
    width, _, patch, _ = ours["conv1.weight"].shape
    layers = len({key.split(".")[1] for key in ours if key.startswith("blocks.")})
    config = AttributeEncoderConfig(
        input_size=patch * math.isqrt(len(ours["positional_embedding"]) - 1),
        patch=patch,
        width=width,
        layers=layers,
        heads=width // 64,  # CLIP's heads are 64 wide in every size
        embedding_dim=ours["proj"].shape[1],
    )
    return config, {key: torch.as_tensor(value) for key, value in ours.items()}
