"""The optimisation step: how long it takes and how much of that is forward, backward and update."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from faceanon_engine.engine.bench.entries import left_out, timing
from faceanon_engine.engine.bench.inputs import make_inputs
from faceanon_engine.engine.bench.plan import Plan, Say, Turns
from faceanon_engine.engine.measure import Budget, Samples
from faceanon_engine.engine.preset import Preset

if TYPE_CHECKING:
    from faceanon_engine.engine.bundle import Bundle


class StepMarks:
    """Notes when the forward pass of an optimisation step begins and ends, by watching the networks it calls.

    The optimisation itself is not changed for being measured: the networks are handed to it in wrappers that take the
    time when a call returns. `moment` gives a mark of any kind; `steps` holds, for each step, its marks by name.
    """

    def __init__(self, moment: Callable[[], Any]) -> None:
        self._moment = moment
        self._current: dict[str, Any] = {}
        self.steps: list[dict[str, Any]] = []

    def begin(self) -> None:
        """The next step begins now."""
        self._current = {"begin": self._moment()}

    def forward_ends(self) -> None:
        # Called by each encoder; the last call stays.
        self._current["forward"] = self._moment()

    def backward_ends(self, *_: Any) -> None:
        self._current["backward"] = self._moment()

    def end(self, _step: int) -> None:
        """The step is over; the next one begins."""
        self._current["end"] = self._moment()
        self.steps.append(self._current)
        self._current = {"begin": self._current["end"]}


class _Watched:
    """A network that reports when a call of one of its methods, or of itself, has returned."""

    def __init__(self, network: Any, report: Callable[[], None], methods: tuple[str, ...]) -> None:
        self._network, self._report, self._methods = network, report, methods

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._network, name)
        return self._reporting(value) if name in self._methods else value

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._reporting(self._network)(*arguments, **named)

    def _reporting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def reported(*arguments: Any, **named: Any) -> Any:
            result = call(*arguments, **named)
            self._report()
            return result

        return reported


class StepRun:
    """The optimisation at one batch size, ready to be timed a few steps at a time."""

    def __init__(
        self, bundle: Bundle, preset: Preset, batch: int, device: str, seed: int, networks: Any = None
    ) -> None:
        import torch

        from faceanon_engine.engine.optimise import real_targets

        self._preset = preset
        self._device = torch.device(device)
        self._generator, self._identity, self._attributes = networks or step_networks(bundle, device)
        images = torch.from_numpy(make_inputs(bundle, "identity", batch, seed)).to(self._device)
        z = torch.from_numpy(make_inputs(bundle, "mapping", batch, seed)).to(self._device)
        with torch.no_grad():
            self._w_plus = self._generator.broadcast(self._generator.mapping(z))
        self._targets = real_targets(self._identity, self._attributes, images, preset)

    def run(self, steps: int) -> list[dict[str, float]]:
        """Parts of each of that many steps, in nanoseconds: total, and forward, backward, update where told apart."""
        import torch
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        from faceanon_engine.engine.optimise import optimise

        on_gpu = self._device.type == "cuda"

        def moment() -> Any:
            if not on_gpu:
                return time.perf_counter_ns()
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event

        marks = StepMarks(moment)
        hook = register_optimizer_step_pre_hook(marks.backward_ends)
        try:
            marks.begin()
            optimise(
                self._generator,
                cast(Any, _Watched(self._identity, marks.forward_ends, ())),
                cast(Any, _Watched(self._attributes, marks.forward_ends, ("encode",))),
                self._w_plus,
                self._targets,
                self._preset,
                steps=steps,
                on_step=marks.end,
            )
        finally:
            hook.remove()
        if on_gpu:
            torch.cuda.synchronize(self._device)
        return [step_parts(step) for step in marks.steps]


def step_parts(marks: Mapping[str, Any]) -> dict[str, float]:
    """Durations in nanoseconds between a step's marks: numbers of nanoseconds, or CUDA events."""

    def between(first: Any, second: Any) -> float:
        return float(second - first) if isinstance(first, int) else first.elapsed_time(second) * 1e6

    parts = {"total": between(marks["begin"], marks["end"])}
    if "forward" in marks and "backward" in marks:
        parts["forward"] = between(marks["begin"], marks["forward"])
        parts["backward"] = between(marks["forward"], marks["backward"])
        parts["update"] = between(marks["backward"], marks["end"])
    return parts


def step_networks(bundle: Bundle, device: str) -> tuple[Any, Any, Any]:
    """Generator, identity encoder and attribute encoder of the bundle, on the device."""
    return bundle.generator(device), bundle.identity_encoder(device), bundle.attribute_encoder(device)


def take_steps(
    runs: Mapping[int, Callable[[int], list[dict[str, float]]]],
    budget: Budget,
    *,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[int, Samples]:
    """Samples of steps for each batch size, in rounds whose order alternates.

    Each value of `runs` makes so many steps and returns their parts. The first step of every call is warm-up and is
    left out; how many follow is chosen from its duration, so that the round's share of the budget is filled.
    """
    found = {batch: Samples() for batch in runs}
    for number in range(budget.rounds):
        batches = list(runs)
        for batch in batches if number % 2 == 0 else batches[::-1]:
            if number == 0:
                _repeat_for(runs[batch], budget.warmup_seconds)
            first = runs[batch](2)[-1]["total"] / 1e9
            wanted = max(budget.min_iterations / budget.rounds, budget.min_seconds / budget.rounds / first)
            possible = max(1.0, budget.max_seconds / budget.rounds / first)
            count = max(1, round(min(wanted, possible)))
            found[batch].rounds.append(list(runs[batch](count + 1)[1:]))
            found[batch].exhausted |= possible < budget.min_iterations / budget.rounds
            if on_round is not None:
                on_round(batch, number)
    return found


def _repeat_for(run: Callable[[int], list[dict[str, float]]], seconds: float) -> None:
    spent = 0.0
    while spent < seconds * 1e9:
        spent += sum(step["total"] for step in run(2))


def measure_steps(bundle: Bundle, plan: Plan, missing: list[dict[str, Any]], tell: Say) -> list[dict[str, Any]]:
    """Entries of the result for the optimisation, by rising batch size; what does not fit is added to `missing`."""
    networks = step_networks(bundle, plan.device)
    runs: dict[int, Callable[[int], list[dict[str, float]]]] = {}
    for batch in plan.step_batches:
        try:
            run = StepRun(bundle, plan.preset, batch, plan.device, plan.seed, networks)
            run.run(1)
        except (MemoryError, RuntimeError) as error:
            missing.append(left_out(error, kind="optimise", batch=batch))
            break
        runs[batch] = run.run
    progress = Turns(tell, "optimise", len(runs) * plan.budget.rounds)
    found = []
    for batch, samples in take_steps(runs, plan.budget, on_round=progress).items():
        fields = timing(samples, "step_ms", ("forward", "backward", "update"))
        found.append(
            {
                "batch": batch,
                "preset": plan.preset.name,
                "steps_of_an_image": plan.preset.steps,
                "step_ms_per_image": round(fields["step_ms"]["p50"] / batch, 6),
                "images_per_second_of_steps": round(
                    1000 * batch / (fields["step_ms"]["mean"] * max(plan.preset.steps, 1)), 4
                ),
                **fields,
                "memory": None,
            }
        )
    return found
