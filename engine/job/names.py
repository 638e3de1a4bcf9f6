"""The names of results: those of the inputs, as far as no two results get the same one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath

from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.job.layout import EXTENSIONS, LONGEST_ENDING
from faceanon_engine.engine.job.manifest import InputRow, ItemRow
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.system.below import first_link

_LONGEST_NAME = 255
"""Bytes that a file's or folder's name may have on the usual file systems."""


@dataclass
class OutputNames:
    """Output names, no two alike even where case does not count; first come, first served."""

    extension: str
    taken: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    given_up: Mapping[str, str] = field(default_factory=dict)
    """Files of earlier results that are given up, by their names in lower case (casefold): they are in nobody's way."""
    given_by_others: Callable[[str], bool] = lambda name: False
    """Whether another process has given the name since, where several share a job."""
    alone: Callable[[], AbstractContextManager[None]] = nullcontext
    """What keeps other processes from choosing names meanwhile (a race would give two faces one name)."""

    def reserve(self, path: str) -> None:
        """Let no result have this name."""
        self.taken.add(path.casefold())

    def add_folders(self, path: str) -> None:
        """Let no result have the name of a folder in which this file lies."""
        self.folders.update(str(parent).casefold() for parent in PurePosixPath(path).parents)

    def choose(self, path: str, face: int = 0, extension: str | None = None) -> str:
        """A free name for a face of an input: a.jpg gives a.png, or a.jpg.png when a.png is taken.

        Where that is longer than file systems allow, the input's own name is cut. extension: another than all have.
        """
        extension = self.extension if extension is None else extension
        source = PurePosixPath(path)
        folder = PurePosixPath(*(_cut(part, _LONGEST_NAME) for part in source.parent.parts))
        mark = f"-face{face}" if face else ""
        candidates = [(source.stem, mark), (source.name, mark)]
        number = 2
        while True:
            for stem, ending in candidates:
                room = _LONGEST_NAME - len(ending) - LONGEST_ENDING
                name = str(folder / f"{_cut(stem, room)}{ending}{extension}")
                known = name.casefold() in self.taken or name.casefold() in self.folders
                if not known and not self.given_by_others(name):
                    self.reserve(name)
                    return name
            candidates = [(source.name, f"-{number}{mark}")]
            number += 1


def taken_names(
    settings: JobSettings,
    samples: Iterable[Sample],
    inputs: Iterable[InputRow],
    rows: Mapping[str, Sequence[ItemRow]],
    given_up: Iterable[str] = (),
    given_by_others: Callable[[str], bool] = lambda name: False,
    alone: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> OutputNames:
    """The names that are taken before any is chosen: folders of inputs, and earlier results.

    `given_up` are files in the job's folder that are of no use any more; see `OutputNames` for what keeps several
    processes apart.
    """
    names = OutputNames(
        EXTENSIONS[settings.resolved_format],
        given_up={name.casefold(): name for name in given_up},
        given_by_others=given_by_others,
        alone=alone,
    )
    for sample in samples:
        names.add_folders(sample.key)
    for output in chain((row.output for row in inputs), (row.output for known in rows.values() for row in known)):
        if output is not None:
            names.reserve(output)
    return names


def foreign_file(output: Path, name: str, given_up: Mapping[str, str] | None = None) -> str | None:
    """What is wrong when a file that this job did not plan, nor gives up, already has the name in the job's folder."""
    link = first_link(output, str(PurePosixPath(name).parent))
    if link is not None:
        return f"{link} is a symbolic link, by which results would leave {output}: move it away"
    if not os.path.lexists(output / name):
        return None
    ours = (given_up or {}).get(name.casefold())
    # Where the file system tells small from large letters, a name that differs in them is another file's.
    if ours is not None and os.path.exists(output / ours) and os.path.samefile(output / ours, output / name):
        return None
    return f"{name} is already in the output folder and was not made by this job: move it away"


def _cut(name: str, most: int) -> str:
    """The beginning of a name that has at most so many bytes."""
    return name.encode()[:most].decode(errors="ignore")
