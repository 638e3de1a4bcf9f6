"""What must stand before torch is loaded, and what tests of several rooms share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.kernels.host_launcher import HostLauncher

# Programs that the tests start import the package from this folder too, wherever they run; nothing has to be installed.
ROOT = str(Path(__file__).resolve().parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])

# As the command line sets it: threads that spin stall a test run on a machine that does anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Several test processes share the cores: one thread each.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# The same examples every time, so that a test that fails has been broken; HYPOTHESIS_PROFILE=default looks for others.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostLauncher:
    """A launcher that runs the CUDA sources on the CPU."""
    from tests.kernels.host_launcher import COMPILER, HostLauncher

    if COMPILER is None:
        pytest.skip("g++ is not installed: it compiles the CUDA sources for the host")
    return HostLauncher(tmp_path_factory.mktemp("host-kernels"))
