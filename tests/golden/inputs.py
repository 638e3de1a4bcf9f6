"""Deterministic inputs for the goldens; bit-exact, see weights.unit."""

import numpy as np
from tests.golden.weights import unit


def latent(name, shape):
    """w, w+ or z codes: unit variance."""
    return unit("input." + name, shape)


def smooth_image(name, batch, size, grid=9, grain=0.05):
    """float32 [batch,3,size,size] in [0,1]: bilinear blow-up (align corners) of a random grid plus fine grain.

    The grid does not depend on `size`, so the same name at 256 and 1024 shows the same 'scene'."""
    g = unit("input.%s.grid" % name, (batch, 3, grid, grid)).astype(np.float64) / 12**0.5 + 0.5  # [0,1]
    p = np.arange(size) * ((grid - 1) / (size - 1))
    i = np.minimum(p.astype(np.int64), grid - 2)
    f = p - i
    g = g[:, :, i] * (1 - f)[:, None] + g[:, :, i + 1] * f[:, None]
    g = g[:, :, :, i] * (1 - f) + g[:, :, :, i + 1] * f
    g = g + grain * unit("input.%s.grain%d" % (name, size), g.shape)
    return np.clip(g, 0, 1).astype(np.float32)


def mixed_image(name, other, amount, batch, size):
    """(1-amount)*smooth_image(name) + amount*smooth_image(other), float32."""
    a, b = smooth_image(name, batch, size), smooth_image(other, batch, size)
    return np.float32(1 - amount) * a + np.float32(amount) * b
