"""The method as one would first write it, one image at a time: the yardstick of `optimise_step.py`.

Per-sample modulated weights through a grouped convolution, every weight asking for a gradient, the original's
features computed again at every step, every row of the code drawn again at every step. It computes the same function
as the engine, from a state dict in rosinality's layout, and shares no code with the engine's generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainGenerator(nn.Module):
    """StyleGAN2 synthesis from w+ [1, rows, w_dim] to an image [1, 3, R, R], fixed noise."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = nn.ParameterDict(
            {
                key.replace(".", "/"): nn.Parameter(value.clone())
                for key, value in state.items()
                if value.is_floating_point()
            }
        )
        self.layers = sum(key.startswith("convs.") and key.endswith("conv.weight") for key in state)

    def get(self, key: str) -> Tensor:
        return self.values[key.replace(".", "/")]

    def modulated(self, x: Tensor, w: Tensor, name: str, *, demodulate: bool, up: bool) -> Tensor:
        weight = self.get(f"{name}.weight")
        affine = self.get(f"{name}.modulation.weight")
        style = F.linear(w, affine / math.sqrt(affine.shape[1]), self.get(f"{name}.modulation.bias"))
        weight = weight / math.sqrt(weight[0, 0].numel()) * style[:, None, :, None, None]
        if demodulate:
            weight = weight * (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        batch, cout, cin, k, _ = weight.shape
        x = x.reshape(1, batch * cin, *x.shape[2:])
        if up:
            kernel = weight.transpose(1, 2).reshape(batch * cin, cout, k, k)
            x = F.conv_transpose2d(x, kernel, stride=2, groups=batch)
            return blur(x.reshape(batch, cout, *x.shape[2:]), (1, 1))
        x = F.conv2d(x, weight.reshape(batch * cout, cin, k, k), padding=k // 2, groups=batch)
        return x.reshape(batch, cout, *x.shape[2:])

    def styled(self, x: Tensor, w: Tensor, name: str, noise: int, *, up: bool) -> Tensor:
        x = self.modulated(x, w, f"{name}.conv", demodulate=True, up=up)
        x = x + self.get(f"{name}.noise.weight") * self.get(f"noises.noise_{noise}")
        return F.leaky_relu(x + self.get(f"{name}.activate.bias")[None, :, None, None], 0.2) * math.sqrt(2)

    def to_rgb(self, x: Tensor, w: Tensor, name: str) -> Tensor:
        return self.modulated(x, w, f"{name}.conv", demodulate=False, up=False) + self.get(f"{name}.bias")

    def forward(self, w_plus: Tensor) -> Tensor:
        x = self.get("input.input").expand(len(w_plus), -1, -1, -1)
        x = self.styled(x, w_plus[:, 0], "conv1", 0, up=False)
        image = self.to_rgb(x, w_plus[:, 1], "to_rgb1")
        for block in range(self.layers // 2):
            first = 2 * block
            x = self.styled(x, w_plus[:, first + 1], f"convs.{first}", first + 1, up=True)
            x = self.styled(x, w_plus[:, first + 2], f"convs.{first + 1}", first + 2, up=False)
            image = enlarge(image) + self.to_rgb(x, w_plus[:, first + 3], f"to_rgbs.{block}")
        return image


def blur(x: Tensor, padding: tuple[int, int]) -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device)
    kernel = torch.outer(taps, taps) / taps.sum().square() * 4
    channels = x.shape[1]
    x = F.pad(x, (*padding, *padding))
    return F.conv2d(x, kernel.expand(channels, 1, 4, 4), groups=channels)


def enlarge(image: Tensor) -> Tensor:
    batch, channels, height, width = image.shape
    spread = image.new_zeros(batch, channels, height, 2, width, 2)
    spread[:, :, :, 0, :, 0] = image
    return blur(spread.reshape(batch, channels, 2 * height, 2 * width), (2, 1))


def plain_step(
    generator: PlainGenerator,
    identity_encoder: Callable[[Tensor], Tensor],
    attribute_tokens: Callable[[Tensor], Tensor],
    real: Tensor,
    w_plus: Tensor,
    rows: Tensor,
    optimiser: torch.optim.Optimizer,
) -> tuple[float, float]:
    """One step for one image: returns the identity cosine and the attribute loss before the update."""
    image = generator(torch.cat([w_plus[:, :3], rows, w_plus[:, 8:]], dim=1))
    cosine = (identity_encoder(image) * identity_encoder(real)).sum()
    attribute = (attribute_tokens(image) - attribute_tokens(real)).abs().mean(dim=2).sum()
    loss = 10 * cosine.abs() + 0.1 * attribute
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return float(cosine), float(attribute)
