"""Gives the generator's mapping network a start: codes from which the drawing's quantities can be read linearly.

The renderer turns a vector u into quantities (a hue and a saturation into a colour, a share into a haircut) before it
draws. A synthesis network that has to find these products by itself, through its styles, paints grey backgrounds for a
long time; a mapping network fitted to them in half a minute spares it that.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from faceanon_engine.demo.people import describe
from faceanon_engine.demo.render import _colours, _hsv
from faceanon_engine.engine.networks.stylegan2 import Mapping

# What 64 pixels hardly show.
FAINT = ("gaze_x", "gaze_y", "glasses_tint", "pucker", "eye_colour", "wide", "brow_down", "ear_size", "neck_width")


def quantities(u: npt.NDArray[np.floating]) -> dict[str, float]:
    """What the picture of u [P] is drawn from, by name: everything described, colours as red, green and blue."""
    d = describe(u)
    found = dict(d)
    skin, hair, _, clothes = _colours(d)
    background = _hsv(d["background_hue"], d["background_saturation"], d["background_value"])
    colours = {"skin": skin, "hair": hair, "clothes": clothes, "background": background}
    for name, colour in colours.items():
        found.update({f"{name}_{channel}": float(value) for channel, value in zip("rgb", colour, strict=True)})
    for turn in (1.3, 1.7):
        found[f"spots_sin_{turn}"] = math.sin(turn * d["background_spots"])
        found[f"spots_cos_{turn}"] = math.cos(turn * d["background_spots"])
    found["hair_volume"] = d["volume"] * d["hair"]
    found["curtain"] = d["length"] * d["long"]
    return found


def table(codes: npt.NDArray[np.floating]) -> tuple[Tensor, Tensor]:
    """Standardised quantities [N, Q] of vectors [N, P], and how much each matters [Q]."""
    rows = [quantities(u) for u in codes]
    values = np.array([list(row.values()) for row in rows], np.float32)
    weight = np.ones(values.shape[1], np.float32)
    for index, name in enumerate(rows[0]):
        if name[-2:] in ("_r", "_g", "_b") or name in ("hair", "long", "glasses", "yaw", "pitch"):
            weight[index] = 2.0
        elif name in FAINT:
            weight[index] = 0.2
    standardised = (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-6)
    return torch.from_numpy(standardised), torch.from_numpy(weight)


def fit_mapping(mapping: Mapping, codes: npt.NDArray[np.floating], steps: int = 12_000, rate: float = 3e-3) -> float:
    """Fit `mapping` so that a linear layer reads the quantities off its codes; returns the share left unexplained."""
    values, weight = table(codes)
    inputs = torch.from_numpy(np.array(codes, np.float32))
    head = nn.Linear(mapping.layers[-1].weight.shape[0], values.shape[1])
    optimiser = torch.optim.Adam([*mapping.parameters(), *head.parameters()], lr=rate)
    recent = 1.0
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(inputs), (256,))
        errors = (head(mapping(inputs[rows])) - values[rows]).square().mean(dim=0)
        loss = (errors * weight).mean() / weight.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        recent = 0.99 * recent + 0.01 * float(loss.detach())
    return recent
