"""Exporting a network that is in no bundle, as `export_graph` does it for those of bundles."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from faceanon_engine.engine.choices import Precision
from faceanon_engine.engine.sessions.graphs import Artifact
from faceanon_engine.export.onnx_export import staged, trace
from faceanon_engine.export.verify import random_inputs, verify_network


def export_network(
    network: nn.Module, graph: str, precision: Precision, folder: Path, *, side: int = 0, check: bool = True
) -> Artifact:
    """Export into the folder and, with `check`, verify; the images that the graph takes have side `side` in pixels."""
    traced = trace(network, graph, side=side)
    with staged(traced, precision, folder, keep=False) as staging:
        del traced
        artifact = staging.artifact
        if check:
            artifact.check()
            inputs = {"random": random_inputs(artifact, network, 2)}
            artifact = verify_network(artifact, lambda: network, inputs).artifact
        return staging.publish(artifact)
