"""What all four trainings share: data on disk, checkpoints that resume, a loss log, moving averages."""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from faceanon_engine.demo.people import SIZE
from faceanon_engine.demo.training.dataset import CHUNK
from faceanon_engine.engine.images import from_uint8
from faceanon_engine.engine.networks import (
    AttributeEncoderConfig,
    GeneratorConfig,
    IdentityEncoderConfig,
    InverterConfig,
)

RESOLUTION = 64
GENERATOR = GeneratorConfig(
    resolution=RESOLUTION,
    z_dim=SIZE,
    w_dim=128,
    channel_base=2560,
    channel_max=128,
    mapping_layers=3,
    mapping_lr_multiplier=1.0,
)
INVERTER = InverterConfig(input_size=64, rows=10, w_dim=128, units=(1, 2, 2, 1), widths=(24, 48, 96, 128), reduction=8)
IDENTITY_ENCODER = IdentityEncoderConfig(
    input_size=48,
    resize=64,
    crop=(12, 60, 8, 56),  # the face without most of the hair
    units=(1, 2, 2, 1),
    widths=(24, 48, 96, 128),
    reduction=8,
    embedding_dim=128,
    dropout=0.2,
)
ATTRIBUTE_ENCODER = AttributeEncoderConfig(
    input_size=64,
    patch=8,
    width=128,
    layers=4,
    heads=4,
    embedding_dim=128,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)


class Data:
    """Codes and pictures of one rendered set, memory-mapped; it may still be growing."""

    def __init__(self, folder: Path, kind: str, size: int = RESOLUTION) -> None:
        stem = folder / f"{kind}-{size}"
        self.codes = np.load(f"{stem}-codes.npy", mmap_mode="r")
        self.images = np.load(f"{stem}-images.npy", mmap_mode="r")
        self._done = Path(f"{stem}.done")

    def __len__(self) -> int:
        """Pictures that are finished now."""
        return min(len(self.codes), int(self._done.read_text()) * CHUNK)

    def batch(self, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """Codes [N, P] and pictures [N, 3, S, S] in [-1, 1] of those rows."""
        rows = np.sort(rows)
        codes = torch.from_numpy(np.asarray(self.codes[rows]))
        images = torch.from_numpy(np.asarray(self.images[rows]))
        return codes.to(device), from_uint8(images.to(device))


def parser(description: str | None, *, batch: int) -> argparse.ArgumentParser:
    """The options that every training has."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", type=Path, help="folder made by dataset.py")
    options.add_argument("run", type=Path, help="folder of checkpoint and log; an existing run goes on")
    options.add_argument("--minutes", type=float, default=1e9, help="stop after that time, with a checkpoint")
    options.add_argument("--steps", type=int, default=20_000, help="length the learning-rate schedule is laid out for")
    options.add_argument("--batch", type=int, default=batch)
    options.add_argument("--rate", type=float, default=2e-3)
    options.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="of the forward pass (autocast)")
    options.add_argument("--threads", type=int, default=0)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return options


class Average:
    """Exponential moving average of a network's state, with a warm-up so that early states are forgotten."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for ours, theirs in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if ours.is_floating_point():
                ours.lerp_(theirs, 1 - decay)
            else:
                ours.copy_(theirs)


def train(
    arguments: argparse.Namespace,
    networks: nn.ModuleDict,
    batches: Callable[[torch.Generator], Iterator[Any]],
    loss_of: Callable[[nn.ModuleDict, Any, int], dict[str, Tensor]],
    *,
    averaged: str,
    decay: float = 0.998,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    checkpoint_minutes: float = 2.0,
    begun: Path | None = None,
) -> Average:
    """Minimise `loss_of(...)["loss"]` over `networks`; goes on where the run's checkpoint stopped.

    The rate warms up over 200 steps and falls to zero by a cosine over `--steps`. The network named `averaged` is
    kept as a moving average, which is returned. `begun` is the run that the networks were taken from: what it took
    is recorded with this one.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.run.mkdir(parents=True, exist_ok=True)
    device = torch.device(arguments.device)
    networks.to(device).train()
    average = Average(networks[averaged], decay)
    parameters = [p for p in networks.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=arguments.rate, betas=betas, weight_decay=weight_decay)
    file = arguments.run / "checkpoint.pt"
    step, seconds = 0, 0.0
    earlier = {"step": 0, "seconds": 0.0}
    if begun:
        before = torch.load(begun / "checkpoint.pt", map_location="cpu", weights_only=True)
        earlier = {name: before[name] + before.get("earlier", earlier)[name] for name in earlier}
    if file.exists():
        checkpoint = torch.load(file, map_location=device, weights_only=True)
        networks.load_state_dict(checkpoint["networks"])
        average.network.load_state_dict(checkpoint["average"])
        optimiser.load_state_dict(checkpoint["optimiser"])
        step, seconds = checkpoint["step"], checkpoint["seconds"]

    def save() -> None:
        content = {
            "networks": networks.state_dict(),
            "average": average.network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "step": step,
            "seconds": seconds + time.monotonic() - started,
            "earlier": earlier,
        }
        torch.save(content, file.with_suffix(".tmp"))
        os.replace(file.with_suffix(".tmp"), file)

    started = saved = time.monotonic()
    sums: dict[str, float] = {}
    source = batches(torch.Generator().manual_seed(arguments.seed + step))
    while step < arguments.steps and time.monotonic() - started < arguments.minutes * 60:
        warm = min(1.0, (step + 1) / 200)
        rate = arguments.rate * warm * 0.5 * (1 + math.cos(math.pi * step / arguments.steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
            losses = loss_of(networks, next(source), step)
        optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        step += 1
        average.update(networks[averaged], step)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        if step % 100 == 0:
            row = {"step": step, "seconds": round(seconds + time.monotonic() - started, 1), "rate": rate}
            row.update({name: round(value / 100, 5) for name, value in sums.items()})
            with open(arguments.run / "log.jsonl", "a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            sums = {}
        if time.monotonic() - saved > checkpoint_minutes * 60:
            save()
            saved = time.monotonic()
    save()
    return average


def channels_last(network: Any) -> Any:
    """The network with its convolutions' weights in the memory order that is quick on a CPU."""
    return network.to(memory_format=torch.channels_last)


def random_batches(data: Data, size: int, device: torch.device) -> Callable[[torch.Generator], Iterator[Any]]:
    """Batches of independently drawn rows, without end."""

    def batches(generator: torch.Generator) -> Iterator[Any]:
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        while True:
            yield data.batch(rng.choice(len(data), size, replace=False), device)

    return batches


def load_average(run: Path, network: nn.Module) -> nn.Module:
    """The averaged network of a run's checkpoint, in `network`."""
    network.load_state_dict(torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)["average"])
    return network.eval()
