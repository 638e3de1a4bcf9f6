"""What a measurement ran on: the figures of a GPU are those of the GPU that was measured."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest

from faceanon_engine.engine.system import machine
from faceanon_engine.engine.system.cuda_driver import Gpu

SMI = """00000000:3B:00.0, 1980, 2619, 1980, 2619, 300.5, 700.00, 41, Enabled
00000000:5E:00.0, 210, 405, [N/A], 2619, N/A, 700.00, 30, Disabled
00000000:AF:00.0, 1500, 2619, 1980, 2619, 90.00, 700.00, 35, Enabled
"""


def test_clocks_are_those_of_the_gpus_that_cuda_shows_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run(command: list[str], **_: Any) -> Any:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, SMI, "")

    shown = tuple(Gpu(n, "a GPU", (9, 0), 2**37, bus) for n, bus in enumerate(("0000:af:00.0", "0000:5e:00.0")))
    monkeypatch.setattr(machine, "gpus", lambda: (*shown, Gpu(2, "of another machine", (9, 0), 1, "0000:01:00.0")))
    monkeypatch.setattr(shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.setattr(subprocess, "run", run)
    first, second, unknown = machine.describe_moment()["gpus"]
    assert asked[-1][1].startswith("--query-gpu=pci.bus_id,clocks.sm,")
    assert (first["sm_clock_mhz"], first["power_w"], first["persistence_mode"]) == (1500, 90, "Enabled")
    assert (second["sm_clock_mhz"], second["max_sm_clock_mhz"], second["power_w"]) == (210, None, None)
    assert set(unknown.values()) == {None}
    assert set(first) == set(second) == set(unknown)


def test_without_nvidia_smi_nothing_is_said_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: (Gpu(0, "a GPU", (9, 0), 2**37, "0000:af:00.0"),))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert machine.describe_moment()["gpus"] == []
