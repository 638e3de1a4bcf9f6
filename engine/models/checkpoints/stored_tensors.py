"""Tensors as checkpoints describe them: a storage, and a geometry in it that has to fit before anything is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faceanon_engine.engine.models.checkpoints.plain_pickle import Inert, Malformed, shown

_DIMENSIONS = 8


@dataclass(frozen=True)
class StorageType:
    """What the values of a storage are: the type of NumPy, little-endian, that has their bytes, and Torch's."""

    stored: str
    dtype: torch.dtype

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize


_TYPES = {
    "DoubleStorage": StorageType("<f8", torch.float64),
    "FloatStorage": StorageType("<f4", torch.float32),
    "HalfStorage": StorageType("<f2", torch.float16),
    "BFloat16Storage": StorageType("<i2", torch.bfloat16),
    "LongStorage": StorageType("<i8", torch.int64),
    "IntStorage": StorageType("<i4", torch.int32),
    "ShortStorage": StorageType("<i2", torch.int16),
    "CharStorage": StorageType("<i1", torch.int8),
    "ByteStorage": StorageType("<u1", torch.uint8),
    # A byte other than 0 and 1 is no bool of anybody's.
    "BoolStorage": StorageType("<u1", torch.uint8),
}


class Storage:
    """A row of `count` values of a type. data: its bytes; None until the place is known where they lie."""

    def __init__(self, kind: Any, count: Any, data: memoryview | None = None) -> None:
        if not isinstance(kind, StorageType) or not _is_size(count):
            raise Malformed("a storage in it has no type or no size")
        self.kind, self.count, self.data = kind, count, data

    @property
    def bytes(self) -> int:
        return self.count * self.kind.itemsize


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor of a checkpoint; whoever made it found that it lies within its storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.size) * self.storage.kind.itemsize


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _is_sizes(values: Any) -> bool:
    return isinstance(values, tuple | list) and len(values) <= _DIMENSIONS and all(map(_is_size, values))


def make_stored(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> StoredTensor:
    """The tensor of that geometry; raises Malformed where it does not lie within its storage."""
    if not isinstance(storage, Storage):
        raise Malformed("a tensor in it has no storage")
    if not _is_size(offset) or not _is_sizes(size) or not _is_sizes(stride) or len(size) != len(stride):
        raise Malformed("a tensor in it has a size, a stride or an offset that cannot be")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # More values than are stored would be the same ones many times: memory out of nothing.
    if count and (last >= storage.count or count > storage.count):
        shape = " x ".join(map(str, size)) or "1"
        raise Malformed(f"a tensor of {shape} values, at {offset}, goes beyond the {storage.count} that are stored")
    return StoredTensor(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _from_type(function: Any, _type: Any, arguments: Any, *_: Any) -> Any:
    """A tensor that was given attributes, without them."""
    if function not in (make_stored, _parameter) or not isinstance(arguments, tuple):
        raise Malformed("a tensor in it is of an unknown kind")
    return function(*arguments)


TENSORS: dict[tuple[str, str], Any] = {
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch", "Tensor"): Inert(),
    ("torch.nn.parameter", "Parameter"): Inert(),
    ("torch._utils", "_rebuild_tensor"): make_stored,
    ("torch._utils", "_rebuild_tensor_v2"): make_stored,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    **{("torch", name): kind for name, kind in _TYPES.items()},
}
"""What stands for the names that a pickle makes tensors with."""


def make_tensors(stored: Mapping[Any, Any], file_bytes: int) -> dict[str, Tensor]:
    """Those of the values that are tensors and have a name, made; each owns its values.

    Raises Malformed when one is empty, has no values in the file, or when they claim more than the whole file holds.
    """
    named = {key: value for key, value in stored.items() if isinstance(key, str) and isinstance(value, StoredTensor)}
    for key, value in named.items():
        if not value.bytes:
            raise Malformed(f"{shown(key)} is empty, of shape {list(value.size)}")
    claimed = sum(value.bytes for value in named.values())
    if claimed > file_bytes:
        raise Malformed(f"its tensors claim {claimed} bytes, the file has {file_bytes}")
    return {key: _made(value) for key, value in named.items()}


def _made(stored: StoredTensor) -> Tensor:
    storage = stored.storage
    if storage.data is None or len(storage.data) != storage.bytes:
        raise Malformed("a tensor's values are not in it")
    width = storage.kind.itemsize
    strides = [step * width for step in stored.stride]
    values = np.ndarray(stored.size, storage.kind.stored, storage.data, stored.offset * width, strides)
    made = torch.from_numpy(values.copy(order="C"))
    return made if made.dtype == storage.kind.dtype else made.view(storage.kind.dtype)
