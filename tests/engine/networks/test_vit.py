from __future__ import annotations

import torch
import torch.nn.functional as F

from faceanon_engine.engine.networks.vit import patches_by_product


def test_the_product_is_the_convolution_over_windows_that_do_not_overlap() -> None:
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    defined = F.conv2d(pixels, weight, stride=4).flatten(2).transpose(1, 2)
    product = patches_by_product(pixels, weight)
    torch.testing.assert_close(product, defined)
    share = torch.randn_like(defined)
    gradients = [torch.autograd.grad(value, [pixels], share)[0] for value in (product, defined)]
    torch.testing.assert_close(*gradients)
