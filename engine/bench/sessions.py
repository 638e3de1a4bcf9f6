"""Every backend beside Torch eager: the sessions of a graph, in turns, over precisions and batch sizes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from faceanon_engine.engine.bench.entries import left_out, rounded, timing
from faceanon_engine.engine.bench.inputs import Floats, make_inputs
from faceanon_engine.engine.bench.measure import (
    Probe,
    Samples,
    device_probe,
    host_probe,
    measure_interleaved,
    paired_ratio,
    queue_probe,
    resident_peak,
)
from faceanon_engine.engine.bench.plan import BASELINE, Case, Opener, Plan, Runnable, Turns
from faceanon_engine.engine.choices import Precision
from faceanon_engine.engine.sessions.opening import Prepare, open_session
from faceanon_engine.engine.sessions.session import Profile
from faceanon_engine.engine.system.memory import would_not_fit
from faceanon_engine.engine.system.progress import Progress

if TYPE_CHECKING:
    from faceanon_engine.engine.models.bundle import Bundle

logger = logging.getLogger(__name__)

QUEUE_DEPTH = 8
"""Inferences enqueued behind each other in one run of a throughput case on a GPU."""


def open_for_bench(
    bundle: Bundle,
    graph: str,
    *,
    backend: str,
    precision: Precision,
    device: str,
    largest: int,
    prepare: Prepare | None = None,
) -> Runnable:
    """A session for batches of up to `largest`; raises UserError when the backend cannot run the graph here.

    `prepare` makes what is missing, such as an exported graph; without it, that is an error too.
    """
    # The usual profile where it reaches: an engine that was built for work is measured, not another one.
    profile = Profile() if largest <= Profile().max else Profile(1, Profile().opt, largest)
    return open_session(
        bundle, graph, backend=backend, precision=precision, device=device, profile=profile, prepare=prepare
    )


def cases_of(plan: Plan, graph: str, on_gpu: bool) -> list[Case]:
    """The cases of a graph, smallest batches first; a processor has nothing to queue, so there one case serves both."""
    wanted: list[tuple[int, bool]] = []
    if plan.mode in ("latency", "all"):
        wanted.append((1, False))
    if plan.mode in ("throughput", "all"):
        wanted += [(batch, on_gpu) for batch in plan.batches]
    return [
        Case(graph, batch, precision, backend, queued)
        for batch, queued in sorted(set(wanted))
        for precision in plan.precisions
        for backend in plan.backends
    ]


def measure_graph(
    bundle: Bundle, plan: Plan, graph: str, open_session: Opener, missing: list[dict[str, Any]], progress: Progress
) -> list[dict[str, Any]]:
    """Entries of the result for a graph, by rising batch size; what cannot be measured is added to `missing`."""
    cases = cases_of(plan, graph, plan.device.startswith("cuda"))
    opened: dict[tuple[str, Precision], Runnable] = {}
    largest = max(case.batch for case in cases)
    for precision in plan.precisions:
        for backend in plan.backends:
            try:
                opened[backend, precision] = open_session(
                    bundle, graph, backend=backend, precision=precision, device=plan.device, largest=largest
                )
            except Exception as error:
                # Whatever one backend stumbles over, the others are measured.
                logger.debug("%s on %s cannot be opened", graph, backend, exc_info=True)
                missing.append(left_out(error, graph=graph, backend=backend, precision=precision))
    entries = []
    needed = float(make_inputs(bundle, graph, 1, plan.seed).nbytes)
    # Cases of one batch size are rivals and take turns; another batch size is another question.
    for batch, queued in sorted({(case.batch, case.queued) for case in cases}):
        reason = would_not_fit(needed * batch)
        if reason is not None:
            missing.append(left_out(reason, graph=graph, batch=batch))
            continue
        inputs = make_inputs(bundle, graph, batch, plan.seed)
        probes: dict[Case, Probe] = {}
        outputs: dict[Case, Floats] = {}
        for case in cases:
            session = opened.get((case.backend, case.precision))
            if session is None or (case.batch, case.queued) != (batch, queued):
                continue
            try:
                with resident_peak() as peak:
                    outputs[case] = _finite(np.asarray(session.run(inputs), np.float32))
                probes[case] = _probe_of(session, inputs, case)
            except Exception as error:
                logger.debug("%s on %s cannot be run", graph, case.backend, exc_info=True)
                missing.append(
                    left_out(error, graph=graph, backend=case.backend, precision=case.precision, batch=batch)
                )
                continue
            needed = max(needed, (peak.growth or 0) / batch)
        turns = Turns(progress, f"{graph}, batch {batch}", len(probes) * plan.budget.rounds)
        samples = measure_interleaved(probes, plan.budget, on_round=turns)
        for case, taken in samples.items():
            session = opened[case.backend, case.precision]
            entries.append(_entry(case, taken, session, inputs) | _against_baseline(case, samples, outputs))
    for session in opened.values():
        session.close()
    return entries


def _finite(output: Floats) -> Floats:
    if not np.isfinite(output).all():
        raise ValueError("it gives values that are not finite: how long that takes says nothing")
    return output


def _probe_of(session: Runnable, inputs: Floats, case: Case) -> Probe:
    # The device's name stands in front, its model's in brackets behind it.
    name = session.describe().device.split()[0]
    if not name.startswith("cuda"):
        return host_probe(lambda: session.run(inputs))
    import torch

    device = torch.device(name)
    pinned = torch.from_numpy(inputs).pin_memory()
    resident_input = pinned.to(device)
    example = session.run(resident_input)
    landing = torch.empty(example.shape, dtype=example.dtype, pin_memory=True)

    def new_mark() -> torch.cuda.Event:
        return torch.cuda.Event(enable_timing=True)

    if case.queued:
        return queue_probe(lambda: session.run(resident_input), new_mark, QUEUE_DEPTH)
    return device_probe(
        lambda: pinned.to(device, non_blocking=True),
        session.run,
        lambda result: landing.copy_(result, non_blocking=True),
        new_mark,
    )


def _entry(case: Case, samples: Samples, session: Runnable, inputs: Floats) -> dict[str, Any]:
    fields = timing(samples, "total_ms", ("compute", "enqueue", "host_to_device", "device_to_host"))
    return {
        **asdict(case),
        "runs_on": asdict(session.describe()),
        "input": {"dtype": str(inputs.dtype), "shape": list(inputs.shape)},
        "images_per_second": round(case.batch * 1000 / fields["total_ms"]["mean"], 3),
        **fields,
        "memory": None,
    }


def _against_baseline(case: Case, samples: Mapping[Case, Samples], outputs: Mapping[Case, Floats]) -> dict[str, Any]:
    """How many times faster than Torch eager in the same precision and in fp32, and how far the outputs are apart."""
    baselines = {rival.precision: rival for rival in samples if rival.backend == BASELINE and rival != case}
    speedup: dict[str, dict[str, float]] = {}
    for precision, baseline in baselines.items():
        if precision in ("fp32", case.precision):
            ratio, lowest, highest = paired_ratio(samples[baseline], samples[case])
            speedup[f"{BASELINE} {precision}"] = rounded({"ratio": ratio, "lowest": lowest, "highest": highest})
    difference = None
    if "fp32" in baselines:
        expected, got = outputs[baselines["fp32"]].astype(np.float64), outputs[case].astype(np.float64)
        scale = float(np.sqrt(np.mean(expected**2))) or 1.0
        difference = {
            "against": f"{BASELINE} fp32",
            "maximum": float(np.abs(got - expected).max()) / scale,
            "mean": float(np.abs(got - expected).mean()) / scale,
        }
    return {"speedup": speedup, "difference": difference}
