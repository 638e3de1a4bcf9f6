"""Freed memory is kept only where that is possible and nobody decided otherwise."""

from __future__ import annotations

import subprocess
import sys

import pytest

from faceanon_engine.engine.allocator import keep_freed_memory

# Prints the page faults of allocating and freeing 64 MiB fifty times.
MEASURE = """
import resource, sys, numpy
from faceanon_engine.engine.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    numpy.empty(2**26, numpy.uint8)[::4096] = 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is tuned on Linux only")
def test_kept_memory_is_not_mapped_again() -> None:
    def faults(mode: str) -> int:
        command = [sys.executable, "-c", MEASURE, mode]
        # Without huge pages, which some systems give on their own, every 4096 bytes would be one fault.
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("keep") * 10 < faults("return")


def test_the_users_own_settings_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not keep_freed_memory()
