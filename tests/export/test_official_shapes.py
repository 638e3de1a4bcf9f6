"""Networks of the shapes that FALCO uses, with random weights: they export, and agree with Torch."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from faceanon_engine.engine.networks.build import build
from faceanon_engine.engine.sessions.graphs import Artifact
from faceanon_engine.export.onnx_export import staged, trace
from faceanon_engine.export.verify import random_inputs, verify_network
from faceanon_engine.export.wrappers import run_network

pytestmark = pytest.mark.slow
SIDE = 1024


@pytest.fixture
def network(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A network of the official shape: the configurations' defaults."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = build(request.param, {}).eval().requires_grad_(False)
    yield made
    del made
    gc.collect()


def random_image() -> np.ndarray:
    return (np.random.default_rng(0).uniform(-1, 1, (1, 3, SIDE, SIDE))).astype(np.float32)


def run(artifact: Artifact, value: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: value})[0]


@pytest.mark.parametrize(
    ("network", "graph"),
    # The largest first: memory that is given back is not always the system's at once.
    [("inverter", "inverter"), ("identity_encoder", "identity"), ("attribute_encoder", "attribute_tokens")],
    indirect=["network"],
)
def test_encoders_hold_their_tolerance(network: Any, graph: str, tmp_path: Path) -> None:
    traced = trace(network, graph, side=SIDE)
    precision = "fp32" if graph == "inverter" else "fp16"
    with staged(traced, precision, tmp_path, keep=False) as staging:
        del traced
        assert staging.artifact.data, "their weights are large"
        verify_network(staging.artifact, lambda: network, {"random": random_image()})


@pytest.mark.parametrize("network", ["generator"], indirect=True)
def test_the_generator_agrees_with_torch(network: Any, tmp_path: Path) -> None:
    """Against float32 Torch: in float64 its convolutions at 1024 px take more memory than a small machine has."""
    for layer in network.layers:
        layer.noise_strength += 0.1
    w_plus = torch.randn(1, network.config.rows, network.config.w_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = run_network(network, "synthesis", w_plus).numpy()
    traced = trace(network, "synthesis")
    scale = float(np.sqrt(np.square(expected).mean()))
    for precision, limit in (("fp32", 2e-5), ("fp16", 2e-2)):
        with staged(traced, precision, tmp_path) as staging:  # type: ignore[arg-type]
            found = run(staging.artifact, w_plus.numpy())
        assert found.shape == (1, 3, SIDE, SIDE)
        assert np.abs(found - expected).max() / scale < limit
    mapping = trace(network, "mapping")
    with staged(mapping, "fp16", tmp_path, keep=False) as staging:
        verify_network(staging.artifact, lambda: network, {"random": random_inputs(staging.artifact, network, 2)})
