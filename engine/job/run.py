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
from pathlib import Path

from faceanon_engine.engine.datasets.folder import left_out
from faceanon_engine.engine.datasets.reader import Reader, prefetch, thread_count, threads
from faceanon_engine.engine.job.batches import Batches
from faceanon_engine.engine.job.beginning import Beginning, WorkerFactory, begin_job
from faceanon_engine.engine.job.counts import count_boxes, count_faces, count_photos, first_of_several
from faceanon_engine.engine.job.domain import RECORDED, known_in, look_ahead
from faceanon_engine.engine.job.faces import faces_to_do
from faceanon_engine.engine.job.folder import (
    has_manifest,
    held,
    make_folder,
    others_in_release,
    refuse_changes,
    refuse_held,
    remove_temporaries,
)
from faceanon_engine.engine.job.groups import Groups, Listed, claimed_inputs, inputs_to_do, settled_together
from faceanon_engine.engine.job.keep import known_people
from faceanon_engine.engine.job.listing import Listing, bring_up_to_date, shared_names
from faceanon_engine.engine.job.manifest import InputRow, ItemRow, Manifest
from faceanon_engine.engine.job.names import OutputNames
from faceanon_engine.engine.job.photos import Photos
from faceanon_engine.engine.job.processes import share_among
from faceanon_engine.engine.job.recording import recording
from faceanon_engine.engine.job.report import Failure, JobObserver, JobResult
from faceanon_engine.engine.job.rows import by_input, is_lost
from faceanon_engine.engine.job.samples import GivenBoxes, find_samples, given_boxes, reader_of
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
    load = _loader(beginning.settings, beginning.worker, beginning.boxes, observer)
    output = settings.output
    folder = settings.folder
    choose = functools.cache(lambda: _choose_together(beginning, load, observer))
    is_new = not has_manifest(folder)
    if is_new:
        # Networks and pools that cannot work leave no job behind.
        refuse_held(folder)
        observer.started(about, len(beginning.samples), 0)
        choose()
    make_folder(folder)
    with held(folder), Manifest.open(folder.manifest) as manifest:
        refuse_changes(output, manifest.settings(), beginning.fixed)
        # All that it says is checked before anything is changed.
        known = manifest.inputs(), by_input(manifest.items())
        manifest.get("contact_sheet")
        manifest.get(RECORDED)
        manifest.put({"settings": dict(beginning.fixed), "version": _version()})
        remove_temporaries(folder)
        listing = bring_up_to_date(beginning.settings, beginning.samples, manifest, *known)
        if not is_new:
            observer.started(about, len(beginning.samples), len(beginning.samples) - len(listing.todo))
        device = (*beginning.devices, about["device"])[0]
        together = settled_together(beginning.settings, manifest, device, choose) if listing.todo else 1
        return _run(beginning, about, listing, together, manifest, observer, load, started)


def run_part(
    settings: JobSettings,
    process: int,
    manifest: Manifest,
    observer: JobObserver,
    *,
    together: int,
    make_worker: WorkerFactory,
) -> None:
    """Do what one of several processes of a job does: claim groups of inputs until there are none.

    The process that planned the job waits for it, holds the lock, and has recorded settings and inputs. `together`: how
    many faces are optimised together, if this process's device is of the kind that this was chosen for.
    """
    samples = find_samples(settings)
    worker = make_worker(settings, manifest.settings(), len(samples))
    names = shared_names(settings, samples, manifest)
    groups = Groups(samples, settings, together)
    load = _loader(settings, worker, given_boxes(settings, samples), observer)
    own = settled_together(settings, manifest, worker.about()["device"], lambda: load()[0].choose_batch_size())
    inputs = claimed_inputs(manifest, process, groups)
    _anonymize(settings, inputs, groups.mixes, min(own, together), names, manifest, observer, load)


def _run(
    beginning: Beginning,
    about: Mapping[str, str],
    listing: Listing,
    together: int,
    manifest: Manifest,
    observer: JobObserver,
    load: Load,
    started: float,
) -> JobResult:
    settings, samples = beginning.settings, beginning.samples
    done_before = manifest.counts()["done"] - _count_lost(settings, listing)
    for note in (*left_out(settings.input), *(beginning.boxes.notes if beginning.boxes else ())):
        observer.note(note)
    look_ahead(beginning, listing.todo, manifest, observer, load)
    left = 0
    if listing.todo and beginning.devices:
        keys = [sample.key for sample in listing.todo]
        part = functools.partial(run_part, together=together, make_worker=beginning.make_worker)
        left = share_among(beginning.devices, settings, keys, manifest, observer, part)
    elif listing.todo:
        groups = Groups(samples, settings, together)
        inputs = inputs_to_do(listing, groups)
        _anonymize(settings, inputs, groups.mixes, together, listing.names, manifest, observer, load)
    sheet = contact_sheet(settings, samples, manifest, observer, load)
    rows, listed = manifest.items(), tuple(manifest.inputs().values())
    for note in (*others_in_release(settings.folder, [*rows, *listed]), *first_of_several(listed)):
        observer.note(note)
    counts = manifest.counts()
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
        failures=_failures(rows, listed),
        left=left,
        faces=count_faces(rows),
        photos=count_photos(listed),
        boxes=count_boxes(listed),
        domain=known_in(manifest),
        strict=settings.strict,
    )


def _anonymize(
    settings: JobSettings,
    inputs: Iterable[Listed],
    mixes: bool,
    together: int,
    names: OutputNames,
    manifest: Manifest,
    observer: JobObserver,
    load: Load,
) -> None:
    worker, reader = load()
    logger.info("up to %d faces are optimised together", together)
    bundle = str(worker.identity().get("bundle"))
    photos = Photos(settings, manifest.inputs(), reader) if settings.gives_photos else None
    with threads() as executor, recording(settings, bundle, manifest, observer, executor, photos) as recorder:
        reading = prefetch(executor, lambda listed: reader.read(listed.sample), inputs, together + thread_count())
        faces = faces_to_do(settings, names, reading, recorder, None if mixes else together)
        Batches(worker, recorder, observer, settings.resolved_steps).anonymize(faces, together)


def _choose_together(beginning: Beginning, load: Load, observer: JobObserver) -> int:
    """How many faces are optimised together unasked; raises UserError where networks or pool cannot work.

    What this process opens is kept. Processes of their own open theirs: what was opened to choose is given back.
    """
    if not beginning.devices:
        worker, _ = load()
        return beginning.settings.batch_size or worker.choose_batch_size()
    trial = beginning.make_worker(beginning.settings, {}, len(beginning.samples))
    trial.load(observer.progress)
    size = beginning.settings.batch_size or trial.choose_batch_size()
    del trial
    beginning.worker.release_memory()
    return size


def _loader(settings: JobSettings, worker: Worker, boxes: GivenBoxes | None, observer: JobObserver) -> Load:
    """What opens the networks once, when first they are needed: a run with nothing left to do opens none."""

    @functools.cache
    def load() -> tuple[Worker, Reader]:
        worker.load(observer.progress)
        people = None if settings.keep is None else known_people(Path(settings.keep), settings.min_face, worker)
        return worker, reader_of(settings, worker.resolution, boxes, people)

    return load


def _failures(rows: Iterable[ItemRow], inputs: Iterable[InputRow]) -> tuple[Failure, ...]:
    """Faces that failed, and photographs that are not given back; of those the first says what is wrong."""
    photos = [row for row in inputs if row.state in ("failed", "withheld")]
    told = {row.path for row in photos}
    return (
        *(Failure(row.path, 0, row.reason or "", row.message or "") for row in photos),
        *(
            Failure(row.input, row.face, row.reason or "", row.message or "")
            for row in rows
            if row.state == "failed" and row.input not in told
        ),
    )


def _count_lost(settings: JobSettings, listing: Listing) -> int:
    """Faces that are recorded as done and whose files are not there."""
    return sum(is_lost(settings.output, row) for sample in listing.todo for row in listing.rows[sample.key])


def _version() -> str:
    return f"{OURS} {our_version()}, Python {sys.version.split()[0]}"
