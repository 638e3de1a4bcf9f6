"""sha256 of files, of bytes and of plain values, as hexadecimal text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def sha256_of(*files: Path) -> str:
    """Of the bytes of one file, or of several, one after the other; raises OSError."""
    return sha256_of_all(files)


def sha256_of_all(files: Iterable[Path]) -> str:
    """Of the files' bytes, one after the other; raises OSError."""
    return sha256_of_chunks(_blocks(files))


def sha256_of_chunks(chunks: Iterable[bytes | memoryview]) -> str:
    """Of bytes that come in chunks, one after the other; no chunk is held longer than it takes."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def sha256_of_values(values: Any) -> str:
    """Of values that JSON can hold, whatever the order of their keys."""
    return sha256_of_chunks([json.dumps(values, sort_keys=True).encode()])


def _blocks(files: Iterable[Path]) -> Iterator[bytes]:
    for file in files:
        with open(file, "rb") as stream:
            while block := stream.read(_BLOCK):
                yield block
