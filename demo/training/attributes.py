"""Trains the demo's attribute encoder on the renderer's labels.

    python -m faceanon_engine.demo.training.attributes DATA RUN --minutes 10

A linear head on the class embedding answers CelebA's binary attributes and regresses pose, expression, hair, glasses
and colours; a second one on the mean of the patch tokens answers the same, so that the tokens the attribute loss
compares mean something. Both heads are kept for evaluation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceanon_engine.demo.people import GROUPS, INDEX, labels
from faceanon_engine.demo.training.common import ATTRIBUTE_ENCODER, Data, parser, train
from faceanon_engine.engine.networks import AttributeEncoder

ATTRIBUTES = tuple(labels(np.zeros(len(INDEX))))[:-2]
REGRESSED = (
    *(name for group in ("pose", "expression", "colour") for name in GROUPS[group] if name != "camera"),
    *("sex", "age", "race_a", "race_b", "fat", "beard", "moustache"),
)
OUTPUTS = len(ATTRIBUTES) + len(REGRESSED)


def targets(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Binary attributes [N, A] in {0, 1} and standardised values [N, B] of vectors u [N, P]."""
    binary = np.array([[row[name] > 0 for name in ATTRIBUTES] for row in map(labels, codes)], np.float32)
    return binary, codes[:, [INDEX[name] for name in REGRESSED]].astype(np.float32)


def main() -> None:
    arguments = parser(__doc__, batch=64).parse_args()
    data = Data(arguments.data, "scenes")
    torch.manual_seed(arguments.seed)
    device = torch.device(arguments.device)
    networks = nn.ModuleDict(
        {
            "encoder": AttributeEncoder(ATTRIBUTE_ENCODER),
            "head": nn.Linear(ATTRIBUTE_ENCODER.embedding_dim, OUTPUTS),
            "token_head": nn.Linear(ATTRIBUTE_ENCODER.width, OUTPUTS),
        }
    )

    def batches(generator: torch.Generator) -> Any:
        while True:
            for rows in torch.randperm(len(data), generator=generator).split(arguments.batch):
                order = rows.sort().values.numpy()
                _, images = data.batch(order, device)
                binary, values = targets(np.asarray(data.codes[order]))
                yield images, torch.from_numpy(binary).to(device), torch.from_numpy(values).to(device)

    def loss_of(modules: nn.ModuleDict, batch: Any, step: int) -> dict[str, Tensor]:
        images, yes, value = batch
        images = images + 0.02 * torch.randn_like(images)
        features = modules["encoder"](images)
        loss = images.new_zeros(())
        outputs = modules["head"](features.embedding)
        patches = modules["token_head"](F.layer_norm(features.tokens[:, 1:].mean(dim=1), features.tokens.shape[-1:]))
        for output in (outputs, patches):
            split = len(ATTRIBUTES)
            loss = loss + F.binary_cross_entropy_with_logits(output[:, :split], yes)
            loss = loss + 0.5 * F.smooth_l1_loss(output[:, split:], value)
        accuracy = ((outputs[:, : len(ATTRIBUTES)] > 0) == (yes > 0.5)).float().mean()
        return {"loss": loss, "accuracy": accuracy}

    train(arguments, networks, batches, loss_of, averaged="encoder", weight_decay=0.02, betas=(0.9, 0.98))


if __name__ == "__main__":
    main()
