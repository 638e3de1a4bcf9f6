"""Sharpens a trained generator: the same supervision with a discriminator beside it.

    python -m faceanon_engine.demo.training.sharpen DATA RUN --generator GENERATOR_RUN --minutes 15

What a mean absolute difference leaves undecided it blurs. A discriminator, trained alternately with the hinge loss
under spectral normalisation (Miyato et al., ICLR 2018), asks for pictures that look drawn; the difference between its
features of the generated and of the drawn picture (Wang et al., CVPR 2018) asks for the same drawing, a pixel here or
there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from faceanon_engine.demo.training.common import (
    GENERATOR,
    Average,
    Data,
    channels_last,
    load_average,
    parser,
    random_batches,
)
from faceanon_engine.demo.training.generator import mixed_codes, picture_loss
from faceanon_engine.engine.networks import Generator

PICTURE, FEATURES, LOOKS = 0.5, 2.0, 0.2
"""Weights of the generator's losses: pyramid of differences, discriminator's features, discriminator's answer."""


class Discriminator(nn.Module):
    """Images [N, 3, 64, 64] -> answers [N, 1], and the features of every layer."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128, 160)
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 1, 1)]
        for cin, cout in zip(widths, (*widths[1:], widths[-1]), strict=True):
            layers.append(nn.Conv2d(cin, cout, 4, 2, 1))
        self.layers = nn.ModuleList(spectral_norm(layer) for layer in layers)
        self.last = spectral_norm(nn.Conv2d(widths[-1], 1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for layer in self.layers:
            image = F.leaky_relu(layer(image), 0.2)
            features.append(image)
        # One answer a patch: where a picture is blurred matters.
        return self.last(image), features


def main() -> None:
    options = parser(__doc__, batch=16)
    options.add_argument("--generator", type=Path, required=True, help="run of the generator to begin with")
    options.set_defaults(rate=2e-3, steps=3000)
    arguments = options.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    sharpen(arguments)


def sharpen(arguments: argparse.Namespace) -> None:
    device = torch.device(arguments.device)
    arguments.run.mkdir(parents=True, exist_ok=True)
    file = arguments.run / "checkpoint.pt"
    generator = Generator(GENERATOR)
    load_average(arguments.generator, generator)
    generator.mapping.requires_grad_(False)
    generator = channels_last(generator.to(device)).train()
    discriminator = channels_last(Discriminator().to(device))
    average = Average(generator, 0.995)
    ours = [p for p in generator.parameters() if p.requires_grad]
    paint = torch.optim.Adam(ours, lr=arguments.rate, betas=(0.0, 0.99))
    judge = torch.optim.Adam(discriminator.parameters(), lr=4e-4, betas=(0.0, 0.99))
    before = torch.load(arguments.generator / "checkpoint.pt", map_location="cpu", weights_only=True)
    step, seconds = 0, float(before["seconds"])
    if file.exists():
        kept = torch.load(file, map_location=device, weights_only=True)
        generator.load_state_dict(kept["networks"])
        discriminator.load_state_dict(kept["discriminator"])
        average.network.load_state_dict(kept["average"])
        paint.load_state_dict(kept["optimiser"])
        judge.load_state_dict(kept["judge"])
        step, seconds = kept["step"] - before["step"], kept["seconds"]
    started = saved = time.monotonic()

    def save() -> None:
        content = {
            "networks": generator.state_dict(),
            "average": average.network.state_dict(),
            "discriminator": discriminator.state_dict(),
            "optimiser": paint.state_dict(),
            "judge": judge.state_dict(),
            "step": before["step"] + step,
            "seconds": seconds + time.monotonic() - started,
        }
        torch.save(content, file.with_suffix(".tmp"))
        os.replace(file.with_suffix(".tmp"), file)

    source = random_batches(Data(arguments.data, "scenes"), arguments.batch, device)
    batches = source(torch.Generator().manual_seed(arguments.seed + step))
    sums: dict[str, float] = {}
    while step < arguments.steps and time.monotonic() - started < arguments.minutes * 60:
        share = step / arguments.steps
        for group in paint.param_groups:
            group["lr"] = arguments.rate * min(1.0, (step + 1) / 200, 2 * (1 - share))
        losses = one_step(generator, discriminator, next(batches), paint, judge, arguments.precision == "bf16")
        step += 1
        average.update(generator, step)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value
        if step % 100 == 0:
            row = {"step": step, "seconds": round(seconds + time.monotonic() - started, 1)}
            row |= {name: round(value / 100, 5) for name, value in sums.items()}
            with open(arguments.run / "log.jsonl", "a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            sums = {}
        if time.monotonic() - saved > 120:
            save()
            saved = time.monotonic()
    save()


def one_step(
    generator: Generator,
    discriminator: Discriminator,
    batch: tuple[Tensor, Tensor],
    paint: torch.optim.Optimizer,
    judge: torch.optim.Optimizer,
    bf16: bool,
) -> dict[str, float]:
    """One update of the discriminator and one of the generator; returns the losses."""
    u, target = batch
    target = target.contiguous(memory_format=torch.channels_last)
    with torch.autocast(u.device.type, torch.bfloat16, enabled=bf16):
        image = generator.synthesis(mixed_codes(generator, u, 0.5))
        drawn, _ = discriminator(target)
        made, _ = discriminator(image.detach().to(target.dtype))
        fooled = F.relu(1 - drawn).mean() + F.relu(1 + made).mean()
    judge.zero_grad(set_to_none=True)
    fooled.backward()
    judge.step()

    discriminator.requires_grad_(False)
    with torch.autocast(u.device.type, torch.bfloat16, enabled=bf16):
        with torch.no_grad():
            _, wanted = discriminator(target)
        answer, features = discriminator(image.to(target.dtype))
        same = torch.stack([(a.float() - b.float()).abs().mean() for a, b in zip(features, wanted, strict=True)]).sum()
        picture = picture_loss(image, target)
        loss = PICTURE * picture + FEATURES * same - LOOKS * answer.float().mean()
    paint.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([p for p in generator.parameters() if p.requires_grad], 5.0)
    paint.step()
    discriminator.requires_grad_(True)
    return {
        "loss": float(loss.detach()),
        "picture": float(picture.detach()),
        "features": float(same.detach()),
        "judge": float(fooled.detach()),
        "answer": float(answer.detach().mean()),
    }


if __name__ == "__main__":
    main()
