"""How many images fit at once, for the stages before the optimisation and for the optimisation itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faceanon_engine.engine.system.devices import gpu_of
from faceanon_engine.engine.system.memory import free_memory, would_not_fit

if TYPE_CHECKING:
    from faceanon_engine.engine.method.step import State, StepSettings
    from faceanon_engine.engine.networks.precision import Networks
    from faceanon_engine.engine.networks.stylegan2 import GeneratorConfig


MOST_SLOTS = 32
"""More images at once fill no GPU better, and results would come late."""
MOST_ON_CPU = 8
"""More images at once are not done sooner on a CPU: small networks gain until about here, large ones from none."""
SECONDS_TOGETHER = 30
"""Images that share the steps are done at the same time: a job that is killed loses at most about so much work."""
_OPERATIONS_A_SECOND = 50e9
"""Floating point operations on a slow CPU; two cores that do nothing else make three times as many at 1024 px."""
SHARE_OF_MEMORY = 0.85
"""What is left is for the stages before the optimisation, and for what the allocator loses between blocks."""


def reduced_to_fit(count: int, each: float) -> int:
    """So many images, halved until the memory that is free is expected to hold them at `each` bytes; at least 1."""
    while count > 1 and would_not_fit(each * count):
        count //= 2
    return count


def images_that_fit(device: str, limit: int = 32) -> int:
    """How many images the stages before the optimisation take at once on "cpu" or "cuda:N"; at most `limit`.

    At most a quarter of the memory that is free: an image takes the encoders up to about 128 MiB at its peak, 64
    channels of 256 px, a few times.
    """
    # Half of a GPU's memory counts as free: asking would need Torch.
    free = free_memory() if device == "cpu" else gpu_of(device).total // 2
    return max(1, min(limit, free // 4 // (128 * 2**20)))


def steps_that_fit(config: GeneratorConfig, device: str, limit: int = 64) -> int:
    """How many images can be optimised together, by an estimate: at most half of the free memory, at most `limit`."""
    return int(max(1, min(limit, free_memory(device) * 0.5 // bytes_of_a_step(config))))


def steps_in_time(operations: int, steps: int) -> int:
    """How many images a CPU steps together, 1 to `MOST_ON_CPU`, so that results come every `SECONDS_TOGETHER`.

    By the floating point operations of one image's step, and so by the networks alone: a clock would say something else
    every time, and with it rounding would fall differently.
    """
    all_steps = max(1, operations) * max(1, steps)
    return max(1, min(MOST_ON_CPU, int(SECONDS_TOGETHER * _OPERATIONS_A_SECOND) // all_steps))


def operations_of_a_step(networks: Networks, settings: StepSettings, image: State) -> int:
    """Floating point operations of one step of the image, which is stepped."""
    from torch.utils.flop_counter import FlopCounterMode

    from faceanon_engine.engine.method.step import step

    with FlopCounterMode(display=False) as counter:
        step(networks, image, settings)
    return counter.get_total_flops()


def bytes_of_a_step(config: GeneratorConfig) -> int:
    """Estimate of what one image's optimisation step holds at its peak, in bytes.

    About six activations of every resolution, for the backward pass and while it runs, and a fixed share for the
    encoders. At 1024 px that is 1.6 GB; measured on a CPU: 1.4 GB more for every further image
    (benchmarks/results/optimise_step-cpu.json).
    """
    side, total = 4, 0
    while side <= config.resolution:
        total += 6 * config.channels(side) * side * side * 4
        side *= 2
    return total + 64 * 2**20


def measured_capacity(
    networks: Networks, settings: StepSettings, image: State, *, free: int | None = None, limit: int = MOST_SLOTS
) -> int:
    """How many images can be stepped together on the GPU of `image`, by the memory that steps of one and of three take.

    `free` is what may be taken, in bytes; None asks the device. Where three do not fit it is one.
    """
    import torch

    device = image.rows.device
    torch.cuda.empty_cache()
    available = torch.cuda.mem_get_info(device)[0] if free is None else free
    try:
        one, three = (_peak(networks, settings, image, count) for count in (1, 3))
    except torch.OutOfMemoryError:
        return 1
    return fitting(one, three, available, limit)


def fitting(one: int, three: int, free: int, limit: int) -> int:
    """Images that fit into `free` bytes when one takes so many and three so many; at least 1, at most `limit`."""
    each = max(1, (three - one) // 2)
    common = max(0, one - each)
    return max(1, min(limit, int(free * SHARE_OF_MEMORY - common) // each))


def _peak(networks: Networks, settings: StepSettings, image: State, count: int) -> int:
    """Bytes that a step of so many images takes at its peak, over what is taken before."""
    import torch

    from faceanon_engine.engine.method.cuda_graph import choosing_algorithms
    from faceanon_engine.engine.method.step import step

    device = image.rows.device
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    state = image.blank(count)
    for slot in range(count):
        state.place(slot, image)
    with choosing_algorithms():
        for _ in range(2):
            step(networks, state, settings)
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    del state
    torch.cuda.empty_cache()
    return peak
