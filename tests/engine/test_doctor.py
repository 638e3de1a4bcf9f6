"""What `doctor` says of a machine, and that the fused kernels run is found out by running one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from faceanon_engine.engine import doctor
from faceanon_engine.engine.system import cuda_driver, machine
from faceanon_engine.engine.system.cuda_driver import DriverError, Gpu
from faceanon_engine.kernels.cuda import launch
from faceanon_engine.kernels.cuda.compile import CompileError
from tests.kernels.host_launcher import COMPILER, HostLauncher


def kernels() -> dict[str, Any]:
    return doctor._backend(doctor._fused_kernels)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_the_kernels_do_not_run() -> None:
    found = kernels()
    assert not found["works"]
    assert "no GPU that PyTorch can use" in found["reason"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("13.0", {"works": True, "version": "CUDA 13.0"}),
        (DriverError("the driver answers with error 100: no usable GPU"), None),
    ],
)
def test_the_driver_says_what_it_serves_or_why_nothing(
    answer: Any, said: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version() -> str:
        if isinstance(answer, DriverError):
            raise answer
        return answer

    monkeypatch.setattr(doctor, "driver_version", version)
    assert doctor.examine()["driver"] == (said or {"works": False, "reason": str(answer)})


def test_what_the_launcher_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_device: torch.device, _folder: Path) -> None:
        raise CompileError("nvcc was not found: install the CUDA toolkit")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launch, "CudaLauncher", fails)
    assert kernels() == {"works": False, "reason": "nvcc was not found: install the CUDA toolkit"}


@pytest.mark.skipif(COMPILER is None, reason="g++ is not installed: it compiles the CUDA sources for the host")
@pytest.mark.parametrize("right", [True, False])
def test_a_kernel_is_run_and_looked_at(right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Launcher(HostLauncher):
        device, architecture, pycuda = torch.device("cpu"), 90, None

        def launch(self, source: str, kernel: str, grid: Any, block: Any, arguments: Any, shared: int = 0) -> None:
            arguments.values -= 0 if right else 8
            super().launch(source, kernel, grid, block, arguments, shared)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launch, "CudaLauncher", lambda _device, _folder: Launcher(tmp_path))
    found = kernels()
    assert found["works"] == right
    assert found.get("version", found.get("reason")) == (
        "sm_90, launched by the driver" if right else "a kernel gave a wrong result"
    )


def test_gpus_are_those_of_the_machine_with_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = (Gpu(0, "a GPU", (9, 0), 2**37, multiprocessors=132), Gpu(1, "another", (8, 9), 2**34))
    monkeypatch.setattr(machine, "gpus", lambda: shown)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100 + int(device[-1]), 1))
    assert doctor._gpus() == [
        {"name": "a GPU", "capability": "9.0", "free": 100, "total": 2**37},
        {"name": "another", "capability": "8.9", "free": 101, "total": 2**34},
    ]


def test_a_missing_driver_is_said_in_the_drivers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise cuda_driver.DriverError("libcuda.so.1 is not there: no NVIDIA driver is installed")

    monkeypatch.setattr(cuda_driver, "_library", none)
    examined = doctor.examine()
    assert examined["driver"] == {
        "works": False,
        "reason": "libcuda.so.1 is not there: no NVIDIA driver is installed",
    }
    assert list(examined)[:4] == ["faceanon_engine", "python", "system", "cpu"]
    assert set(examined["cpu"]) == {"cores", "usable"}
    assert 0 < examined["memory"]["free"] <= examined["memory"]["total"]
