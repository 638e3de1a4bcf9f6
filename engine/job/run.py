"""A job: a folder in which a set of images becomes a set of other people, and which can be stopped at any moment.

What an earlier run recorded as done is left alone (resume). Inputs are decoded and aligned ahead by threads (prefetch),
faces are gathered into batches across images, a worker anonymizes them, results are written under their final names by
threads, and only then recorded: `listing`, `faces`, `batches` and `recording` are these steps, `sheet` follows them.
"""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Iterable, Mapping

from faceanon_engine.engine.datasets.folder import left_out
from faceanon_engine.engine.datasets.reader import Reader, prefetch, thread_count, threads
from faceanon_engine.engine.job.batches import Batches
from faceanon_engine.engine.job.beginning import Beginning, WorkerFactory, begin_job
from faceanon_engine.engine.job.faces import Listed, faces_to_do
from faceanon_engine.engine.job.folder import (
    has_manifest,
    held,
    make_folder,
    others_in_release,
    refuse_changes,
    refuse_held,
    remove_temporaries,
)
from faceanon_engine.engine.job.listing import Listing, bring_up_to_date, claimed_inputs, shared_names
from faceanon_engine.engine.job.manifest import Manifest
from faceanon_engine.engine.job.names import OutputNames
from faceanon_engine.engine.job.processes import share_among
from faceanon_engine.engine.job.recording import recording
from faceanon_engine.engine.job.report import Failure, JobObserver, JobResult
from faceanon_engine.engine.job.rows import by_input, is_lost
from faceanon_engine.engine.job.samples import find_samples
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.job.sheet import Load, contact_sheet
from faceanon_engine.engine.job.workers.worker import Worker
from faceanon_engine.engine.system.packages import OURS, our_version

logger = logging.getLogger(__name__)


def run_job(
    settings: JobSettings, *, observer: JobObserver | None = None, make_worker: WorkerFactory | None = None
) -> JobResult:
    """Do the job, or what is left of it.

    Raises UserError for what the person can mend: a missing input or bundle, networks or a pool that cannot work, a
    folder that cannot be written, a full disk, another run on the same output, settings that differ from an earlier
    run's. Whatever was finished stays.
    """
    started = time.monotonic()
    observer = observer or JobObserver()
    beginning = begin_job(settings, make_worker)
    about = beginning.about()
    load = _loader(beginning.settings, beginning.worker, observer)
    output = settings.output
    folder = settings.folder
    is_new = not has_manifest(folder)
    if is_new:
        # Networks and pools that cannot work leave no job behind.
        refuse_held(folder)
        observer.started(about, len(beginning.samples), 0)
        _try_networks(beginning, load, observer)
    make_folder(folder)
    with held(folder), Manifest.open(folder.manifest) as manifest:
        refuse_changes(output, manifest.settings(), beginning.fixed)
        # All that it says is checked before anything is changed.
        known = manifest.inputs(), by_input(manifest.items())
        manifest.get("contact_sheet")
        manifest.put({"settings": dict(beginning.fixed), "version": _version()})
        remove_temporaries(folder)
        listing = bring_up_to_date(beginning.settings, beginning.samples, manifest, *known)
        if not is_new:
            observer.started(about, len(beginning.samples), len(beginning.samples) - len(listing.todo))
        return _run(beginning, about, listing, manifest, observer, load, started)


def run_part(
    settings: JobSettings,
    process: int,
    manifest: Manifest,
    observer: JobObserver,
    *,
    make_worker: WorkerFactory,
) -> None:
    """Do what one of several processes of a job does: claim inputs until there are none.

    The process that planned the job waits for it, holds the lock, and has recorded settings and inputs.
    """
    samples = find_samples(settings)
    worker = make_worker(settings, manifest.settings(), len(samples))
    names = shared_names(settings, samples, manifest)
    inputs = claimed_inputs(manifest, process, samples)
    _anonymize(settings, inputs, names, manifest, observer, _loader(settings, worker, observer))


def _run(
    beginning: Beginning,
    about: Mapping[str, str],
    listing: Listing,
    manifest: Manifest,
    observer: JobObserver,
    load: Load,
    started: float,
) -> JobResult:
    settings, samples = beginning.settings, beginning.samples
    done_before = manifest.counts()["done"] - _count_lost(settings, listing)
    for note in left_out(settings.input):
        observer.note(note)
    left = 0
    if listing.todo and beginning.devices:
        keys = [sample.key for sample in listing.todo]
        part = functools.partial(run_part, make_worker=beginning.make_worker)
        left = share_among(beginning.devices, settings, keys, manifest, observer, part)
    elif listing.todo:
        inputs = [(sample, listing.rows[sample.key]) for sample in listing.todo]
        _anonymize(settings, inputs, listing.names, manifest, observer, load)
    sheet = contact_sheet(settings, samples, manifest, observer, load)
    rows = manifest.items()
    for note in others_in_release(settings.folder, rows):
        observer.note(note)
    counts = manifest.counts()
    failures = tuple(
        Failure(row.input, row.face, row.reason or "", row.message or "") for row in rows if row.state == "failed"
    )
    return JobResult(
        output=settings.output,
        release=settings.folder.release,
        manifest=manifest.path,
        contact_sheet=sheet,
        inputs=len(samples),
        done=counts["done"],
        failed=counts["failed"],
        pending=counts["pending"],
        done_before=done_before,
        seconds=time.monotonic() - started,
        about=about,
        failures=failures,
        left=left,
    )


def _anonymize(
    settings: JobSettings,
    inputs: Iterable[Listed],
    names: OutputNames,
    manifest: Manifest,
    observer: JobObserver,
    load: Load,
) -> None:
    worker, reader = load()
    size = settings.batch_size or worker.choose_batch_size()
    logger.info("up to %d faces are optimised together", size)
    bundle = str(worker.identity().get("bundle"))
    with threads() as executor, recording(settings, bundle, manifest, observer, executor) as recorder:
        reading = prefetch(executor, lambda listed: reader.read(listed[0]), inputs, size + thread_count())
        faces = faces_to_do(settings, names, reading, recorder)
        Batches(worker, recorder, observer, settings.resolved_steps).anonymize(faces, size)


def _try_networks(beginning: Beginning, load: Load, observer: JobObserver) -> None:
    """Open the networks and the pool; raises UserError where they cannot work.

    Those of this process are kept. Processes of their own open theirs: what was tried for them is given back.
    """
    if not beginning.devices:
        load()
        return
    worker = beginning.make_worker(beginning.settings, {}, len(beginning.samples))
    worker.load(observer.progress)
    del worker
    beginning.worker.release_memory()


def _loader(settings: JobSettings, worker: Worker, observer: JobObserver) -> Load:
    """What opens the networks once, when first they are needed: a run with nothing left to do opens none."""

    @functools.cache
    def load() -> tuple[Worker, Reader]:
        worker.load(observer.progress)
        return worker, Reader(settings.align, worker.resolution)

    return load


def _count_lost(settings: JobSettings, listing: Listing) -> int:
    """Faces that are recorded as done and whose files are not there."""
    return sum(is_lost(settings.output, row) for sample in listing.todo for row in listing.rows[sample.key])


def _version() -> str:
    return f"{OURS} {our_version()}, Python {sys.version.split()[0]}"
