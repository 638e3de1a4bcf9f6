"""`bench` as a function: a plan of plain values, measured on an installed bundle."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from faceanon_engine.engine.bench.compare import accepted_obstacles
from faceanon_engine.engine.bench.measure import Budget
from faceanon_engine.engine.bench.plan import BATCHES, MODES, STEP_BATCHES, Mode, Plan
from faceanon_engine.engine.choices import BACKENDS, Precision, PresetName
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.method.preset import get_preset
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.sessions.graphs import GRAPHS, get_graph
from faceanon_engine.engine.sessions.opening import Prepare, check_names, why_not
from faceanon_engine.engine.system.cores import keep_to
from faceanon_engine.engine.system.devices import resolve_for_torch
from faceanon_engine.engine.system.progress import Observer


def bench(
    bundle: str | Path | None = None,
    *,
    mode: Mode = "all",
    networks: Sequence[str] = (),
    backends: Sequence[str] = (),
    precisions: Sequence[Precision] = ("fp32",),
    batches: Sequence[int] = (),
    device: str = "auto",
    preset: PresetName = "falco",
    budget: Budget | None = None,
    seed: int = 0,
    memory: bool = True,
    threads: int | None = None,
    against: dict[str, Any] | None = None,
    prepare: Prepare | None = None,
    observer: Observer | None = None,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure what the networks of a bundle and the optimisation cost here; the result is that of docs/bench.md.

    networks: names of graphs, none for all. backends: none for those that this machine can run. batches: sizes of the
    sweep, at least 1, none for the usual ones. seed: of the inputs. memory: measure peak memory, too, each session in a
    process of its own; the caller's file is then loaded once more: call it below `if __name__ == "__main__":`.
    threads: keep this process to so many processors, for good. against: an earlier result that this one is to be
    compared with. prepare: makes what a backend lacks, such as `faceanon_engine.export.prepare.prepare`; without it,
    what is lacking is left out with the reason. command: recorded in the result.

    Raises UserError for unknown names, for a bundle or a device that is not there, for an earlier result of another
    machine or of other networks, and when nothing could be measured.
    """
    if mode not in MODES:
        raise UserError(f"unknown mode {mode!r}: use one of {', '.join(MODES)}")
    for graph in networks:
        get_graph(graph)
    for backend in backends:
        if backend not in BACKENDS:
            raise UserError(f"unknown backend {backend!r}: use one of {', '.join(BACKENDS)}")
    for precision in precisions:
        check_names("auto", precision)
    sweep = tuple(sorted(set(batches)))
    if sweep and sweep[0] < 1:
        raise UserError(f"batch {sweep[0]} is too small: give 1 or more")
    if threads is not None:
        keep_to(threads)
    # Loads Torch, whose threads are then as many as this process may have.
    from faceanon_engine.engine.bench.run import about_run, run_plan
    from faceanon_engine.engine.bench.sessions import open_for_bench

    place = resolve_for_torch(device)
    plan = Plan(
        mode=mode,
        graphs=tuple(networks) or tuple(GRAPHS),
        backends=tuple(backends) or tuple(name for name in BACKENDS if why_not(name, place) is None),
        precisions=tuple(precisions),
        batches=sweep or BATCHES,
        step_batches=sweep or STEP_BATCHES,
        device=place,
        preset=get_preset(preset),
        budget=budget or Budget(),
        seed=seed,
        memory=memory,
    )
    opened = Bundle.open(bundle)
    if against is not None:
        accepted_obstacles(against, about_run(opened, plan))
    opener = partial(open_for_bench, prepare=prepare)
    return run_plan(opened, plan, opener, command=command, progress=(observer or Observer()).progress)
