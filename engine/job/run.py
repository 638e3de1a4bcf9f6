"""A job: a folder in which a set of images becomes a set of other people, and which can be stopped at any moment.

What an earlier run recorded as done is left alone. `running.py` has the work itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from faceanon_engine.engine.datasets.folder import left_out
from faceanon_engine.engine.datasets.reader import Reader, ahead, thread_count, threads
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError, UserError
from faceanon_engine.engine.job.folder import (
    find_files,
    has_manifest,
    held,
    identity_of,
    recorded_settings,
    refuse_changes,
    refuse_unwritable,
    remove_temporaries,
)
from faceanon_engine.engine.job.manifest import NAME as MANIFEST_NAME
from faceanon_engine.engine.job.manifest import InputRow, ItemRow, Manifest
from faceanon_engine.engine.job.names import foreign_file, known_names
from faceanon_engine.engine.job.processes import share_among
from faceanon_engine.engine.job.report import JobObserver, JobPlan, JobResult, PlannedItem
from faceanon_engine.engine.job.rows import all_done, by_input, has_changed
from faceanon_engine.engine.job.running import Run
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.job.workers.falco import FalcoWorker
from faceanon_engine.engine.job.workers.worker import Worker
from faceanon_engine.engine.system.devices import device_names
from faceanon_engine.engine.system.packages import OURS, version_of

WorkerFactory = Callable[[JobSettings, Mapping[str, Any], int], Worker]


def run(
    settings: JobSettings, *, observer: JobObserver | None = None, make_worker: WorkerFactory | None = None
) -> JobResult:
    """Do the job, or what is left of it.

    Raises UserError for what the person can mend: a missing input or bundle, a folder that cannot be written, a full
    disk, another run on the same output, settings that differ from an earlier run's. Whatever was finished stays.
    """
    started = time.monotonic()
    observer = observer or JobObserver()
    files = find_files(settings)
    devices = device_names(settings.devices)
    if devices:
        settings = replace(settings, device=devices[0])
    recorded = recorded_settings(settings.output)
    worker = (make_worker or FalcoWorker)(settings, recorded, len(files))
    identity = identity_of(settings, worker)
    refuse_changes(settings.output, recorded, identity)
    output = settings.output
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output folder {output} cannot be made: {error.strerror or error}") from None
    with held(output, wait_for_orphans=True), Manifest.create(output / MANIFEST_NAME) as manifest:
        refuse_changes(output, manifest.get("settings") or {}, identity)
        manifest.put({"settings": identity, "version": _version()})
        remove_temporaries(output)
        job = Run(settings, files, worker, manifest, observer)
        if devices:
            job.share = lambda todo: share_among(
                devices, settings, todo, manifest, observer, make_worker or FalcoWorker
            )
        return job.run(started)


def take_part(
    settings: JobSettings, process: int, manifest: Manifest, observer: JobObserver, make_worker: WorkerFactory
) -> None:
    """Do what one of several processes of a job does: claim inputs until there are none.

    The process that planned the job waits for it, holds the lock, and has recorded settings and inputs.
    """
    files = find_files(settings)
    worker = make_worker(settings, manifest.get("settings") or {}, len(files))
    job = Run(settings, files, worker, manifest, observer)
    job.take_part(process)


def plan(settings: JobSettings, *, make_worker: WorkerFactory | None = None) -> JobPlan:
    """Validate everything, every input included, and say what `run` would do; writes nothing."""
    files = find_files(settings)
    recorded = recorded_settings(settings.output)
    worker = (make_worker or FalcoWorker)(settings, recorded, len(files))
    refuse_changes(settings.output, recorded, identity_of(settings, worker))
    refuse_unwritable(settings.output)
    worker.check()
    known: dict[str, list[ItemRow]] = {}
    inputs: dict[str, InputRow] = {}
    if has_manifest(settings.output):
        with Manifest.read(settings.output / MANIFEST_NAME) as manifest:
            inputs, known = manifest.inputs(), by_input(manifest.items())
    names = known_names(settings, files, known)
    items: list[PlannedItem] = []
    reader = Reader(settings.align, worker.resolution)

    def count(file: Sample) -> int:
        return len(reader.read(file).faces)

    with threads() as executor:
        todo = []
        for file in files:
            path = file.key
            rows = known.get(path, [])
            if path in inputs and not has_changed(inputs[path], file) and all_done(settings.output, inputs[path], rows):
                items.extend(PlannedItem(path, row.face, "keep", row.output) for row in rows)
            else:
                todo.append(file)
        for file, future in ahead(executor, count, todo, 2 * thread_count()):
            path = file.key
            outputs = [row.output for row in known.get(path, []) if row.output is not None]
            try:
                faces = future.result()
            except InputError as error:
                items.append(PlannedItem(path, 0, "fail", None, error.reason, error.message))
                continue
            for face in range(faces):
                output = outputs[face] if face < len(outputs) else names.choose(path, face)
                problem = None if face < len(outputs) else foreign_file(settings.output, output)
                items.append(
                    PlannedItem(path, face, "fail", None, "output-exists", problem)
                    if problem
                    else PlannedItem(path, face, "anonymize", output)
                )
    items.sort(key=lambda item: (item.input, item.face))
    return JobPlan(settings.output, worker.about(), tuple(items), left_out(settings.input))


def _version() -> str:
    version = version_of(OURS)
    return OURS if version is None else f"{OURS} {version}, Python {sys.version.split()[0]}"
