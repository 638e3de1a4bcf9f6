"""StyleGAN2 checkpoints in their three public layouts, brought into ours.

All three store the weights of the equalised parametrisation; they differ in names, in singleton dimensions, in whether
the style's bias holds the 1 it starts from, and in the orientation of the enlarging kernels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from faceanon_engine.engine.networks.stylegan2 import GeneratorConfig

State = Mapping[str, Tensor]
OurState = dict[str, Tensor]
_LAYERS = 21
"""Of a generator of 4096 px, the largest there can be: noise maps that a file lacks are made as large as its layers."""


def _config(ours: OurState, mapping_layers: int) -> GeneratorConfig:
    """Shape of the generator that a converted state belongs to; raises ValueError when there is none."""
    count = sum(bool(re.fullmatch(r"layers\.\d+\.conv\.weight", key)) for key in ours)
    resolution = 4 * 2 ** min(count // 2, 60)
    widths = {4 * 2 ** ((i + 1) // 2): ours[f"layers.{i}.conv.weight"].shape[0] for i in range(count)}
    channel_max = max(widths.values())
    bases = {side * width for side, width in widths.items() if width < channel_max}
    # Without a narrower layer any base that keeps all layers at the maximum describes the network.
    channel_base = bases.pop() if bases else channel_max * resolution
    if bases:
        raise ValueError(f"channel widths {widths} do not follow base / resolution")
    return GeneratorConfig(
        resolution=resolution,
        z_dim=ours["mapping.layers.0.weight"].shape[1],
        w_dim=ours["layers.0.conv.affine.weight"].shape[1],
        channel_base=channel_base,
        channel_max=channel_max,
        mapping_layers=mapping_layers,
    )


def _mapping(ours: OurState, state: State, pattern: str, first: int) -> int:
    index = first
    while pattern.format(index) + ".weight" in state:
        for part in ("weight", "bias"):
            ours[f"mapping.layers.{index - first}.{part}"] = state[f"{pattern.format(index)}.{part}"]
        index += 1
    return index - first


def from_genforce(state: State) -> tuple[GeneratorConfig, OurState]:
    """GenForce's `StyleGAN2Generator`; its code adds the 1 to the style's bias."""
    ours: OurState = {"const": state["synthesis.early_layer.const"], "w_avg": state["truncation.w_avg"]}
    layers = _mapping(ours, state, "mapping.dense{}", 0)
    index = 0
    while f"synthesis.layer{index}.weight" in state:
        theirs, name = f"synthesis.layer{index}", f"layers.{index}"
        weight = state[f"{theirs}.weight"]
        _styled(
            ours,
            name,
            # The odd layers enlarge; GenForce turns their kernel round before it transposes the convolution.
            weight=weight.flip(2, 3) if index % 2 else weight,
            affine_weight=state[f"{theirs}.style.weight"],
            affine_bias=state[f"{theirs}.style.bias"] + 1,
            bias=state[f"{theirs}.bias"],
        )
        ours[f"{name}.noise"] = state[f"{theirs}.noise"]
        ours[f"{name}.noise_strength"] = state[f"{theirs}.noise_strength"].reshape([])
        index += 1
    block = 0
    while f"synthesis.output{block}.weight" in state:
        theirs = f"synthesis.output{block}"
        _styled(
            ours,
            f"to_rgbs.{block}",
            weight=state[f"{theirs}.weight"],
            affine_weight=state[f"{theirs}.style.weight"],
            affine_bias=state[f"{theirs}.style.bias"] + 1,
            bias=state[f"{theirs}.bias"],
        )
        block += 1
    return _config(ours, layers), ours


def _styled(
    ours: OurState, name: str, *, weight: Tensor, affine_weight: Tensor, affine_bias: Tensor, bias: Tensor
) -> None:
    ours[f"{name}.conv.weight"] = weight
    ours[f"{name}.conv.affine.weight"] = affine_weight
    ours[f"{name}.conv.affine.bias"] = affine_bias
    ours[f"{name}.bias"] = bias.reshape(-1)


def from_rosinality(state: State, w_avg: Tensor | None = None) -> tuple[GeneratorConfig, OurState]:
    """rosinality's `Generator`; `w_avg` [w_dim] when the file knows it, otherwise it is estimated by the caller."""
    ours: OurState = {"const": state["input.input"]}
    layers = _mapping(ours, state, "style.{}", 1)
    names = ["conv1"]
    while f"convs.{len(names) - 1}.conv.weight" in state:
        names.append(f"convs.{len(names) - 1}")
    if len(names) > _LAYERS:
        raise ValueError(f"{len(names)} layers, not a whole number from 1 to {_LAYERS}")
    for index, theirs in enumerate(names):
        name = f"layers.{index}"
        _styled(
            ours,
            name,
            weight=state[f"{theirs}.conv.weight"][0],
            affine_weight=state[f"{theirs}.conv.modulation.weight"],
            affine_bias=state[f"{theirs}.conv.modulation.bias"],
            bias=state[f"{theirs}.activate.bias"],
        )
        side = 4 * 2 ** ((index + 1) // 2)
        noise = state.get(f"noises.noise_{index}")
        # Early files lack the noise maps; they are part of the network's function only as long as they are fixed.
        ours[f"{name}.noise"] = torch.zeros(1, 1, side, side) if noise is None else noise
        ours[f"{name}.noise_strength"] = state[f"{theirs}.noise.weight"].reshape([])
    rgbs = ["to_rgb1", *(f"to_rgbs.{i}" for i in range(len(names) // 2))]
    for block, theirs in enumerate(rgbs):
        _styled(
            ours,
            f"to_rgbs.{block}",
            weight=state[f"{theirs}.conv.weight"][0],
            affine_weight=state[f"{theirs}.conv.modulation.weight"],
            affine_bias=state[f"{theirs}.conv.modulation.bias"],
            bias=state[f"{theirs}.bias"],
        )
    config = _config(ours, layers)
    ours["w_avg"] = estimate_w_avg(config, ours) if w_avg is None else w_avg
    return config, ours


def from_nvidia(state: State) -> tuple[GeneratorConfig, OurState]:
    """StyleGAN2 as NVIDIA's StyleGAN2-ADA and StyleGAN3 releases in PyTorch store it."""
    ours: OurState = {"const": state["synthesis.b4.const"][None], "w_avg": state["mapping.w_avg"]}
    layers = _mapping(ours, state, "mapping.fc{}", 0)
    side, index = 4, 0
    while f"synthesis.b{side}.conv1.weight" in state:
        block = f"synthesis.b{side}"
        for theirs in (f"{block}.conv0", f"{block}.conv1"):
            if f"{theirs}.weight" not in state:
                continue
            name = f"layers.{index}"
            _styled(
                ours,
                name,
                weight=state[f"{theirs}.weight"],
                affine_weight=state[f"{theirs}.affine.weight"],
                affine_bias=state[f"{theirs}.affine.bias"],
                bias=state[f"{theirs}.bias"],
            )
            ours[f"{name}.noise"] = state[f"{theirs}.noise_const"][None, None]
            ours[f"{name}.noise_strength"] = state[f"{theirs}.noise_strength"].reshape([])
            index += 1
        _styled(
            ours,
            f"to_rgbs.{int(math.log2(side)) - 2}",
            weight=state[f"{block}.torgb.weight"],
            affine_weight=state[f"{block}.torgb.affine.weight"],
            affine_bias=state[f"{block}.torgb.affine.bias"],
            bias=state[f"{block}.torgb.bias"],
        )
        side *= 2
    return _config(ours, layers), ours


def estimate_w_avg(config: GeneratorConfig, ours: OurState, samples: int = 10_000) -> Tensor:
    """Mean w [w_dim] over that many codes of a fixed seed, as files without a stored average need it."""
    from faceanon_engine.engine.networks.stylegan2 import Mapping as MappingNetwork

    with torch.device("meta"):
        mapping = MappingNetwork(config)
    state = {k.removeprefix("mapping."): v.float() for k, v in ours.items() if k.startswith("mapping.")}
    mapping.load_state_dict(state, assign=True)
    z = torch.randn(samples, config.z_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return mapping(z).mean(dim=0)
