"""Values that may be arrays or Torch tensors; Torch is not loaded to find out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch


def is_tensor(value: Any) -> bool:
    """Whether a value is a Torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_uint8(value: Any) -> bool:
    """Whether an array or a tensor holds bytes."""
    return str(value.dtype).removeprefix("torch.") == "uint8"


def as_array(value: Any) -> npt.NDArray[Any]:
    """An array of an array or of a tensor on any device."""
    return np.asarray(value.detach().cpu().numpy() if is_tensor(value) else value)


def as_tensor(value: Any) -> torch.Tensor:
    """A tensor of an array, or the tensor itself."""
    import torch

    if is_tensor(value):
        tensor: torch.Tensor = value
        return tensor
    # Torch has no arrays that must not be written to, and warns of them.
    return torch.from_numpy(np.ascontiguousarray(value) if value.flags.writeable else value.copy())


def like(values: npt.NDArray[Any], original: Any) -> Any:
    """An array as what the original is: itself, or a tensor on the original's device."""
    if not is_tensor(original):
        return values
    import torch

    return torch.from_numpy(values).to(original.device)
