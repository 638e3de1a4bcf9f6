"""Whether a file held the whole picture: some decoders leave what is missing blank, and say nothing.

Of a progressive JPEG every scan has to be there, and the first one whole; how much of the last one, which adds the last
bits of fine detail, is not told from a whole one.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from faceanon_engine.engine.errors import InputError

_CHUNK = 2**20
_WIDTH, _HEIGHT, _STRIP_OFFSETS, _TILE_OFFSETS = 256, 257, 273, 324  # tags of a TIFF
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_BLANK = 32
"""Pixels a side: less than three quarters of the smallest tiles of a HEIC, so that half steps hit each."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced PNG (Adam7): first column and row, and the distances between columns and rows."""


def refuse_missing_parts(image: Any) -> None:
    """Raises InputError "damaged" where an opened TIFF does not say where all of its picture lies."""
    if image.format != "TIFF":
        return
    if 0 in (*image.tag_v2.get(_STRIP_OFFSETS, ()), *image.tag_v2.get(_TILE_OFFSETS, ())):
        raise InputError("damaged", "a part of its picture has no place in the file")
    width, height = image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]  # as stored: the size is the upright picture's
    covered = 0
    for _, (left, top, right, bottom), *_ in image.tile:
        covered += max(0, min(right, width) - left) * max(0, min(bottom, height) - top)
    if covered < width * height:
        raise InputError("damaged", "parts of its picture are missing")


def refuse_cut_short(image: Any, stream: BinaryIO) -> None:
    """Raises InputError "damaged" where the data of a PNG, JPEG or HEIC that was loaded from the stream end before its
    picture does though it was decoded, and for a PNG whose data do not match their checksums."""
    if image.format == "PNG":
        stream.seek(0)
        _check_png(image, stream)
    elif image.format in ("JPEG", "MPO"):
        stream.seek(0)
        _check_jpeg(image, stream)
    elif image.format == "HEIF":
        stream.seek(0)
        _check_heif(image, stream)


def _cut_short() -> InputError:
    return InputError("damaged", "its data end before the picture does: copy it again")


# -- PNG -------------------------------------------------------------------------------------------------------


def _check_png(image: Image.Image, stream: BinaryIO) -> None:
    width, height = image.size
    # Rows that were not in the data are left zero. Of the last two one is of the last pass, if it is interlaced.
    ending = image.crop((0, height - 2, width, height))
    blank = not all(np.asarray(ending.crop((0, row, width, row + 1))).any() for row in (0, 1))
    missing, inflate = 0, zlib.decompressobj()
    if blank:
        missing = _png_bytes(stream)
    for data in _png_data(stream):
        while blank and missing > 0 and data:
            missing -= len(inflate.decompress(data, _CHUNK))
            data = inflate.unconsumed_tail
    if missing > 0:
        raise _cut_short()


def _png_bytes(stream: BinaryIO) -> int:
    """Bytes of the filtered rows that the header asks for."""
    stream.seek(16)
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", stream.read(13))
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    total = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def _png_data(stream: BinaryIO) -> Iterator[bytes]:
    """The compressed data, in pieces; raises InputError "damaged" where a checksum is wrong."""
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return
        if kind != b"IDAT":
            stream.seek(length + 4, io.SEEK_CUR)
            continue
        checksum, left = zlib.crc32(kind), length
        while left and (data := stream.read(min(left, _CHUNK))):
            checksum, left = zlib.crc32(data, checksum), left - len(data)
            yield data
        if left or len(stored := stream.read(4)) < 4:
            return
        if stored != checksum.to_bytes(4, "big"):
            raise InputError("damaged", "its data do not match their checksum: copy it again")


# -- JPEG ------------------------------------------------------------------------------------------------------


def _check_jpeg(image: Image.Image, stream: BinaryIO) -> None:
    progressive = "progressive" in image.info
    # What is missing is decoded as the middle of the range: grey, and whatever that is in CMYK.
    last = np.atleast_1d(np.asarray(image.crop((image.width - 1, image.height - 1, *image.size)))[0, 0]).astype(int)
    grey = image.mode == "CMYK" or bool((np.abs(last - 128) <= 2).all())
    if not (progressive or grey):
        return
    content = stream.read()
    scans = _Scans(content)
    if scans.arithmetic:
        return  # its data may end before the picture does
    if not scans.complete() or (grey and scans.restarts_missing()):
        raise _cut_short()
    if not grey:
        return
    # More data before the end of the first scan are ignored where it has all, and decoded where it has not.
    more = bytes(range(1, 255)) * 16
    with Image.open(io.BytesIO(content[: scans.first_end] + more + content[scans.first_end :])) as other:
        other.load()
        rows = max(1, _CHUNK // image.width)
        for top in range(0, image.height, rows):
            box = (0, top, image.width, min(top + rows, image.height))
            if not np.array_equal(np.asarray(image.crop(box)), np.asarray(other.crop(box))):
                raise _cut_short()


class _Scans:
    """What the markers of a JPEG that was decoded say of its scans."""

    def __init__(self, content: bytes) -> None:
        self.arithmetic = False
        self.first_end = len(content)
        self._content = content
        self._bits_missing: dict[int, list[int]] = {}  # by component, of every coefficient; -1 for all of them
        self._units = 0
        self._interval = 0
        self._first_start = 0
        place = 2
        while (found := _MARKER.search(content, place)) is not None:
            marker, place = content[found.start() + 1], found.end()
            if marker == 0xD9:
                return
            if marker == 0x01:
                continue
            length = int.from_bytes(content[place : place + 2], "big")
            segment, place = content[place + 2 : place + length], place + length
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                self.arithmetic = marker > 0xC8
                self._frame(segment)
            elif marker == 0xDD:
                self._interval = int.from_bytes(segment[:2], "big")
            elif marker == 0xDA:
                self._scan(segment)
                end = _MARKER.search(content, place)
                if not self._first_start:
                    self._first_start, self.first_end = place, len(content) if end is None else end.start()

    def _frame(self, segment: bytes) -> None:
        height, width, count = struct.unpack(">HHB", segment[1:6])
        components = [segment[6 + 3 * each : 9 + 3 * each] for each in range(count)]
        self._bits_missing = {each[0]: [-1] * 64 for each in components}
        across, down = max(each[1] >> 4 for each in components), max(each[1] & 15 for each in components)
        if count == 1:
            across = down = 1  # its blocks are not interleaved
        self._units = -(-width // (8 * across)) * -(-height // (8 * down))

    def _scan(self, segment: bytes) -> None:
        count = segment[0]
        first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
        for each in range(count):
            missing = self._bits_missing[segment[1 + 2 * each]]
            missing[first : last + 1] = [bits & 15] * len(missing[first : last + 1])
        if not self._first_start and count < len(self._bits_missing):
            self._units = 0  # of one component of several: how many it has is not told from the others'

    def complete(self) -> bool:
        """Whether there is a scan of every bit of every coefficient."""
        return all(bits == 0 for each in self._bits_missing.values() for bits in each)

    def restarts_missing(self) -> bool:
        """Whether the first scan has fewer restart markers than its units ask for."""
        if not self._interval or not self._units:
            return False
        there = len(re.findall(rb"\xff[\xd0-\xd7]", self._content[self._first_start : self.first_end]))
        return there < -(-self._units // self._interval) - 1


# -- HEIC ------------------------------------------------------------------------------------------------------


def _check_heif(image: Image.Image, stream: BinaryIO) -> None:
    """Tiles that are missing or damaged are left as they were made, all zero: without red, without blue, and green."""
    if _data_missing(stream):
        raise _cut_short()
    if image.mode not in ("RGB", "RGBA"):
        return
    for top in range(0, image.height - _BLANK + 1, _BLANK // 2):
        rows = np.asarray(image.crop((0, top, image.width, top + _BLANK)))[..., :3]
        few = rows[::8]  # the same over a whole square, where they are the same here
        blank = ((few[..., 0] == 0) & (few[..., 2] == 0) & (few[..., 1] == few[:1, ..., 1]) & (few[..., 1] > 64)).all(0)
        for left in np.flatnonzero(blank)[:: _BLANK // 2]:
            square = rows[:, left : left + _BLANK]
            if square.shape[1] == _BLANK and (square == square[0, 0]).all():
                raise InputError("damaged", "parts of its picture are missing: copy it again")


def _data_missing(stream: BinaryIO) -> bool:
    """Whether the file ends before its data do (ISO/IEC 14496-12); other things may follow them."""
    size, place = stream.seek(0, io.SEEK_END), 0
    while place + 16 <= size:
        stream.seek(place)
        length, kind, large = struct.unpack(">I4sQ", stream.read(16))
        length = large if length == 1 else length
        if kind == b"mdat" and place + length > size:
            return True
        if length < 8 or not kind.isalnum():
            return False
        place += length
    return False
