"""Timing on clocks that are turned by hand: nothing here waits, and nothing depends on the machine's pace."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceanon_engine.engine.bench.measure import (
    Budget,
    ProcessorLoad,
    Samples,
    device_probe,
    drift,
    host_probe,
    measure_interleaved,
    notes_on,
    paired_ratio,
    queue_probe,
    resident,
    resident_peak,
    summarise,
    thinned,
)

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


class HandClock:
    """Nanoseconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 12345

    def __call__(self) -> int:
        return self.now

    def probe(self, milliseconds: Callable[[], float]) -> Callable[[], dict[str, float]]:
        def call() -> dict[str, float]:
            taken = milliseconds() * MILLISECOND
            self.now += int(taken)
            return {"total": taken}

        return call


def samples(*rounds: list[float], part: str = "total") -> Samples:
    return Samples([[{part: value * MILLISECOND} for value in values] for values in rounds])


# Statistics


def test_statistics_of_a_hundred_and_one_known_durations() -> None:
    statistics = summarise([float(n) for n in reversed(range(101))])
    assert (statistics.min, statistics.p50, statistics.p90, statistics.p95, statistics.p99, statistics.max) == (
        0,
        50,
        90,
        95,
        99,
        100,
    )
    assert statistics.mean == 50
    assert statistics.count == 101
    assert statistics.spread == pytest.approx((90 - 10) / 50)


def test_percentiles_between_samples_are_interpolated() -> None:
    assert summarise([1.0, 2.0]).p50 == pytest.approx(1.5)


def test_one_sample_has_no_deviation_and_none_has_no_statistics() -> None:
    assert summarise([3.0]).standard_deviation == 0
    assert summarise([3.0]).p99 == 3
    with pytest.raises(ValueError, match="no samples"):
        summarise([])


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50))
def test_statistics_are_in_order(values: list[float]) -> None:
    statistics = summarise(values)
    ordered = [statistics.min, statistics.p50, statistics.p90, statistics.p95, statistics.p99, statistics.max]
    assert ordered == sorted(ordered)
    assert statistics.min <= statistics.mean * (1 + 1e-12)
    assert statistics.mean <= statistics.max * (1 + 1e-12)


@given(st.lists(st.integers(), max_size=500), st.integers(1, 50))
def test_thinning_keeps_order_and_the_first(values: list[int], limit: int) -> None:
    kept = thinned(values, limit)
    assert len(kept) <= limit
    assert kept[:1] == values[:1]
    positions = iter(values)
    assert all(any(value == other for other in positions) for value in kept)


def test_drift_is_of_the_rounds_medians() -> None:
    steady, slower = [1.0, 1.0, 50.0], [1.5, 1.5, 1.5]
    assert drift(samples(steady, slower).round_medians()) == pytest.approx(0.5)
    assert drift(samples(steady, steady).round_medians()) == 0


def test_the_ratio_of_neighbouring_rounds_is_not_fooled_by_a_changing_pace() -> None:
    # Both become three times slower; the faster one happens to have most of its runs in the slow time.
    baseline = samples([10.0] * 9, [30.0], [30.0])
    other = samples([5.0], [15.0] * 9, [15.0])
    assert paired_ratio(baseline, other) == (2, 2, 2)
    naive = summarise(baseline.milliseconds()).p50 / summarise(other.milliseconds()).p50
    assert naive < 1


def test_a_ratio_tells_how_far_rounds_disagreed() -> None:
    assert paired_ratio(samples([10.0], [12.0], [20.0]), samples([10.0], [10.0], [10.0])) == pytest.approx((1.2, 1, 2))


# Rounds


@pytest.mark.parametrize(
    "wrong", [{"rounds": 0}, {"min_iterations": 0}, {"warmup_seconds": -1}, {"min_seconds": 5, "max_seconds": 4}]
)
def test_a_budget_that_cannot_be_kept_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Budget"):
        Budget(**wrong)  # type: ignore[arg-type]


def test_a_fast_case_runs_for_the_least_time_and_a_slow_one_for_the_least_count() -> None:
    clock = HandClock()
    budget = Budget(warmup_seconds=0.2, min_seconds=3, min_iterations=12, max_seconds=60, rounds=3)
    probes = {"fast": clock.probe(lambda: 10), "slow": clock.probe(lambda: 1000)}
    taken = measure_interleaved(probes, budget, clock=clock)
    assert taken["fast"].count() == 300
    assert [len(runs) for runs in taken["fast"].rounds] == [100, 100, 100]
    assert taken["slow"].count() == 12
    assert not taken["slow"].exhausted


def test_the_longest_time_ends_a_case_and_says_so() -> None:
    clock = HandClock()
    budget = Budget(min_seconds=1, min_iterations=30, max_seconds=6, rounds=3)
    taken = measure_interleaved({"slow": clock.probe(lambda: 1000)}, budget, clock=clock)
    assert taken["slow"].count() == 6
    assert taken["slow"].exhausted


def test_even_the_slowest_case_is_measured_once_a_round() -> None:
    clock = HandClock()
    budget = Budget(min_seconds=1, min_iterations=30, max_seconds=6, rounds=2)
    assert measure_interleaved({"slow": clock.probe(lambda: 9000)}, budget, clock=clock)["slow"].count() == 2


def test_warm_up_lasts_and_is_not_counted() -> None:
    clock = HandClock()
    started = clock.now
    # Slow until 200 ms have passed, as a cold cache is.
    probe = clock.probe(lambda: 50 if clock.now - started < 200 * MILLISECOND else 1)
    taken = measure_interleaved({"a": probe}, Budget(warmup_seconds=0.2, min_seconds=0, rounds=1), clock=clock)
    assert set(taken["a"].milliseconds()) == {1}


def test_every_turn_begins_with_a_run_that_does_not_count() -> None:
    clock = HandClock()
    last = ""

    def probe(name: str) -> Callable[[], dict[str, float]]:
        def milliseconds() -> float:
            nonlocal last
            cold, last = last != name, name
            return 100 if cold else 1

        return clock.probe(milliseconds)

    budget = Budget(warmup_seconds=0, min_seconds=0, min_iterations=6, rounds=3)
    taken = measure_interleaved({"a": probe("a"), "b": probe("b")}, budget, clock=clock)
    assert set(taken["a"].milliseconds()) | set(taken["b"].milliseconds()) == {1}


def test_turns_change_their_order_from_round_to_round() -> None:
    clock = HandClock()
    turns: list[tuple[str, int]] = []
    measure_interleaved(
        {"a": clock.probe(lambda: 1), "b": clock.probe(lambda: 1)},
        Budget(min_seconds=0, rounds=3),
        clock=clock,
        on_round=lambda key, number: turns.append((key, number)),
    )
    assert turns == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]


# Probes


def test_a_host_probe_times_the_call_alone() -> None:
    clock = HandClock()

    def work() -> None:
        clock.now += 7

    assert host_probe(work, clock)() == {"total": 7}


class Device:
    """A device with a time line of its own: work is appended to it, marks remember where they stand."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.busy_until = clock.now

    def enqueue(self, device_ms: float, host_ms: float) -> str:
        self.clock.now += int(host_ms * MILLISECOND)
        self.busy_until = max(self.busy_until, self.clock.now) + int(device_ms * MILLISECOND)
        return "result"

    def mark(self) -> Mark:
        return Mark(self)


class Mark:
    def __init__(self, device: Device) -> None:
        self.device = device
        self.moment = 0

    def record(self) -> None:
        self.moment = max(self.device.busy_until, self.device.clock.now)

    def synchronize(self) -> None:
        self.device.clock.now = max(self.device.clock.now, self.moment)

    def elapsed_time(self, end_event: Mark) -> float:
        return (end_event.moment - self.moment) / MILLISECOND


def test_a_device_probe_tells_copies_computing_and_enqueueing_apart() -> None:
    clock = HandClock()
    device = Device(clock)
    probe = device_probe(
        lambda: device.enqueue(2, 0),
        lambda _: device.enqueue(10, 1),
        lambda _: device.enqueue(3, 0),
        device.mark,
        clock,
    )
    milliseconds = {part: value / MILLISECOND for part, value in probe().items()}
    assert milliseconds == pytest.approx(
        {"total": 15, "host_to_device": 2, "compute": 10, "device_to_host": 3, "enqueue": 1}, abs=1e-6
    )


def test_queued_runs_overlap_with_their_enqueueing() -> None:
    clock = HandClock()
    device = Device(clock)
    parts = queue_probe(lambda: device.enqueue(10, 1), device.mark, 8, clock)()
    # The device waits once, for the first to be enqueued.
    assert parts["total"] / MILLISECOND == pytest.approx((8 * 10 + 1) / 8)
    assert parts["enqueue"] / MILLISECOND == pytest.approx(1)


# What to know about a figure


def kinds(taken: Samples) -> list[str]:
    return [note.kind for note in notes_on(taken)]


def test_steady_figures_need_no_note() -> None:
    assert kinds(samples([10.0, 10.1, 10.0], [10.0, 10.2, 10.1])) == []


def test_noise_a_change_of_pace_and_too_few_runs_are_told() -> None:
    assert kinds(samples([10.0, 14.0] * 10, [10.0, 14.0] * 10)) == ["spread"]
    assert kinds(samples([10.0] * 99, [12.0])) == ["pace"]
    few = samples([10.0])
    few.exhausted = True
    assert kinds(few) == ["runs"]


def test_being_bound_by_the_host_or_by_copies_is_told() -> None:
    def device(**parts: float) -> Samples:
        run = {"total": 20 * MILLISECOND} | {name: value * MILLISECOND for name, value in parts.items()}
        return Samples([[run] * 5])

    assert kinds(device(compute=10, enqueue=1, host_to_device=2, device_to_host=2)) == []
    assert kinds(device(compute=10, enqueue=9.5, host_to_device=2, device_to_host=2)) == ["host"]
    assert kinds(device(compute=10, enqueue=1, host_to_device=6, device_to_host=5)) == ["copies"]
    (note,) = notes_on(device(compute=10, enqueue=1, host_to_device=6, device_to_host=5))
    assert note.value == pytest.approx(1.1)
    assert "11.000 ms" in note.text


# Memory and load


def test_the_peak_is_seen_though_it_is_over() -> None:
    if resident() is None:
        pytest.skip("/proc does not say what is resident here")
    size = 48 * 2**20
    # Fresh pages from the system: an allocator may have kept room that other tests gave back.
    with resident_peak() as memory, mmap.mmap(-1, size) as pages:
        pages.write(bytes(size))
    if memory.peak is None:
        pytest.skip("/proc/self/clear_refs cannot be written here")
    assert memory.growth is not None
    assert 40 * 2**20 < memory.growth < 200 * 2**20
    with resident_peak() as quiet:
        pass
    assert quiet.growth is not None
    assert quiet.growth < 8 * 2**20


def test_nothing_is_claimed_where_the_system_does_not_count(tmp_path: Path) -> None:
    with resident_peak(tmp_path / "none") as memory:
        pass
    assert (memory.before, memory.peak, memory.growth) == (None, None, None)
    assert resident(tmp_path / "none") is None


def test_the_peak_is_read_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t    2000 kB\nVmRSS:\t    1000 kB\n")
    with resident_peak(tmp_path) as memory:
        (tmp_path / "status").write_text("VmHWM:\t    5000 kB\nVmRSS:\t    1500 kB\n")
    assert (tmp_path / "clear_refs").read_text() == "5"
    assert memory.growth == 4000 * 1024


@pytest.mark.parametrize(
    ("after", "share"),
    [((10.0, 10.0, 10.0), 0), ((10.0, 10.0, 4.0), 0.6), ((10.0, 4.0, 5.0), 0), ((10.0, 99.0, 0.0), 1)],
)
def test_the_share_of_others_is_what_was_busy_without_us(
    monkeypatch: pytest.MonkeyPatch, after: tuple[float, float, float], share: float
) -> None:
    moments: Iterator[tuple[float, float, float]] = iter([(0.0, 0.0, 0.0), after])
    monkeypatch.setattr(ProcessorLoad, "_now", staticmethod(lambda: next(moments)))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1}, raising=False)
    assert ProcessorLoad().others() == pytest.approx(share)


def test_the_real_share_of_others_is_a_share_or_unknown() -> None:
    load = ProcessorLoad()
    sum(range(200_000))
    share = load.others()
    assert share is None or 0 <= share <= 1
