"""What `bench` is asked to measure, and the names that its results are kept under."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from faceanon_engine.engine.bench.measure import Budget
from faceanon_engine.engine.choices import Precision
from faceanon_engine.engine.method.preset import Preset
from faceanon_engine.engine.system.progress import Progress

if TYPE_CHECKING:
    from faceanon_engine.engine.models.bundle import Bundle
    from faceanon_engine.engine.sessions.session import About

SCHEMA = "faceanon-engine/bench"
SCHEMA_VERSION = 1
Mode = Literal["latency", "throughput", "optimise", "all"]
MODES: tuple[Mode, ...] = get_args(Mode)
BATCHES = (1, 2, 4, 8, 16, 32)
STEP_BATCHES = (1, 2, 4, 8)
"""Of the optimisation's step, which takes more memory an image."""
BASELINE = "torch"


class Runnable(Protocol):
    """What is needed of a session: see `sessions.open_session`."""

    def run(self, batch: Any, /) -> Any: ...

    def describe(self) -> About: ...

    def close(self) -> None: ...


class Opener(Protocol):
    """Opens a session for batches of up to `largest`; raises UserError when the backend cannot run the graph here."""

    def __call__(
        self, bundle: Bundle, graph: str, *, backend: str, precision: Precision, device: str, largest: int
    ) -> Runnable: ...


@dataclass(frozen=True, order=True)
class Case:
    """One figure: a graph on a backend in a precision at a batch size; `queued` runs do not wait for each other."""

    graph: str
    batch: int
    precision: Precision
    backend: str
    queued: bool = False


@dataclass(frozen=True)
class Plan:
    """What is measured. `batches` are those of the sweep; latency cases are measured at batch 1."""

    mode: Mode
    graphs: tuple[str, ...]
    backends: tuple[str, ...]
    precisions: tuple[Precision, ...]
    batches: tuple[int, ...]
    step_batches: tuple[int, ...]
    device: str
    """"cpu" or "cuda:N"."""
    preset: Preset
    budget: Budget
    seed: int = 0
    memory: bool = True


class Turns:
    """Turns "this turn is over" into how much is done."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress, self._what, self._total, self._done = progress, what, total, 0
        progress(0, total, what)

    def __call__(self, _key: Hashable, _round: int) -> None:
        self._done += 1
        self._progress(self._done, self._total, self._what)
