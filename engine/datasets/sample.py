"""A sample: one image of a data set, from the file that it comes from to the faces that are in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from faceanon_engine.engine.images.align import Face, Unhandled
from faceanon_engine.engine.system.printable import readable


@dataclass(frozen=True, eq=False)
class Sample:
    """What travels from whoever lists a data set to whoever records results; `sample_at` makes one."""

    key: str
    """Its name in the data set, distinct and readable: `relative` as text, by which a manifest knows it."""
    path: Path
    """The file with its bytes."""
    relative: PurePosixPath
    """Its path below the data set's root, as it will be in the output."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """What the data set says of it; nothing for a folder of images."""
    faces: tuple[Face, ...] = ()
    """Its faces, the largest first; none until it was read."""
    kept: Mapping[int, str] = field(default_factory=dict)
    """Of those, the numbers of the ones that stay as they are, and whose they are."""
    unhandled: tuple[Unhandled, ...] = ()
    """Faces that were found in it and that no other can take the place of."""
    boxes: int | None = None
    """Faces that the person says are in it; None where nothing was said."""
    boxes_found: int | None = None
    """Of those, how many the detector found by itself."""
    pictures: int = 1
    """How many pictures its file holds, of which one is read: see `DecodedImage`; known when it was read."""


def sample_at(path: Path, relative: PurePosixPath | None = None) -> Sample:
    """The sample in a file that was not read yet, under its own name where no relative path is given."""
    relative = PurePosixPath(path.name) if relative is None else relative
    return Sample(readable(relative), path, relative)
