"""What a file is that no decoder here reads, told by how it begins, and what to do with it."""

from __future__ import annotations

VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
    | {".mxf", ".ogv", ".vob", ".webm", ".wmv"}
)
HOW_FRAMES = "extract frames first, for example with ffmpeg -i VIDEO frames/%06d.png"
BEGINNING = 32
"""Bytes of a file that are enough to tell."""

_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_MOVIES = (b"iso", b"mp4", b"qt  ", b"M4V", b"3g", b"avc1", b"MSNV", b"dash", b"f4v", b"XAVC", b"mmp4", b"M4A")
"""Brands of ISO's base media file format (ISO/IEC 14496-12): what stands at its eighth byte, or how that begins."""
_VIDEO_BEGINNINGS = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"FLV",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: WMV
    b"\x00\x00\x01\xba",  # MPEG
    b"\x00\x00\x01\xb3",
    b"\x06\x0e\x2b\x34",  # MXF
)
_JPEG_XL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")


def is_heif(beginning: bytes) -> bool:
    """Whether a file that begins with these bytes may be HEIC or HEIF; AVIF may say the same."""
    return beginning[4:8] == b"ftyp" and beginning[8:12] in _HEIF


def is_video(beginning: bytes) -> bool:
    """Whether a file that begins with these bytes is a video."""
    if beginning[4:8] == b"ftyp":
        return beginning[8:12].startswith(_MOVIES)
    if beginning[:4] == b"RIFF":
        return beginning[8:12] == b"AVI "
    if beginning[:4] == b"OggS":
        return True
    return beginning[4:8] in (b"moov", b"mdat", b"wide") or beginning.startswith(_VIDEO_BEGINNINGS)


def why_unread(beginning: bytes) -> str:
    """What a file that begins with these bytes is, and what to do, in a line."""
    if is_video(beginning):
        return f"it is a video: {HOW_FRAMES}"
    if beginning.startswith(_JPEG_XL):
        return "it is JPEG XL, which is not read: convert it to PNG or JPEG"
    return "it is in none of the image formats that are read: convert it to PNG"
