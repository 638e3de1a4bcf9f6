"""Resizing as the feature networks were trained with: antialiased bilinear, then crops."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize_shorter_side(image: Tensor, size: int) -> Tensor:
    """Image [N, C, H, W] whose shorter side becomes `size`, antialiased bilinear; the longer side is rounded down."""
    height, width = image.shape[2:]
    shortest = min(height, width)
    if shortest == size:
        return image
    shape = (size * height // shortest, size * width // shortest)
    return F.interpolate(image, shape, mode="bilinear", antialias=True, align_corners=False)


def centre_crop(image: Tensor, size: int) -> Tensor:
    """The middle [N, C, size, size] of an image [N, C, H, W] with sides of at least `size`."""
    top, left = round((image.shape[2] - size) / 2), round((image.shape[3] - size) / 2)
    return image[:, :, top : top + size, left : left + size]


def resize_and_crop(image: Tensor, size: int) -> Tensor:
    """Shorter side to `size`, then the middle square: [N, C, size, size]."""
    return centre_crop(resize_shorter_side(image, size), size)
