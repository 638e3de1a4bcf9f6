"""StyleGAN2: mapping, truncation, and synthesis from w+ with fixed noise.

Source: StyleGAN2 (Karras, Laine, Aittala, Hellsten, Lehtinen, Aila, CVPR 2020), skip architecture.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceanon_engine.engine.networks import stylegan2_fused
from faceanon_engine.engine.networks.configs import GeneratorConfig as GeneratorConfig
from faceanon_engine.engine.networks.launcher import launcher_for
from faceanon_engine.engine.networks.stylegan2_layers import EqualizedLinear, ModulatedConv, StyledLayer, ToRGB


class Mapping(nn.Module):
    """z [N, z_dim] -> w [N, w_dim]: normalised to unit mean square, then fully connected layers."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        widths = [config.z_dim] + [config.w_dim] * config.mapping_layers
        self.layers = nn.ModuleList(
            EqualizedLinear(a, b, lr_multiplier=config.mapping_lr_multiplier) for a, b in itertools.pairwise(widths)
        )

    def forward(self, z: Tensor) -> Tensor:
        x = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2) * math.sqrt(2)
        return x


class SynthesisPrefix(NamedTuple):
    """What depends on the rows below `first_row` alone: features [N, C, h, h], image so far [N, 3, h', h'] or None."""

    first_row: int
    features: Tensor
    image: Tensor | None


class Generator(nn.Module):
    """StyleGAN2; images are RGB [N, 3, R, R], nominally in [-1, 1]."""

    w_avg: Tensor

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GeneratorConfig()
        self.mapping = Mapping(config)
        self.register_buffer("w_avg", torch.zeros(config.w_dim))
        self.const = nn.Parameter(torch.randn(1, config.channels(4), 4, 4))
        layers, to_rgbs = [], []
        for block in range(config.blocks):
            side = 4 * 2**block
            cin, cout = config.channels(max(side // 2, 4)), config.channels(side)
            if block:
                layers.append(StyledLayer(cin, cout, config.w_dim, side, up=True))
            layers.append(StyledLayer(cout, cout, config.w_dim, side, up=False))
            to_rgbs.append(ToRGB(cout, config.w_dim))
        self.layers = nn.ModuleList(layers)  # layer i reads row i
        self.to_rgbs = nn.ModuleList(to_rgbs)  # that of block b reads row 2 b + 1

    def freeze(self) -> Generator:
        """For inference: no gradients to weights, constants computed once; returns self."""
        self.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, ModulatedConv):
                module.freeze()
        return self

    def train(self, mode: bool = True) -> Generator:
        """Training forgets the constants of `freeze`; its weights still need `requires_grad_`."""
        if mode:
            for module in self.modules():
                if isinstance(module, ModulatedConv):
                    module.thaw()
        super().train(mode)
        return self

    def truncate(self, w: Tensor, psi: float) -> Tensor:
        """Codes w [..., w_dim] moved towards the average: psi 1 leaves them, 0 gives the average."""
        return self.w_avg + (w - self.w_avg) * psi

    def broadcast(self, w: Tensor) -> Tensor:
        """w [N, w_dim] repeated to w+ [N, rows, w_dim]."""
        return w[:, None].expand(-1, self.config.rows, -1)

    def _run(
        self, features: Tensor, image: Tensor | None, rows: Sequence[Tensor], first: int, stop: int
    ) -> SynthesisPrefix:
        launcher = launcher_for(features.device)
        layers, to_rgbs = cast("Sequence[StyledLayer]", self.layers), cast("Sequence[ToRGB]", self.to_rgbs)
        if launcher is not None and stylegan2_fused.usable(layers, features):
            drawn = stylegan2_fused.run(layers, to_rgbs, features, image, rows, first, stop, launcher)
            return SynthesisPrefix(stop, *drawn)
        for row in range(first, stop):
            if row % 2:
                # The toRGB of the block that just ended shares this row with the next block's first layer.
                image = to_rgbs[row // 2](features, rows[row], image)
            if row < len(layers):
                features = layers[row](features, rows[row])
        return SynthesisPrefix(stop, features, image)

    def prefix(self, w_plus: Tensor, first_row: int = 3) -> SynthesisPrefix:
        """Everything of the synthesis of w+ [N, rows, w_dim] that no row from `first_row` on has a part in."""
        rows = self._rows(w_plus)
        return self._run(self.const.expand(len(w_plus), -1, -1, -1), None, rows, 0, first_row)

    def synthesis_from(self, prefix: SynthesisPrefix, w_plus: Tensor | Sequence[Tensor]) -> Tensor:
        """Images [N, 3, R, R] of w+ [N, rows, w_dim] whose rows below `prefix.first_row` made the prefix.

        A sequence of rows, each [N, w_dim], says which of them ask for a gradient: those that do not, cost none.
        """
        rows = self._rows(w_plus)
        image = self._run(prefix.features, prefix.image, rows, prefix.first_row, self.config.rows).image
        assert image is not None
        return image

    def skip_output_from(self, prefix: SynthesisPrefix, w_plus: Tensor | Sequence[Tensor], resolution: int) -> Tensor:
        """The image so far at that side, [N, 3, r, r]: what the layers above add their details to.

        It reads no row above 2 log2(r) - 3. Raises ValueError for a side that has no image above the prefix.
        """
        rows = self._rows(w_plus)
        block = int(math.log2(resolution)) - 2
        row = 2 * block + 1
        if resolution != 4 * 2**block or not prefix.first_row <= row < self.config.rows:
            raise ValueError(f"no image of side {resolution} above row {prefix.first_row}")
        below = self._run(prefix.features, prefix.image, rows, prefix.first_row, row)
        return self.to_rgbs[block](below.features, rows[row], below.image)

    def synthesis(self, w_plus: Tensor) -> Tensor:
        """Images [N, 3, R, R] of w+ [N, rows, w_dim]; raises ValueError on another shape."""
        return self.synthesis_from(self.prefix(w_plus, 0), w_plus)

    def forward(self, z: Tensor, truncation_psi: float = 1.0) -> Tensor:
        """Images of z [N, z_dim]."""
        return self.synthesis(self.broadcast(self.truncate(self.mapping(z), truncation_psi)))

    def _rows(self, w_plus: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
        expected = self.config.rows, self.config.w_dim
        if isinstance(w_plus, Tensor):
            shape: tuple[int, ...] = tuple(w_plus.shape[1:]) if w_plus.ndim == 3 else ()
            rows: Sequence[Tensor] = w_plus.unbind(1) if shape == expected else ()
        else:
            rows, shape = w_plus, (len(w_plus), w_plus[0].shape[-1])
        if shape != expected:
            raise ValueError(f"w+ has rows of shape {list(shape)}, expected [N, {', '.join(map(str, expected))}]")
        return rows
