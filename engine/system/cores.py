"""The processors this process may use."""

from __future__ import annotations

import os
import platform

from faceanon_engine.engine.errors import UserError


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_to(count: int) -> None:
    """Let this process use so many of its processors; every backend then has a thread for each.

    Raises UserError where the process may not use so many, or the system cannot hold it to them.
    """
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not usable:
        raise UserError("--threads cannot be held on this system: leave it out")
    if count > len(usable):
        raise UserError(f"--threads {count}: this process may use {len(usable)} processors; ask for fewer")
    os.sched_setaffinity(0, usable[:count])
    import torch

    torch.set_num_threads(count)
