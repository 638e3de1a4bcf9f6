"""Digests are sha256 of exactly the bytes, and of values whatever the order of their keys."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from faceanon_engine.engine.system.digests import _BLOCK, sha256_of, sha256_of_all, sha256_of_chunks, sha256_of_values


@pytest.mark.parametrize("size", [0, 1, _BLOCK, 2 * _BLOCK + 7])
def test_a_file_is_digested_to_its_last_byte(tmp_path: Path, size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_several_files_are_as_one_in_their_order(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"abc")
    other.write_bytes(b"def")
    assert sha256_of(one, other) == sha256_of_all(iter([one, other])) == hashlib.sha256(b"abcdef").hexdigest()
    assert sha256_of(other, one) == hashlib.sha256(b"defabc").hexdigest()


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sha256_of(tmp_path / "none")


def test_values_are_digested_whatever_the_order_of_their_keys() -> None:
    # What is stored under a digest has to be met again by later versions: the text that is digested never changes.
    assert sha256_of_values({"b": [1, 2], "a": None}) == hashlib.sha256(b'{"a": null, "b": [1, 2]}').hexdigest()
    assert sha256_of_values({"a": None, "b": [1, 2]}) == sha256_of_values({"b": (1, 2), "a": None})
    assert sha256_of_values({"a": None, "b": [2, 1]}) != sha256_of_values({"a": None, "b": [1, 2]})


def test_files_and_chunks_of_the_same_bytes_have_one_checksum(tmp_path: Path) -> None:
    parts = [bytes(range(256)) * 5000, b"", b"the end"]
    files = [tmp_path / str(number) for number in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        file.write_bytes(part)
    expected = hashlib.sha256(b"".join(parts)).hexdigest()
    assert sha256_of_chunks(iter(parts)) == sha256_of_chunks([memoryview(b"".join(parts))]) == expected
    assert sha256_of(*files) == sha256_of_all(iter(files)) == expected
