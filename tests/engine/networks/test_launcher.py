"""The fused kernels are kept where this user keeps everything that the program makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from faceanon_engine.engine.networks.launcher import launcher_for
from faceanon_engine.engine.system.home import home
from faceanon_engine.kernels.cuda import launch

GPU = torch.device("cuda", 0)


class Recorder:
    """Stands for what launches on a GPU: keeps which device and folder it was made for."""

    def __init__(self, device: torch.device, folder: Path | None = None) -> None:
        self.device, self.folder = device, folder


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(launch, "CudaLauncher", Recorder)
    launch._cuda_launcher.cache_clear()
    yield
    launch._cuda_launcher.cache_clear()


@pytest.mark.usefixtures("fake_gpu")
def test_kernels_are_kept_below_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "another"):
        # Each home has its own: a process that changes it gets the kernels of the new one.
        monkeypatch.setenv("FACEANON_HOME", str(tmp_path / name))
        launcher = launcher_for(GPU)
        assert launcher is not None
        assert (launcher.device, launcher.folder) == (GPU, tmp_path / name / "kernels")
        assert launcher.folder == home().kernels
        assert launcher_for(GPU) is launcher, "made once"


def test_the_cpu_needs_no_launcher() -> None:
    assert launcher_for(torch.device("cpu")) is None
