"""toRGB alone: a modulated 1x1 convolution to three channels, added to the image so far, enlarged.

    image = W (s * x) + bias + up(skip)

Three outputs of up to 512 inputs a pixel: it is bound by reading x. In the synthesis it therefore rides on the pass
that makes x (see styled_epilogue.py); alone it is wanted where x was made earlier. Both are the same kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from faceanon_engine.kernels.cuda.launch import Launcher
from faceanon_engine.kernels.fir import upsample_reference
from faceanon_engine.kernels.modulated_conv import modulated_conv_reference
from faceanon_engine.kernels.styled_epilogue import RGB, styled_epilogue


def to_rgb_reference(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor, skip: Tensor | None = None) -> Tensor:
    """The definition, in float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    image = modulated_conv_reference(x, weight[:, :, None, None], styles, demodulate=False) + bias[:, None, None]
    return image if skip is None else image + upsample_reference(skip)


def to_rgb(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    bias: Tensor,
    skip: Tensor | None = None,
    *,
    launcher: Launcher | None = None,
) -> Tensor:
    """As `to_rgb_reference`, by one kernel where there is one for the device and the type of x.

    x [N, C, H, W] float32, float16 or bfloat16, channels-last; weight [3, C], styles [N, C], bias [3], skip
    [N, 3, H / 2, W / 2] -> float32 [N, 3, H, W]. Gradients go to x, styles and skip, once.
    """
    rgb = RGB(weight, styles, bias, skip)
    image = styled_epilogue(x, rgb=rgb, activate=False, want_z=False, launcher=launcher).image
    assert image is not None
    return image
