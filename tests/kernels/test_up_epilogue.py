"""The filter after a transposed convolution and what follows it: definition, gradients, and the CUDA source."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from faceanon_engine.kernels.frozen_conv import dense_weight, frozen_conv, frozen_conv_reference
from faceanon_engine.kernels.modulated_conv import demodulation, epilogue, modulated_conv_reference, weight_energy
from faceanon_engine.kernels.up_epilogue import up_epilogue, up_epilogue_reference
from tests.kernels.compare import DTYPES, assert_near, gradients
from tests.kernels.host_launcher import HostLauncher

# batch, channels, height, width of the output. The last goes over several tiles of columns and strips of rows.
SHAPES = [(2, 8, 2, 2), (1, 40, 8, 6), (2, 5, 3, 7), (1, 264, 2, 5), (3, 1, 1, 4), (1, 8, 140, 35)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sums", [False, True], ids=["frozen-styles", "styles"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_is_its_definition(
    shape: tuple[int, int, int, int], sums: bool, dtype: torch.dtype, host: HostLauncher
) -> None:
    batch, channels, height, width = shape
    torch.manual_seed(channels + height)
    u = torch.randn(batch, channels, height + 1, width + 1).to(dtype)
    inputs = [
        u.contiguous(memory_format=torch.channels_last).requires_grad_(),
        (torch.rand(batch, channels) + 0.3).requires_grad_(sums),
        torch.randn(batch, channels).requires_grad_(sums),
    ]
    noise, bias, cotangents = torch.randn(1, 1, height, width), torch.randn(channels), [torch.randn(shape)]

    def fast(u: Tensor, d: Tensor, s: Tensor) -> list[Tensor]:
        return [up_epilogue(u, d, noise, bias, s, launcher=host)]

    def definition(u: Tensor, d: Tensor, s: Tensor) -> list[Tensor]:
        return [up_epilogue_reference(u.double(), d.double(), noise.double(), bias.double(), s.double())]

    actual, actual_gradients = gradients(fast, inputs, cotangents)
    expected, expected_gradients = gradients(definition, inputs, cotangents)
    assert actual[0].dtype == dtype
    for index, (a, b) in enumerate(zip(actual + actual_gradients, expected + expected_gradients, strict=True)):
        assert_near(a, b, dtype, f"result {index}")


def test_what_is_optional_can_be_left_out(host: HostLauncher) -> None:
    u, d = torch.randn(2, 8, 5, 5), torch.rand(2, 8)
    actual = up_epilogue(u, d, None, None, launcher=host)
    assert_near(actual, up_epilogue_reference(u, d, None, None), torch.float32)


@pytest.mark.parametrize("wanted", ["u", "demodulation", "next_styles"])
def test_one_gradient_alone(wanted: str, host: HostLauncher) -> None:
    torch.manual_seed(5)
    values = {"u": torch.randn(1, 8, 5, 7), "demodulation": torch.rand(1, 8), "next_styles": torch.randn(1, 8)}
    values[wanted].requires_grad_()
    actual = up_epilogue(*_arguments(values), launcher=host)
    expected = up_epilogue_reference(*_arguments(values))
    for a, b in zip(
        torch.autograd.grad(actual.square().sum(), [values[wanted]]),
        torch.autograd.grad(expected.square().sum(), [values[wanted]]),
        strict=True,
    ):
        assert_near(a, b, torch.float32)


def _arguments(values: dict[str, Tensor]) -> tuple[Tensor | None, ...]:
    return values["u"], values["demodulation"], None, None, values["next_styles"]


def test_the_definitions_gradient_is_right() -> None:
    torch.manual_seed(6)
    noise, bias = torch.randn(1, 1, 2, 3).double(), torch.randn(2).double()
    inputs = tuple(x.double().requires_grad_() for x in (torch.randn(1, 2, 3, 4), torch.rand(1, 2), torch.randn(1, 2)))
    assert torch.autograd.gradcheck(lambda u, d, s: up_epilogue_reference(u, d, noise, bias, s), inputs)


def test_the_definition_is_that_of_the_layer_by_layer_synthesis() -> None:
    torch.manual_seed(3)
    x, weight, styles = torch.randn(2, 4, 3, 5).double(), torch.randn(6, 4, 3, 3).double(), torch.randn(2, 4).double()
    noise, bias = torch.randn(1, 1, 6, 10).double(), torch.randn(6).double()
    u = F.conv_transpose2d(x * styles[:, :, None, None], weight.transpose(0, 1), stride=2)
    actual = up_epilogue_reference(u, demodulation(styles, weight_energy(weight)), noise, bias)
    torch.testing.assert_close(actual, epilogue(modulated_conv_reference(x, weight, styles, up=True), noise, bias))


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_frozen_convolution_has_torchs_values_and_data_gradient(up: bool, kernel: int) -> None:
    if up and kernel == 1:
        pytest.skip("only 3x3 kernels enlarge")
    torch.manual_seed(4)
    x = torch.randn(2, 4, 5, 7).double().requires_grad_()
    weight = dense_weight(torch.randn(6, 4, kernel, kernel), up=up, dtype=torch.float64)
    actual, expected = frozen_conv(x, weight, up=up), frozen_conv_reference(x, weight, up=up)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    cotangent = torch.randn_like(expected)
    (a,), (b,) = (torch.autograd.grad((y * cotangent).sum(), [x]) for y in (actual, expected))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: frozen_conv(x, weight, up=up), [x])


def test_a_frozen_convolution_keeps_its_weight_alone() -> None:
    x, weight = torch.randn(1, 4, 8, 8, requires_grad=True), torch.randn(4, 4, 3, 3)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        frozen_conv(x, weight)
    assert [t.data_ptr() for t in kept] == [weight.data_ptr()]
