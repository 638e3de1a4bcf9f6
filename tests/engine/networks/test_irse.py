from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from faceanon_engine.engine.networks.irse import Subsample


@pytest.mark.parametrize("stride", [1, 2])
def test_a_shortcut_is_the_max_pooling_over_one_pixel_of_the_source(stride: int) -> None:
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    ours, theirs = Subsample(stride)(x), F.max_pool2d(x, 1, stride)
    assert torch.equal(ours, theirs)
    share = torch.randn_like(ours)
    assert torch.equal(*(torch.autograd.grad(value, [x], share)[0] for value in (ours, theirs)))
