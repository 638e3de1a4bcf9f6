"""Jobs with the worker that has no networks, and what they left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from faceanon_engine.engine.job.beginning import WorkerFactory
from faceanon_engine.engine.job.layout import JobFolder
from faceanon_engine.engine.job.manifest import InputRow, ItemRow, Manifest
from faceanon_engine.engine.job.report import JobObserver, JobResult
from faceanon_engine.engine.job.rows import by_input
from faceanon_engine.engine.job.run import run_job
from faceanon_engine.engine.job.settings import JobSettings
from tests.support.fake_worker import FakeWorker


class Told(JobObserver):
    """Remembers what a job told."""

    def __init__(self) -> None:
        self.already = -1
        self.notes: list[str] = []
        self.finished: list[tuple[str, bool]] = []

    def started(self, about: Mapping[str, str], inputs: int, already: int) -> None:
        self.already = already

    def note(self, message: str) -> None:
        self.notes.append(message)

    def input_finished(self, path: str, failed: bool) -> None:
        self.finished.append((path, failed))


def run(
    settings: JobSettings, observer: JobObserver | None = None, make_worker: WorkerFactory = FakeWorker
) -> JobResult:
    return run_job(settings, observer=observer, make_worker=make_worker)


def items(settings: JobSettings, state: str | None = None) -> list[ItemRow]:
    with Manifest.read(settings.folder.manifest) as manifest:
        return manifest.items(state)


def known(manifest: Manifest) -> tuple[dict[str, InputRow], dict[str, list[ItemRow]]]:
    """What a manifest knows of a job's inputs, and its rows by input."""
    return manifest.inputs(), by_input(manifest.items())


def visible(folder: Path) -> list[str]:
    """Files that lie in a job's `release/`, relative to it."""
    release = JobFolder(folder).release
    return sorted(path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file())


def stamps(folder: Path) -> dict[str, tuple[int, bytes]]:
    release = JobFolder(folder).release
    return {name: ((release / name).stat().st_mtime_ns, (release / name).read_bytes()) for name in visible(folder)}
