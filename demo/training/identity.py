"""Trains the demo's identity encoder: additive angular margin on drawn persons, and the shape of their faces.

    python -m faceanon_engine.demo.training.identity DATA RUN --minutes 10

Source of the loss: ArcFace (Deng et al., CVPR 2019). `--architecture plain --seed 1` trains the second recogniser, of
another architecture, that only the evidence uses. `--generator` lets the generator draw every other picture: the
optimisation asks the encoder about generated faces, and an encoder that never saw one is easily misled there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceanon_engine.demo.people import INDEX, SHAPES
from faceanon_engine.demo.training.common import GENERATOR, IDENTITY_ENCODER, Data, load_average, parser, train
from faceanon_engine.demo.training.dataset import PICTURES
from faceanon_engine.engine.networks import Generator, IdentityEncoder

# What of u the embedding is asked for besides the person's number.
DRAWN = ("sex", "age", "race_a", "race_b", "brow_thickness", *SHAPES)


class PlainEncoder(nn.Module):
    """A plain convolutional recogniser: images [N, 3, 64, 64] in [-1, 1] -> unit embeddings [N, 96]."""

    def __init__(self) -> None:
        super().__init__()
        widths, layers, cin = (20, 40, 80, 120), [], 3
        for width in widths:
            layers += [nn.Conv2d(cin, width, 5, 2, 2), nn.BatchNorm2d(width), nn.GELU()]
            layers += [nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.GELU()]
            cin = width
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(cin * 16, 96))

    def forward(self, image: Tensor) -> Tensor:
        return F.normalize(self.layers(image), dim=1)


def augmented(images: Tensor) -> Tensor:
    """Half of the batch mirrored is another face, so only small shifts and light changes are applied."""
    count = len(images)
    gain = 1 + 0.15 * torch.randn(count, 1, 1, 1, device=images.device)
    shift = 0.1 * torch.randn(count, 3, 1, 1, device=images.device)
    dx, dy = (int(x) for x in torch.randint(-2, 3, (2,)))
    return torch.roll(images, (dy, dx), dims=(2, 3)) * gain + shift + 0.03 * torch.randn_like(images)


def main() -> None:
    options = parser(__doc__, batch=64)
    options.add_argument("--architecture", choices=["ir-se", "plain"], default="ir-se")
    options.add_argument("--begin", type=Path, help="run of an encoder to begin with, its heads included")
    options.add_argument("--generator", type=Path, help="run of the generator that draws every other picture")
    arguments = options.parse_args()
    data = Data(arguments.data, "people")
    torch.manual_seed(arguments.seed)
    device = torch.device(arguments.device)
    encoder: nn.Module = IdentityEncoder(IDENTITY_ENCODER) if arguments.architecture == "ir-se" else PlainEncoder()
    width = 96 if arguments.architecture == "plain" else IDENTITY_ENCODER.embedding_dim
    classes = len(data) // PICTURES
    head = nn.Linear(width, classes, bias=False)
    drawn = [INDEX[name] for name in DRAWN]
    networks = nn.ModuleDict({"encoder": encoder, "head": head, "shape": nn.Linear(width, len(drawn))})
    if arguments.begin:
        networks.load_state_dict(
            torch.load(arguments.begin / "checkpoint.pt", map_location="cpu", weights_only=True)["networks"]
        )
    painter: Any = load_average(arguments.generator, Generator(GENERATOR)) if arguments.generator else None
    if painter:
        painter = painter.to(device, memory_format=torch.channels_last).freeze()

    def batches(generator: torch.Generator) -> Any:
        while True:
            order = torch.randperm(len(data), generator=generator)
            for rows in order.split(arguments.batch):
                rows = rows.sort().values
                codes, images = data.batch(rows.numpy(), device)
                if painter:
                    with torch.no_grad():
                        drawn_again = painter.synthesis(painter.broadcast(painter.mapping(codes[::2])))
                    images[::2] = drawn_again.clamp(-1, 1)
                yield images, (rows // PICTURES).to(device), codes[:, drawn]

    def loss_of(modules: nn.ModuleDict, batch: Any, step: int) -> dict[str, Tensor]:
        images, person, shape = batch
        embedding = modules["encoder"](augmented(images))
        margin = 0.25 if arguments.begin else 0.25 * min(1.0, max(0.0, (step - 800) / 1200))
        own = F.one_hot(person, classes).bool()
        # In bfloat16 a cosine rounds to 1, where the arc cosine has no gradient.
        with torch.autocast(device.type, enabled=False):
            cosine = F.linear(embedding.float(), F.normalize(head.weight, dim=1)).clamp(-0.9999, 0.9999)
            logits = 24 * torch.where(own, torch.cos(torch.acos(cosine) + margin), cosine)
        accuracy = (cosine.argmax(dim=1) == person).float().mean()
        # The renderer knows the face: regressing it shows the way long before two thousand classes do.
        answer = F.mse_loss(modules["shape"](embedding.float() * width**0.5), shape)
        loss = F.cross_entropy(logits, person) + 4 * answer
        return {"loss": loss, "shape": answer, "accuracy": accuracy}

    train(arguments, networks, batches, loss_of, averaged="encoder", weight_decay=5e-4, begun=arguments.begin)


if __name__ == "__main__":
    main()
