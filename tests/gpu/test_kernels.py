"""Every fused kernel on the GPU against its definition in float64, through both drivers and inside a CUDA graph."""

from __future__ import annotations

import pytest
import torch

from benchmarks.kernels_gpu import IDENTITY, check_graph, check_on_a_stream, resize_case, worst_error
from faceanon_engine.engine.networks import stylegan2
from faceanon_engine.engine.networks.stylegan2 import Generator, GeneratorConfig
from faceanon_engine.engine.system.home import home
from faceanon_engine.kernels.cuda.driver import DriverError
from faceanon_engine.kernels.cuda.launch import CudaLauncher

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=["driver", "pycuda"])
def launcher(request: pytest.FixtureRequest) -> CudaLauncher:
    try:
        return CudaLauncher(torch.device("cuda", 0), home().kernels, pycuda=request.param == "pycuda")
    except DriverError as error:
        pytest.skip(str(error))


def test_every_kernel_is_its_definition(launcher: CudaLauncher) -> None:
    report = check_on_a_stream(launcher, launcher.device)
    assert report["cases"] > 50
    assert not report["failed"]


def test_every_kernel_is_captured_in_a_graph(launcher: CudaLauncher) -> None:
    report = check_graph(launcher, launcher.device)
    assert report["driver"] == ("driver" if launcher.pycuda is None else "pycuda")
    assert not report["failed"]


def test_a_whole_picture_is_resized_as_defined(launcher: CudaLauncher) -> None:
    case = resize_case(2, 1024, torch.float32, launcher, launcher.device, [IDENTITY])
    assert worst_error(case) < 5e-6


def test_the_synthesis_is_the_layer_by_layer_one(launcher: CudaLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = GeneratorConfig(resolution=64, z_dim=16, w_dim=16, channel_base=2048, channel_max=64)
    generator = Generator(config).to(launcher.device).freeze()
    w_plus = torch.randn(2, config.rows, 16, device=launcher.device, requires_grad=True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    results = []
    for by in (launcher, None):
        monkeypatch.setattr(stylegan2, "launcher_for", lambda device, by=by: by)
        image = generator.synthesis(w_plus)
        results.append((image.detach(), *torch.autograd.grad(image.square().mean(), [w_plus])))
    for fused, defined in zip(*results, strict=True):
        assert float((fused - defined).abs().max() / defined.abs().max()) < 1e-4
