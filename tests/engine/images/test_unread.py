"""What is not read is called what it is, by its first bytes, whatever its name says."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images.decode import SUFFIXES, read_image
from faceanon_engine.engine.images.unread import VIDEO_SUFFIXES

VIDEOS = {
    "mp4": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
    "mp4, of a telephone": b"\0\0\0\x18ftypmp42\0\0\0\0isommp42",
    "mov": b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
    "mov, old": b"\0\0\x10\0moov\0\0\0\x6cmvhd",
    "mkv": b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1f",
    "avi": b"RIFF\x24\x10\0\0AVI LIST",
    "wmv": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa",
    "mpg": b"\0\0\x01\xba\x44\0\x04\0",
    "flv": b"FLV\x01\x05\0\0\0\x09",
}


@pytest.mark.parametrize("kind", VIDEOS)
def test_videos_are_called_so_whatever_their_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.jpg").write_bytes(VIDEOS[kind] + bytes(5000))
    with pytest.raises(InputError, match="it is a video: extract frames first") as caught:
        read_image(tmp_path / "a.jpg")
    assert caught.value.reason == "not-an-image"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\x0a\x7a\x8b\x00", "it is JPEG XL, which is not read"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "it is JPEG XL, which is not read"),
        (b"RIFF\x24\x10\0\0WAVE", "none of the image formats"),
        (b"%PDF-1.7", "none of the image formats"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "none of the image formats"),
        (b"\0", "none of the image formats"),
    ],
)
def test_the_rest_is_called_what_it_is_or_none(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_image(tmp_path / "a.jpg")
    assert caught.value.reason == "not-an-image"


def test_no_suffix_is_both() -> None:
    assert not VIDEO_SUFFIXES & SUFFIXES
    assert not VIDEO_SUFFIXES & Image.registered_extensions().keys() - {".mpg", ".mpeg"}
