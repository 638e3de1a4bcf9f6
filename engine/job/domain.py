"""Whether the networks know the faces of a job: looked at in a few inputs before it begins, judged of all results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict

from faceanon_engine.engine.datasets.reader import Reader, prefetch, thread_count, threads
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError, UserError
from faceanon_engine.engine.images.pixels import Pixels
from faceanon_engine.engine.job.beginning import Beginning
from faceanon_engine.engine.job.manifest import ItemRow, Manifest
from faceanon_engine.engine.job.report import JobObserver
from faceanon_engine.engine.job.samples import reader_of
from faceanon_engine.engine.job.workers.worker import Worker
from faceanon_engine.engine.models.domain import Known, Limits, Verdict, known

logger = logging.getLogger(__name__)

RECORDED = "domain"
"""Key of the table `job`: the limits by which faces are judged, null where the bundle records none."""
LOOKED_AT = 16
"""Inputs, evenly spread, whose first faces are looked at before a job begins."""
_ADVICE = "results will not look like them: use networks that know such faces (docs/models.md)"


def look_ahead(
    beginning: Beginning,
    todo: Sequence[Sample],
    manifest: Manifest,
    observer: JobObserver,
    load: Callable[[], tuple[Worker, Reader]],
) -> None:
    """Record by what faces are judged, and say before anything is made where the networks do not know the inputs.

    Raises UserError there when the settings say `strict`. Nothing is opened where the bundle records nothing.
    """
    limits = beginning.worker.limits
    manifest.put({RECORDED: None if limits is None else asdict(limits)})
    if limits is None or not todo:
        return
    worker, reader = _trial(beginning, observer) if beginning.devices else load()
    seen = known((limits.verdict(loss) for loss in _first_losses(worker, _some_faces(reader, todo))), limits)
    if beginning.devices:
        del worker
        beginning.worker.release_memory()
    if seen.verdict != "outside":
        return
    if beginning.settings.strict:
        raise UserError(f"{seen}: strict refuses them; use networks that know such faces (docs/models.md)")
    observer.note(f"looked at before beginning: {seen}: {_ADVICE}")


def known_in(manifest: Manifest) -> Known:
    """What the results that a manifest records say of the job's faces."""
    limits = limits_in(manifest)
    return known((verdict_of(row, limits) for row in manifest.items("done")), limits)


def limits_in(manifest: Manifest) -> Limits | None:
    """By what a job's faces are judged; None where nothing is recorded of that."""
    recorded = manifest.get(RECORDED)
    return None if recorded is None else Limits(**recorded)


def verdict_of(row: ItemRow, limits: Limits | None) -> Verdict:
    """Whether the networks know the face of a result."""
    if limits is None or row.state != "done":
        return "unknown"
    return limits.verdict(row.attribute_before, row.attribute_after)


def _trial(beginning: Beginning, observer: JobObserver) -> tuple[Worker, Reader]:
    """A worker of this process's own where others do the job, which is given back."""
    settings = beginning.settings
    worker = beginning.make_worker(settings, {}, len(beginning.samples))
    worker.load(observer.progress)
    return worker, reader_of(settings, worker.resolution, beginning.boxes)


def _some_faces(reader: Reader, samples: Sequence[Sample]) -> list[Pixels]:
    """The first faces of some inputs, uint8 [S, S, 3]; those that cannot be read are passed over."""
    count = min(LOOKED_AT, len(samples))
    spread = [samples[number * len(samples) // count] for number in range(count)]
    faces: list[Pixels] = []
    with threads() as executor:
        for _, future in prefetch(executor, reader.read, spread, thread_count()):
            with suppress(InputError):
                faces += [face.pixels for face in future.result().faces[:1]]
    return faces


def _first_losses(worker: Worker, faces: Sequence[Pixels]) -> list[float]:
    """Attribute losses before the first step; one face at a time takes no more memory than any job."""
    losses: list[float] = []
    for face in faces:
        try:
            losses.append(worker.first_loss(face))
        except UserError:
            raise
        except Exception:  # it fails again in its turn, where it becomes a row with a reason
            logger.debug("a face could not be looked at", exc_info=True)
    return losses
