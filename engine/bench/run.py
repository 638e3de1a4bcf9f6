"""Measuring everything of a plan.

What is compared is measured in one process in turns (see `measure.measure_interleaved`); peak memory is measured
afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from faceanon_engine.engine.bench.measure import ProcessorLoad
from faceanon_engine.engine.bench.memory import add_memory
from faceanon_engine.engine.bench.plan import SCHEMA, SCHEMA_VERSION, Opener, Plan
from faceanon_engine.engine.bench.sessions import QUEUE_DEPTH, measure_graph
from faceanon_engine.engine.bench.step import measure_steps
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.networks.precision import computing
from faceanon_engine.engine.system.machine import describe_machine, describe_moment
from faceanon_engine.engine.system.progress import Observer, Progress

if TYPE_CHECKING:
    from faceanon_engine.engine.models.bundle import Bundle

BUSY = 0.1
"""Share of our processors' time in others' hands above which a result says so."""


def about_run(bundle: Bundle, plan: Plan) -> dict[str, Any]:
    """The fields of a result that are known before anything is measured."""
    return {
        "mode": plan.mode,
        "device": plan.device,
        "bundle": {
            "name": bundle.name,
            "digest": bundle.digest,
            "resolution": int(bundle.networks["generator"]["config"]["resolution"]),
        },
        "settings": {**asdict(plan.budget), "seed": plan.seed, "queue_depth": QUEUE_DEPTH},
        "machine": describe_machine(),
    }


def run_plan(
    bundle: Bundle,
    plan: Plan,
    open_session: Opener,
    *,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure everything of the plan; returns the result in the layout of docs/bench.md.

    A backend that cannot run a graph is left out with its reason. Raises UserError when nothing could be measured.
    """
    if plan.device.startswith("cuda"):
        import torch

        # Events are recorded on the current device's stream.
        torch.cuda.set_device(plan.device)
    started = time.monotonic()
    load, before = ProcessorLoad(), describe_moment()
    missing: list[dict[str, Any]] = []
    sessions: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    progress = progress or Observer().progress
    # What is called fp32 is float32: Torch would use TF32 in convolutions on a GPU.
    with computing("fp32"):
        if plan.mode != "optimise":
            for number, graph in enumerate(plan.graphs):
                progress(number, len(plan.graphs), graph)
                sessions += measure_graph(bundle, plan, graph, open_session, missing, progress)
        if plan.mode in ("optimise", "all"):
            steps = measure_steps(bundle, plan, missing, progress)
    others = load.others()
    after = describe_moment()
    if not sessions and not steps:
        reasons = "; ".join(dict.fromkeys(entry["reason"] for entry in missing))
        raise UserError(f"nothing could be measured ({reasons or 'no case is left'}): see 'faceanon-engine doctor'")
    if plan.memory:
        add_memory(bundle, plan, sessions, steps, missing, progress)
    notes = []
    if others is not None and others > BUSY:
        notes.append(
            f"other programs had {others:.0%} of the processors' time: figures are of a busy machine, measure again"
        )
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
        "command": list(command),
        **about_run(bundle, plan),
        "before": before,
        "after": after,
        "others_share": None if others is None else round(others, 4),
        "sessions": sessions,
        "steps": steps,
        "left_out": missing,
        "notes": notes,
    }
