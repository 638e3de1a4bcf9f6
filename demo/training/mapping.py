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
from torch import Tensor

from faceanon_engine.demo.people import describe
from faceanon_engine.demo.render import colours_of, rgb_of_hsv
from faceanon_engine.engine.networks.stylegan2 import Mapping
from faceanon_engine.engine.networks.stylegan2_layers import EqualizedLinear

# What 64 pixels hardly show, and what other quantities say already.
FAINT = ("gaze_x", "gaze_y", "glasses_tint", "pucker", "eye_colour", "wide", "brow_down", "ear_size", "neck_width")
REPLACED = (
    *("melanin", "skin_hue", "hair_dark", "hair_red", "hair_grey", "volume", "length", "background_spots"),
    *(f"{thing}_{part}" for thing in ("background", "clothes") for part in ("hue", "saturation", "value")),
)
STRONG = ("hair", "long", "glasses", "yaw", "pitch", "curtain")


def quantities(u: npt.NDArray[np.floating]) -> dict[str, float]:
    """What the picture of u [P] is drawn from, by name: everything described, colours as grey and two differences."""
    d = describe(u)
    values = {name: value for name, value in d.items() if name not in REPLACED}
    skin, hair, _, clothes = colours_of(d)
    background = rgb_of_hsv(d["background_hue"], d["background_saturation"], d["background_value"])
    colours = {"skin": skin, "hair": hair, "clothes": clothes, "background": background}
    for name, (red, green, blue) in colours.items():
        values |= {f"{name}_grey": red + green + blue, f"{name}_warm": red - blue, f"{name}_green": green - red - blue}
    for turn in (1.3, 1.7):
        values[f"spots_sin_{turn}"] = math.sin(turn * d["background_spots"])
        values[f"spots_cos_{turn}"] = math.cos(turn * d["background_spots"])
    values["hair_volume"] = d["volume"] * d["hair"]
    values["curtain"] = d["length"] * d["long"]
    return values


def table(codes: npt.NDArray[np.floating]) -> Tensor:
    """Quantities [N, Q] of vectors [N, P], each with mean 0 and a standard deviation that says how much it shows."""
    rows = [quantities(u) for u in codes]
    values = np.array([list(row.values()) for row in rows], np.float32)
    amount = np.ones(values.shape[1], np.float32)
    for index, name in enumerate(rows[0]):
        if name.endswith(("_grey", "_warm", "_green")) or name in STRONG:
            amount[index] = 1.5
        elif name in FAINT or name.startswith("spots"):
            amount[index] = 0.4
    return torch.from_numpy((values - values.mean(axis=0)) / (values.std(axis=0) + 1e-6) * amount)


def fit_mapping(mapping: Mapping, codes: npt.NDArray[np.floating], steps: int = 25_000, rate: float = 3e-2) -> float:
    """Fit `mapping` so that every quantity is a direction of its codes; returns the share left unexplained.

    The directions are orthogonal and fixed: were they free, the fit could hide a quantity in a direction of hardly any
    variance, from which the synthesis network's styles would learn it slowly.
    """
    values = table(codes)
    last = mapping.layers[-1]
    assert isinstance(last, EqualizedLinear)
    width = len(last.weight)
    if values.shape[1] > width:
        raise ValueError(f"{values.shape[1]} quantities do not fit into codes of {width}")
    directions = torch.linalg.qr(torch.randn(width, width))[0][: values.shape[1]]
    wanted = values @ directions
    mapping.requires_grad_(True)
    inputs = torch.from_numpy(np.array(codes, np.float32))
    optimiser = torch.optim.Adam(mapping.parameters(), lr=rate)
    recent = whole = float(wanted.square().mean())
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(inputs), (256,))
        loss = (mapping(inputs[rows]) - wanted[rows]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        recent = 0.99 * recent + 0.01 * float(loss.detach())
    mapping.requires_grad_(False)
    return recent / whole
