"""A process can be held to fewer processors, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.cores import keep_to, usable_cores

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="a process cannot be held here")


def test_a_process_keeps_to_as_many_processors_with_a_thread_on_each() -> None:
    code = (
        "from faceanon_engine.engine.system.cores import keep_to, usable_cores; keep_to(1); import torch;"
        "print(usable_cores(), torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_more_than_there_are_is_refused() -> None:
    before = usable_cores()
    with pytest.raises(UserError, match=f"this process may use {before} processors"):
        keep_to(before + 1)
    assert usable_cores() == before
