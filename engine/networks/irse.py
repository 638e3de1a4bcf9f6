"""The identity encoder: ArcFace's improved residual network with squeeze-and-excitation (IR-SE).

Source: ArcFace (Deng, Guo, Xue, Zafeiriou, CVPR 2019); the 50-layer configuration that FALCO uses.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceanon_engine.engine.networks.configs import IdentityEncoderConfig as IdentityEncoderConfig
from faceanon_engine.engine.networks.resize import resize_and_crop


class SqueezeExcitation(nn.Module):
    """Scales channels by what they hold on average."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(pooled))))


class Subsample(nn.Module):
    """Every stride-th pixel both ways: max pooling over one pixel, whose backward pass would search for the maximum."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]


class ResidualUnit(nn.Module):
    """Pre-normalised residual unit with squeeze-and-excitation."""

    def __init__(self, cin: int, cout: int, stride: int, reduction: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if cin == cout:
            self.shortcut_layer = Subsample(stride)
        else:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(cin),
            nn.Conv2d(cin, cout, 3, 1, 1, bias=False),
            nn.PReLU(cout),
            nn.Conv2d(cout, cout, 3, stride, 1, bias=False),
            nn.BatchNorm2d(cout),
            SqueezeExcitation(cout, reduction),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


def input_layer(width: int) -> nn.Sequential:
    """The first convolution, at full side."""
    return nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width))


def body(units: tuple[int, ...], widths: tuple[int, ...], reduction: int) -> nn.Sequential:
    """All residual units in a row; the first of a stage halves the side."""
    layers, cin = [], widths[0]
    for count, width in zip(units, widths, strict=True):
        for index in range(count):
            layers.append(ResidualUnit(cin, width, 1 if index else 2, reduction))
            cin = width
    return nn.Sequential(*layers)


class IdentityEncoder(nn.Module):
    """Image [N, 3, H, W] in [-1, 1] -> identity embedding [N, embedding_dim] of unit length."""

    def __init__(self, config: IdentityEncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or IdentityEncoderConfig()
        side, width = config.input_size // 16, config.widths[-1]
        self.input_layer = input_layer(config.widths[0])
        self.body = body(config.units, config.widths, config.reduction)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Dropout(config.dropout),
            nn.Flatten(),
            nn.Linear(width * side * side, config.embedding_dim),
            nn.BatchNorm1d(config.embedding_dim),
        )

    def preprocess(self, image: Tensor) -> Tensor:
        """Image [N, 3, H, W] of any side -> [N, 3, input_size, input_size], same range."""
        config = self.config
        image = resize_and_crop(image, config.resize or config.input_size)
        if config.crop is not None:
            top, bottom, left, right = config.crop
            image = image[:, :, top:bottom, left:right]
        if image.shape[2:] == (config.input_size, config.input_size):
            return image
        return F.adaptive_avg_pool2d(image, config.input_size)

    def embed(self, pixels: Tensor) -> Tensor:
        """Preprocessed pixels -> embedding of unit length."""
        return F.normalize(self.output_layer(self.body(self.input_layer(pixels))), dim=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.embed(self.preprocess(image))
