"""Where the files of a job lie: `release/` holds results and nothing else, `private/` all that stays in the house.

What the manifest records, and what lies in a job's folder, may be somebody else's: names that lead out of the folder
are told here, and no file of a job is read, written or deleted through a symbolic link.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

RELEASE = "release"
PRIVATE = "private"
MANIFEST_NAME = "manifest.sqlite"
CONTACT_SHEET_NAME = "contact-sheet.png"
LOCK_NAME = "job.lock"
NAMES_LOCK_NAME = "names.lock"
PROCESS_LOCK_PATTERN = "process-*.lock"
EXTENSIONS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
"""The endings of results, by their formats."""
_CODES = "codes"
_FACES = "faces"
_CODES_ENDING = ".w_plus.npy"
_BACKSLASH_LEADS = os.name == "nt"
_NO_PARTS = frozenset(("", ".", ".."))
LONGEST_ENDING = len(_CODES_ENDING)
"""Characters of the longest of what takes the place of a result's suffix."""


@dataclass(frozen=True)
class JobFolder:
    """The places in a job's folder. Names of its files are relative to it, with forward slashes."""

    root: Path

    @property
    def release(self) -> Path:
        """Results and nothing else: what may leave the house."""
        return self.root / RELEASE

    @property
    def private(self) -> Path:
        """Everything else; 0700, files 0600."""
        return self.root / PRIVATE

    @property
    def manifest(self) -> Path:
        """The record of what became of every image."""
        return self.private / MANIFEST_NAME

    @property
    def contact_sheet(self) -> Path:
        """First results beside their originals."""
        return self.private / CONTACT_SHEET_NAME

    @property
    def lock(self) -> Path:
        """Held by the run that works here."""
        return self.private / LOCK_NAME

    @property
    def names_lock(self) -> Path:
        """Held by the process that chooses names, where several share the job."""
        return self.private / NAMES_LOCK_NAME

    def process_lock(self, number: int) -> Path:
        """Held by one of several processes of a run as long as it lives."""
        return self.private / PROCESS_LOCK_PATTERN.replace("*", str(number))

    def has_private(self) -> bool:
        """Whether a job's `private/` is here; one whose manifest alone was deleted still has its contact sheet."""
        if os.path.lexists(self.manifest) and (os.path.islink(self.manifest) or not os.path.isdir(self.manifest)):
            return True
        return os.path.isdir(self.release) and os.path.lexists(self.contact_sheet)

    def of_old_layout(self) -> bool:
        """Whether a job of an earlier version lies here, its manifest and contact sheet among its results."""
        return not os.path.lexists(self.manifest) and os.path.lexists(self.root / MANIFEST_NAME)


def released(output: str) -> str:
    """The name in the job's folder of a result, which the manifest records relative to `release/`."""
    return f"{RELEASE}/{output}"


def kept_private(name: str) -> str:
    """The name in the job's folder of a file that the manifest records relative to `private/`."""
    return f"{PRIVATE}/{name}"


def codes_name(output: str) -> str:
    """The name of a result's w+ code, relative to `private/`."""
    return f"{_CODES}/{PurePosixPath(output).with_suffix(_CODES_ENDING)}"


def face_name(photo: str, face: int) -> str:
    """The name, relative to `private/`, of the new face that is put into a photograph with this name in `release/`."""
    return f"{_FACES}/{photo}/{face}.png"


def face_codes_name(crop: str) -> str:
    """The name of the w+ code of a new face with that name, both relative to `private/`."""
    return codes_name(crop.removeprefix(f"{_FACES}/"))


def is_face_name(name: str) -> bool:
    """Whether a name relative to `private/` is one that `face_name` may give."""
    return name.startswith(f"{_FACES}/") and name.count("/") >= 2 and name.endswith(".png")


def stays_inside(name: str) -> bool:
    """Whether a recorded name is a path below the folder that it is relative to, spelled in the one usual way."""
    if _BACKSLASH_LEADS and any(mark in name for mark in "\\:"):
        return False
    # Not by pathlib, which takes ten times as long: a manifest has hundreds of thousands of names.
    return "\0" not in name and _NO_PARTS.isdisjoint(name.split("/"))


def part_of_job(path: Path) -> Path | None:
    """The `release/` or `private/` of a job that a real path is, or lies in; None where it lies in neither."""
    for place in (path, *path.parents):
        if place.name in (RELEASE, PRIVATE) and JobFolder(place.parent).has_private():
            return place
    return None
