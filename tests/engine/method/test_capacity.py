"""How many images fit at once, by what one takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceanon_engine.engine.method import capacity
from faceanon_engine.engine.method.capacity import (
    bytes_of_a_step,
    images_that_fit,
    reduced_to_fit,
    steps_in_time,
    steps_that_fit,
)
from faceanon_engine.engine.networks.stylegan2 import GeneratorConfig
from faceanon_engine.engine.system import devices, memory
from faceanon_engine.engine.system.cuda_driver import Gpu

MIB = 2**20
CONFIG = GeneratorConfig(resolution=256)


@given(st.integers(1, 4096), st.integers(0, 2**33), st.integers(0, 2**36))
def test_images_are_halved_until_they_fit(count: int, each: int, free: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "free_memory", lambda: free)
        fit = reduced_to_fit(count, each)
    allowed = free * memory.MEMORY_SHARE
    assert 1 <= fit <= count
    assert fit == 1 or fit * each <= allowed
    halvings = [count >> power for power in range(count.bit_length())]
    assert fit in halvings
    assert all(larger * each > allowed for larger in halvings if larger > fit), "no larger one of them fits"


@pytest.mark.parametrize(
    ("free", "count"), [(0, 1), (128 * MIB, 1), (4 * 3 * 128 * MIB - 1, 2), (4 * 3 * 128 * MIB, 3), (2**40, 32)]
)
def test_the_stages_take_a_quarter_of_the_free_memory(free: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "free_memory", lambda: free)
    assert images_that_fit("cpu") == count
    assert images_that_fit("cpu", limit=2) == min(count, 2)


def test_of_a_gpu_half_the_memory_counts_as_free_and_it_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = tuple(Gpu(index, "a GPU", (9, 0), total) for index, total in enumerate((8 * 5 * 128 * MIB, 2**40)))
    monkeypatch.setattr(devices, "gpus", lambda: gpus)
    monkeypatch.setattr(capacity, "free_memory", lambda *_: pytest.fail("asking a GPU loads Torch"))
    assert [images_that_fit(device) for device in ("cuda:0", "cuda:1")] == [5, 32]


@pytest.mark.parametrize(
    ("operations", "steps", "count"),
    [
        (393 * 10**9, 50, 1),  # the official networks at 1024 px: 135 s an image on two cores
        (10**10, 50, 3),
        (10**10, 10, 8),
        (13 * 10**8, 50, 8),  # the demo's
        (0, 0, 8),
        (10**15, 1, 1),
    ],
)
def test_a_cpu_steps_so_few_together_that_results_come_every_half_minute(
    operations: int, steps: int, count: int
) -> None:
    assert steps_in_time(operations, steps) == count


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
@pytest.mark.parametrize(("steps", "count"), [(0, 1), (1.9, 1), (7, 7), (7.9, 7), (1000, 64)])
def test_steps_take_half_of_the_free_memory_of_their_device(
    steps: float, count: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def free(of: str) -> int:
        asked.append(of)
        return int(2 * steps * bytes_of_a_step(CONFIG))

    monkeypatch.setattr(capacity, "free_memory", free)
    assert steps_that_fit(CONFIG, device) == count
    assert steps_that_fit(CONFIG, device, limit=3) == min(count, 3)
    assert set(asked) == {device}


def test_a_step_takes_what_was_measured_at_full_resolution_and_less_below() -> None:
    sizes = [bytes_of_a_step(GeneratorConfig(resolution=side)) for side in (64, 256, 1024)]
    assert sizes == sorted(set(sizes))
    assert 1.4e9 < sizes[-1] < 1.8e9
