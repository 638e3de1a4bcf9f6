"""Checkpoints of small networks in the official layouts, quick to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from faceanon_engine.engine.networks.build import NETWORKS, build
from tests.support.tiny_bundle import CONFIGS

_OPTS = {"encoder_type": "Encoder4Editing", "start_from_latent_avg": True}
_WIDTHS = (1, 2, 3, 4)


def encoder_state(role: str, **more: Any) -> dict[str, torch.Tensor]:
    """The smallest network of that role that can be, in our layout."""
    least: dict[str, Any] = {
        "inverter": {"widths": _WIDTHS, "reduction": 1, "w_dim": 2},
        "identity_encoder": {"widths": _WIDTHS, "reduction": 1, "embedding_dim": 2},
        "attribute_encoder": {"width": 64, "heads": 1, "patch": 16, "embedding_dim": 1},
    }[role]
    state: dict[str, torch.Tensor] = build(role, {**CONFIGS[role], **least, **more}).state_dict()
    return state


def e4e_content(**opts: Any) -> dict[str, Any]:
    """What e4e's file holds, without a generator; `opts` as it states them."""
    encoder = {f"encoder.{key}": value for key, value in encoder_state("inverter").items() if key != "latent_avg"}
    return {"state_dict": encoder, "latent_avg": torch.ones(8, 2), "opts": {**_OPTS, **opts}}


def nvidia_state() -> dict[str, torch.Tensor]:
    """NVIDIA's names for a generator of 8 px with codes of two numbers."""
    one = torch.ones
    state = {"mapping.w_avg": one(2), "mapping.fc0.weight": one(2, 2), "mapping.fc0.bias": one(2)}
    state["synthesis.b4.const"] = one(1, 4, 4)
    for side, names in ((4, ("conv1",)), (8, ("conv0", "conv1"))):
        for name in names:
            place = f"synthesis.b{side}.{name}"
            state |= {f"{place}.weight": one(1, 1, 3, 3), f"{place}.bias": one(1), f"{place}.noise_strength": one(())}
            state |= {f"{place}.noise_const": one(side, side)}
            state |= {f"{place}.affine.weight": one(1, 2), f"{place}.affine.bias": one(1)}
        place = f"synthesis.b{side}.torgb"
        state |= {f"{place}.weight": one(3, 1, 1, 1), f"{place}.bias": one(3)}
        state |= {f"{place}.affine.weight": one(1, 2), f"{place}.affine.bias": one(1)}
    return state


def write_encoders(folder: Path) -> list[str]:
    """Checkpoints of small encoders in the official layouts, for a generator of 64 px and 64 wide codes."""
    widths = (8, 12, 16, 20)
    inverter = NETWORKS["inverter"][0](**{**CONFIGS["inverter"], "rows": 10, "w_dim": 64, "widths": widths})
    e4e = {f"encoder.{k}": v for k, v in NETWORKS["inverter"][1](inverter).state_dict().items() if k != "latent_avg"}
    torch.save({"state_dict": e4e, "latent_avg": torch.zeros(10, 64), "opts": _OPTS}, folder / "e4e.pt")
    identity = NETWORKS["identity_encoder"][0](**{**CONFIGS["identity_encoder"], "widths": widths})
    torch.save(NETWORKS["identity_encoder"][1](identity).state_dict(), folder / "arcface.pth")
    attribute = NETWORKS["attribute_encoder"][0](**{**CONFIGS["attribute_encoder"], "width": 64, "heads": 1})
    state = NETWORKS["attribute_encoder"][1](attribute).state_dict()
    visual = {f"visual.{k.replace('blocks.', 'transformer.resblocks.')}": v for k, v in state.items()}
    torch.save({"state_dict": visual}, folder / "farl.pth")
    return [str(folder / name) for name in ("e4e.pt", "arcface.pth", "farl.pth")]
