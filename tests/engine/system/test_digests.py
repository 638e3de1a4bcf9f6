"""A checksum is of the bytes alone, however they come."""

from __future__ import annotations

import hashlib
from pathlib import Path

from faceanon_engine.engine.system.digests import sha256_of, sha256_of_all, sha256_of_chunks, sha256_of_values


def test_files_and_chunks_of_the_same_bytes_have_one_checksum(tmp_path: Path) -> None:
    parts = [bytes(range(256)) * 5000, b"", b"the end"]
    files = [tmp_path / str(number) for number in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        file.write_bytes(part)
    expected = hashlib.sha256(b"".join(parts)).hexdigest()
    assert sha256_of_chunks(iter(parts)) == sha256_of_chunks([memoryview(b"".join(parts))]) == expected
    assert sha256_of(*files) == sha256_of_all(iter(files)) == expected


def test_values_are_the_same_whatever_the_order_of_their_keys() -> None:
    assert sha256_of_values({"a": 1, "b": [2]}) == sha256_of_values({"b": [2], "a": 1})
    assert sha256_of_values({"a": 1}) != sha256_of_values({"a": 2})
