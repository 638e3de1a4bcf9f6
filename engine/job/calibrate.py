"""Measuring what a bundle's networks know on faces that somebody has of their kind, and writing it into the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from faceanon_engine.engine.datasets.reader import Reader, prefetch, thread_count, threads
from faceanon_engine.engine.errors import InputError, UserError
from faceanon_engine.engine.images.pixels import Pixels
from faceanon_engine.engine.job.report import JobObserver
from faceanon_engine.engine.job.samples import inputs_of
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.method.pool import PoolSpec
from faceanon_engine.engine.method.preset import PRESETS
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.models.write import write_domain
from faceanon_engine.engine.sessions.opening import Prepare
from faceanon_engine.engine.sessions.runs import settle

POOL_SIZE = 1024
"""Faces of the pool: as many as the smallest has that a job makes unasked."""
OPTIMISED = 200
FACES = 500


def calibrate(
    settings: JobSettings,
    trained_on: str,
    *,
    optimised: int = OPTIMISED,
    presets: Sequence[str] = tuple(PRESETS),
    observer: JobObserver | None = None,
    prepare: Prepare | None = None,
) -> dict[str, Any]:
    """Measure on the faces of the input how those score that the networks know; written into the bundle, and returned.

    Of the settings, those of `StageOptions` count, and the pool's. Raises UserError for settings, missing inputs, fewer
    faces than tell anything, and a bundle that cannot be written; it stays as it was then.
    """
    from faceanon_engine.engine.method.calibration import measure_domain
    from faceanon_engine.engine.method.falco import Falco

    observer = observer or JobObserver()
    bundle = Bundle.open(settings.bundle)
    runs = settle(settings.backend, settings.precision, settings.device)
    spec = PoolSpec(bundle.digest, settings.pool_size or POOL_SIZE, settings.truncation, settings.seed)

    def opened(preset: str) -> Falco:
        return Falco.open(bundle, runs, spec, PRESETS[preset], prepare=prepare, progress=observer.progress)

    faces = _faces(settings, bundle.resolution, observer)
    section = measure_domain(trained_on, faces, optimised, presets, opened, observer.progress)
    write_domain(bundle, section)
    return section


def _faces(settings: JobSettings, resolution: int, observer: JobObserver) -> Pixels:
    """The faces of all inputs, uint8 [N, S, S, 3], read as a job reads them."""
    samples = inputs_of(settings.input, settings.limit)
    reader = Reader(settings.align, resolution, settings.min_face)
    faces: list[Pixels] = []
    failed = 0
    with threads() as executor:
        for done, (_, future) in enumerate(prefetch(executor, reader.read, samples, 2 * thread_count())):
            try:
                faces += [face.pixels for face in future.result().faces]
            except InputError:
                failed += 1
            observer.progress(done + 1, len(samples), "reading")
    if failed:
        observer.note(f"{failed} of {len(samples)} inputs could not be used and are passed over")
    if not faces:
        raise UserError(f"none of the {len(samples)} inputs in {settings.input} could be used")
    return np.stack(faces)
