"""What of the captured step can be held without a GPU; tests/gpu holds the rest."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faceanon_engine.engine.method import capacity, cuda_graph
from faceanon_engine.engine.method.capacity import fitting, measured_capacity
from faceanon_engine.engine.method.compare import real_targets
from faceanon_engine.engine.method.continuous import Finished, PlainStepper, Ticket, make_lanes, optimise_continuously
from faceanon_engine.engine.method.cuda_graph import GraphStepper, capture, slots_for, stepper_for
from faceanon_engine.engine.method.preset import PRESETS, StoppingRule
from faceanon_engine.engine.method.step import Outcome, StepSettings, begin, step
from tests.support.opened import Opened
from tests.support.tiny_bundle import write_tiny_bundle

GIB = 2**30


@given(st.integers(1, 300), st.integers(1, 300))
def test_graphs_hold_the_images_and_are_few(count: int, capacity: int) -> None:
    count = min(count, capacity)
    size = slots_for(count, capacity)
    assert count <= size <= capacity
    sizes = {slots_for(each, capacity) for each in range(1, capacity + 1)}
    assert len(sizes) <= capacity.bit_length() + 1
    # No more than about half of the slots are stepped for nothing.
    assert size <= max(1, 2 * count)


@given(st.integers(1, 4 * GIB), st.integers(0, 4 * GIB), st.integers(0, 140 * GIB), st.integers(1, 64))
def test_what_fits_is_found_from_two_measurements(each: int, common: int, free: int, limit: int) -> None:
    count = fitting(common + each, common + 3 * each, free, limit)
    assert 1 <= count <= limit
    if count > 1:
        assert common + count * each <= free
    if count < limit:
        assert common + (count + 1) * each > free * capacity.SHARE_OF_MEMORY - 1


@pytest.mark.parametrize("fit", [0, 1, 3])
def test_a_gpu_that_holds_few_images_is_no_error(fit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(networks: Any, settings: Any, image: Any, count: int) -> int:
        if count > fit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return count * GIB

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(capacity, "_peak", peak)
    image: Any = SimpleNamespace(rows=torch.zeros(1))
    assert measured_capacity(None, None, image, free=10 * GIB) == (8 if fit == 3 else 1)  # type: ignore[arg-type]


def test_all_graphs_share_a_pool_and_the_launchers_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = SimpleNamespace(new_stream=lambda: "the launcher's stream")
    monkeypatch.setattr(cuda_graph, "launcher_for", lambda device: launcher)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
    make = stepper_for(torch.device("cuda"))
    steppers: list[Any] = [make(None, StepSettings(PRESETS["falco"])) for _ in range(2)]  # type: ignore[arg-type]
    assert [(each._pool, each._stream) for each in steppers] == [((0, 7), "the launcher's stream")] * 2


def test_the_cpu_steps_plainly() -> None:
    assert stepper_for(torch.device("cpu")) is PlainStepper


class Part:
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def part(self, start: int, count: int) -> Part:
        return Part(count)


class Replayed:
    def __init__(self) -> None:
        self.count = 0

    def replay(self) -> None:
        self.count += 1


def outcome(size: int) -> Outcome:
    return Outcome(*(torch.zeros(size) for _ in Outcome._fields))


def test_a_graph_is_captured_once_for_a_size_and_again_for_other_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    captured: list[tuple[int, Replayed]] = []

    def record(_: Any, part: Any) -> tuple[Replayed, Outcome]:
        captured.append((len(part), Replayed()))
        return captured[-1][1], outcome(len(part))

    monkeypatch.setattr(GraphStepper, "_capture", record)
    stepper, state = GraphStepper(None, StepSettings(PRESETS["falco"])), Part(8)  # type: ignore[arg-type]
    for count in (8, 8, 7, 5, 4, 3, 1, 8):
        assert len(stepper(state, count, False).cosine) == count  # type: ignore[arg-type]
    assert [size for size, _ in captured] == [8, 4, 1]
    assert [graph.count for _, graph in captured] == [5, 2, 1]
    stepper(Part(8), 8, False)  # type: ignore[arg-type]
    assert len(captured) == 4


def test_what_cannot_be_captured_is_stepped_plainly_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: list[int] = []
    tried: list[int] = []

    def refuse(_: Any, part: Any) -> Any:
        tried.append(len(part))
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(GraphStepper, "_capture", refuse)
    monkeypatch.setattr(PlainStepper, "__call__", lambda _, state, count, last: plain.append(count) or outcome(count))
    stepper = GraphStepper(None, StepSettings(PRESETS["falco"]))  # type: ignore[arg-type]
    for _ in range(3):
        stepper(Part(4), 3, False)  # type: ignore[arg-type]
    assert (tried, plain) == ([4], [3, 3, 3])
    assert stepper.refused == "operation not permitted when stream is capturing"


def test_memory_that_runs_out_while_capturing_is_told_to_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(GraphStepper, "_capture", exhaust)
    stepper = GraphStepper(None, StepSettings(PRESETS["falco"]))  # type: ignore[arg-type]
    with pytest.raises(torch.OutOfMemoryError):
        stepper(Part(4), 4, False)  # type: ignore[arg-type]
    assert stepper.refused is None


def test_the_last_images_are_stepped_by_a_wider_graph_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    graphs: dict[int, Replayed] = {}

    def record(_: Any, part: Any) -> tuple[Replayed, Outcome]:
        made.append(len(part))
        if len(part) < 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        graphs[len(part)] = Replayed()
        return graphs[len(part)], outcome(len(part))

    monkeypatch.setattr(GraphStepper, "_capture", record)
    stepper, state = GraphStepper(None, StepSettings(PRESETS["falco"])), Part(8)  # type: ignore[arg-type]
    for count in (8, 4, 3, 1):
        assert len(stepper(state, count, False).cosine) == count  # type: ignore[arg-type]
    assert made == [8, 4, 1], "a size that did not fit is not tried again"
    assert graphs[8].count == 4
    assert stepper.refused is None


class FakeCuda:
    """Streams, a graph and the allocator's account of captures, as PyTorch 2.11 has them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, end: str | None) -> None:
        self.stream, self.under_way = "before", list[Any]()
        fake = self

        class Capture:
            def __init__(self, graph: Any, pool: Any, stream: Any, capture_error_mode: str) -> None:
                self.pool, self.stream = pool, stream or "side"
                assert capture_error_mode == "thread_local"

            def __enter__(self) -> None:
                self.outer, fake.stream = fake.stream, self.stream
                fake.under_way.append(self.pool)

            def __exit__(self, *_: object) -> None:
                if end is not None:
                    raise RuntimeError(end)
                fake.under_way.remove(self.pool)
                fake.stream = self.outer

        def end_of_allocations(device: int, pool: Any) -> None:
            if pool not in fake.under_way:
                raise RuntimeError("not currently recording to mempool_id")
            fake.under_way.remove(pool)

        class Graph:
            def reset(self) -> None:
                pass

        monkeypatch.setattr(torch.cuda, "graph", Capture)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: fake.stream)
        monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(fake, "stream", stream))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end_of_allocations, raising=False)


@pytest.mark.parametrize("end", [None, "the capture was invalidated"])
def test_a_capture_that_fails_leaves_nothing_behind(end: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch, end)

    def work() -> str:
        assert cuda.stream == "side"
        raise ValueError("cannot be captured")

    with pytest.raises(ValueError if end is None else RuntimeError):
        capture(work, pool=(0, 1))
    assert (cuda.stream, cuda.under_way) == ("before", [])


def test_a_capture_gives_what_its_work_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch, None)
    assert capture(lambda: cuda.stream, pool=(0, 1), stream="own")[1] == "own"  # type: ignore[arg-type]
    assert (cuda.stream, cuda.under_way) == ("before", [])


class StepsWhenReplayed:
    """A graph as far as its users see: it always works on the same tensors, and its results stay where they were."""

    def __init__(self, stepper: Any, part: Any) -> None:
        self._make = lambda: step(stepper._networks, part, stepper._settings)
        scratch = part.clone()
        self.outcome = Outcome(*(value.clone() for value in step(stepper._networks, scratch, stepper._settings)))

    def replay(self) -> None:
        for ours, theirs in zip(self.outcome, self._make(), strict=True):
            ours.copy_(theirs)


@pytest.mark.parametrize("capacity", [1, 3, 4])
def test_slots_that_nobody_has_change_nothing_for_the_others(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capacity: int
) -> None:
    def record(stepper: Any, part: Any) -> Any:
        graph = StepsWhenReplayed(stepper, part)
        return graph, graph.outcome

    monkeypatch.setattr(GraphStepper, "_capture", record)
    networks = Opened(write_tiny_bundle(tmp_path / "tiny")).three
    rule = StoppingRule(tolerance=0.25, improvement=0.01, patience=2)
    settings = StepSettings(replace(PRESETS["falco"], steps=9, stopping=rule), margin=0.3)
    random = torch.Generator().manual_seed(4)
    w_plus, real = torch.randn(5, 8, 16, generator=random), torch.rand(5, 3, 32, 32, generator=random) * 2 - 1
    state = begin(networks.generator, w_plus, real_targets(*networks[1:], real, settings.preset), settings)

    def run(slots: int, make: Any) -> dict[int, Finished]:
        tickets = [Ticket(number, state.part(number, 1)) for number in range(5)]
        groups = optimise_continuously(networks, make_lanes(networks, settings, slots, make), tickets)
        return {result.key: result for group in groups for result in group}

    alone, together = run(1, PlainStepper), run(capacity, GraphStepper)
    assert {number: result.steps for number, result in alone.items()} == {
        number: result.steps for number, result in together.items()
    }
    for number, result in together.items():
        torch.testing.assert_close(result.w_plus, alone[number].w_plus, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(result.image, alone[number].image, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(result.first_attribute, alone[number].first_attribute, rtol=1e-4, atol=1e-4)
