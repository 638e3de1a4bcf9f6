"""Bytes of a picture and what networks take: arrays and tensors agree, and nothing is lost on the way and back."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from faceanon_engine.engine.images.pixels import from_uint8, to_uint8


def every_byte() -> np.ndarray:
    """uint8 [2, 8, 16, 3] that holds every value, no two channels or pictures alike."""
    values = np.arange(256, dtype=np.uint8).reshape(2, 8, 16)
    return np.stack([values, values[::-1], 255 - values], axis=3)


def test_arrays_and_tensors_agree() -> None:
    pixels = every_byte()
    array, tensor = from_uint8(pixels), from_uint8(torch.from_numpy(pixels))
    assert isinstance(array, np.ndarray)
    assert isinstance(tensor, torch.Tensor)
    assert array.shape == tuple(tensor.shape) == (2, 3, 8, 16)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert tensor.is_contiguous()
    np.testing.assert_array_equal(array, tensor.numpy())


def test_the_range_is_from_minus_one_to_one() -> None:
    values = from_uint8(np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3))
    np.testing.assert_allclose(values.ravel(), [-1, -0.6, 1], atol=1e-7)


def test_every_byte_survives_the_way_there_and_back() -> None:
    pixels = every_byte()
    back = to_uint8(torch.from_numpy(from_uint8(pixels)))
    assert back.dtype == torch.uint8
    assert back.is_contiguous()
    np.testing.assert_array_equal(back.numpy(), pixels)


def test_clamping_cuts_what_lies_outside_and_rounds_to_the_nearest() -> None:
    image = torch.tensor([-7.0, -1.0, -1 + 0.9 / 255, -1 + 1.1 / 255, 1.0, 7.0]).reshape(1, 1, 1, 6)
    assert to_uint8(image).flatten().tolist() == [0, 0, 0, 1, 255, 255]


def test_stretching_takes_each_picture_from_its_own_minimum_to_its_own_maximum() -> None:
    narrow = torch.linspace(-0.2, 0.3, 12).reshape(3, 2, 2)
    images = torch.stack([narrow, 4 * narrow + 1])
    first, second = to_uint8(images, "stretch")
    assert (int(first.min()), int(first.max())) == (0, 255)
    assert torch.equal(first, second), "its scale and its offset are gone, its neighbours do not count"
    assert len(set(to_uint8(images)[0].flatten().tolist())) > 1
    assert to_uint8(images)[0].max() < 255


def test_a_picture_of_one_colour_is_stretched_to_black() -> None:
    assert to_uint8(torch.full((1, 3, 2, 2), 0.4), "stretch").unique().tolist() == [0]


@pytest.mark.parametrize("scaling", ["clamp", "stretch"])
def test_a_picture_with_a_gradient_in_16_bits_is_left_as_it_is(scaling: str) -> None:
    image = torch.linspace(-2, 2, 12, dtype=torch.bfloat16).reshape(1, 3, 2, 2).requires_grad_()
    before = image.detach().clone()
    pixels = to_uint8(image, scaling)
    assert not pixels.requires_grad
    assert torch.equal(image, before)
    np.testing.assert_array_equal(pixels.numpy(), to_uint8(before.float(), scaling).numpy())


def test_arrays_need_no_torch() -> None:
    code = (
        "import sys, numpy; from faceanon_engine.engine.images.pixels import from_uint8;"
        "from_uint8(numpy.zeros((1, 2, 2, 3), numpy.uint8)); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
