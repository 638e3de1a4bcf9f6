"""What the networks are fed while they are measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.sessions.graphs import get_graph, signature

if TYPE_CHECKING:
    from faceanon_engine.engine.models.bundle import Bundle

Floats = npt.NDArray[np.float32]


def make_inputs(bundle: Bundle, graph: str, count: int, seed: int) -> Floats:
    """Inputs of a graph, the same for the same seed: smooth coloured noise as images, normal values otherwise.

    Values near zero cost extra on some processors, and noise alone saturates a network: neither is what faces do.
    """
    configs = {role: entry["config"] for role, entry in bundle.networks.items()}
    takes, _ = signature(configs, graph)
    generator = np.random.default_rng(seed)
    shape = (count, *(int(n) for n in takes.shape[1:]))
    if not get_graph(graph).takes_image:
        scale = 1.0 if get_graph(graph).input == "z" else 0.7
        return (generator.standard_normal(shape) * scale).astype(np.float32)
    side, cells = shape[-1], 8
    coarse = generator.uniform(-1, 1, (count, 3, cells, cells))
    position = (np.arange(side) + 0.5) / side * (cells - 1)
    low = np.minimum(position.astype(int), cells - 2)
    weight = position - low
    for axis in (2, 3):
        first, second = coarse.take(low, axis), coarse.take(low + 1, axis)
        share = weight[:, None] if axis == 2 else weight
        coarse = first + (second - first) * share
    return (coarse + generator.normal(0, 0.02, shape)).clip(-1, 1).astype(np.float32)
