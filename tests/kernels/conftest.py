"""The CUDA sources as the host runs them."""

from __future__ import annotations

import pytest

from tests.kernels.host_launcher import COMPILER, HostLauncher


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostLauncher:
    """A launcher that runs the CUDA sources on the CPU."""
    if COMPILER is None:
        pytest.skip("g++ is not installed: it compiles the CUDA sources for the host")
    return HostLauncher(tmp_path_factory.mktemp("host-kernels"))
