"""Files that people take for checkpoints, known for what they are: what to do next depends on it.

Downloads end in web pages, archives are not unpacked, names are given to other formats. Only the first bytes are
looked at, and of archives the list of what is in them.
"""

from __future__ import annotations

import codecs
import mmap
import re
from collections.abc import Iterable

from faceanon_engine.engine.models.checkpoints.plain_pickle import shown
from faceanon_engine.engine.system.printable import printable

START = 4096
"""Bytes of a file's beginning that tell."""

_AGAIN = "download the file itself, in a browser where its page asks for something"
_UNPACK = "unpack it first, and import the checkpoints that are in it"
_FROM_TORCH = "networks are imported from their PyTorch checkpoints, take that file"
_BLOCK = 512
_MEMBERS = 1000  # of a tar archive, looked at
_CHECKPOINT = re.compile(r"\.(pth?|pkl|pickle|ckpt|bin|safetensors|tar)$", re.IGNORECASE)

_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x1f\x8b", "an archive of gzip's", _UNPACK),
    (0, b"BZh", "an archive of bzip2's", _UNPACK),
    (0, b"\xfd7zXZ\0", "an archive of xz's", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "an archive of Zstandard's", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "an archive of 7-Zip's", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes them", _FROM_TORCH),
    (0, b"\x93NUMPY", "an array of NumPy's", _FROM_TORCH),
    (0, b"GGUF", "a GGUF file", _FROM_TORCH),
    (4, b"TFL3", "a network of TensorFlow Lite's", _FROM_TORCH),
    (0, b"\xff\xd8\xff", "a JPEG image", "give a checkpoint"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image", "give a checkpoint"),
    (0, b"%PDF", "a PDF", _AGAIN),
)

_TENSORFLOW = ("dnnlib.tflib", "tfutil.", "tensorflow.", "tensorflow_core.", "keras.", "tf_keras.")
_MODULES = ("torch.nn.", "torchvision.models.")


class Foreign(Exception):
    """The file is something else than a checkpoint that is read; the message is what it is, and what to do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}")


class OtherNetwork(Foreign):
    """The file is a checkpoint, of a network that is none of the method's."""


def check_start(data: bytes | mmap.mmap) -> None:
    """Raises Foreign where the beginning of a file is known to be that of something else."""
    start = bytes(data[:START])
    if not start.strip(b"\0"):
        raise Foreign("nothing but zeros at its beginning, as a broken download leaves it", "download it again")
    if _is_tar_header(start[:_BLOCK]):
        raise Foreign(f"a tar archive{_listed(_tar_files(data))}", _UNPACK)
    for place, signature, what, remedy in _SIGNATURES:
        if start.startswith(signature, place):
            raise Foreign(what, remedy)
    # Field 1 of a protocol buffer is its version, and what follows a producer's name or a graph.
    if re.match(rb"\x08[\x03-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42]", start):
        raise Foreign("an ONNX graph", _FROM_TORCH)
    if start.startswith(b"\x08\x01\x12"):
        raise Foreign("a saved model of TensorFlow's", _FROM_TORCH)
    check_text(start)


def check_text(start: bytes) -> None:
    """Raises Foreign where a file begins with text: a page, a message, or a pointer to the file that is meant."""
    text = _text(start)
    if text is not None:
        raise _of_text(text)


def _text(start: bytes) -> str | None:
    """The beginning as text; None when it is none."""
    codings = ["utf-16"] if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ["utf-8-sig"]
    if start.lstrip().startswith(b"<"):
        codings.append("latin-1")
    for coding in codings:
        try:
            text = codecs.getincrementaldecoder(coding)().decode(start)
        except UnicodeError:
            continue
        if all(character.isprintable() or character.isspace() for character in text):
            return text
    return None


def _of_text(text: str) -> Foreign:
    lowered = text.lower()
    if not text.strip():
        return Foreign("nothing but blanks", "download it again")
    if text.startswith("version https://git-lfs.github.com/spec/"):
        size = re.search(r"^size (\d{1,15})$", text, re.MULTILINE)
        of = f" of {size[1]} bytes" if size else ""
        return Foreign(f"a pointer of Git LFS to a file{of}", "get that file with 'git lfs pull', or download it")
    if "/annex/objects/" in text and len(text) < 1000:
        return Foreign("a pointer of git-annex", "get the file with 'git annex get', or download it")
    if re.search(r"<(!doctype html|html|head|body|script)\b", lowered):
        title = re.search(r"<title[^>]*>([^<]{1,200})", text, re.IGNORECASE)
        named = f" ({printable(' '.join(title[1].split()))[:60]!r})" if title else ""
        return Foreign(f"a web page{named}", _AGAIN)
    if lowered.lstrip().startswith("<?xml"):
        return Foreign("XML, such as a server's refusal", _AGAIN)
    if text.lstrip().startswith(("{", "[")):
        return Foreign("JSON, such as a server's refusal", _AGAIN)
    beginning = printable(" ".join(text.split()))[:40]
    return Foreign(f"a text, beginning {beginning!r}", _AGAIN)


def _is_tar_header(header: bytes) -> bool:
    """Whether the sum of its bytes is the one that it says, counting that field as blanks."""
    stated = _octal(header[148:156])
    return len(header) == _BLOCK and stated == sum(header[:148]) + 8 * ord(" ") + sum(header[156:])


def _octal(field: bytes) -> int | None:
    digits = field.strip(b"\0 ")
    return int(digits, 8) if re.fullmatch(rb"[0-7]{1,12}", digits) else None


def _tar_files(data: bytes | mmap.mmap) -> list[str]:
    """Names of the files in a tar archive, as far as its headers can be followed."""
    names: list[str] = []
    at = 0
    for _ in range(_MEMBERS):
        header = bytes(data[at : at + _BLOCK])
        if not _is_tar_header(header):
            break
        if header[156:157] in (b"0", b"\0"):
            names.append(header[:100].partition(b"\0")[0].decode("utf-8", "replace"))
        # From 8 GiB on sizes are binary.
        large = header[124] & 0x80
        size = int.from_bytes(header[125:136], "big") if large else _octal(header[124:136])
        if size is None:
            break
        at += _BLOCK * (1 + -(-size // _BLOCK))
    return names


def _listed(names: Iterable[str]) -> str:
    """The first of the names, checkpoints before others: " with a, b and 3 more"."""
    ordered = sorted(names, key=lambda name: not _CHECKPOINT.search(name))
    if not ordered:
        return ""
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return f" with {', '.join(shown(name) for name in ordered[:3])}{more}"


def of_zip(names: Iterable[str]) -> Foreign | None:
    """What a zip archive without a pickle of Torch's is, by its records' names; None when nothing is known of it."""
    names = [name for name in names if not name.endswith("/")]
    if any(name.endswith("/data.pkl") for name in names):
        return Foreign("a zip archive of an unpacked checkpoint", "download the checkpoint, and do not unpack it")
    if names and all(name.endswith(".npy") for name in names):
        return Foreign("a zip archive of NumPy's arrays", _FROM_TORCH)
    if any(_CHECKPOINT.search(name) for name in names):
        return Foreign(f"a zip archive{_listed(names)}", _UNPACK)
    return None


def of_pickled_name(name: str) -> Foreign | None:
    """What a pickle is that asks for a name which is refused; None when nothing is known of it."""
    if name.startswith(_TENSORFLOW):
        return Foreign(
            f"a TensorFlow pickle (it asks for {name})",
            "take a PyTorch file of the same network, such as stylegan2-ffhq-1024x1024.pkl, which 'models fetch' "
            "gets when it is named",
        )
    if name.startswith(_MODULES):
        return Foreign(
            f"a whole model, saved with its classes (it asks for {name})",
            "save its state dict with torch.save(model.state_dict(), ...) where you trust it, and import that",
        )
    return None
