"""Lets the C library keep the memory of freed tensors, instead of handing it back and asking for it again.

At 1024 px a step allocates and frees activations of 128 MiB some hundred times. By default glibc returns each to the
operating system, which gives back pages that have to be cleared and mapped anew: a third of the time of the plain loop
of benchmarks/optimise_step.py, which is measured with this and without.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_KEPT = 2**31 - 1  # bytes: the largest value mallopt takes


def keep_freed_memory() -> bool:
    """Have this process keep what it frees, up to 2 GiB at the heap's end; returns whether that was possible.

    For programs of their own, not for libraries: it holds for the whole process. Does nothing without glibc, and where
    the user has tuned its allocation by environment variables.
    """
    if not sys.platform.startswith("linux") or any(
        name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ
    ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # One heap for all threads: what each of sixteen readers kept of a large picture would be of no use to the others.
    return bool(mallopt(_ARENA_MAX, 1)) and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
