"""Peak memory, each session in a process of its own, so that nothing is counted that another one left behind."""

from __future__ import annotations

import contextlib
import importlib
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from faceanon_engine.engine.bench.entries import left_out
from faceanon_engine.engine.bench.inputs import make_inputs
from faceanon_engine.engine.bench.measure import resident, resident_peak
from faceanon_engine.engine.bench.plan import Opener, Plan
from faceanon_engine.engine.bench.sessions import cases_of, open_for_bench
from faceanon_engine.engine.bench.step import StepRun
from faceanon_engine.engine.choices import Precision
from faceanon_engine.engine.method.preset import Preset
from faceanon_engine.engine.models.opened import OpenedNetworks
from faceanon_engine.engine.system.progress import Progress

if TYPE_CHECKING:
    from faceanon_engine.engine.models.bundle import Bundle

logger = logging.getLogger(__name__)

Memory = dict[int, dict[str, int | None]]
"""Bytes by batch size and kind."""


def add_memory(
    bundle: Bundle,
    plan: Plan,
    sessions: list[dict[str, Any]],
    steps: list[dict[str, Any]],
    missing: list[dict[str, Any]],
    progress: Progress,
) -> None:
    """Fill in the peak memory of every entry; one whose process fails keeps None and is added to `missing`."""
    work: list[tuple[dict[str, Any], list[dict[str, Any]], Callable[..., Memory], tuple[Any, ...]]] = []
    named = ("graph", "backend", "precision")
    for key in dict.fromkeys(tuple(entry[name] for name in named) for entry in sessions):
        entries = [entry for entry in sessions if tuple(entry[name] for name in named) == key]
        batches = sorted({entry["batch"] for entry in entries})
        # Of all that was asked for, though the largest may have been left out: the engine that was measured is for it.
        largest = max(case.batch for case in cases_of(plan, key[0], plan.device.startswith("cuda")))
        arguments = (open_for_bench, bundle.path, *key, plan.device, batches, largest, plan.seed)
        work.append((dict(zip(named, key, strict=True)), entries, session_memory, arguments))
    for precision in dict.fromkeys(entry["precision"] for entry in steps):
        entries = [entry for entry in steps if entry["precision"] == precision]
        batches = sorted(entry["batch"] for entry in entries)
        arguments = (bundle.path, plan.preset, precision, plan.device, batches, plan.seed)
        work.append(({"precision": precision}, entries, step_memory, arguments))
    for number, (what, entries, measure, arguments) in enumerate(work):
        progress(number, len(work), "memory")
        try:
            memory: Memory = in_fresh_process(measure, arguments)
        except Exception as error:
            logger.debug("memory of %s cannot be measured", what, exc_info=True)
            missing.append(left_out(error, kind="memory", **what))
            continue
        for entry in entries:
            entry["memory"] = memory.get(entry["batch"])


def in_fresh_process(call: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """What a call returns in a new interpreter; a forked one would begin with this one's memory.

    Raises what the call raises, and RuntimeError when its process is ended from outside.
    """
    try:
        # An interruption is this process's to report; the other one ends with its work.
        silent = (signal.SIGINT, signal.SIG_IGN)
        with ProcessPoolExecutor(1, get_context("spawn"), signal.signal, silent) as pool:
            return pool.submit(call, *arguments).result()
    except BrokenProcessPool:
        raise RuntimeError("its process was ended, probably for lack of memory") from None


def session_memory(
    open_session: Opener,
    path: Any,
    graph: str,
    backend: str,
    precision: Precision,
    device: str,
    batches: Sequence[int],
    largest: int,
    seed: int,
) -> Memory:
    """Peak memory of a session for up to `largest` images by batch size, to be called in a fresh process.

    Batches have to grow. `opening_host_bytes` and `host_bytes`: resident at the peak while opening and while running,
    beyond what was resident with the libraries loaded. `device_bytes`: what the device has lost since then.
    `device_peak_bytes`: the peak by Torch's own count, which knows nothing of other backends. None where not known.
    """
    from faceanon_engine.engine.models.bundle import Bundle

    bundle = Bundle.open(path)
    _load_libraries(device, backend)
    return _peaks(
        device,
        batches,
        lambda: open_session(bundle, graph, backend=backend, precision=precision, device=device, largest=largest),
        lambda session, batch: [session.run(make_inputs(bundle, graph, batch, seed)) for _ in range(3)],
    )


def step_memory(
    path: Any, preset: Preset, precision: Precision, device: str, batches: Sequence[int], seed: int
) -> Memory:
    """Peak memory of the optimisation by batch size, as `session_memory` gives it."""
    from faceanon_engine.engine.models.bundle import Bundle

    bundle = Bundle.open(path)
    _load_libraries(device, "torch")
    return _peaks(
        device,
        batches,
        lambda: OpenedNetworks(bundle, device).for_steps,
        lambda networks, batch: StepRun(
            bundle, preset, batch, device, seed, precision=precision, networks=networks
        ).run(2),
    )


def _load_libraries(device: str, backend: str) -> None:
    """Load what is there once in a process whatever is run, so that it is not counted."""
    if backend == "onnxruntime":
        importlib.import_module("onnxruntime")
    if backend == "torch" or device.startswith("cuda"):
        import torch

        importlib.import_module("faceanon_engine.engine.method.step")
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        torch.nn.functional.conv2d(torch.ones(1, 1, 4, 4, device=device), torch.ones(1, 1, 3, 3, device=device))


def _peaks(device: str, batches: Sequence[int], open_it: Callable[[], Any], use: Callable[[Any, int], Any]) -> Memory:
    peaks: Memory = {}
    with _watch_device(device) as on_device:
        before = resident()
        with resident_peak() as opening:
            opened = open_it()
        for batch in batches:
            with resident_peak() as peak:
                use(opened, batch)
            peaks[batch] = {"host_bytes": _beyond(before, peak.peak), **on_device()}
    for entry in peaks.values():
        entry["opening_host_bytes"] = _beyond(before, opening.peak)
    return peaks


def _beyond(before: int | None, peak: int | None) -> int | None:
    return None if before is None or peak is None else max(0, peak - before)


@contextlib.contextmanager
def _watch_device(device: str) -> Iterator[Callable[[], dict[str, int | None]]]:
    """Yields a callable that says what the device has lost since now, and Torch's peak since it was last called."""
    if not device.startswith("cuda"):
        yield lambda: {"device_bytes": None, "device_peak_bytes": None}
        return
    import torch

    torch.cuda.synchronize(device)
    free, _ = torch.cuda.mem_get_info(device)
    torch.cuda.reset_peak_memory_stats(device)

    def ask() -> dict[str, int | None]:
        torch.cuda.synchronize(device)
        now, _ = torch.cuda.mem_get_info(device)
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return {"device_bytes": max(0, free - now), "device_peak_bytes": int(peak)}

    yield ask
