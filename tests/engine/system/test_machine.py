"""What a measurement ran on: the figures of a GPU are those of the GPU that was measured."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch

from faceanon_engine.engine.system import cuda_driver, machine
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


@pytest.mark.parametrize(("usable", "count"), [(True, 2), (False, 0)])
def test_gpus_are_described_as_cuda_shows_them_where_torch_can_use_them(
    usable: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = (Gpu(0, "a GPU", (9, 0), 2**37, "0000:af:00.0", 132), Gpu(1, "another", (8, 9), 2**34, "0000:5e:00.0", 76))
    monkeypatch.setattr(machine, "gpus", lambda: shown)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    first = {"name": "a GPU", "capability": "9.0", "memory_bytes": 2**37, "multiprocessors": 132}
    other = {"name": "another", "capability": "8.9", "memory_bytes": 2**34, "multiprocessors": 76}
    assert machine.describe_gpus() == [first, other][:count]


def test_a_machine_is_described_where_torch_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: (Gpu(0, "a GPU", (9, 0), 2**37),))
    monkeypatch.setitem(sys.modules, "torch", None)
    described = machine.describe_machine()
    assert [gpu["name"] for gpu in described["gpus"]] == ["a GPU"]
    assert (described["cuda"], described["threads"]["torch"], described["cpu"]["instructions"]) == (None, None, None)
    assert described["cpu"]["usable_cores"] >= 1
    assert "numpy" in described["versions"]


def test_a_gpu_is_what_the_driver_says_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {16: 132, 75: 9, 76: 0}

    class Driver:
        def cuDeviceGetCount(self, count: Any) -> int:
            count._obj.value = 1
            return 0

        def cuDeviceGet(self, device: Any, index: int) -> int:
            device._obj.value = index
            return 0

        def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:
            name.value = b"a GPU"
            return 0

        def cuDeviceTotalMem_v2(self, total: Any, device: Any) -> int:
            total._obj.value = 2**37
            return 0

        def cuDeviceGetPCIBusId(self, bus: Any, length: int, device: Any) -> int:
            bus.value = b"0000:af:00.0"
            return 0

        def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
            value._obj.value = asked[attribute]
            return 0

    monkeypatch.setattr(cuda_driver, "_library", Driver)
    assert cuda_driver.gpus.__wrapped__() == (Gpu(0, "a GPU", (9, 0), 2**37, "0000:af:00.0", 132),)
