"""The step of the optimisation as one CUDA graph: generator, both losses, backward pass and Adam, launched at once.

A step of small networks is thousands of kernels of microseconds each, more than Python can launch in their time; as a
graph they are one launch. A graph is bound to its tensors, which the slots of a lane are: images enter and leave by
copies into them. There is one graph for every number of slots that is needed: all of them, and halves, quarters, ...,
when the last images of a job leave the others empty. What runs on the CPU, or cannot be captured, is stepped plainly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch

from faceanon_engine.engine.method.continuous import PlainStepper, Stepper
from faceanon_engine.engine.method.step import Outcome, State, StepSettings, step
from faceanon_engine.engine.networks.launcher import launcher_for
from faceanon_engine.engine.networks.precision import Networks

logger = logging.getLogger(__name__)
T = TypeVar("T")

WARM_UP_STEPS = 3
"""PyTorch asks for a few runs before a capture: libraries choose algorithms and allocate workspaces in them."""


def stepper_for(device: torch.device) -> Callable[[Networks, StepSettings], Stepper]:
    """What makes the steppers of a stream on that device."""
    if device.type != "cuda":
        return PlainStepper
    launcher = launcher_for(device)
    # One of each for all graphs, of which no two ever run at the same time: blocks of a pool belong to a stream. The
    # launcher's own is one that PyCUDA can launch on, where it is used.
    pool = torch.cuda.graph_pool_handle()
    stream = None if launcher is None else launcher.new_stream()
    return lambda networks, settings: GraphStepper(networks, settings, pool, stream)


class GraphStepper:
    """Steps by replaying graphs that are captured when a number of slots is first needed."""

    def __init__(
        self,
        networks: Networks,
        settings: StepSettings,
        pool: tuple[int, int] | None = None,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        """Graphs take their memory from `pool` and are captured on `stream`; None makes new ones."""
        self._networks = networks
        self._settings = settings
        self._pool = pool
        self._stream = stream
        self._plain = PlainStepper(networks, settings)
        self._state: State | None = None
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, Outcome]] = {}
        self.refused: str | None = None
        """Why steps are not captured; None as long as they are."""

    def __call__(self, state: State, count: int, last: bool) -> Outcome:
        if self.refused is not None:
            return self._plain(state, count, last)
        if self._state is not state:
            if self._captured:
                self._captured.clear()
                self._pool = None  # an allocator takes no pool again whose last graph is gone
            self._state = state
        size = slots_for(count, len(state))
        if size not in self._captured:
            try:
                self._captured[size] = self._capture(state.part(0, size))
            except torch.OutOfMemoryError:
                wider = [made for made in self._captured if made > size]
                if not wider:
                    raise
                # The warm-up takes memory beside the graphs that are there: one of those serves, too.
                self._captured[size] = self._captured[min(wider)]
            except RuntimeError as error:
                self.refused = " ".join(str(error).split())[:300]
                logger.warning("a step cannot be captured as a CUDA graph (%s): going on without", self.refused)
                return self._plain(state, count, last)
        graph, outcome = self._captured[size]
        graph.replay()
        return Outcome(*(value[:count] for value in outcome))

    def _capture(self, part: State) -> tuple[torch.cuda.CUDAGraph, Outcome]:
        device = part.rows.device
        with torch.cuda.device(device), choosing_algorithms():
            if self._stream is None:
                self._stream = torch.cuda.Stream(device)
            side = self._stream
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                scratch = part.clone()  # the images themselves must not be stepped by a warm-up
                for _ in range(WARM_UP_STEPS):
                    step(self._networks, scratch, self._settings)
            torch.cuda.current_stream(device).wait_stream(side)
            del scratch
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            return capture(lambda: step(self._networks, part, self._settings), pool=self._pool, stream=side)


def capture(
    work: Callable[[], T], *, pool: tuple[int, int] | None = None, stream: torch.cuda.Stream | None = None
) -> tuple[torch.cuda.CUDAGraph, T]:
    """Record `work` as a graph on the current device; returns it with what `work` gave, which replays fill again.

    Raises what `work` or the driver raise. PyTorch then leaves the capture's stream current, and up to 2.11 its
    allocator believes the capture to be under way, so that every later `empty_cache` fails: both are put right.
    """
    given: Any = torch.cuda.graph_pool_handle() if pool is None else pool
    before = torch.cuda.current_stream()
    graph = torch.cuda.CUDAGraph()
    try:
        # Threads that decode and encode may call CUDA meanwhile: only this one's calls can spoil the capture.
        with torch.cuda.graph(graph, pool=given, stream=stream, capture_error_mode="thread_local"):
            outputs = work()
    except BaseException:
        torch.cuda.set_stream(before)
        graph.reset()
        with suppress(RuntimeError, AttributeError):  # where it was ended after all
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), given)
        raise
    return graph, outputs


def slots_for(count: int, capacity: int) -> int:
    """Slots that are stepped for so many images: the capacity, halved as often as it still holds them."""
    size = capacity
    while (size + 1) // 2 >= count and size > 1:
        size = (size + 1) // 2
    return size


@contextmanager
def choosing_algorithms() -> Iterator[None]:
    """Let cuDNN try its algorithms: shapes stay what they are for the whole job."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
