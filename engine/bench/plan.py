"""What `bench` is asked to measure, and the names that its results are kept under."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from faceanon_engine.engine.measure import Budget
from faceanon_engine.engine.preset import Preset
from faceanon_engine.engine.sessions.graphs import Precision

if TYPE_CHECKING:
    from faceanon_engine.engine.bundle import Bundle
    from faceanon_engine.engine.sessions.session import About

SCHEMA = "faceanon-engine/bench"
SCHEMA_VERSION = 1
MODES = ("latency", "throughput", "optimise", "all")
BASELINE = "torch"


Say = Callable[[str, int, int], None]
"""Called with what is being done, how many parts of it are done, and how many there are."""


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

    mode: str
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

    def __init__(self, tell: Say, what: str, total: int) -> None:
        self._tell, self._what, self._total, self._done = tell, what, total, 0
        tell(what, 0, total)

    def __call__(self, _key: Hashable, _round: int) -> None:
        self._done += 1
        self._tell(self._what, self._done, self._total)
