"""The folder of a job: who may work in it, with which settings it was begun, and what a killed run left in it."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from faceanon_engine.engine.datasets.folder import find_inputs
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.manifest import NAME as MANIFEST_NAME
from faceanon_engine.engine.job.manifest import Manifest
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.job.workers.worker import Worker
from faceanon_engine.engine.system.files import TEMPORARY_PATTERN, failures_explained
from faceanon_engine.engine.system.locks import locked

logger = logging.getLogger(__name__)

CONTACT_SHEET_NAME = "contact-sheet.png"
LOCK_NAME = ".faceanon.lock"
NAMES_LOCK_NAME = ".faceanon-names.lock"
PROCESS_LOCK_PATTERN = ".faceanon-process-*.lock"


def find_samples(settings: JobSettings) -> tuple[Sample, ...]:
    """The inputs, within the limit; raises UserError when there are none or when they and the output overlap."""
    source, output = _real(settings.input), _real(settings.output)
    if os.path.exists(output) and not output.is_dir():
        raise UserError(f"output {settings.output} is a file: give a folder")
    if os.path.isdir(source):
        if source == output:
            raise UserError(f"INPUT and OUTPUT are the same folder {settings.input}: originals are never overwritten")
        if source in output.parents:
            raise UserError(
                f"OUTPUT {settings.output} lies inside INPUT {settings.input}: results would become inputs of the "
                "next run; give a folder outside"
            )
    if output in source.parents and os.path.isdir(source):
        raise UserError(f"INPUT {settings.input} lies inside OUTPUT {settings.output}: give a folder outside of it")
    samples = tuple(find_inputs(settings.input))
    if not samples:
        raise UserError(f"no images in {settings.input}: give a folder of images, an image, or a text file of paths")
    return samples[: settings.limit]


def fixed_settings(settings: JobSettings, worker: Worker) -> dict[str, Any]:
    """What must not change between two runs on one output."""
    lossy = settings.resolved_format != "png"
    return {
        "input": str(_real(settings.input)),
        "preset": settings.preset,
        "margin": settings.margin,
        "steps": settings.resolved_steps,
        "align": settings.align,
        "format": settings.resolved_format,
        "quality": settings.resolved_quality if lossy else None,
        "save_codes": settings.save_codes,
        "metric": settings.metric,
        "truncation": settings.truncation,
        "seed": settings.seed,
        **worker.identity(),
    }


def has_manifest(output: Path) -> bool:
    """Whether a job was begun here; an empty file is as good as none."""
    path = output / MANIFEST_NAME
    return os.path.exists(path) and path.stat().st_size > 0


def recorded_settings(output: Path) -> dict[str, Any]:
    """The settings of an earlier run on this output; empty when there was none."""
    if not has_manifest(output):
        return {}
    with Manifest.read(output / MANIFEST_NAME) as manifest:
        settings: dict[str, Any] = manifest.get("settings") or {}
        return settings


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


def make_folder(output: Path) -> None:
    """Make the folder where there is none; raises UserError when it cannot be made."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output folder {output} cannot be made: {error.strerror or error}") from None


def refuse_unwritable_output(output: Path) -> None:
    """Raise UserError where the folder could not be made, or the job's own files in it not be written."""
    try:
        _try_folder(output)
    except OSError as error:
        done = "written" if os.path.isdir(output) else "made"
        raise UserError(f"output folder {output} cannot be {done}: {error.strerror or error}") from None
    for path in (output / LOCK_NAME, output / MANIFEST_NAME):
        if os.path.exists(path) and not os.access(path, os.W_OK):
            raise UserError(f"{path} cannot be written: {os.strerror(errno.EACCES)}: check the folder's rights")


def refuse_blocked(path: Path) -> None:
    """Raise UserError where `write_result` could not make the folders of a result, or write in them."""
    with failures_explained(path):
        _try_folder(path.parent)


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
def held(output: Path) -> Iterator[None]:
    """Hold the output folder; a lock of a killed process is released by the system.

    The processes of a run that was killed end themselves a moment later: they are waited for.
    """
    with _locked(output):
        _wait_for_orphans(output)
        (output / NAMES_LOCK_NAME).unlink(missing_ok=True)
        yield


def refuse_held(output: Path) -> None:
    """Raise UserError where `held` would, and leave the folder as it is.

    The lock is taken for a moment: a run that begins just then is refused, as by any other run.
    """
    if os.path.exists(output / LOCK_NAME):
        with _locked(output, remove=False):
            _wait_for_orphans(output, remove=False)


@contextmanager
def _locked(output: Path, *, remove: bool = True) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            refusal = f"another run is working on {output}: wait for it, or give another OUTPUT folder"
            stack.enter_context(locked(output / LOCK_NAME, refusal=refusal, remove=remove))
        except OSError as error:
            raise UserError(f"output folder {output} cannot be written: {error.strerror or error}") from None
        yield


def _wait_for_orphans(output: Path, *, remove: bool = True) -> None:
    """Wait until the processes of a run that was killed have ended, whose locks tell of them."""
    refusal = f"a process of an earlier run still works on {output}: end it first"
    for path in output.glob(PROCESS_LOCK_PATTERN):
        with locked(path, patience=30, refusal=refusal, remove=remove):
            pass


def remove(path: Path) -> None:
    """Delete a file where there is one; raises UserError when it cannot be deleted."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be removed ({error.strerror or error}): check the folder's rights") from None


def remove_temporaries(output: Path) -> None:
    """Delete what a killed run left half-written; only names that `atomic_file` gives are touched."""
    for path in output.rglob(TEMPORARY_PATTERN):
        if path.is_file():
            logger.info("removing the unfinished %s", path)
            remove(path)


def _real(path: Path) -> Path:
    """The path without links; unlike `resolve`, one that leads round in a circle stays as it is."""
    return Path(os.path.realpath(path))


def _short(value: Any) -> str:
    text = "unset" if value is None else str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
