"""Losses, schedule and scaling are those of the paper and of the release."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import from_uint8, to_uint8
from faceanon_engine.engine.method.losses import attribute_loss, identity_cosine, identity_loss
from faceanon_engine.engine.method.preset import PRESETS, get_preset
from faceanon_engine.engine.method.reference import learning_rate
from faceanon_engine.engine.method.step import mix_codes


def test_identity_loss_is_the_distance_from_the_margin() -> None:
    embedding = torch.nn.functional.normalize(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), dim=1)
    reference = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    cosine = identity_cosine(embedding, reference)
    assert cosine.tolist() == pytest.approx([0.6, -1.0])
    assert identity_loss(cosine, 0.9).tolist() == pytest.approx([0.3, 1.9])


def test_attribute_loss_averages_channels_and_sums_tokens() -> None:
    a, b = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    b[0, 0] = 1.0
    b[1] = torch.tensor([0.0, 0.0, 0.0, 2.0])
    assert attribute_loss(a, b).tolist() == pytest.approx([1.0, 1.5])


def test_the_learning_rate_falls_twice() -> None:
    rates = [learning_rate(step, 50, PRESETS["falco"]) for step in range(50)]
    assert rates[:37] == [0.01] * 37
    assert rates[37:45] == pytest.approx([0.008] * 8)
    assert rates[45:] == pytest.approx([0.0064] * 5)


def test_rows_three_to_seven_come_from_the_fake() -> None:
    real, fake = torch.zeros(2, 18, 4), torch.ones(2, 18, 4)
    assert mix_codes(real, fake, PRESETS["falco"])[0, :, 0].tolist() == [0] * 3 + [1] * 5 + [0] * 10


def test_uint8_and_back_is_lossless() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert torch.equal(to_uint8(from_uint8(pixels)), pixels)


def test_clamp_clips_and_stretch_uses_each_images_own_range() -> None:
    image = torch.tensor([-3.0, -1.0, 1.0, 3.0]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert to_uint8(image)[0, :, :, 0].flatten().tolist() == [0, 0, 255, 255]
    np.testing.assert_allclose(to_uint8(image, "stretch")[0, :, :, 0].flatten(), [0, 85, 170, 255])


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="falco, falco-released"):
        get_preset("falko")
