"""The optimisation step: how long it takes as it really runs, and how much of that is forward and backward."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from faceanon_engine.engine.bench.entries import left_out, timing
from faceanon_engine.engine.bench.inputs import make_inputs
from faceanon_engine.engine.bench.measure import Budget, Samples, resident_peak
from faceanon_engine.engine.bench.plan import Plan, Turns
from faceanon_engine.engine.choices import Precision
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.method.preset import Preset
from faceanon_engine.engine.models.opened import OpenedNetworks
from faceanon_engine.engine.system.memory import would_not_fit
from faceanon_engine.engine.system.progress import Progress

if TYPE_CHECKING:
    from faceanon_engine.engine.method.step import State
    from faceanon_engine.engine.models.bundle import Bundle
    from faceanon_engine.engine.networks.precision import Networks

Key = TypeVar("Key", bound=Hashable)
Parts = dict[str, float]
"""Durations of one step in nanoseconds: total, and forward and backward where they are told apart."""


class StepMarks:
    """The moments of each step, where the forward pass ends among them; `moment` gives a mark of any kind.

    The step itself is not changed for being measured: its encoders are handed to it in wrappers that take the time
    when a call returns, and the forward pass ends with the last of them.
    """

    def __init__(self, moment: Callable[[], Any]) -> None:
        self._moment = moment
        self._current: dict[str, Any] = {}
        self.steps: list[dict[str, Any]] = []

    def begin(self) -> None:
        """The first step begins now."""
        self._current = {"begin": self._moment()}

    def forward_ends(self) -> None:
        """An encoder has returned; the last call in a step stays."""
        self._current["forward"] = self._moment()

    def end(self) -> None:
        """The step is over; the next one begins."""
        self._current["end"] = self._moment()
        self.steps.append(self._current)
        self._current = {"begin": self._current["end"]}


class Watched:
    """A network that reports when a call of itself, or of one of its methods, has returned."""

    def __init__(self, network: Any, report: Callable[[], None], methods: tuple[str, ...] = ()) -> None:
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
    """The optimisation of a batch, ready to be timed a few steps at a time."""

    def __init__(
        self,
        bundle: Bundle,
        preset: Preset,
        batch: int,
        device: str,
        seed: int,
        *,
        precision: Precision = "fp32",
        networks: Networks | None = None,
    ) -> None:
        """`networks` are the bundle's on the device, where they are loaded already."""
        import torch

        from faceanon_engine.engine.method.compare import real_targets
        from faceanon_engine.engine.method.cuda_graph import stepper_for
        from faceanon_engine.engine.method.step import StepSettings, begin
        from faceanon_engine.engine.networks.precision import checked_precision, lowered

        self.batch = batch
        self._device = torch.device(device)
        full = networks or OpenedNetworks(bundle, device).for_steps
        self.settings = StepSettings(preset, precision=checked_precision(precision, self._device))
        self.networks = lowered(full, self.settings.precision)
        images = torch.from_numpy(make_inputs(bundle, "identity", batch, seed)).to(self._device)
        z = torch.from_numpy(make_inputs(bundle, "mapping", batch, seed)).to(self._device)
        with torch.no_grad():
            w_plus = full.generator.broadcast(full.generator.mapping(z))
        targets = real_targets(full.identity_encoder, full.attribute_encoder, images, preset)
        self.first: State = begin(full.generator, w_plus, targets, self.settings)
        # A CUDA graph is bound to its tensors: the same state is used again for every run.
        self.state: State = self.first.clone()
        self._stepper = stepper_for(self._device)(self.networks, self.settings) if self._on_gpu else None

    @property
    def _on_gpu(self) -> bool:
        return self._device.type == "cuda"

    @property
    def captured(self) -> bool:
        """Whether steps are launched as a CUDA graph."""
        return self._stepper is not None and getattr(self._stepper, "refused", None) is None

    def run(self, steps: int) -> list[Parts]:
        """Make so many steps from the first code on, and say how long each and its parts took.

        On a GPU steps are launched as they are for work, as CUDA graphs that cannot be looked into: the parts are those
        of as many plain steps, whose whole is called `plain`.
        """
        if self._stepper is None:
            return [step_parts(step) for step in self._plain(steps)]
        marks = StepMarks(self._moment)
        self._restore()
        marks.begin()
        for _ in range(steps):
            self._stepper(self.state, self.batch, False)
            marks.end()
        plain = self._plain(steps)
        durations = []
        for whole, step in zip(marks.steps, plain, strict=True):
            parts = step_parts(step)
            durations.append({**parts, "plain": parts["total"], "total": step_parts(whole)["total"]})
        return durations

    def _plain(self, steps: int) -> list[dict[str, Any]]:
        from faceanon_engine.engine.method.continuous import PlainStepper

        marks = StepMarks(self._moment)
        watched = self.networks._replace(
            identity_encoder=cast(Any, Watched(self.networks.identity_encoder, marks.forward_ends)),
            attribute_encoder=cast(Any, Watched(self.networks.attribute_encoder, marks.forward_ends, ("encode",))),
        )
        stepper = PlainStepper(watched, self.settings)
        self._restore()
        marks.begin()
        for _ in range(steps):
            stepper(self.state, self.batch, False)
            marks.end()
        if self._on_gpu:
            import torch

            torch.cuda.synchronize(self._device)
        return marks.steps

    def _restore(self) -> None:
        for slot in range(self.batch):
            self.state.place(slot, self.first.part(slot, 1))

    def _moment(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter_ns()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def step_parts(marks: Mapping[str, Any]) -> Parts:
    """Durations in nanoseconds between a step's marks, which are numbers of nanoseconds or CUDA events."""

    def between(first: Any, second: Any) -> float:
        return float(second - first) if isinstance(first, int) else first.elapsed_time(second) * 1e6

    parts = {"total": between(marks["begin"], marks["end"])}
    if "forward" in marks:
        parts["forward"] = between(marks["begin"], marks["forward"])
        parts["backward"] = between(marks["forward"], marks["end"])
    return parts


def take_steps(
    runs: Mapping[Key, Callable[[int], list[Parts]]],
    budget: Budget,
    *,
    on_round: Callable[[Key, int], None] | None = None,
) -> dict[Key, Samples]:
    """Samples of steps for each key, in rounds whose order alternates.

    Each value of `runs` makes so many steps and returns their parts. The first step of every call is warm-up and is
    left out; how many follow is chosen from its duration, so that the round's share of the budget is filled.
    """
    samples = {key: Samples() for key in runs}
    for number in range(budget.rounds):
        keys = list(runs)
        for key in keys if number % 2 == 0 else keys[::-1]:
            if number == 0:
                _repeat_for(runs[key], budget.warmup_seconds)
            first = runs[key](2)[-1]["total"] / 1e9
            wanted = max(budget.min_iterations / budget.rounds, budget.min_seconds / budget.rounds / first)
            possible = max(1.0, budget.max_seconds / budget.rounds / first)
            count = max(1, round(min(wanted, possible)))
            samples[key].rounds.append(list(runs[key](count + 1)[1:]))
            samples[key].exhausted |= possible < budget.min_iterations / budget.rounds
            if on_round is not None:
                on_round(key, number)
    return samples


def _repeat_for(run: Callable[[int], list[Parts]], seconds: float) -> None:
    spent = 0.0
    while spent < seconds * 1e9:
        spent += sum(step["total"] for step in run(2))


def measure_steps(
    bundle: Bundle, plan: Plan, missing: list[dict[str, Any]], progress: Progress
) -> list[dict[str, Any]]:
    """Entries of the result for the optimisation, by rising batch size; what does not fit is added to `missing`."""
    networks = OpenedNetworks(bundle, plan.device).for_steps
    runs: dict[tuple[int, Precision], StepRun] = {}
    for precision in plan.precisions:
        needed = 0.0
        for batch in plan.step_batches:
            try:
                reason = would_not_fit(needed * batch)
                if reason is not None:
                    raise MemoryError(reason)
                with resident_peak() as peak:
                    run = StepRun(
                        bundle, plan.preset, batch, plan.device, plan.seed, precision=precision, networks=networks
                    )
                    run.run(1)
                needed = max(needed, (peak.growth or 0) / batch)
            except (UserError, MemoryError, RuntimeError) as error:
                missing.append(left_out(error, kind="optimise", precision=precision, batch=batch))
                break
            runs[batch, precision] = run
    turns = Turns(progress, "optimise", len(runs) * plan.budget.rounds)
    measured = take_steps({key: run.run for key, run in runs.items()}, plan.budget, on_round=turns)
    entries = []
    # Precisions of a batch size side by side, in the order they were asked for.
    for (batch, precision), samples in sorted(measured.items(), key=lambda item: item[0][0]):
        fields = timing(samples, "step_ms", ("forward", "backward", "plain"))
        steps = max(plan.preset.steps, 1)
        entries.append(
            {
                "batch": batch,
                "precision": precision,
                "preset": plan.preset.name,
                "captured": runs[batch, precision].captured,
                "steps_of_an_image": plan.preset.steps,
                "step_ms_per_image": round(fields["step_ms"]["p50"] / batch, 6),
                "images_per_second_of_steps": round(1000 * batch / (fields["step_ms"]["mean"] * steps), 4),
                **fields,
                "memory": None,
            }
        )
    return entries
