"""faceanon-engine: other people's faces, the same attributes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from faceanon_engine.engine.errors import UserError

if TYPE_CHECKING:
    from typing import Unpack

    from faceanon_engine.engine.job.report import JobObserver, JobResult
    from faceanon_engine.engine.job.settings import JobOptions

__version__ = "0.1.0"

__all__ = ["UserError", "__version__", "anonymize"]


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
    from faceanon_engine.engine.job.run import run
    from faceanon_engine.engine.job.settings import job_settings

    return run(job_settings(input, output, settings), observer=observer)
