"""Images of a folder, or of a list of paths, with names that stay distinct."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from faceanon_engine.engine.datasets.sample import Sample, sample_at
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.decode import SUFFIXES
from faceanon_engine.engine.images.unread import HOW_FRAMES, VIDEO_SUFFIXES
from faceanon_engine.engine.system.printable import readable, shortened, shown
from faceanon_engine.engine.system.reading import encoding_of, open_file

_LONGEST_LINE = 2**16
"""Characters of a list's line; no system takes a path of a tenth of it."""
_OF_WINDOWS = re.compile(r"[\"']|[A-Za-z]:/|.*\\", re.DOTALL)
"""Lines that may be paths as Windows copies and writes them: in quotes, with a drive or with backslashes."""


def find_inputs(source: Path) -> Iterator[Sample]:
    """Images of a folder (recursive, sorted, hidden names left out), one image, or those a text file lists.

    In folders a file counts by its suffix, in lists every line counts: one path a line, relative to the list's folder,
    blank lines and lines that begin with # left out. Lists may come from Windows: in UTF-16, with quotes around paths
    and backslashes in them. Keys are distinct: a list may name files of one name in different places. Raises UserError
    when the source is missing, unreadable or a video, and for a path on a drive that this system does not know.
    """
    yield from _told_apart(_files(source))


_File = tuple[Path, PurePosixPath]
"""A file, and its path relative to the input."""


def _files(source: Path) -> Iterator[_File]:
    if os.path.isdir(source):
        yield from _walk(source)
    elif not os.path.exists(source):
        raise UserError(f"{source} does not exist: give a folder of images, an image, or a text file of paths")
    elif source.suffix.lower() in {".txt", ".lst", ".list"}:
        yield from _listed(source)
    elif source.suffix.lower() in VIDEO_SUFFIXES:
        raise UserError(f"{source} is a video: {HOW_FRAMES}, and give that folder")
    else:
        yield source, PurePosixPath(source.name)


def _walk(root: Path) -> Iterator[_File]:
    for folder, _, files in _folders(root):
        for name in files:
            path = Path(folder, name)
            if path.suffix.lower() in SUFFIXES:
                yield path, PurePosixPath(path.relative_to(root).as_posix())


def _folders(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder below the root, the root itself first, with its folders and files by name, hidden ones left out.

    Links to folders are named and not followed: they may lead round in a circle. Raises UserError for a folder that
    cannot be read. Unlike `os.walk` in Python 3.11 it does not recurse, so that it takes any depth.
    """
    waiting = [os.fspath(root)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted((each for each in entries if not each.name.startswith(".")), key=lambda each: each.name)
        except OSError as error:
            place = shortened(os.fspath(folder), 300)
            raise UserError(f"{place} cannot be read ({error.strerror}): mend its rights, or leave it out") from None
        folders: list[os.DirEntry[str]] = []
        files: list[os.DirEntry[str]] = []
        for each in found:
            (folders if _is_folder(each) else files).append(each)
        yield folder, [each.name for each in folders], [each.name for each in files]
        waiting.extend(each.path for each in reversed(folders) if not each.is_symlink())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads nowhere, or into a circle


def _listed(file: Path) -> Iterator[_File]:
    seen = set()
    for number, line in enumerate(_lines(file), 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if _OF_WINDOWS.match(name):
            name = _from_windows(file, number, name)
        path = Path(name) if os.path.isabs(name) else file.parent / name
        # What lies outside the list's folder keeps its name below the root, so that no output leaves its folder.
        parts = [part for part in Path(name).parts if part not in (Path(name).anchor, "..", ".")]
        if not parts:
            raise UserError(f"{file}: line {number}, {shown(name)}, is a folder: list one image a line")
        if path not in seen:
            seen.add(path)
            yield path, PurePosixPath(*parts)


def _from_windows(file: Path, number: int, name: str) -> str:
    """A line as this system spells it, unless there is a file of that very name, which it may well be here."""
    if os.path.lexists(file.parent / name):
        return name
    unquoted = name[1:-1].strip() if len(name) > 2 and name[0] == name[-1] and name[0] in "\"'" else name
    if os.name == "nt" or os.path.lexists(file.parent / unquoted):
        return unquoted
    if PureWindowsPath(unquoted).drive:
        raise UserError(
            f"{file}: line {number}, {shown(name)}, is on a drive of Windows, which this system does not know: "
            "give paths relative to the list's folder"
        )
    return unquoted.replace("\\", "/") or name


def _lines(file: Path) -> Iterator[str]:
    """The lines of a list of paths; a file may be longer than the memory, a line not."""
    try:
        # Only at line feeds: other line ends may stand in a name.
        with open_file(file) as stream:
            encoding = encoding_of(stream.read(2))
            stream.seek(0)
            text = io.TextIOWrapper(stream, encoding=encoding, newline="\n")
            while line := text.readline(_LONGEST_LINE):
                if "\0" in line:
                    raise UserError(f"{file} is not a text file, it holds zero bytes: list one path a line")
                if len(line) == _LONGEST_LINE:
                    raise UserError(f"{file} is not a list, a line is longer than any path: list one path a line")
                yield line
    except UnicodeDecodeError:
        raise UserError(f"{file} is not a text file in UTF-8 or UTF-16: list one path a line") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}): give a text file of paths") from None


def _told_apart(files: Iterable[_File]) -> Iterator[Sample]:
    """Samples with distinct keys: a list may name files of one name in different places."""
    seen: set[str] = set()
    numbers: dict[PurePosixPath, int] = {}
    for path, relative in files:
        sample = sample_at(path, relative)
        while sample.key in seen:
            number = numbers[relative] = numbers.get(relative, 1) + 1
            sample = sample_at(path, relative.with_name(f"{relative.stem}~{number}{relative.suffix}"))
        seen.add(sample.key)
        yield sample


def left_out(source: Path) -> tuple[str, ...]:
    """What of a folder is no input, in a line a reason; hidden files and folders are nobody's business."""
    others: list[str] = []
    videos: list[str] = []
    links: list[str] = []
    for folder, folders, files in _folders(source) if os.path.isdir(source) else ():
        links += [_below(source, folder, name) for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in files:
            suffix = Path(name).suffix.lower()
            if suffix not in SUFFIXES:
                (videos if suffix in VIDEO_SUFFIXES else others).append(_below(source, folder, name))
    return tuple(
        f"left out, {reason}: {shortened(names[0])}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for reason, names in (
            (f"being videos ({HOW_FRAMES})", videos),
            ("having no image's suffix", others),
            ("being a link to a folder", links),
        )
        if names
    )


def _below(root: Path, folder: str, name: str) -> str:
    return readable(Path(folder, name).relative_to(root))
