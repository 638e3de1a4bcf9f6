"""What launches the fused kernels for the networks, compiled once into the folder that is kept for the user."""

from __future__ import annotations

import torch

from faceanon_engine.engine.system.home import home
from faceanon_engine.kernels.cuda import launch


def launcher_for(device: torch.device) -> launch.CudaLauncher | None:
    """What launches kernels on that device; None where Torch's own operations run instead."""
    return None if device.type != "cuda" else launch.launcher_for(device, home().kernels)
