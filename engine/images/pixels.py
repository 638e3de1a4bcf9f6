"""Pictures as files hold them, uint8 [N, H, W, 3], and as the networks take them, float32 [N, 3, H, W] in [-1, 1].

Both ways serve arrays and tensors alike; Torch is not loaded for arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.system.tensors import is_tensor

if TYPE_CHECKING:
    import torch

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@overload
def from_uint8(pixels: Pixels) -> Floats: ...


@overload
def from_uint8(pixels: torch.Tensor) -> torch.Tensor: ...


def from_uint8(pixels: Any) -> Any:
    """uint8 [N, H, W, 3] as float32 [N, 3, H, W] in [-1, 1]: an array of an array, a tensor of a tensor."""
    if is_tensor(pixels):
        return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
    values = pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(values)


def to_uint8(image: torch.Tensor, scaling: str = "clamp") -> torch.Tensor:
    """Images [N, 3, H, W] as uint8 [N, H, W, 3].

    scaling "clamp" maps [-1, 1] to [0, 255] and clips what lies outside; "stretch" maps each image's own minimum
    and maximum to 0 and 255, as the released code does when it saves.
    """
    import torch

    image = image.detach().float()
    if scaling == "stretch":
        low = image.amin(dim=(1, 2, 3), keepdim=True)
        high = image.amax(dim=(1, 2, 3), keepdim=True)
        unit = (image - low) / (high - low).clamp_min(1e-5)
    else:
        unit = (image.clamp(-1, 1) + 1) / 2
    return unit.mul(255).add(0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
