"""Reads the pickles of NVIDIA's StyleGAN2-ADA and StyleGAN3 without executing anything they hold.

Such a pickle stores a network as the source text of its class and the class's state. The source stays text here: only
tensors, NumPy's numbers (every layer's gain is one) and plain containers are rebuilt, and every other name is refused.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.printable import first_line


class _Attributes(dict[str, Any]):
    """Stands for a dictionary with attribute access; whatever state it was given is kept as items."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


class _Network(dict[str, Any]):
    """Stands for a network: what its pickle says of it, class source included, as inert data."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


def _network(meta: dict[str, Any]) -> _Network:
    return _Network(meta)


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _parameter(data: Tensor, requires_grad: bool, backward_hooks: Any) -> Tensor:
    return data


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    return torch._utils._rebuild_tensor(storage, offset, size, stride)


class _NumberType:
    """Stands for the type of a NumPy number: a letter and its bytes, such as f8, and the byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]", code):
            raise _Refused(f"numpy.dtype {code!r}")
        self.name = f"<{code}"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and state[1:2] == (">",):
            self.name = f">{self.name[1:]}"


def _number(kind: Any, data: Any) -> Any:
    if not isinstance(kind, _NumberType) or not isinstance(data, bytes):
        raise _Refused("numpy.core.multiarray.scalar of what is no number")
    return np.frombuffer(data, kind.name, count=1)[0].item()


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "slice"): slice,
    ("dnnlib.util", "EasyDict"): _Attributes,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _network,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch", "Size"): torch.Size,
    ("numpy", "dtype"): _NumberType,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"persistent id {pid!r}")


class _Refused(Exception):
    pass


def _flatten(network: Any, prefix: str, state: dict[str, Tensor]) -> None:
    content = network.get("state", network)
    for kind in ("_parameters", "_buffers"):
        for name, value in content.get(kind, {}).items():
            if isinstance(value, Tensor):
                state[prefix + name] = value
    for name, module in content.get("_modules", {}).items():
        if isinstance(module, dict):
            _flatten(module, f"{prefix}{name}.", state)


def read_nvidia_pickle(path: Path) -> dict[str, Tensor]:
    """State dict of `G_ema`; raises UserError when the pickle is damaged, holds another name, or has no generator."""
    try:
        with open(path, "rb") as stream:
            content = _Unpickler(stream).load()
    except _Refused as error:
        raise UserError(
            f"{path} asks for {error}, which is neither a tensor nor a plain container: refused, nothing of it was run"
        ) from None
    except Exception as error:
        raise UserError(f"{path} is not a readable checkpoint ({first_line(error)}): download it again") from None
    network = content.get("G_ema") if isinstance(content, dict) else None
    if not isinstance(network, dict):
        raise UserError(f"{path} is a pickle without 'G_ema': give a generator of StyleGAN2-ADA or StyleGAN3's release")
    state: dict[str, Tensor] = {}
    _flatten(network, "", state)
    return state
