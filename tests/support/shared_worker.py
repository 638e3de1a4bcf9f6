"""A worker without networks for jobs of several processes: says which process did what, and can end one.

FAKE_KILL names a file: the process that finds it removes it and kills itself in the middle of its work. FAKE_FACES
makes every input with that text in its name one of two faces. Run as a script it is the command line with this worker.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np

from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import UserError
from tests.support.fake_worker import FakeWorker
from tests.support.samples import with_two_faces

_read = Reader.read


def _read_with_two_faces(self: Reader, sample: Sample) -> Sample:
    read = _read(self, sample)
    mark = os.environ.get("FAKE_FACES")
    return with_two_faces(read) if mark and mark in sample.key else read


Reader.read = _read_with_two_faces  # type: ignore[method-assign]


class SharedWorker(FakeWorker):
    def choose_batch_size(self) -> int:
        return 2

    def anonymize(self, images: np.ndarray, on_step: Any) -> Any:
        flag = os.environ.get("FAKE_KILL")
        if flag:
            try:
                os.remove(flag)
            except FileNotFoundError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        result = super().anonymize(images, on_step)
        result.neighbour_id = np.full(len(images), os.getpid())
        return result


class Company(FakeWorker):
    """Gives every image a picture that depends on those it shared steps with, as rounding does."""

    def anonymize(self, images: np.ndarray, on_step: Any) -> Any:
        result = super().anonymize(images, on_step)
        result.images = result.images ^ np.uint8(int(images.astype(np.int64).sum()) % 251)
        return result


class CompanyKilled(Company, SharedWorker):
    def choose_batch_size(self) -> int:
        return 4


class KilledWorker(SharedWorker):
    """Kills every process of a job but the first."""

    def anonymize(self, images: np.ndarray, on_step: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class CannotLoad(SharedWorker):
    def load(self, progress: Any) -> None:
        raise UserError("CannotLoad: networks.bin cannot be read: fetch it again")


if __name__ == "__main__":
    from faceanon_engine.cli.main import main
    from faceanon_engine.engine.job import beginning
    from tests.support.shared_worker import SharedWorker as Importable

    beginning.FalcoWorker = Importable  # type: ignore[misc, assignment]
    main()
