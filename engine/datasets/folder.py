"""Images of a folder, or of a list of paths, with names that stay distinct."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from faceanon_engine.engine.datasets.sample import Sample, sample_at
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.decode import SUFFIXES
from faceanon_engine.engine.system.printable import readable


def find_inputs(source: Path) -> Iterator[Sample]:
    """Images of a folder (recursive, sorted, hidden names left out), one image, or those a text file lists.

    In folders a file counts by its suffix, in lists every line counts: one path a line, relative to the list's folder,
    blank lines and lines that begin with # left out. Keys are distinct: a list may name files of one name in
    different places. Raises UserError when the source is missing or unreadable.
    """
    yield from _told_apart(_files(source))


_NAMELESS = "folder"
"""What a line of a list is called that names only folders above it: its row says that it is none."""
_LONGEST_PATH = 8_192
"""Characters of a line in a list; no system has longer paths."""
_File = tuple[Path, PurePosixPath]
"""A file, and its path relative to the input."""


def _files(source: Path) -> Iterator[_File]:
    if os.path.isdir(source):
        yield from _walk(source)
    elif not os.path.exists(source):
        raise UserError(f"{source} does not exist: give a folder of images, an image, or a text file of paths")
    elif source.suffix.lower() in {".txt", ".lst", ".list"}:
        yield from _listed(source)
    else:
        yield source, PurePosixPath(source.name)


def _walk(root: Path) -> Iterator[_File]:
    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): mend its rights, or leave it out")

    # Links to folders are not followed: they may lead round in a circle.
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES:
                yield path, PurePosixPath(path.relative_to(root).as_posix())


def _listed(file: Path) -> Iterator[_File]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not a text file in UTF-8: list one path a line") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): mend its rights") from None
    if "\0" in text:
        raise UserError(f"{file} is not a text file, it holds zero bytes: list one path a line")
    seen = set()
    for line in text.split("\n"):  # splitlines would split at what a name may hold
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if len(name) > _LONGEST_PATH:
            raise UserError(f"{file} is no list of paths: a line has {len(name)} characters, {name[:40]}...")
        path = Path(name) if os.path.isabs(name) else file.parent / name
        # What lies outside the list's folder keeps its name below the root, so that no output leaves its folder.
        parts = [part for part in PurePosixPath(Path(name).as_posix()).parts if part not in ("/", "..", ".")]
        relative = PurePosixPath(*(parts or [_NAMELESS]))
        if path not in seen:
            seen.add(path)
            yield path, relative


def _told_apart(files: Iterable[_File]) -> Iterator[Sample]:
    """Samples with distinct keys: a list may name files of one name in different places."""
    seen: set[str] = set()
    for path, relative in files:
        sample, number = sample_at(path, relative), 2
        while sample.key in seen:
            sample = sample_at(path, relative.with_name(f"{relative.stem}~{number}{relative.suffix}"))
            number += 1
        seen.add(sample.key)
        yield sample


def left_out(source: Path) -> tuple[str, ...]:
    """What of a folder is no input, in a line a reason; hidden files and folders are nobody's business."""
    others: list[str] = []
    links: list[str] = []
    for folder, folders, files in os.walk(source) if os.path.isdir(source) else ():
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links += [
            readable(Path(folder, name).relative_to(source)) for name in folders if Path(folder, name).is_symlink()
        ]
        others += [
            readable(Path(folder, name).relative_to(source))
            for name in sorted(files)
            if not name.startswith(".") and Path(name).suffix.lower() not in SUFFIXES
        ]
    return tuple(
        f"left out, {reason}: {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for reason, names in (("having no image's suffix", others), ("being a link to a folder", links))
        if names
    )
