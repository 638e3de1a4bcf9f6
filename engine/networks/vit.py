"""The attribute encoder: CLIP's vision transformer, as FaRL trains it on faces.

Source: CLIP (Radford et al., ICML 2021); FaRL (Zheng et al., CVPR 2022), ViT-B/16.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceanon_engine.engine.networks.configs import AttributeEncoderConfig as AttributeEncoderConfig
from faceanon_engine.engine.networks.resize import resize_and_crop


class AttributeFeatures(NamedTuple):
    """embedding [N, E]: projected class token, not normalised; tokens [N, T, width]: before the last norm."""

    embedding: Tensor
    tokens: Tensor


class Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        # [N, T, 3 * width] -> three of [N, heads, T, width / heads]
        q, k, v = projected.view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Perceptron(nn.Module):
    """Two linear layers with CLIP's quick GELU, x * sigmoid(1.702 x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


class Block(nn.Module):
    """Pre-normalised transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Perceptron(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


def patches_by_product(pixels: Tensor, weight: Tensor) -> Tensor:
    """What a convolution whose windows do not overlap gives, as one matrix product: quicker on a GPU, there and back.

    pixels [N, C, S, S] and weight [width, C, p, p], p a divisor of S -> [N, (S / p)^2, width].
    """
    batch, channels, side, _ = pixels.shape
    patch = weight.shape[-1]
    many = side // patch
    windows = pixels.view(batch, channels, many, patch, many, patch).permute(0, 2, 4, 1, 3, 5)
    return F.linear(windows.reshape(batch, many * many, channels * patch * patch), weight.flatten(1))


class AttributeEncoder(nn.Module):
    """Image [N, 3, H, W] in [-1, 1] -> AttributeFeatures."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: AttributeEncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AttributeEncoderConfig()
        scale = config.width**-0.5
        self.conv1 = nn.Conv2d(3, config.width, config.patch, config.patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(config.width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(config.tokens, config.width))
        self.ln_pre = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.layers))
        self.ln_post = nn.LayerNorm(config.width)
        self.proj = nn.Parameter(scale * torch.randn(config.width, config.embedding_dim))
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def preprocess(
        self, image: Tensor, from_range: tuple[float, float] = (-1.0, 1.0), normalise: bool = True
    ) -> Tensor:
        """Image [N, 3, H, W] in `from_range` -> [N, 3, input_size, input_size] in [0, 1], normalised when asked."""
        low, high = from_range
        image = resize_and_crop(image, self.config.input_size)
        if (low, high) != (0.0, 1.0):
            image = (image - low) / (high - low)
        return (image - self.mean) / self.std if normalise else image

    def encode(self, pixels: Tensor) -> AttributeFeatures:
        """Features of preprocessed pixels [N, 3, input_size, input_size]."""
        patches = self._patches(pixels)  # [N, T - 1, width]
        first = self.class_embedding.expand(len(patches), 1, -1)
        x = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        for block in self.blocks:
            x = block(x)
        return AttributeFeatures(self.ln_post(x[:, 0]) @ self.proj, x)

    def _patches(self, pixels: Tensor) -> Tensor:
        if not pixels.is_cuda:
            return self.conv1(pixels).flatten(2).transpose(1, 2)
        return patches_by_product(pixels, self.conv1.weight)

    def forward(self, image: Tensor) -> AttributeFeatures:
        return self.encode(self.preprocess(image))
