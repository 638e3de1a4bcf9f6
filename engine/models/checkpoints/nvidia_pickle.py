"""Reads plain pickles, those of NVIDIA's StyleGAN2-ADA and StyleGAN3 above all, without executing anything they hold.

NVIDIA's stores a network as the source text of its class and the class's state. The source stays text here: only
tensors, NumPy's numbers (every layer's gain is one) and plain containers are rebuilt, and every other name is refused.
"""

from __future__ import annotations

import mmap
from typing import Any

from faceanon_engine.engine.models.checkpoints.plain_pickle import Malformed, Steps, Stream, read_pickle
from faceanon_engine.engine.models.checkpoints.stored_tensors import TENSORS, StoredTensor
from faceanon_engine.engine.models.checkpoints.torch_file import read_legacy

_DEPTH = 16  # modules within modules; the release has four


def read_pickled(data: bytes | mmap.mmap) -> Any:
    """What a plain pickle holds, tensors as StoredTensor; raises Malformed, and Refused for another name."""
    steps = Steps()

    def storage(stored: Any) -> Any:
        if not isinstance(stored, bytes):
            raise Malformed("a storage in it is not of bytes")
        return read_legacy(stored, steps)

    names = {
        **TENSORS,
        ("torch.storage", "_load_from_bytes"): storage,
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _network,
    }
    return read_pickle(Stream(data, steps), names)


def generator_of(content: Any) -> dict[str, StoredTensor]:
    """State dict of the network `G_ema`, of whatever architecture; raises Malformed where there is none."""
    network = content.get("G_ema") if isinstance(content, dict) else None
    if not isinstance(network, dict):
        raise Malformed("a pickle without 'G_ema', which a generator of StyleGAN2-ADA's or StyleGAN3's release has")
    return _state_dict(network)


def _network(meta: Any) -> Any:
    return meta


def _state_dict(network: dict[Any, Any]) -> dict[str, StoredTensor]:
    """Tensors of all modules by their path; raises Malformed for modules that hold each other or have two places."""
    state: dict[str, StoredTensor] = {}
    seen: set[int] = set()
    waiting: list[tuple[Any, tuple[str, ...]]] = [(network, ())]
    while waiting:
        module, place = waiting.pop()
        content = module.get("state", module) if isinstance(module, dict) else None
        if not isinstance(content, dict):
            raise Malformed("a module in it is no module")
        if id(content) in seen or len(place) > _DEPTH:
            raise Malformed("a module in it has two places, or lies within itself")
        seen.add(id(content))
        for kind in ("_parameters", "_buffers"):
            for name, value in _children(content, kind):
                if isinstance(value, StoredTensor):
                    state[".".join((*place, name))] = value
        for name, value in _children(content, "_modules"):
            if value is not None:
                waiting.append((value, (*place, name)))
    return state


def _children(content: dict[Any, Any], kind: str) -> list[tuple[str, Any]]:
    children = content.get(kind, {})
    if not isinstance(children, dict) or not all(isinstance(name, str) for name in children):
        raise Malformed(f"{kind} of a module in it are no names with values")
    return [*children.items()]
