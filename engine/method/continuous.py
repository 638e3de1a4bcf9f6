"""Continuous batching: images share the steps of the optimisation, and each leaves when it is done.

A `Lane` is a number of slots that are stepped together. An image that reaches its last step, or the preset's stopping
rule, leaves its slot to the next one, which begins with Adam state, step count and learning rate of its own: what
becomes of an image does not depend on its company, but for the order in which sums are rounded.

With a proxy resolution there are two lanes, one behind the other: most steps are made where the losses see a smaller
picture of the generator, the last ones where they see the whole.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from faceanon_engine.engine.method.step import Outcome, State, StepSettings, look, step, with_view
from faceanon_engine.engine.networks.precision import Networks


@dataclass
class Ticket:
    """One image on its way: `state` has one entry, `steps` were made so far, in `seconds` of wall time."""

    key: int
    state: State
    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Finished:
    """An image that has left: code [rows, w_dim], picture [3, R, R], and the losses that belong to them."""

    key: int
    w_plus: Tensor
    image: Tensor
    cosine: Tensor
    attribute: Tensor
    first_cosine: Tensor
    first_attribute: Tensor
    identity: Tensor
    tokens: Tensor
    """Of the original, as in `State`."""
    steps: int
    seconds: float


class Stepper(Protocol):
    """Makes steps of the first `count` images of a state; `last` says that nobody needs the update any more."""

    def __call__(self, state: State, count: int, last: bool) -> Outcome: ...


class PlainStepper:
    """Steps by `step.step`, on any device."""

    def __init__(self, networks: Networks, settings: StepSettings) -> None:
        self._networks = networks
        self._settings = settings

    def __call__(self, state: State, count: int, last: bool) -> Outcome:
        part = state.part(0, count)
        return (look if last else step)(self._networks, part, self._settings)


class Lane:
    """Slots of one shape and kind of step. The images under way always fill the first ones."""

    def __init__(self, capacity: int, settings: StepSettings, stepper: Stepper, limit: int, *, final: bool) -> None:
        """limit: steps an image makes here at most; final: it leaves with a picture rather than for another lane."""
        self.capacity = capacity
        self.settings = settings
        self._stepper = stepper
        self._limit = limit
        self._final = final
        self._state: State | None = None
        self._running: list[Ticket] = []
        self._entered: list[int] = []
        """Steps that each running image had made when it came."""

    def __len__(self) -> int:
        return len(self._running)

    @property
    def free(self) -> int:
        """Slots that nobody has."""
        return self.capacity - len(self._running)

    @property
    def furthest(self) -> int:
        """Steps of the image that has made most."""
        return max((ticket.steps for ticket in self._running), default=0)

    def enter(self, ticket: Ticket) -> None:
        """Give an image a slot."""
        if self._state is None:
            self._state = ticket.state.blank(self.capacity)
        self._state.place(len(self._running), ticket.state)
        self._running.append(ticket)
        self._entered.append(ticket.steps)

    def step(self) -> tuple[list[Finished], list[Ticket]]:
        """Make one step; return the images that are finished and those that go on to another lane."""
        assert self._state is not None
        started, count = time.monotonic(), len(self._running)
        made = [ticket.steps - entered for ticket, entered in zip(self._running, self._entered, strict=True)]
        last = self._final and all(steps >= self._limit for steps in made)
        outcome = self._stepper(self._state, count, last)
        # Only a rule is looked at on the host; without one nothing waits for the device here.
        stop = outcome.stop.tolist() if self.settings.preset.stopping is not None else [False] * count
        if self._final:
            leaving = [slot for slot in range(count) if stop[slot] or made[slot] >= self._limit]
        else:
            leaving = [slot for slot in range(count) if stop[slot] or made[slot] + 1 >= self._limit]
        finished = self._finish(leaving, outcome) if self._final else []
        share = (time.monotonic() - started) / count
        for ticket in self._running:
            ticket.seconds += share
        finished = [
            replace(result, seconds=self._running[slot].seconds)
            for slot, result in zip(leaving, finished, strict=False)
        ]
        for slot, ticket in enumerate(self._running):
            ticket.steps += not (self._final and slot in leaving)
        moved = [] if self._final else [self._take(slot) for slot in leaving]
        for slot in reversed(leaving):
            self._close(slot)
        return finished, moved

    def _finish(self, leaving: Sequence[int], outcome: Outcome) -> list[Finished]:
        if not leaving:
            return []
        assert self._state is not None
        slots = torch.tensor(leaving, device=self._state.rows.device)
        codes = self._state.code(self.settings.preset.trainable_rows[0])[slots]
        images, cosine, attribute = (value[slots] for value in outcome[:3])
        names = ("first_cosine", "first_attribute", "identity", "tokens")
        first_cosine, first_attribute, identity, tokens = (getattr(self._state, name)[slots] for name in names)
        if slots.is_cuda:
            # Steps were only queued until now: what they took belongs to the images that took them.
            torch.cuda.current_stream(slots.device).synchronize()
        return [
            Finished(
                key=self._running[slot].key,
                w_plus=codes[number],
                image=images[number],
                cosine=cosine[number],
                attribute=attribute[number],
                first_cosine=first_cosine[number],
                first_attribute=first_attribute[number],
                identity=identity[number],
                tokens=tokens[number],
                steps=self._running[slot].steps,
                seconds=0.0,
            )
            for number, slot in enumerate(leaving)
        ]

    def _take(self, slot: int) -> Ticket:
        assert self._state is not None
        return replace(self._running[slot], state=self._state.part(slot, 1).clone())

    def _close(self, slot: int) -> None:
        """The last image takes the slot of one that has left."""
        assert self._state is not None
        final = len(self._running) - 1
        if slot != final:
            self._state.place(slot, self._state.part(final, 1))
            self._running[slot], self._entered[slot] = self._running[final], self._entered[final]
        self._running.pop()
        self._entered.pop()


def make_lanes(
    networks: Networks, settings: StepSettings, capacity: int, make_stepper: Callable[..., Stepper] = PlainStepper
) -> list[Lane]:
    """One lane, or the proxy's and the full one behind it, as the preset says."""
    preset = settings.preset
    full = replace(settings, resolution=None)
    if preset.proxy_resolution is None or preset.steps <= preset.proxy_finish:
        return [Lane(capacity, full, make_stepper(networks, full), preset.steps, final=True)]
    small = replace(settings, resolution=preset.proxy_resolution)
    return [
        Lane(capacity, small, make_stepper(networks, small), preset.steps - preset.proxy_finish, final=False),
        Lane(capacity, full, make_stepper(networks, full), preset.proxy_finish, final=True),
    ]


def optimise_continuously(
    networks: Networks,
    lanes: Sequence[Lane],
    arrivals: Iterable[Ticket],
    on_step: Callable[[int, int], None] | None = None,
) -> Iterator[list[Finished]]:
    """Run images through the lanes; yields those that finish at the same step, as soon as they do.

    `arrivals` is asked for the next image whenever a slot of the first lane is free; its states are those of
    `step.begin`. `on_step(images under way together, steps of the furthest)`.
    """
    source = iter(arrivals)
    backlog: list[deque[Ticket]] = [deque() for _ in lanes]
    open_source = True
    while True:
        first = lanes[0]
        # A lane further on that is behind is served before more comes its way.
        while open_source and first.free and len(backlog[-1]) < lanes[-1].capacity:
            ticket = next(source, None)
            if ticket is None:
                open_source = False
            else:
                first.enter(replace(ticket, state=with_view(networks, ticket.state, first.settings)))
        for lane, waiting in zip(lanes, backlog, strict=True):
            while waiting and lane.free:
                ticket = waiting.popleft()
                lane.enter(replace(ticket, state=with_view(networks, ticket.state, lane.settings)))
        busy = [lane for lane in lanes if len(lane)]
        if not busy:
            return
        # The last lane that is full; when none is, the first: its images fill the next.
        lane = next((lane for lane in reversed(busy) if not lane.free), busy[0])
        finished, moved = lane.step()
        if moved:
            backlog[lanes.index(lane) + 1].extend(moved)
        if on_step is not None:
            on_step(
                len(lane) + len(finished) + len(moved), lane.furthest or max((f.steps for f in finished), default=0)
            )
        if finished:
            yield finished
