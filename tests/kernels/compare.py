"""Holding a fast path to its definition: values, and gradients under a random cotangent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float16, torch.bfloat16]

# Of the largest magnitude. float32: sums in another order. 16 bits: one rounding of what is stored (2^-11 and 2^-8
# of a value), and once more for a gradient that passes through two stored tensors.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1.2e-3, torch.bfloat16: 9e-3}


def assert_near(actual: Tensor | None, expected: Tensor | None, dtype: torch.dtype, what: str = "") -> None:
    """Largest difference as a share of the largest magnitude expected, within that of the type."""
    assert (actual is None) == (expected is None), what
    if actual is None or expected is None:
        return
    assert actual.shape == expected.shape, f"{what}: {tuple(actual.shape)} and {tuple(expected.shape)}"
    assert torch.isfinite(actual).all(), what
    largest = float(expected.abs().max())
    error = float((actual.double() - expected.double()).abs().max()) / max(largest, 1e-30)
    assert error <= TOLERANCE[dtype], f"{what}: off by {error:.2e} of the largest magnitude"


def gradients(
    compute: Callable[..., Sequence[Tensor | None]], inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Outputs that are not None, and the gradients of their products with the cotangents to all inputs that ask."""
    inputs = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_(x.requires_grad) for x in inputs]
    outputs = [y for y in compute(*inputs) if y is not None]
    total = sum(
        (y.double() * c.double()).sum() for y, c in zip(outputs, [c for c in cotangents if c is not None], strict=True)
    )
    wanted = [x for x in inputs if x.requires_grad]
    of_inputs = torch.autograd.grad(total, wanted, allow_unused=True) if wanted else ()
    return [y.detach() for y in outputs], list(of_inputs)
