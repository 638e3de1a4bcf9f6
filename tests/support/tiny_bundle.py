"""A bundle of very small networks with random weights: everything runs, nothing means anything."""

from __future__ import annotations

from pathlib import Path

import torch

from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.models.write import NetworkToWrite, write_bundle
from faceanon_engine.engine.networks.build import build

CONFIGS = {
    "generator": {
        "resolution": 32,
        "z_dim": 16,
        "w_dim": 16,
        "channel_base": 256,
        "channel_max": 16,
        "mapping_layers": 2,
    },
    "inverter": {
        "input_size": 32,
        "rows": 8,
        "w_dim": 16,
        "units": (1, 1, 1, 1),
        "widths": (8, 8, 16, 16),
        "reduction": 4,
    },
    "identity_encoder": {
        "input_size": 16,
        "resize": None,
        "crop": None,
        "units": (1, 1, 1, 1),
        "widths": (8, 8, 16, 16),
        "reduction": 4,
        "embedding_dim": 16,
    },
    "attribute_encoder": {"input_size": 16, "patch": 8, "width": 16, "layers": 1, "heads": 2, "embedding_dim": 16},
}


def write_tiny_bundle(path: Path) -> Bundle:
    """Write the bundle; the weights are the same every time."""
    from faceanon_engine.engine.networks.build import NETWORKS

    networks = []
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for role, config in CONFIGS.items():
            network = build(role, config)
            networks.append(NetworkToWrite(role, NETWORKS[role][0](**config), network.state_dict()))
    return write_bundle(path, path.name, networks)
