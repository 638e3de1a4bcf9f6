"""The inverter: e4e's encoder from an image to w+.

Source: Designing an Encoder for StyleGAN Image Manipulation (Tov, Alaluf, Nitzan, Patashnik, Cohen-Or, 2021); the
feature pyramid is pSp's (Richardson et al., CVPR 2021).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceanon_engine.engine.networks.configs import InverterConfig as InverterConfig
from faceanon_engine.engine.networks.irse import body, input_layer
from faceanon_engine.engine.networks.resize import resize_and_crop
from faceanon_engine.engine.networks.stylegan2_layers import EqualizedLinear


class StyleHead(nn.Module):
    """Features [N, C, s, s] -> one row [N, w_dim]: strided convolutions down to a single pixel."""

    def __init__(self, cin: int, w_dim: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(int(math.log2(side))):
            layers += [nn.Conv2d(w_dim if index else cin, w_dim, 3, 2, 1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualizedLinear(w_dim, w_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


class Inverter(nn.Module):
    """Image [N, 3, H, W] in [-1, 1] -> w+ [N, rows, w_dim], the average code included."""

    latent_avg: Tensor

    def __init__(self, config: InverterConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or InverterConfig()
        self.input_layer = input_layer(config.widths[0])
        self.body = body(config.units, config.widths, config.reduction)
        coarse = config.input_size // 16
        width = config.widths[3]
        self.styles = nn.ModuleList(
            StyleHead(
                width,
                config.w_dim,
                coarse * (1 if row < config.middle_row else 2 if row < config.fine_row else 4),
            )
            for row in range(config.rows)
        )
        self.latlayer1 = nn.Conv2d(config.widths[2], width, 1)
        self.latlayer2 = nn.Conv2d(config.widths[1], width, 1)
        self.register_buffer("latent_avg", torch.zeros(config.rows, config.w_dim))

    def preprocess(self, image: Tensor) -> Tensor:
        """Image of any side -> [N, 3, input_size, input_size], same range."""
        return resize_and_crop(image, self.config.input_size)

    def offsets(self, pixels: Tensor) -> Tensor:
        """Preprocessed pixels -> codes [N, rows, w_dim] relative to `latent_avg`."""
        config = self.config
        ends = [sum(config.units[: stage + 1]) - 1 for stage in range(4)]
        x, taps = self.input_layer(pixels), {}
        for index, unit in enumerate(self.body):
            x = unit(x)
            if index in ends[1:]:
                taps[ends.index(index)] = x
        coarse = taps[3]
        middle = _enlarge_to(coarse, taps[2]) + self.latlayer1(taps[2])
        fine = _enlarge_to(middle, taps[1]) + self.latlayer2(taps[1])
        first = self.styles[0](coarse)
        codes = [first]
        for row in range(1, config.rows):
            level = coarse if row < config.middle_row else middle if row < config.fine_row else fine
            codes.append(first + self.styles[row](level))
        return torch.stack(codes, dim=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.offsets(self.preprocess(image)) + self.latent_avg


def _enlarge_to(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)
