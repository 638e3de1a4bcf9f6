"""The FIR filter of StyleGAN2's up-sampling: [1, 3, 3, 1] along both axes, gain 4 for the zeros it fills in.

Source: StyleGAN2 (Karras et al., CVPR 2020), appendix B; Zhang 2019 (anti-aliased up-sampling).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TAPS = (1.0, 3.0, 3.0, 1.0)


def _taps(x: Tensor, gain: float) -> Tensor:
    if x.device.type != "cpu":
        # Made on the device: a copy from the host could not be captured in a graph.
        place = torch.arange(len(TAPS), dtype=x.dtype, device=x.device)
        taps = 1 + place * (3 - place)
    else:
        taps = torch.tensor(TAPS, dtype=x.dtype, device=x.device)
    return taps * (gain / sum(TAPS))


def blur_reference(x: Tensor, padding: tuple[int, int], gain: float = 4.0) -> Tensor:
    """The definition: pad [N, C, H, W] by (before, after) on both axes, convolve with the 4x4 kernel times gain."""
    taps = _taps(x, 1.0)
    kernel = torch.outer(taps, taps) * gain
    channels = x.shape[1]
    x = F.pad(x, (*padding, *padding))
    return F.conv2d(x, kernel.expand(channels, 1, 4, 4), groups=channels)


def blur(x: Tensor, padding: tuple[int, int], gain: float = 4.0) -> Tensor:
    """As `blur_reference`, separably: two passes of four taps instead of one of sixteen."""
    taps = _taps(x, gain**0.5)
    channels = x.shape[1]
    x = F.pad(x, (*padding, *padding))
    x = F.conv2d(x, taps.view(1, 1, 4, 1).expand(channels, 1, 4, 1), groups=channels)
    return F.conv2d(x, taps.view(1, 1, 1, 4).expand(channels, 1, 1, 4), groups=channels)


def upsample_reference(x: Tensor) -> Tensor:
    """The definition: zeros between the pixels of [N, C, H, W], then the filter; [N, C, 2H, 2W]."""
    batch, channels, height, width = x.shape
    spread = x.new_zeros(batch, channels, height, 2, width, 2)
    spread[:, :, :, 0, :, 0] = x
    return blur_reference(spread.reshape(batch, channels, 2 * height, 2 * width), (2, 1))


def upsample(x: Tensor) -> Tensor:
    """As `upsample_reference`. The filter over inserted zeros is a blend of neighbours with weights 1/4 and 3/4."""
    for axis in (2, 3):
        size = x.shape[axis]
        pad = [0, 0, 1, 1] if axis == 2 else [1, 1, 0, 0]
        padded = F.pad(x, pad)
        before, after = padded.narrow(axis, 0, size), padded.narrow(axis, 2, size)
        pairs = torch.stack([x.mul(0.75).add(before, alpha=0.25), x.mul(0.75).add(after, alpha=0.25)], dim=axis + 1)
        x = pairs.flatten(axis, axis + 1)
    return x
