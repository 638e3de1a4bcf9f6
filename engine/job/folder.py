"""The folder of a job: who may work in it, with which settings it was begun, and what a killed run left in it."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.keep import people_digest
from faceanon_engine.engine.job.layout import MANIFEST_NAME, PRIVATE, PROCESS_LOCK_PATTERN, JobFolder, kept_private
from faceanon_engine.engine.job.manifest import InputRow, ItemRow, Manifest
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.job.workers.worker import Worker
from faceanon_engine.engine.system.below import remove_below
from faceanon_engine.engine.system.digests import sha256_of
from faceanon_engine.engine.system.files import TEMPORARY_PATTERN, failures_explained
from faceanon_engine.engine.system.locks import locked
from faceanon_engine.engine.system.printable import readable

logger = logging.getLogger(__name__)

_LONGEST_SHOWN = 200
"""Characters of a setting that a message shows."""


def fixed_settings(settings: JobSettings, worker: Worker) -> dict[str, Any]:
    """What must not change between two runs on one output."""
    lossy = settings.resolved_format != "png"
    return {
        "input": os.path.realpath(settings.input),
        "preset": settings.preset,
        "margin": settings.margin,
        "steps": settings.resolved_steps,
        "align": settings.align,
        "min_face": settings.min_face,
        "output": settings.results,
        "unhandled": settings.unhandled if settings.gives_photos else None,
        "keep": None if settings.keep is None else people_digest(Path(settings.keep)),
        "boxes": None if settings.boxes is None else sha256_of(Path(settings.boxes)),
        "match_colour": settings.match_colour if settings.gives_photos else None,
        "format": settings.resolved_format,
        "quality": settings.resolved_quality if lossy else None,
        "save_codes": settings.save_codes,
        "metric": settings.metric,
        "truncation": settings.truncation,
        "seed": settings.seed,
        **worker.identity(),
    }


def refuse_old_layout(folder: JobFolder) -> None:
    """Raise UserError where a job of an earlier version lies: its manifest and contact sheet are among its results."""
    if not folder.of_old_layout():
        return
    if folder.root.name == PRIVATE:
        raise UserError(f"{folder.root} is what a job keeps private: give the job's folder, {folder.root.parent}")
    raise UserError(
        f"{folder.root} is a job of an earlier version, with {MANIFEST_NAME} and contact sheet among its results: "
        "give another OUTPUT folder, and pass on of this one nothing but its results"
    )


def has_manifest(folder: JobFolder) -> bool:
    """Whether a job was begun here; an empty file is as good as none."""
    return os.path.exists(folder.manifest) and folder.manifest.stat().st_size > 0


def recorded_settings(folder: JobFolder) -> dict[str, Any]:
    """The settings of an earlier run on this output; empty when there was none."""
    if not has_manifest(folder):
        return {}
    with Manifest.read(folder.manifest, snapshot=True) as manifest:
        return manifest.settings()


def refuse_changes(output: Path, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise UserError naming the settings that differ from those with which the job was begun."""
    if not recorded:
        return
    changes = [
        f"{key.replace('_', '-')} was {_short(recorded.get(key))}, now {_short(value)}"
        for key, value in wanted.items()
        if recorded.get(key) != value
    ]
    if changes:
        raise UserError(
            f"{output} was begun with other settings ({'; '.join(changes)}): "
            "give the earlier ones to go on, or another OUTPUT folder"
        )


def make_folder(folder: JobFolder) -> None:
    """Make the folder where there is none, `private/` for nobody else; raises UserError when it cannot be made."""
    refuse_links(folder)
    try:
        folder.release.mkdir(parents=True, exist_ok=True)
        folder.private.mkdir(mode=0o700, exist_ok=True)
        with suppress(PermissionError):  # some file systems keep no rights
            folder.private.chmod(0o700)
            if folder.manifest.exists():  # from which its journal has its rights
                folder.manifest.chmod(0o600)
    except OSError as error:
        raise UserError(f"output folder {folder.root} cannot be made: {error.strerror or error}") from None
    if os.name == "posix" and folder.private.stat().st_mode & 0o077:
        logger.warning("%s can be read by others: the file system keeps no rights", folder.private)


def refuse_links(folder: JobFolder) -> None:
    """Raise UserError where a symbolic link stands in place of `release/`, `private/`, or a file in `private/`."""
    places = [folder.release, folder.private]
    if os.path.isdir(folder.private) and not os.path.islink(folder.private):
        with suppress(OSError):
            places += folder.private.iterdir()
    for place in places:
        if os.path.islink(place):
            raise UserError(f"{place} is a symbolic link, and may lead out of the job's folder: give another OUTPUT")


def refuse_unwritable_output(folder: JobFolder) -> None:
    """Raise UserError where the folder could not be made, or the job's own files in it not be written."""
    refuse_links(folder)
    for place in (folder.root, folder.release, folder.private):
        try:
            _try_folder(place)
        except OSError as error:
            done = "written" if os.path.isdir(place) else "made"
            raise UserError(f"output folder {place} cannot be {done}: {error.strerror or error}") from None
    devices = {place.stat().st_dev for place in (folder.release, folder.private) if place.exists()}
    if len(devices) > 1:
        places = f"{folder.release} and {folder.private}"
        raise UserError(f"{places} are not on one file system, by which results would not appear whole")
    for path in (folder.lock, folder.manifest):
        if os.path.exists(path) and not os.access(path, os.W_OK):
            raise UserError(f"{path} cannot be written: {os.strerror(errno.EACCES)}: check the folder's rights")


def refuse_blocked(path: Path) -> None:
    """Raise UserError where `write_below` could not make the folders of a result, or write in them."""
    with failures_explained(path):
        try:
            _try_folder(path.parent)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None


def _try_folder(folder: Path) -> None:
    """Raise the OSError that whoever made the folder, and wrote a file in it, would meet; makes nothing."""
    for place in (folder, *folder.parents):
        try:
            is_folder = stat.S_ISDIR(os.stat(place).st_mode)
        except FileNotFoundError:
            if not os.path.islink(place):
                continue
            is_folder = False  # a link to nothing
        if not is_folder:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if not os.access(place, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        for name in folder.relative_to(place).parts:
            with suppress(FileNotFoundError):
                os.lstat(place / name)  # says when the name is too long
        return


@contextmanager
def held(folder: JobFolder) -> Iterator[None]:
    """Hold the output folder; a lock of a killed process is released by the system.

    The processes of a run that was killed end themselves a moment later: they are waited for.
    """
    with _locked(folder):
        _wait_for_orphans(folder)
        folder.names_lock.unlink(missing_ok=True)
        yield


def refuse_held(folder: JobFolder) -> None:
    """Raise UserError where `held` would, and leave the folder as it is.

    The lock is taken for a moment: a run that begins just then is refused, as by any other run.
    """
    if os.path.exists(folder.lock):
        with _locked(folder, remove=False):
            _wait_for_orphans(folder, remove=False)


@contextmanager
def _locked(folder: JobFolder, *, remove: bool = True) -> Iterator[None]:
    output = folder.root
    with ExitStack() as stack:
        try:
            refusal = f"another run is working on {output}: wait for it, or give another OUTPUT folder"
            stack.enter_context(locked(folder.lock, refusal=refusal, remove=remove, private=True))
        except OSError as error:
            raise UserError(f"output folder {output} cannot be written: {error.strerror or error}") from None
        yield


def _wait_for_orphans(folder: JobFolder, *, remove: bool = True) -> None:
    """Wait until the processes of a run that was killed have ended, whose locks tell of them."""
    refusal = f"a process of an earlier run still works on {folder.root}: end it first"
    for path in folder.private.glob(PROCESS_LOCK_PATTERN):
        with locked(path, patience=30, refusal=refusal, remove=remove, private=True):
            pass


def others_in_release(folder: JobFolder, rows: Iterable[ItemRow | InputRow]) -> tuple[str, ...]:
    """A line about files in `release/` that are no results of the job, nothing where there are none; they stay."""
    ours = {row.output for row in rows}
    others: list[str] = []
    for place, folders, files in os.walk(folder.release):
        folders.sort()
        relative = [Path(place, name).relative_to(folder.release) for name in sorted(files)]
        others += [readable(name) for name in relative if name.as_posix() not in ours]
    if not others:
        return ()
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return (f"in {folder.release}, and no result of this job: {others[0]}{more}: move it away before you pass that on",)


def remove_temporaries(folder: JobFolder) -> None:
    """Delete what a killed run left half-written: all of it lies in `private/`, under names that a job alone gives."""
    for path in folder.private.glob(TEMPORARY_PATTERN):
        if path.is_file():
            logger.info("removing the unfinished %s", path)
            remove_below(folder.root, kept_private(path.name))


def _short(value: Any) -> str:
    text = "unset" if value is None else str(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
