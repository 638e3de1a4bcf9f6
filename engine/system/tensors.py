"""Values that may be arrays or Torch tensors; Torch is not loaded to find out."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt


def is_tensor(value: Any) -> bool:
    """Whether a value is a Torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_array(value: Any) -> npt.NDArray[Any]:
    """An array of an array or of a tensor on any device."""
    return np.asarray(value.detach().cpu().numpy() if is_tensor(value) else value)


def like(values: npt.NDArray[Any], original: Any) -> Any:
    """An array as what the original is: itself, or a tensor on the original's device."""
    if not is_tensor(original):
        return values
    import torch

    return torch.from_numpy(values).to(original.device)
