"""Freed memory is kept only where that is possible and nobody decided otherwise."""

from __future__ import annotations

import subprocess
import sys

import pytest

from faceanon_engine.engine.system.allocator import keep_freed_memory

# Prints the page faults of allocating, touching and freeing 64 MiB fifty times.
MEASURE = """
import ctypes, resource, sys
from faceanon_engine.engine.system.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    block = libc.malloc(2**26)
    ctypes.memset(block, 1, 2**26)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is tuned on Linux only")
def test_kept_memory_is_not_mapped_again() -> None:
    def faults(mode: str) -> int:
        command = [sys.executable, "-c", MEASURE, mode]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("keep") * 10 < faults("return")


def test_the_users_own_settings_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not keep_freed_memory()
