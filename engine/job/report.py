"""What a job tells while it runs, what it says at its end, and what a dry run says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faceanon_engine.engine.job.counts import BoxCounts, FaceCounts, PhotoCounts
from faceanon_engine.engine.models.domain import Known
from faceanon_engine.engine.system.progress import Observer


class JobObserver(Observer):
    """What a job is watched by; every method may be overridden, none needs to be.

    Beside those below it is told, as any `Observer` is, how much of a new pool is made, and notes.
    """

    def started(self, about: Mapping[str, str], inputs: int, already: int) -> None:
        """The job begins; `already` inputs need nothing any more."""

    def batch(self, size: int, step: int, steps: int) -> None:
        """A batch of that size has done so many steps."""

    def input_finished(self, path: str, failed: bool) -> None:
        """Every face of this input is done or failed."""


@dataclass(frozen=True)
class Failure:
    """An input, or one face of it, that was not anonymized, or a photograph that is not given back."""

    input: str
    face: int
    reason: str
    message: str


@dataclass(frozen=True)
class JobResult:
    """What became of a job. Counts are of items: faces, and inputs without any."""

    output: Path
    """The job's folder."""
    release: Path
    """The folder of the results, and of nothing else."""
    manifest: Path
    contact_sheet: Path | None
    inputs: int
    done: int
    failed: int
    pending: int
    """Items that wait: listed by an earlier run and left out of this one by its limit."""
    done_before: int
    """Of `done`, those that an earlier run had finished and that were still there."""
    seconds: float
    about: Mapping[str, str]
    failures: tuple[Failure, ...] = ()
    left: int = 0
    """Inputs that nobody did, as the processes of all devices had died."""
    faces: FaceCounts | None = None
    """What became of all faces."""
    photos: PhotoCounts | None = None
    """What became of all photographs; None where none are given back."""
    boxes: BoxCounts | None = None
    """How many of the given faces were found; None where none were given."""
    domain: Known | None = None
    """Whether the networks know such faces, judged by the results."""
    strict: bool = False
    """Whether faces that the networks do not know are a failure."""

    @property
    def exit_code(self) -> int:
        """0 when everything is done, 1 when something failed, was withheld, is left, or is what `strict` refuses."""
        refused = self.strict and self.domain is not None and self.domain.verdict == "outside"
        return 1 if self.failures or self.left or refused else 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        values = asdict(self) | {"exit_code": self.exit_code}
        for name in ("faces", "photos", "boxes"):
            counts = getattr(self, name)
            values[name] = None if counts is None else counts.to_json()
        values.update(output=str(self.output), release=str(self.release), manifest=str(self.manifest))
        values["contact_sheet"] = None if self.contact_sheet is None else str(self.contact_sheet)
        return values


@dataclass(frozen=True)
class PlannedItem:
    """What a dry run says of one face, or of an input without any."""

    input: str
    face: int
    action: str
    """anonymize, keep (done already), redact, skip, leave (a face that is kept), give back (without a face) or fail."""
    output: str | None
    """Relative to `release/`."""
    reason: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class JobPlan:
    """What a job would do."""

    output: Path
    about: Mapping[str, str]
    items: tuple[PlannedItem, ...]
    left_out: tuple[str, ...] = ()
    """What of the input folder is no input, in a line a reason."""

    @property
    def exit_code(self) -> int:
        """1 when some inputs would fail."""
        return 1 if any(item.action == "fail" for item in self.items) else 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self) | {"output": str(self.output), "exit_code": self.exit_code}
