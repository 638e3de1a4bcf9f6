"""What the commands do, as functions: `faceanon_engine` hands them out; docs/api.md shows them at work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from faceanon_engine.engine.job import JobObserver, JobOptions, JobPlan, JobResult, JobSettings, job_settings
from faceanon_engine.engine.job.settings import PoolOptions, StageOptions

if TYPE_CHECKING:
    from faceanon_engine.engine.job import StageResult
    from faceanon_engine.engine.method import Pool
    from faceanon_engine.engine.sessions import Prepare


class PairOptions(StageOptions, PoolOptions, total=False):
    """The settings of `pair`."""


def anonymize(
    input: str | Path, output: str | Path, *, observer: JobObserver | None = None, **settings: Unpack[JobOptions]
) -> JobResult:
    """Anonymize a folder of images, one image, or a text file of paths into the folder `output`.

    The same as `faceanon-engine anonymize`, and `settings` are its options, with underscores: None chooses. A bad image
    raises nothing: it is counted in the result and has a row with a reason in the manifest. Interrupted and called
    again, it goes on where it was. What another backend than "torch" lacks is built at first use. With `devices` the
    caller's file is loaded once more in every process: call it below `if __name__ == "__main__":`.

    Raises UserError for what the caller can mend: settings, missing files, a bundle, the device, a full disk.
    """
    from faceanon_engine.engine.job import run_job
    from faceanon_engine.export.prepare import worker_factory

    chosen = job_settings(input, output, settings)
    observer = observer or JobObserver()
    return run_job(chosen, observer=observer, make_worker=worker_factory(chosen.backend, observer.note))


def plan(input: str | Path, output: str | Path, **settings: Unpack[JobOptions]) -> JobPlan:
    """What `anonymize` would do: everything is validated, every input included, and nothing is written.

    The same as `faceanon-engine anonymize --dry-run`; raises UserError as `anonymize` does.
    """
    from faceanon_engine.engine.job import plan_job

    return plan_job(job_settings(input, output, settings))


def extract(input: str | Path, *, observer: JobObserver | None = None, **settings: Unpack[StageOptions]) -> StageResult:
    """Attribute and identity features of all faces of `input`, a row each; `table.write(FILE)` keeps them.

    Arrays: attribute_embedding float32 [N, E], identity_embedding float32 [N, D] of unit length. Inputs that cannot be
    used are in `failures`. Raises UserError for settings, a missing input, and when none could be used.
    """
    from faceanon_engine.engine.job import stages

    return _stage(stages.extract, input, settings, observer)


def invert(input: str | Path, *, observer: JobObserver | None = None, **settings: Unpack[StageOptions]) -> StageResult:
    """Latent codes of all faces of `input`: array w_plus float32 [N, rows, w_dim]; otherwise as `extract`."""
    from faceanon_engine.engine.job import stages

    return _stage(stages.invert, input, settings, observer)


def pair(
    input: str | Path,
    *,
    neighbours: int = 1,
    observer: JobObserver | None = None,
    **settings: Unpack[PairOptions],
) -> StageResult:
    """The nearest generated faces of all faces of `input`, which is images or a file of what `extract` gave.

    Arrays: neighbour_id int64 [N, neighbours], rows of the pool, and neighbour_distance float64 [N, neighbours]. The
    pool is made where it is missing. Otherwise as `extract`.
    """
    from functools import partial

    from faceanon_engine.engine.job import stages

    return _stage(partial(stages.pair, neighbours=neighbours), input, settings, observer)


def make_pool(size: int, *, observer: JobObserver | None = None, **settings: Unpack[PairOptions]) -> Pool:
    """The pool of so many generated faces, opened where it is there, otherwise made or gone on with.

    truncation, seed: of its faces. Raises UserError for settings, and when the folder cannot be written.
    """
    from faceanon_engine.engine.job import stages
    from faceanon_engine.engine.method import PoolSpec

    observer = observer or JobObserver()
    chosen = job_settings("", "", {**settings, "pool_size": size})
    with stages.OpenedStages.open(chosen, _prepare(chosen, observer)) as opened:
        return opened.pool(PoolSpec(opened.bundle.digest, size, chosen.truncation, chosen.seed), observer)


def _stage(
    stage: Callable[..., StageResult],
    input: str | Path,
    settings: Mapping[str, object],
    observer: JobObserver | None,
) -> StageResult:
    observer = observer or JobObserver()
    chosen = job_settings(input, "", settings)
    return stage(chosen, observer=observer, prepare=_prepare(chosen, observer))


def _prepare(settings: JobSettings, observer: JobObserver) -> Prepare | None:
    from faceanon_engine.export.prepare import prepare_for

    return prepare_for(settings.backend, observer.note)
