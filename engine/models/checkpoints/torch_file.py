"""Torch's own files, a zip archive or, of old, a row of pickles, read without running or trusting anything in them.

`torch.load(weights_only=True)` runs nothing either, but reserves what a file announces: a tensor of any size, a record
that expands a thousandfold.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from pathlib import Path
from typing import Any

from faceanon_engine.engine.models.checkpoints.foreign import of_zip
from faceanon_engine.engine.models.checkpoints.plain_pickle import Damaged, Malformed, Steps, Stream, read_pickle
from faceanon_engine.engine.models.checkpoints.stored_tensors import TENSORS, Storage
from faceanon_engine.engine.system.printable import first_line

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_DIRECTORY = 4 << 20  # bytes of a zip's list of records; e4e's has a twentieth
_LOCAL_HEADER = 30


def mapped(path: Path) -> mmap.mmap:
    """The file's bytes, read when they are looked at; raises OSError, and ValueError for an empty one."""
    with open(path, "rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


class _Bounded(io.FileIO):
    """A file that zipfile may read little of at once: its list of records becomes objects ten times its size."""

    def read(self, size: int | None = -1, /) -> bytes:
        most = _DIRECTORY + 1
        data = super().read(most if size is None or size < 0 else min(size, most)) or b""
        if len(data) == most:
            raise Malformed("its list of records is longer than any checkpoint's")
        return data


def record_names(path: Path) -> list[str]:
    """Names of a zip archive's records; raises Malformed."""
    return [*_records(path)]


def _records(path: Path) -> dict[str, zipfile.ZipInfo]:
    try:
        with _Bounded(path) as stream, zipfile.ZipFile(stream) as archive:
            records = archive.infolist()
    except Malformed:
        raise
    except Exception as error:
        # What zipfile raises for a damaged archive is not listed anywhere: BadZipFile, and what its struct, codecs
        # and numbers raise.
        raise Damaged(f"its zip archive is damaged or ends too early, {first_line(error)}") from None
    by_name = {record.filename: record for record in records}
    if len(by_name) < len(records):
        raise Malformed("its zip archive holds a record twice")
    return by_name


def read_zip(path: Path) -> Any:
    """What a zip archive of Torch's holds, tensors as StoredTensor; raises Malformed and Refused."""
    data = mapped(path)
    records = _records(path)
    announced = sum(record.file_size for record in records.values())
    roots = [name.removesuffix("data.pkl") for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    other = None if roots else of_zip(records)
    if other is not None:
        raise other
    if announced > len(data):
        raise Malformed(f"its records announce {announced} bytes, the file has {len(data)}")
    if len(roots) != 1:
        raise Malformed("a zip archive, but none of Torch's: it has no data.pkl")
    (root,) = roots
    if f"{root}byteorder" in records and bytes(_record(data, records[f"{root}byteorder"])) != b"little":
        raise Malformed("its values are stored in another order of bytes")
    storages: dict[str, Storage] = {}

    def stored(description: Any) -> Storage:
        kind, key, count, _ = _described(description)
        if key not in storages:
            record = records.get(f"{root}data/{key}")
            if record is None:
                raise Malformed(f"the record of storage {key[:20]!r} is missing")
            storages[key] = Storage(kind, count, _record(data, record))
        storage = storages[key]
        if (storage.kind, storage.count) != (kind, count) or storage.bytes != len(storage.data or b""):
            raise Malformed(f"storage {key[:20]!r} is said to have {count} values, its record has another size")
        return storage

    pickle = bytes(_record(data, records[f"{root}data.pkl"]))
    return read_pickle(Stream(pickle, Steps()), TENSORS, stored)


def _record(data: mmap.mmap, record: zipfile.ZipInfo) -> memoryview:
    """The bytes of a record; Torch neither compresses nor encrypts."""
    if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 or record.file_size != record.compress_size:
        raise Malformed("its records are compressed or encrypted, which Torch's are not")
    at = record.header_offset
    header = data[at : at + _LOCAL_HEADER] if at >= 0 else b""
    if len(header) < _LOCAL_HEADER or not header.startswith(b"PK\3\4"):
        raise Damaged("its zip archive is damaged, a record is not where it should be")
    name, extra = struct.unpack_from("<HH", header, 26)
    first = at + _LOCAL_HEADER + name + extra
    if first + record.file_size > len(data):
        raise Damaged("its zip archive is damaged, a record is longer than the file")
    return memoryview(data)[first : first + record.file_size]


def read_legacy(data: bytes | mmap.mmap, steps: Steps) -> Any:
    """What a file of Torch's older layout holds, tensors as StoredTensor; raises Malformed and Refused."""
    stream = Stream(data, steps)
    if read_pickle(stream, {}) != _MAGIC or read_pickle(stream, {}) != _PROTOCOL:
        raise Malformed("it does not begin as Torch's files do")
    system = read_pickle(stream, {})
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Malformed("its values are stored in another order of bytes")
    storages: dict[str, Storage] = {}

    def stored(description: Any) -> Storage:
        kind, key, count, views = _described(description)
        if views:
            raise Malformed("it was written by a Torch before 0.4")
        storage = storages.setdefault(key, Storage(kind, count))
        if (storage.kind, storage.count) != (kind, count):
            raise Malformed(f"storage {key[:20]!r} is said to be of two sizes")
        return storage

    content = read_pickle(stream, TENSORS, stored)
    keys = read_pickle(stream, {})
    if not isinstance(keys, list):
        raise Malformed("it has no list of storages")
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise Malformed("it has a storage of no tensor")
        (count,) = struct.unpack("<q", stream.read(8))
        if count != storage.count:
            raise Malformed(f"storage {key[:20]!r} is said to have {storage.count} values, {count} are stored")
        stream.need(storage.bytes)
        storage.data = memoryview(data)[stream.at : stream.at + storage.bytes]
        stream.at += storage.bytes
    if any(storage.data is None for storage in storages.values()):
        raise Malformed("values of a tensor are missing")
    return content


def _described(description: Any) -> tuple[Any, str, Any, Any]:
    """Type, key and number of values of a storage, and what else is said of it; the device is of no interest."""
    if not isinstance(description, tuple) or len(description) not in (5, 6) or description[0] != "storage":
        raise Malformed("it holds a value of an unknown kind outside of its pickle")
    kind, key, _, count = description[1:5]
    if not isinstance(key, str):
        raise Malformed("a storage in it has no name")
    return kind, key, count, description[5] if len(description) == 6 else None
