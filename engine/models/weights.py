"""Weights of a network from a safetensors file, each of them compared with what the network needs before it is read."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn

from faceanon_engine.engine.models.finite import is_finite

_HEADER = 4 << 20  # the list of a file's tensors; e4e's has a fiftieth
_DTYPES = {"F32", "F16"}


def read_weights(file: Path, network: nn.Module) -> dict[str, Tensor]:
    """The network's state dict in float32; raises ValueError saying which tensor is not as it has to be.

    network: without weights ("meta"). Counters that inference never reads are not stored, and come as zeros. Raises
    OSError and SafetensorError as well.
    """
    import torch
    from safetensors import safe_open

    expected = network.state_dict()
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    _check_header(file)
    state: dict[str, Tensor] = {}
    with safe_open(file, "pt") as content:
        keys = set(content.keys())
        missing, more = sorted(expected.keys() - counters - keys), sorted(keys - expected.keys() | keys & counters)
        if missing:
            raise ValueError(f"it lacks {missing[0]} and {len(missing) - 1} more")
        if more:
            raise ValueError(f"it holds {len(more)} tensors that are none of its own")
        for key in expected.keys() - counters:
            stored, shape = content.get_slice(key), list(expected[key].shape)
            if stored.get_shape() != shape:
                raise ValueError(f"{key} has shape {stored.get_shape()}, not {shape}")
            if stored.get_dtype() not in _DTYPES:
                raise ValueError(f"{key} is of type {stored.get_dtype()}")
        for key in expected:
            if key in counters:
                state[key] = torch.zeros_like(expected[key], device="cpu")
                continue
            state[key] = content.get_tensor(key).float()
            if not is_finite(state[key]):
                raise ValueError(f"{key} holds values that are no finite numbers")
            if key.endswith("running_var") and state[key].min() < 0:
                raise ValueError(f"{key} holds variances below zero")
    return state


def _check_header(file: Path) -> None:
    """Raises ValueError where the list of tensors is longer than the file or any network's.

    Its own reader compares shapes, types and places with the file's size, but takes a list of a hundred megabytes.
    """
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(_HEADER, os.fstat(stream.fileno()).st_size - 8):
            raise ValueError("its list of tensors has a length that cannot be")
