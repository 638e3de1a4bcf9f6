"""Checkpoints of small networks in the official layouts, quick to read."""

from __future__ import annotations

from pathlib import Path

import torch

from faceanon_engine.engine.networks.build import NETWORKS
from tests.support.tiny_bundle import CONFIGS


def write_encoders(folder: Path) -> list[str]:
    """Checkpoints of small encoders in the official layouts, for a generator of 64 px and 64 wide codes."""
    widths = (8, 12, 16, 20)
    inverter = NETWORKS["inverter"][0](**{**CONFIGS["inverter"], "rows": 10, "w_dim": 64, "widths": widths})
    e4e = {f"encoder.{k}": v for k, v in NETWORKS["inverter"][1](inverter).state_dict().items() if k != "latent_avg"}
    torch.save({"state_dict": e4e, "latent_avg": torch.zeros(10, 64), "opts": {}}, folder / "e4e.pt")
    identity = NETWORKS["identity_encoder"][0](**{**CONFIGS["identity_encoder"], "widths": widths})
    torch.save(NETWORKS["identity_encoder"][1](identity).state_dict(), folder / "arcface.pth")
    attribute = NETWORKS["attribute_encoder"][0](**{**CONFIGS["attribute_encoder"], "width": 64, "heads": 1})
    state = NETWORKS["attribute_encoder"][1](attribute).state_dict()
    visual = {f"visual.{k.replace('blocks.', 'transformer.resblocks.')}": v for k, v in state.items()}
    torch.save({"state_dict": visual}, folder / "farl.pth")
    return [str(folder / name) for name in ("e4e.pt", "arcface.pth", "farl.pth")]
