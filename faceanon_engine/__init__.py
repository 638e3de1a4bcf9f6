"""faceanon-engine: other people's faces, the same attributes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceanon_engine.engine.errors import UserError

if TYPE_CHECKING:
    from typing import Unpack

    from faceanon_engine.engine.bench.bench import bench
    from faceanon_engine.engine.job.report import JobObserver, JobResult
    from faceanon_engine.engine.job.settings import JobOptions
    from faceanon_engine.engine.models.importing import import_bundle
    from faceanon_engine.export.build import build

__version__ = "0.1.0"

__all__ = ["UserError", "__version__", "anonymize", "bench", "build", "import_bundle"]

# Lazy, so that importing this package loads neither Torch nor the rooms that a smaller installation lacks.
_LAZY = {
    "bench": "faceanon_engine.engine.bench.bench",
    "build": "faceanon_engine.export.build",
    "import_bundle": "faceanon_engine.engine.models.importing",
}

if not TYPE_CHECKING:  # a type checker would take every name for one that is there

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_LAZY[name]), name)


def anonymize(
    input: str | Path, output: str | Path, *, observer: JobObserver | None = None, **settings: Unpack[JobOptions]
) -> JobResult:
    """Anonymize a folder of images, one image, or a text file of paths into the folder `output`.

    The same as `faceanon-engine anonymize`, and `settings` are its options, with underscores, as `JobOptions` of
    `faceanon_engine.engine.job.settings` lists them; None chooses. A bad image raises nothing: it is counted in the
    result and has a row with a reason in the manifest. Interrupted and called again, it goes on where it was.
    `observer`, a `JobObserver` of `faceanon_engine.engine.job.report`, is told of the progress. With `devices` the
    caller's file is loaded once more in every process: call it below `if __name__ == "__main__":`.

    Raises UserError for what the caller can mend: settings, missing files, a bundle, the device, a full disk.
    """
    from faceanon_engine.engine.job.run import run_job
    from faceanon_engine.engine.job.settings import job_settings

    return run_job(job_settings(input, output, settings), observer=observer)
