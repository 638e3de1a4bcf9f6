"""The encoders' inputs straight from the image, and the image's gradient: definition and CUDA source."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from faceanon_engine.engine.networks.irse import IdentityEncoder, IdentityEncoderConfig
from faceanon_engine.engine.networks.vit import AttributeEncoder, AttributeEncoderConfig
from faceanon_engine.kernels.resize_crop import View, axis_weights, band, resize_crop, resize_crop_reference
from tests.kernels.compare import DTYPES, assert_near, gradients
from tests.kernels.host_launcher import HostLauncher

# As the two encoders see an image, at an eighth of the size and slightly uneven.
IDENTITY = View(resize=32, size=14, crop=(4, 28, 3, 27))
ATTRIBUTE = View(resize=28, size=28, scale=(1.8, 1.9, 2.0), shift=(-0.1, 0.2, 0.3))
SIZES = [(96, 96), (8, 8), (33, 47), (40, 32), (28, 61)]


def run(
    views: list[View], image: Tensor, dtype: torch.dtype, host: HostLauncher, memory_format: torch.memory_format
) -> tuple[list[Tensor], list[Tensor | None], list[Tensor], list[Tensor | None]]:
    cotangents = [torch.randn(len(image), 3, view.size, view.size) for view in views]

    def fast(image: Tensor) -> tuple[Tensor, ...]:
        return resize_crop(image, views, dtype=dtype, memory_format=memory_format, launcher=host)

    def definition(image: Tensor) -> list[Tensor]:
        return [resize_crop_reference(image.double(), view) for view in views]

    return *gradients(fast, [image], cotangents), *gradients(definition, [image], cotangents)  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_kernels_are_their_definition(size: tuple[int, int], dtype: torch.dtype, host: HostLauncher) -> None:
    torch.manual_seed(1)
    image = torch.randn(2, 3, *size, requires_grad=True)
    for views in ([IDENTITY, ATTRIBUTE], [ATTRIBUTE]):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            actual, actual_gradient, expected, expected_gradient = run(views, image, dtype, host, memory_format)
            assert all(each.is_contiguous(memory_format=memory_format) for each in actual)
            for a, b in zip(actual + actual_gradient, expected + expected_gradient, strict=True):
                assert_near(a, b, dtype)


def test_one_of_two_views_may_have_no_gradient(host: HostLauncher) -> None:
    image = torch.randn(1, 3, 40, 40, requires_grad=True)
    for used in (0, 1):
        actual = resize_crop(image, [IDENTITY, ATTRIBUTE], launcher=host)[used]
        expected = resize_crop_reference(image.double(), (IDENTITY, ATTRIBUTE)[used])
        (a,), (b,) = (torch.autograd.grad(y.square().sum(), [image]) for y in (actual, expected))
        assert_near(a, b, torch.float32)


@pytest.mark.parametrize("size", [(64, 64), (300, 256)], ids=str)
def test_the_definition_is_the_encoders_own_preprocessing(size: tuple[int, int]) -> None:
    image = torch.randn(1, 3, *size)
    identity = IdentityEncoder(IdentityEncoderConfig(units=(1, 1, 1, 1), widths=(2, 2, 2, 2), reduction=1))
    view = View(resize=256, size=112, crop=(35, 223, 32, 220))
    torch.testing.assert_close(resize_crop_reference(image, view), identity.preprocess(image))

    attribute = AttributeEncoder(AttributeEncoderConfig(width=8, layers=1, heads=1, embedding_dim=4))
    mean, std = torch.tensor(attribute.config.mean), torch.tensor(attribute.config.std)
    scale, shift = (0.5 / std).tolist(), ((0.5 - mean) / std).tolist()
    view = View(resize=224, size=224, scale=tuple(scale), shift=tuple(shift))
    torch.testing.assert_close(resize_crop_reference(image, view), attribute.preprocess(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("view", [IDENTITY, ATTRIBUTE])
def test_the_weights_of_an_output_add_up_to_one(view: View) -> None:
    for axis, (side, other) in enumerate([(61, 40), (40, 61)]):
        weights = axis_weights(side, other, view, axis)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(view.size, dtype=torch.float64))


def test_a_band_holds_every_weight_and_reads_only_what_exists() -> None:
    weights = axis_weights(61, 40, IDENTITY, 0)
    for matrix in (weights, weights.t()):
        axis = band(matrix)
        again = torch.zeros_like(matrix)
        for k, taps in enumerate(axis.taps):
            assert int(axis.start.max()) + k < matrix.shape[1]
            again[torch.arange(len(matrix)), axis.start.long() + k] += taps
        torch.testing.assert_close(again, matrix, rtol=1e-6, atol=1e-7)


def test_a_picture_too_large_for_shared_memory_takes_the_definition(host: HostLauncher) -> None:
    view, host.launched = View(resize=4, size=4), Counter()
    for side, launches in ((600, 1), (1700, 0)):  # four outputs reach over the whole picture
        image = torch.randn(1, 3, side, side)
        (actual,) = resize_crop(image, [view], launcher=host)
        assert_near(actual, resize_crop_reference(image, view), torch.float32)
        assert host.launched.total() == launches
        host.launched.clear()


def test_more_than_two_views_are_refused() -> None:
    with pytest.raises(ValueError, match="one or two"):
        resize_crop(torch.zeros(1, 3, 64, 64), [IDENTITY] * 3)


def test_the_definitions_gradient_is_right() -> None:
    image = torch.randn(1, 3, 6, 7).double().requires_grad_()
    view = View(resize=5, size=2, crop=(0, 4, 1, 5), scale=(1.0, 2.0, 3.0), shift=(0.1, 0.2, 0.3))
    assert torch.autograd.gradcheck(lambda x: resize_crop_reference(x, view), [image])
