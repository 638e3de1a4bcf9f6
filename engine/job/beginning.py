"""How a run and a dry run begin: the same checks by the same code, before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.folder import (
    fixed_settings,
    recorded_settings,
    refuse_changes,
    refuse_old_layout,
    refuse_unwritable_output,
)
from faceanon_engine.engine.job.samples import GivenBoxes, find_samples, given_boxes
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.job.workers.falco import FalcoWorker
from faceanon_engine.engine.job.workers.worker import Worker
from faceanon_engine.engine.system.devices import device_names, resolve

WorkerFactory = Callable[[JobSettings, Mapping[str, Any], int], Worker]
"""Makes the worker of settings, what an earlier run recorded of them, and the number of inputs."""


@dataclass(frozen=True)
class Beginning:
    """A job that may begin: its inputs are there, its worker is made and nothing of it is loaded."""

    settings: JobSettings
    """As they were given, `device` the first of `devices` where several share the job."""
    samples: tuple[Sample, ...]
    devices: tuple[str, ...]
    """Those that share the job, one process each; none when this process does it."""
    make_worker: WorkerFactory
    worker: Worker
    boxes: GivenBoxes | None
    """The person's own boxes of faces, None where none are given."""
    fixed: Mapping[str, Any]
    """What must not change between two runs on one output."""

    def about(self) -> dict[str, str]:
        """What really runs, for people."""
        about = self.worker.about()
        return {**about, "device": ", ".join(self.devices)} if self.devices else about


def begin_job(settings: JobSettings, make_worker: WorkerFactory | None = None) -> Beginning:
    """Check what can be checked without opening networks or reading images; writes nothing.

    Raises UserError for inputs that are missing, settings that cannot work here or differ from those with which the job
    was begun, and an output folder that cannot be written.
    """
    samples = find_samples(settings)
    boxes = given_boxes(settings, samples)
    refuse_old_layout(settings.folder)
    devices = device_names(settings.devices)
    if devices:
        resolve(settings.device)  # raises for what is no device: it would be passed over in silence
        settings = replace(settings, device=devices[0])
    recorded = recorded_settings(settings.folder)
    make_worker = make_worker or FalcoWorker
    worker = make_worker(settings, recorded, len(samples))
    for name in sorted({*devices} - {settings.device}):
        make_worker(replace(settings, device=name), recorded, len(samples))  # raises where that one cannot do the job
    fixed = fixed_settings(settings, worker)
    refuse_changes(settings.output, recorded, fixed)
    refuse_unwritable_output(settings.folder)
    if settings.strict and worker.limits is None:
        raise UserError(
            "strict: the bundle does not record what its networks know: measure it with 'models calibrate', or leave "
            "strict out"
        )
    return Beginning(settings, samples, devices, make_worker, worker, boxes, fixed)
