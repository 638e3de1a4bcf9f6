"""The pass after a convolution, values and gradients: its definition, and the CUDA source as the host runs it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from faceanon_engine.kernels.modulated_conv import demodulation, epilogue, modulated_conv_reference, weight_energy
from faceanon_engine.kernels.styled_epilogue import RGB, Styled, styled_epilogue, styled_epilogue_reference
from faceanon_engine.kernels.to_rgb import to_rgb, to_rgb_reference
from faceanon_engine.kernels.up_epilogue import up_epilogue
from tests.kernels.compare import DTYPES, assert_near, gradients
from tests.kernels.host_launcher import HostLauncher

# batch, channels, height, width. Channels: one group, several lanes, a part of a group, not a power of two of groups,
# more groups than lanes. Pixels: fewer than a block has, more, odd.
SHAPES = [(2, 8, 2, 2), (2, 16, 6, 4), (1, 40, 10, 8), (2, 5, 7, 3), (3, 1, 5, 5), (1, 264, 3, 5), (1, 520, 2, 4)]
EVEN = [shape for shape in SHAPES if shape[2] % 2 == 0 and shape[3] % 2 == 0]


class Case:
    """Random inputs of a shape; `u` is of the type that is tested, everything else float32."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, *, sums: bool, skip: bool = True) -> None:
        batch, channels, height, width = shape
        torch.manual_seed(batch + 7 * channels + height)
        self.u = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        self.demodulation = (torch.rand(batch, channels) + 0.3).requires_grad_(sums)
        self.next_styles = torch.randn(batch, channels).requires_grad_(sums)
        self.rgb_styles = torch.randn(batch, channels).requires_grad_(sums)
        self.skip = torch.randn(batch, 3, height // 2, width // 2).requires_grad_() if skip else None
        self.noise, self.bias = torch.randn(1, 1, height, width), torch.randn(channels)
        self.rgb_weight, self.rgb_bias = torch.randn(3, channels), torch.randn(3)
        # The gradient of z arrives in its own type.
        self.cotangents = [torch.randn(shape).to(dtype), torch.randn(batch, 3, height, width)]

    @property
    def inputs(self) -> list[Tensor]:
        every = [self.u, self.demodulation, self.next_styles, self.rgb_styles]
        return every if self.skip is None else [*every, self.skip]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sums", [False, True], ids=["frozen-styles", "styles"])
@pytest.mark.parametrize("shape", EVEN, ids=str)
def test_the_kernel_is_its_definition(
    shape: tuple[int, int, int, int], sums: bool, dtype: torch.dtype, host: HostLauncher
) -> None:
    case = Case(shape, dtype, sums=sums)

    def fast(u: Tensor, d: Tensor, s: Tensor, r: Tensor, skip: Tensor) -> Styled:
        rgb = RGB(case.rgb_weight, r, case.rgb_bias, skip)
        return styled_epilogue(u, d, case.noise, case.bias, next_styles=s, rgb=rgb, launcher=host)

    def definition(*inputs: Tensor) -> Styled:
        u, d, s, r, skip = (x.double() for x in inputs)
        rgb = RGB(case.rgb_weight.double(), r, case.rgb_bias.double(), skip)
        return styled_epilogue_reference(u, d, case.noise.double(), case.bias.double(), next_styles=s, rgb=rgb)

    actual, actual_gradients = gradients(fast, case.inputs, case.cotangents)
    expected, expected_gradients = gradients(definition, case.inputs, case.cotangents)
    assert actual[0].dtype == dtype
    assert actual[0].is_contiguous(memory_format=torch.channels_last)
    for index, (a, b) in enumerate(zip(actual + actual_gradients, expected + expected_gradients, strict=True)):
        # The image and the sums over pixels never pass through a narrow type.
        wide = index == 1 or (index > 2 and sums) or index == len(actual + actual_gradients) - 1
        assert_near(a, b, torch.float32 if wide else dtype, f"result {index}")


@pytest.mark.parametrize("missing", ["z", "rgb", "skip", "noise", "bias", "demodulation", "next_styles", "activation"])
@pytest.mark.parametrize("sums", [False, True], ids=["frozen-styles", "styles"])
def test_any_part_can_be_left_out(missing: str, sums: bool, host: HostLauncher) -> None:
    case = Case((2, 24, 6, 4), torch.float32, sums=sums, skip=missing != "skip")

    def compute(u: Tensor, d: Tensor, s: Tensor, r: Tensor, skip: Tensor | None = None, *, fast: bool) -> Styled:
        rgb = RGB(case.rgb_weight, r, case.rgb_bias, skip)
        constants = (
            None if missing == "demodulation" else d,
            None if missing == "noise" else case.noise,
            None if missing == "bias" else case.bias,
        )
        settings = {
            "next_styles": None if missing == "next_styles" else s,
            "rgb": None if missing == "rgb" else rgb,
            "activate": missing != "activation",
            "want_z": missing != "z",
        }
        if fast:
            return styled_epilogue(u, *constants, **settings, launcher=host)
        return styled_epilogue_reference(u, *constants, **settings)

    cotangents = [c for c, name in zip(case.cotangents, ("z", "rgb"), strict=True) if name != missing]
    actual, actual_gradients = gradients(lambda *x: compute(*x, fast=True), case.inputs, cotangents)
    expected, expected_gradients = gradients(lambda *x: compute(*x, fast=False), case.inputs, cotangents)
    for a, b in zip(actual + actual_gradients, expected + expected_gradients, strict=True):
        assert_near(a, b, torch.float32, missing)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_odd_sizes_and_channels(shape: tuple[int, int, int, int], dtype: torch.dtype, host: HostLauncher) -> None:
    case = Case(shape, dtype, sums=True, skip=False)

    def compute(u: Tensor, d: Tensor, s: Tensor, *, fast: bool) -> Styled:
        if fast:
            return styled_epilogue(u, d, case.noise, case.bias, next_styles=s, launcher=host)
        u, d, s, noise, bias = (x.double() for x in (u, d, s, case.noise, case.bias))
        return styled_epilogue_reference(u, d, noise, bias, next_styles=s)

    inputs, cotangents = case.inputs[:3], case.cotangents[:1]
    actual, actual_gradients = gradients(lambda *x: compute(*x, fast=True), inputs, cotangents)
    expected, expected_gradients = gradients(lambda *x: compute(*x, fast=False), inputs, cotangents)
    for a, b in zip(actual + actual_gradients, expected + expected_gradients, strict=True):
        assert_near(a, b, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("skip", [False, True])
def test_to_rgb_is_its_definition(dtype: torch.dtype, skip: bool, host: HostLauncher) -> None:
    case = Case((2, 24, 8, 6), dtype, sums=True, skip=skip)
    inputs = [case.u, case.rgb_styles, *([] if case.skip is None else [case.skip])]

    def fast(x: Tensor, styles: Tensor, skip: Tensor | None = None) -> list[Tensor]:
        return [to_rgb(x, case.rgb_weight, styles, case.rgb_bias, skip, launcher=host)]

    def definition(*inputs: Tensor) -> list[Tensor]:
        x, styles, *rest = (value.double() for value in inputs)
        return [to_rgb_reference(x, case.rgb_weight.double(), styles, case.rgb_bias.double(), *rest)]

    actual, actual_gradients = gradients(fast, inputs, case.cotangents[1:])
    expected, expected_gradients = gradients(definition, inputs, case.cotangents[1:])
    assert actual[0].dtype == torch.float32
    for index, (a, b) in enumerate(zip(actual + actual_gradients, expected + expected_gradients, strict=True)):
        assert_near(a, b, dtype if index == 1 else torch.float32, f"result {index}")


def test_an_unaligned_start_is_read_value_by_value(host: HostLauncher) -> None:
    case = Case((1, 16, 4, 4), torch.float16, sums=False)
    memory = torch.zeros(case.u.numel() + 1, dtype=torch.float16)
    shifted = memory[1:].view(1, 4, 4, 16).permute(0, 3, 1, 2)
    shifted.copy_(case.u.detach())
    assert shifted.data_ptr() % 16
    actual = styled_epilogue(shifted, case.demodulation, launcher=host).z
    assert actual is not None
    expected = styled_epilogue(case.u.detach(), case.demodulation, launcher=host).z
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_without_styles_to_move_one_bit_a_value_is_kept(host: HostLauncher) -> None:
    case = Case((2, 16, 4, 4), torch.float16, sums=False)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        styled_epilogue(case.u, case.demodulation, case.noise, case.bias, next_styles=case.next_styles, launcher=host)
    assert sum(x.numel() for x in kept if x.dtype == torch.uint8) == case.u.numel() // 8
    assert not any(x.numel() == case.u.numel() for x in kept)


def test_without_gradients_nothing_is_kept(host: HostLauncher) -> None:
    case = Case((1, 16, 4, 4), torch.float32, sums=True)
    host.launched.clear()
    with torch.no_grad():
        z = styled_epilogue(case.u, case.demodulation, next_styles=case.next_styles, launcher=host).z
    assert z is not None
    assert not z.requires_grad
    assert dict(host.launched) == {"epilogue_forward_f32": 1}


def test_a_broadcast_cotangent_is_read_rightly(host: HostLauncher) -> None:
    case = Case((2, 16, 4, 4), torch.float32, sums=False)
    z = styled_epilogue(case.u, case.demodulation, launcher=host).z
    expected = styled_epilogue_reference(case.u, case.demodulation).z
    assert z is not None
    assert expected is not None
    for reduce in (Tensor.sum, lambda y: y.contiguous().pow(2).sum()):
        (gradient,) = torch.autograd.grad(reduce(z), [case.u], retain_graph=True)
        (wanted,) = torch.autograd.grad(reduce(expected), [case.u], retain_graph=True)
        assert_near(gradient, wanted, torch.float32)


def test_wrong_sizes_are_refused(host: HostLauncher) -> None:
    case = Case((1, 8, 4, 4), torch.float32, sums=False)
    with pytest.raises(ValueError, match="noise"):
        styled_epilogue(case.u, noise=torch.zeros(1, 1, 3, 3), launcher=host)
    for shape in ((1, 3, 4, 4), (2, 3, 2, 2)):
        rgb = RGB(case.rgb_weight, case.rgb_styles, case.rgb_bias, torch.zeros(shape))
        with pytest.raises(ValueError, match="image so far"):
            styled_epilogue(case.u, rgb=rgb, launcher=host)


@pytest.mark.parametrize("name", ["demodulation", "noise", "bias", "next_styles"])
def test_a_constant_that_a_kernel_would_read_beyond_is_refused(name: str, host: HostLauncher) -> None:
    sizes = {"demodulation": (2, 8), "noise": (1, 1, 4, 4), "bias": (8,), "next_styles": (2, 8)}
    values = {each: torch.ones(size) for each, size in sizes.items()}
    values[name] = values[name].flatten()[1:]
    with pytest.raises(ValueError, match=name):
        up_epilogue(torch.ones(2, 8, 5, 5), **values, launcher=host)
    next_styles = values.pop("next_styles")
    with pytest.raises(ValueError, match=name):
        styled_epilogue(torch.ones(2, 8, 4, 4), **values, next_styles=next_styles, launcher=host)


def test_the_cpu_computes_the_definition() -> None:
    case = Case((1, 8, 4, 4), torch.float32, sums=False)
    torch.testing.assert_close(
        styled_epilogue(case.u, case.demodulation, case.noise, case.bias).z,
        styled_epilogue_reference(case.u, case.demodulation, case.noise, case.bias).z,
        rtol=0,
        atol=0,
    )


def test_the_definitions_gradient_is_right() -> None:
    case = Case((1, 2, 2, 4), torch.float64, sums=True)
    noise, bias, weight, rgb_bias = (x.double() for x in (case.noise, case.bias, case.rgb_weight, case.rgb_bias))
    inputs = tuple(x.detach().double().requires_grad_() for x in case.inputs)

    def compute(u: Tensor, d: Tensor, s: Tensor, r: Tensor, skip: Tensor) -> Styled:
        return styled_epilogue_reference(u, d, noise, bias, next_styles=s, rgb=RGB(weight, r, rgb_bias, skip))

    assert torch.autograd.gradcheck(compute, inputs)


def test_the_definition_is_that_of_the_layer_by_layer_synthesis() -> None:
    torch.manual_seed(3)
    x, weight, styles = torch.randn(2, 4, 6, 6).double(), torch.randn(5, 4, 3, 3).double(), torch.randn(2, 4).double()
    noise, bias = torch.randn(1, 1, 6, 6).double(), torch.randn(5).double()
    u = torch.nn.functional.conv2d(x * styles[:, :, None, None], weight, padding=1)
    y = styled_epilogue_reference(u, demodulation(styles, weight_energy(weight)), noise, bias).z
    torch.testing.assert_close(y, epilogue(modulated_conv_reference(x, weight, styles), noise, bias))
