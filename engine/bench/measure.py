"""Timing a call honestly: warm-up, interleaved rounds on the right clock, percentiles, and peak memory.

A probe is a callable that does the work once and says how long its parts took, in nanoseconds; what a part means is
the probe's business. Everything here takes its clock as an argument, so that it can be tested without waiting.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

Clock = Callable[[], int]
Probe = Callable[[], Mapping[str, float]]
Key = TypeVar("Key", bound=Hashable)

TOTAL = "total"
"""The part that every probe has: from the call to the moment its result can be used."""

PERCENTILES = (50, 90, 95, 99)
WIDE_SPREAD = 0.15
"""(p90 - p10) / p50 above which a figure is called noisy: a quiet machine stays below a few percent."""
WIDE_DRIFT = 0.10
"""Slowest round's median over the fastest's, less 1, above which the machine's pace changed while it was measured."""


@dataclass(frozen=True)
class Budget:
    """How long each case is measured; seconds and counts are of one case, over all rounds together."""

    warmup_seconds: float = 0.2
    min_seconds: float = 3.0
    min_iterations: int = 10
    max_seconds: float = 60.0
    """A case stops here even when it has made fewer runs than `min_iterations`; at least one in each round."""
    rounds: int = 3

    def __post_init__(self) -> None:
        if self.warmup_seconds < 0 or self.min_seconds < 0 or self.min_iterations < 1 or self.rounds < 1:
            raise ValueError(f"{self}: durations cannot be negative, counts have to be at least 1")
        if self.max_seconds < self.min_seconds:
            raise ValueError(f"{self}: max_seconds is below min_seconds")


@dataclass
class Samples:
    """What a probe said of each run, in the order of time, a list for every round."""

    rounds: list[list[Mapping[str, float]]] = field(default_factory=list)
    exhausted: bool = False
    """True when `max_seconds` ended the measuring before `min_iterations` runs were made."""

    def milliseconds(self, part: str = TOTAL) -> list[float]:
        """Durations of that part, empty where the probe does not know it."""
        return [run[part] / 1e6 for runs in self.rounds for run in runs if part in run]

    def round_medians(self, part: str = TOTAL) -> list[float]:
        """Median of every round in milliseconds."""
        return [float(np.median([run[part] for run in runs])) / 1e6 for runs in self.rounds if runs and part in runs[0]]

    def count(self) -> int:
        return sum(len(runs) for runs in self.rounds)


@dataclass(frozen=True)
class Summary:
    """Statistics of durations in milliseconds; percentiles are interpolated linearly between samples."""

    count: int
    min: float
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    standard_deviation: float
    spread: float
    """(p90 - p10) / p50."""


def summarise(milliseconds: Sequence[float]) -> Summary:
    """Statistics of at least one duration in milliseconds; raises ValueError for none."""
    if not len(milliseconds):
        raise ValueError("there are no samples to summarise")
    values = np.asarray(milliseconds, np.float64)
    p10, p50, p90, p95, p99 = (float(p) for p in np.percentile(values, (10, *PERCENTILES)))
    return Summary(
        count=len(values),
        min=float(values.min()),
        mean=float(values.mean()),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(values.max()),
        standard_deviation=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        spread=(p90 - p10) / p50 if p50 else 0.0,
    )


def drift(round_medians: Sequence[float]) -> float:
    """How much slower the slowest round was than the fastest, as a share; 0 for a single round."""
    lowest = min(round_medians)
    return max(round_medians) / lowest - 1 if lowest else 0.0


def paired_ratio(baseline: Samples, other: Samples, part: str = TOTAL) -> tuple[float, float, float]:
    """How many times faster `other` is than `baseline`: the median over rounds of the rounds' ratios, lowest, highest.

    Rounds are measured next to each other, so a change of the machine's pace falls on both and cancels.
    """
    ratios = [
        slow / fast
        for slow, fast in zip(baseline.round_medians(part), other.round_medians(part), strict=True)
        if fast > 0
    ]
    if not ratios:
        raise ValueError("there is no round that both were measured in")
    return float(np.median(ratios)), min(ratios), max(ratios)


def thinned(values: Sequence[float], limit: int) -> list[float]:
    """At most `limit` of the values, evenly spaced in time."""
    step = max(1, math.ceil(len(values) / limit))
    return list(values[::step])


def measure_interleaved(
    probes: Mapping[Key, Probe],
    budget: Budget,
    *,
    clock: Clock = time.perf_counter_ns,
    on_round: Callable[[Key, int], None] | None = None,
) -> dict[Key, Samples]:
    """Run every probe in every round, in turns of the order, and collect what they say.

    First all probes are warmed up. Then each round takes each probe for its share of the budget, forwards in even
    rounds and backwards in odd ones, so that a slow change of the machine's pace favours nobody. Every turn begins
    with a run that does not count: caches hold another probe's data, and another runtime's threads may still spin.
    `on_round` is called with a probe's key and the round's number when its turn is over.
    """
    samples: dict[Key, Samples] = {key: Samples() for key in probes}
    for probe in probes.values():
        _warm_up(probe, budget, clock)
    for number in range(budget.rounds):
        keys = list(probes)
        for key in keys if number % 2 == 0 else keys[::-1]:
            runs, exhausted = _turn(probes[key], budget, clock)
            samples[key].rounds.append(runs)
            samples[key].exhausted |= exhausted
            if on_round is not None:
                on_round(key, number)
    return samples


def _warm_up(probe: Probe, budget: Budget, clock: Clock) -> None:
    started = clock()
    while True:
        probe()
        if clock() - started >= budget.warmup_seconds * 1e9:
            return


def _turn(probe: Probe, budget: Budget, clock: Clock) -> tuple[list[Mapping[str, float]], bool]:
    share = 1e9 / budget.rounds
    wanted = math.ceil(budget.min_iterations / budget.rounds)
    runs: list[Mapping[str, float]] = []
    began = clock()
    probe()
    # A run that already fills its share of the longest time is not repeated without need.
    started = began if clock() - began > budget.max_seconds * share else clock()
    while True:
        runs.append(probe())
        elapsed = clock() - started
        if elapsed >= budget.min_seconds * share and len(runs) >= wanted:
            return runs, False
        if elapsed >= budget.max_seconds * share:
            return runs, len(runs) < wanted


def host_probe(call: Callable[[], Any], clock: Clock = time.perf_counter_ns) -> Probe:
    """A probe of a call that returns when its work is done; it knows the part `total` alone."""

    def probe() -> Mapping[str, float]:
        started = clock()
        call()
        return {TOTAL: clock() - started}

    return probe


class Mark(Protocol):
    """A moment on a device's time line: the part of torch.cuda.Event that is used here."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end_event: Any) -> float: ...


def device_probe(
    upload: Callable[[], Any],
    compute: Callable[[Any], Any],
    download: Callable[[Any], Any],
    new_mark: Callable[[], Mark],
    clock: Clock = time.perf_counter_ns,
) -> Probe:
    """A probe of one inference on a device that works by itself.

    Parts: `host_to_device`, `compute` and `device_to_host` by the device's own marks; `enqueue`, what the call costs
    the host before it returns; `total`, from the call with data in host memory to the result in host memory. The
    three callables only enqueue; `download` need not wait.
    """

    def probe() -> Mapping[str, float]:
        marks = [new_mark() for _ in range(4)]
        started = clock()
        marks[0].record()
        inputs = upload()
        marks[1].record()
        before = clock()
        outputs = compute(inputs)
        enqueue = clock() - before
        marks[2].record()
        download(outputs)
        marks[3].record()
        marks[3].synchronize()
        total = clock() - started
        parts = [first.elapsed_time(second) * 1e6 for first, second in itertools.pairwise(marks)]
        return {
            TOTAL: total,
            "host_to_device": parts[0],
            "compute": parts[1],
            "device_to_host": parts[2],
            "enqueue": enqueue,
        }

    return probe


def queue_probe(
    compute: Callable[[], Any], new_mark: Callable[[], Mark], depth: int, clock: Clock = time.perf_counter_ns
) -> Probe:
    """A probe of `depth` inferences enqueued one behind the other, nobody waiting in between, data on the device.

    Parts, each divided by `depth`: `total` and `compute` by the device's marks, and `enqueue`.
    """

    def probe() -> Mapping[str, float]:
        first, last = new_mark(), new_mark()
        first.record()
        before = clock()
        for _ in range(depth):
            compute()
        enqueue = clock() - before
        last.record()
        last.synchronize()
        each = first.elapsed_time(last) * 1e6 / depth
        return {TOTAL: each, "compute": each, "enqueue": enqueue / depth}

    return probe


@dataclass(frozen=True)
class Note:
    """Something to know about a figure. kind: "runs", "spread", "pace", "host" or "copies"; value: how much of it."""

    kind: str
    value: float
    text: str


def notes_on(samples: Samples) -> list[Note]:
    """What makes these figures less than certain or says what bounds them; empty when nothing does."""
    total = summarise(samples.milliseconds())
    notes = []
    if samples.exhausted:
        notes.append(Note("runs", samples.count(), f"only {samples.count()} runs: the time for a case was over"))
    if total.count > 1 and total.spread > WIDE_SPREAD:
        notes.append(Note("spread", total.spread, f"high spread: p10 to p90 is {total.spread:.0%} of the median"))
    apart = drift(samples.round_medians())
    if apart > WIDE_DRIFT:
        text = f"the pace changed: the slowest round's median is {apart:.0%} above the fastest's"
        notes.append(Note("pace", apart, text))
    median = {part: float(np.median(durations)) for part in _PARTS if (durations := samples.milliseconds(part))}
    compute = median.get("compute")
    if compute:
        enqueue = median.get("enqueue", 0.0)
        if enqueue > 0.9 * compute:
            text = (
                f"bound by the host: enqueueing takes {enqueue:.3f} ms, the device {compute:.3f} ms; "
                "a larger batch or a CUDA graph helps"
            )
            notes.append(Note("host", enqueue / compute, text))
        copies = median.get("host_to_device", 0.0) + median.get("device_to_host", 0.0)
        if copies > compute:
            text = f"bound by copies: they take {copies:.3f} ms, the device {compute:.3f} ms"
            notes.append(Note("copies", copies / compute, text))
    return notes


_PARTS = ("compute", "enqueue", "host_to_device", "device_to_host")


@dataclass
class PeakMemory:
    """Bytes resident in this process at the beginning and at the peak since then; None where nobody counts them."""

    before: int | None = None
    peak: int | None = None

    @property
    def growth(self) -> int | None:
        return None if self.before is None or self.peak is None else max(0, self.peak - self.before)


@contextmanager
def resident_peak(proc: Path = Path("/proc/self")) -> Iterator[PeakMemory]:
    """Watch the peak of this process's resident memory; what is yielded is filled in at the end.

    Linux counts the peak itself (VmHWM) and lets it be set back; elsewhere both figures stay None. See proc(5).
    """
    memory = PeakMemory()
    try:
        # 5 sets the high-water mark back to what is resident now.
        (proc / "clear_refs").write_text("5")
        memory.before = _status(proc, "VmRSS")
    except (OSError, ValueError):
        yield memory
        return
    yield memory
    memory.peak = _status(proc, "VmHWM")


def resident(proc: Path = Path("/proc/self")) -> int | None:
    """Bytes of memory this process has resident now, None where nobody counts them."""
    try:
        return _status(proc, "VmRSS")
    except (OSError, ValueError):
        return None


def _status(proc: Path, name: str) -> int:
    for line in (proc / "status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{proc}/status has no {name}")


class ProcessorLoad:
    """How busy others kept the processors this process may use, between making this and asking."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """Seconds: wall, busy on our processors by anybody, busy by ourselves; None where they are not told apart."""
        import psutil

        try:
            usable = os.sched_getaffinity(0)
            every = psutil.cpu_times(percpu=True)
            busy = sum(sum(t) - t.idle - t.iowait - t.guest - t.guest_nice for n, t in enumerate(every) if n in usable)
        except (AttributeError, OSError):
            return None
        own = psutil.Process().cpu_times()
        return time.monotonic(), busy, own.user + own.system + own.children_user + own.children_system

    def others(self) -> float | None:
        """Share of our processors' time that others had, 0 to 1; None where the system does not say."""
        now = self._now()
        if now is None or self._before is None:
            return None
        wall, busy, own = (b - a for a, b in zip(self._before, now, strict=True))
        if wall <= 0:
            return None
        return min(1.0, max(0.0, (busy - own) / (wall * len(os.sched_getaffinity(0)))))
