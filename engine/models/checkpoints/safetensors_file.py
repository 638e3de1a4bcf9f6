"""Checkpoints that were saved as safetensors, as the same plain description of tensors as Torch's own files."""

from __future__ import annotations

import json
import math
import mmap
from typing import Any

import torch

from faceanon_engine.engine.models.checkpoints.plain_pickle import Damaged, Malformed
from faceanon_engine.engine.models.checkpoints.stored_tensors import Storage, StorageType, StoredTensor, make_stored

_HEADER = 4 << 20  # the list of a file's tensors; e4e's has a fiftieth
_TYPES = {
    "F64": StorageType("<f8", torch.float64),
    "F32": StorageType("<f4", torch.float32),
    "F16": StorageType("<f2", torch.float16),
    "BF16": StorageType("<i2", torch.bfloat16),
    "I64": StorageType("<i8", torch.int64),
    "I32": StorageType("<i4", torch.int32),
    "I16": StorageType("<i2", torch.int16),
    "I8": StorageType("<i1", torch.int8),
    "U8": StorageType("<u1", torch.uint8),
    "BOOL": StorageType("<u1", torch.uint8),
}


def is_safetensors(start: bytes) -> bool:
    """Whether a file begins as these do: with the length of a JSON object, and the object."""
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= 100 * _HEADER


def read_safetensors(data: bytes | mmap.mmap) -> dict[str, StoredTensor]:
    """The tensors by name; raises Malformed."""
    length = int.from_bytes(data[:8], "little")
    if length > _HEADER:
        raise Malformed("its list of tensors is longer than any checkpoint's")
    first = 8 + length
    if first > len(data):
        raise Damaged(f"its list of tensors has {length} bytes, the file has {len(data)}")
    try:
        header = json.loads(data[8:first].decode("utf-8"))
    except (ValueError, RecursionError):  # what is no text is a ValueError, too
        raise Malformed("its list of tensors is no JSON") from None
    if not isinstance(header, dict):
        raise Malformed("its list of tensors is no list of names")
    return {name: _tensor(data, first, entry) for name, entry in header.items() if name != "__metadata__"}


def _tensor(data: bytes | mmap.mmap, first: int, entry: Any) -> StoredTensor:
    """The tensor that an entry describes; `first` is where the values of all begin."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise Malformed("a tensor in it has no description")
    kind = _TYPES.get(entry["dtype"])
    if kind is None:
        raise Malformed(f"a tensor in it is of type {entry['dtype'][:20]!r}")
    size, places = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(places, list) or len(places) != 2 or not all(type(place) is int for place in places):
        raise Malformed("a tensor in it has no place")
    begin, end = places
    if not 0 <= begin <= end or (end - begin) % kind.itemsize:
        raise Malformed("a tensor in it has a place that cannot be")
    if first + end > len(data):
        raise Damaged(f"its tensors end at byte {first + end}, the file has {len(data)}")
    if not isinstance(size, list) or len(size) > 8 or not all(type(n) is int and 0 <= n < 2**40 for n in size):
        raise Malformed("a tensor in it has a shape that cannot be")
    strides = [math.prod(size[axis + 1 :]) for axis in range(len(size))]
    count = (end - begin) // kind.itemsize
    if math.prod(size) != count:
        raise Malformed(f"a tensor in it has {count} values for the shape {size}")
    values = Storage(kind, count, memoryview(data)[first + begin : first + end])
    return make_stored(values, 0, size, strides)
