"""Checks every fused kernel on a GPU against its definition, and times it against what it replaces; one JSON.

    python -m benchmarks.kernels_gpu --output benchmarks/results/kernels-h200.json
    python -m benchmarks.kernels_gpu --rehearse --output /tmp/rehearsal.json

Checks: values and gradients against the definition in float64, over shapes and types, through both drivers, on a
stream of its own and inside a CUDA graph. Times: the kernel, its definition as Torch runs it, the separate operations
around cuDNN in the type of the activations, and the same under torch.compile; each forward alone and with the backward
pass, replayed as a CUDA graph where that can be captured, as the engine runs them. `bandwidth` is what must be read and
written at least, over the time. --rehearse runs the same code on the CPU, the sources compiled for the host.
"""

from __future__ import annotations

import argparse
import functools
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.attempts import attempted
from benchmarks.result import leave_out, new_result, new_row, timing, write
from faceanon_engine.engine.method.cuda_graph import capture
from faceanon_engine.engine.networks import stylegan2
from faceanon_engine.engine.networks.stylegan2 import Generator, GeneratorConfig
from faceanon_engine.engine.networks.stylegan2_layers import ModulatedConv
from faceanon_engine.engine.system.home import home
from faceanon_engine.kernels.cuda.compile import compile_all, find_nvcc
from faceanon_engine.kernels.cuda.launch import CudaLauncher, Launcher
from faceanon_engine.kernels.fir import blur, upsample
from faceanon_engine.kernels.frozen_conv import dense_weight, frozen_conv
from faceanon_engine.kernels.modulated_conv import epilogue
from faceanon_engine.kernels.resize_crop import View, resize_crop, resize_crop_reference
from faceanon_engine.kernels.styled_epilogue import RGB, styled_epilogue, styled_epilogue_reference
from faceanon_engine.kernels.to_rgb import to_rgb, to_rgb_reference
from faceanon_engine.kernels.token_loss import token_loss, token_loss_reference
from faceanon_engine.kernels.up_epilogue import up_epilogue, up_epilogue_reference

Variant = Callable[..., Sequence[Tensor | None]]

SYNTHESIS = "synthesis"
"""The operation of the rows that are of the whole generator."""

# Of the largest magnitude, as the tests have them; a GPU adds up in yet another order.
TOLERANCE = {torch.float32: 5e-6, torch.float16: 1.2e-3, torch.bfloat16: 9e-3}
IDENTITY = View(resize=256, size=112, crop=(35, 223, 32, 220))
ATTRIBUTE = View(resize=224, size=224, scale=(1.86, 1.91, 1.81), shift=(0.07, 0.16, 0.33))


@dataclass
class Case:
    """One operation on one shape: the same function of the same inputs, computed in several ways."""

    operation: str
    shape: str
    dtype: torch.dtype
    inputs: list[Tensor]
    """Those that require a gradient get one."""
    fused: Variant
    definition: Variant
    separate: Variant
    """The operations one by one in the type of the activations, convolutions by cuDNN."""
    forward_bytes: int = 0
    backward_bytes: int = 0
    """What has to be read and written at least."""
    more: dict[str, Variant] = field(default_factory=dict)


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def random(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(shape, device=device)
    return (last(x) if len(shape) == 4 else x).to(dtype)


def per_channel(x: Tensor, like: Tensor) -> Tensor:
    return x[:, :, None, None].to(like.dtype)


def layer_case(
    batch: int,
    cin: int,
    channels: int,
    side: int,
    dtype: torch.dtype,
    launcher: Launcher,
    device: torch.device,
    *,
    styles: bool,
    drawn: bool,
    conv: bool,
) -> Case:
    """The pass after a convolution, or the whole layer; `styles` ask for gradients, too; `drawn`: toRGB rides along."""
    x = random(batch, cin if conv else channels, side, side, device=device, dtype=dtype).requires_grad_()
    after = (torch.rand(batch, channels, device=device) + 0.5).requires_grad_(styles)
    before = random(batch, channels, device=device).requires_grad_(styles)
    colour = random(batch, channels, device=device).requires_grad_(styles)
    skip = random(batch, 3, side // 2, side // 2, device=device).contiguous().requires_grad_(styles)
    weight = random(channels, cin, 3, 3, device=device) / (9 * cin) ** 0.5
    dense = dense_weight(weight, up=False, dtype=dtype)
    noise, bias = random(1, 1, side, side, device=device), random(channels, device=device)
    rgb_weight, rgb_bias = random(3, channels, device=device), random(3, device=device)

    def fused(x: Tensor, d: Tensor, s: Tensor, r: Tensor, skip: Tensor) -> Sequence[Tensor | None]:
        u = frozen_conv(x, dense) if conv else x
        rgb = RGB(rgb_weight, r, rgb_bias, skip) if drawn else None
        return styled_epilogue(u, d, noise, bias, next_styles=s, rgb=rgb, launcher=launcher)

    def definition(x: Tensor, d: Tensor, s: Tensor, r: Tensor, skip: Tensor) -> Sequence[Tensor | None]:
        u = F.conv2d(x, dense.to(x.dtype), padding=1) if conv else x
        rgb = RGB(rgb_weight.to(r.dtype), r, rgb_bias.to(r.dtype), skip) if drawn else None
        return styled_epilogue_reference(u, d, noise.to(d.dtype), bias.to(d.dtype), next_styles=s, rgb=rgb)

    def separate(x: Tensor, d: Tensor, s: Tensor, r: Tensor, skip: Tensor) -> Sequence[Tensor | None]:
        u = F.conv2d(x, dense, padding=1) if conv else x
        y = epilogue(u * per_channel(d, u), noise, bias)
        z = y * per_channel(s, y)
        if not drawn:
            return z, None
        rgb = F.conv2d(y * per_channel(r, y), rgb_weight[:, :, None, None].to(y.dtype)).float()
        return z, rgb + rgb_bias[:, None, None] + upsample(skip)

    each = batch * side * side * channels * dtype.itemsize
    image = batch * side * side * 3 * 4 if drawn else 0
    read = batch * side * side * cin * dtype.itemsize if conv else 0
    kept = each if styles else each // (8 * dtype.itemsize)
    name = ("layer" if conv else "styled_epilogue") + ("+rgb" if drawn else "") + ("+styles" if styles else "")
    return Case(
        name,
        f"{batch}x{f'{cin}->' if conv else ''}{channels}x{side}x{side}",
        dtype,
        [x, after, before, colour, skip],
        fused,
        definition,
        separate,
        forward_bytes=(read + each if conv else 0) + 2 * each + image + (0 if styles else kept),
        backward_bytes=2 * each + kept + image + (read + each if conv else 0),
    )


def up_case(
    batch: int,
    cin: int,
    channels: int,
    side: int,
    dtype: torch.dtype,
    launcher: Launcher,
    device: torch.device,
    *,
    styles: bool,
    conv: bool,
) -> Case:
    """The pass after a transposed convolution, or the whole enlarging layer; `side` is that of the output."""
    shape = (batch, cin, side // 2, side // 2) if conv else (batch, channels, side + 1, side + 1)
    x = random(*shape, device=device, dtype=dtype).requires_grad_()
    after = (torch.rand(batch, channels, device=device) + 0.5).requires_grad_(styles)
    before = random(batch, channels, device=device).requires_grad_(styles)
    weight = random(channels, cin, 3, 3, device=device) / (9 * cin) ** 0.5
    dense = dense_weight(weight, up=True, dtype=dtype)
    noise, bias = random(1, 1, side, side, device=device), random(channels, device=device)

    def fused(x: Tensor, d: Tensor, s: Tensor) -> Sequence[Tensor | None]:
        u = frozen_conv(x, dense, up=True) if conv else x
        return [up_epilogue(u, d, noise, bias, s, launcher=launcher)]

    def definition(x: Tensor, d: Tensor, s: Tensor) -> Sequence[Tensor | None]:
        u = F.conv_transpose2d(x, dense.to(x.dtype), stride=2) if conv else x
        return [up_epilogue_reference(u, d, noise.to(d.dtype), bias.to(d.dtype), s)]

    def separate(x: Tensor, d: Tensor, s: Tensor) -> Sequence[Tensor | None]:
        u = F.conv_transpose2d(x, dense, stride=2) if conv else x
        t = blur(u, (1, 1))
        y = epilogue(t * per_channel(d, t), noise, bias)
        return [y * per_channel(s, y)]

    each = batch * side * side * channels * dtype.itemsize
    read = batch * side * side // 4 * cin * dtype.itemsize if conv else 0
    bits = each // (8 * dtype.itemsize)
    return Case(
        ("up_layer" if conv else "up_epilogue") + ("+styles" if styles else ""),
        f"{batch}x{f'{cin}->' if conv else ''}{channels}x{side}x{side}",
        dtype,
        [x, after, before],
        fused,
        definition,
        separate,
        forward_bytes=(read + each if conv else 0) + 2 * each + bits + (each if styles else 0),
        backward_bytes=(2 + (3 if styles else 0)) * each + bits + (read + each if conv else 0),
    )


def rgb_case(
    batch: int, channels: int, side: int, dtype: torch.dtype, launcher: Launcher, device: torch.device
) -> Case:
    """toRGB alone, with the enlarged skip."""
    x = random(batch, channels, side, side, device=device, dtype=dtype).requires_grad_()
    styles = random(batch, channels, device=device).requires_grad_()
    skip = random(batch, 3, side // 2, side // 2, device=device).contiguous().requires_grad_()
    weight, bias = random(3, channels, device=device), random(3, device=device)

    def definition(x: Tensor, s: Tensor, skip: Tensor) -> Sequence[Tensor | None]:
        return [to_rgb_reference(x, weight.to(s.dtype), s, bias.to(s.dtype), skip)]

    def separate(x: Tensor, s: Tensor, skip: Tensor) -> Sequence[Tensor | None]:
        rgb = F.conv2d(x * per_channel(s, x), weight[:, :, None, None].to(x.dtype)).float()
        return [rgb + bias[:, None, None] + upsample(skip)]

    each, image = batch * side * side * channels * dtype.itemsize, batch * side * side * 3 * 4
    return Case(
        "to_rgb",
        f"{batch}x{channels}x{side}x{side}",
        dtype,
        [x, styles, skip],
        lambda x, s, skip: [to_rgb(x, weight, s, bias, skip, launcher=launcher)],
        definition,
        separate,
        forward_bytes=each + image + image // 4,
        backward_bytes=2 * each + image + image // 4,
    )


def resize_case(
    batch: int, side: int, dtype: torch.dtype, launcher: Launcher, device: torch.device, views: Sequence[View]
) -> Case:
    """Both encoders' inputs, and the image's gradient."""
    image = random(batch, 3, side, side, device=device).contiguous().requires_grad_()

    def separate(image: Tensor) -> Sequence[Tensor | None]:
        return [resize_crop_reference(image, view).to(dtype) for view in views]

    pixels, seen = batch * 3 * side * side * 4, sum(batch * 3 * view.size**2 * dtype.itemsize for view in views)
    return Case(
        "resize_crop",
        f"{batch}x3x{side}x{side}",
        dtype,
        [image],
        lambda image: resize_crop(image, views, dtype=dtype, launcher=launcher),
        lambda image: [resize_crop_reference(image, view) for view in views],
        separate,
        forward_bytes=len(views) * pixels + seen,
        backward_bytes=pixels + seen,
    )


def token_case(
    batch: int, tokens: int, width: int, dtype: torch.dtype, launcher: Launcher, device: torch.device
) -> Case:
    """The attribute loss."""
    x = random(batch, tokens, width, device=device, dtype=dtype).requires_grad_()
    reference = random(batch, tokens, width, device=device)
    values = batch * tokens * width
    return Case(
        "token_loss",
        f"{batch}x{tokens}x{width}",
        dtype,
        [x],
        lambda x: [token_loss(x, reference, launcher=launcher)],
        lambda x: [token_loss_reference(x, reference.to(torch.promote_types(x.dtype, torch.float32)))],
        lambda x: [(x - reference.to(x.dtype)).abs().mean(dim=2).sum(dim=1)],
        forward_bytes=values * (dtype.itemsize + 4),
        backward_bytes=values * (2 * dtype.itemsize + 4),
    )


def conv_case(
    batch: int, cin: int, channels: int, side: int, dtype: torch.dtype, launcher: Launcher, device: torch.device
) -> Case:
    """The dense convolution alone: Torch's own, ours that keeps nothing, and the gradient as a forward convolution."""
    x = random(batch, cin, side, side, device=device, dtype=dtype).requires_grad_()
    dense = dense_weight(random(channels, cin, 3, 3, device=device) / (9 * cin) ** 0.5, up=False, dtype=dtype)
    turned = last(dense.flip(2, 3).transpose(0, 1))

    class Turned(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return F.conv2d(x, dense, padding=1)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return F.conv2d(gradient, turned, padding=1)

    elements = batch * side * side * (cin + channels) * dtype.itemsize
    return Case(
        "conv",
        f"{batch}x{cin}->{channels}x{side}x{side}",
        dtype,
        [x],
        lambda x: [frozen_conv(x, dense)],
        lambda x: [F.conv2d(x, dense.to(x.dtype), padding=1)],
        lambda x: [F.conv2d(x, dense, padding=1)],
        forward_bytes=elements,
        backward_bytes=elements,
        more={"gradient_by_forward": lambda x: [Turned.apply(x)]},
    )


def small_cases(launcher: Launcher, device: torch.device) -> Iterator[Case]:
    """For the checks: every kernel, every type, odd sizes and channels."""
    for dtype in TOLERANCE:
        for batch, channels, side in ((2, 24, 6), (1, 520, 4), (3, 5, 10), (2, 32, 34)):
            for styles in (False, True):
                for drawn in (False, True):
                    yield layer_case(
                        batch, 8, channels, side, dtype, launcher, device, styles=styles, drawn=drawn, conv=False
                    )
                yield up_case(batch, 8, channels, side + 1, dtype, launcher, device, styles=styles, conv=False)
            yield rgb_case(batch, channels, side, dtype, launcher, device)
        for side in (64, 47):
            yield resize_case(2, side, dtype, launcher, device, [View(32, 14, (4, 28, 3, 27)), View(28, 28)])
        yield token_case(2, 5, 7, dtype, launcher, device)
        yield token_case(2, 70, 128, dtype, launcher, device)


def timed_cases(
    batch: int, sides: Sequence[int], dtypes: Sequence[torch.dtype], launcher: Launcher, device: torch.device
) -> Iterator[Callable[[], Case]]:
    """For the times: the layers of the FFHQ generator at those sides, the most expensive first."""
    config = GeneratorConfig()
    made: list[Callable[[], Case]] = []
    for dtype in dtypes:
        for side in sides:
            low, high = config.channels(max(side // 2, 4)), config.channels(side)
            common = {"dtype": dtype, "launcher": launcher, "device": device}
            rows = side <= 64  # where the method's optimised rows are
            drawn = {"styles": rows, "drawn": True}
            made += [
                lambda low=low, high=high, side=side, common=common, drawn=drawn: layer_case(
                    batch, high, high, side, **common, **drawn, conv=False
                ),
                lambda low=low, high=high, side=side, common=common, rows=rows: up_case(
                    batch, low, high, side, **common, styles=rows, conv=False
                ),
                lambda low=low, high=high, side=side, common=common, drawn=drawn: layer_case(
                    batch, high, high, side, **common, **drawn, conv=True
                ),
                lambda low=low, high=high, side=side, common=common, rows=rows: up_case(
                    batch, low, high, side, **common, styles=rows, conv=True
                ),
                lambda high=high, side=side, common=common: conv_case(batch, high, high, side, **common),
            ]
        high, side = config.channels(max(sides)), max(sides)
        common = {"dtype": dtype, "launcher": launcher, "device": device}
        made += [
            lambda high=high, side=side, common=common: rgb_case(batch, high, side, **common),
            lambda side=side, common=common: resize_case(batch, side, **common, views=[IDENTITY, ATTRIBUTE]),
            lambda common=common: token_case(batch, 197, 768, **common),
        ]
    return iter(made)


def run_both(variant: Variant, inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor]:
    """Outputs and gradients."""
    outputs = [y for y in variant(*inputs) if y is not None]
    wanted = [x for x in inputs if x.requires_grad]
    gradients = torch.autograd.grad(outputs, wanted, list(cotangents), allow_unused=True)
    return [*outputs, *(g for g in gradients if g is not None)]


def cotangents_for(case: Case) -> list[Tensor]:
    with torch.no_grad():
        outputs = [y for y in case.fused(*case.inputs) if y is not None]
    made = [torch.randn(y.shape, device=y.device).to(y.dtype) for y in outputs]
    return [last(c) if c.ndim == 4 and y.shape[1] != 3 else c for c, y in zip(made, outputs, strict=True)]


def worst_error(case: Case, cotangents: Sequence[Tensor] | None = None) -> float:
    """Of outputs and gradients, as a share of the largest magnitude of each, against the definition in float64."""
    cotangents = cotangents or cotangents_for(case)
    computed = run_both(case.fused, case.inputs, cotangents)
    doubles = [x.detach().double().requires_grad_(x.requires_grad) for x in case.inputs]
    expected = run_both(case.definition, doubles, [c.double() for c in cotangents])
    errors = [0.0]
    for a, b in zip(computed, expected, strict=True):
        error = float((a.detach().double() - b.detach()).abs().max() / b.detach().abs().max().clamp_min(1e-30))
        errors.append(error if error == error else float("inf"))
    return max(errors)


def check(launcher: Launcher, device: torch.device) -> dict[str, Any]:
    """Every kernel against its definition; what is off, by how much."""
    failed, worst, count = [], dict.fromkeys(map(str, TOLERANCE), 0.0), 0
    torch.manual_seed(0)
    for case in small_cases(launcher, device):
        error = worst_error(case)
        count += 1
        worst[str(case.dtype)] = max(worst[str(case.dtype)], error)
        if error > TOLERANCE[case.dtype]:
            failed.append({"operation": case.operation, "shape": case.shape, "dtype": str(case.dtype), "error": error})
    return {"cases": count, "worst_error": worst, "failed": failed}


def check_on_a_stream(launcher: CudaLauncher, device: torch.device) -> dict[str, Any]:
    """The same on a stream of the launcher's own."""
    with torch.cuda.stream(launcher.new_stream()):
        report = check(launcher, device)
        torch.cuda.synchronize()
    return report


def check_graph(launcher: CudaLauncher, device: torch.device) -> dict[str, Any]:
    """A captured and replayed pass gives what the pass itself gives, for new inputs in the same places."""
    stream = launcher.new_stream()
    failed = []
    for case in small_cases(launcher, device):
        if case.dtype != torch.float16:
            continue
        cotangents = cotangents_for(case)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                run_both(case.fused, case.inputs, cotangents)
        torch.cuda.current_stream().wait_stream(stream)
        graph, captured = capture(functools.partial(run_both, case.fused, case.inputs, cotangents), stream=stream)
        with torch.no_grad():
            case.inputs[0].copy_(torch.randn_like(case.inputs[0]))
        graph.replay()
        direct = run_both(case.fused, case.inputs, cotangents)
        torch.cuda.synchronize()
        if not all(torch.equal(a, b) for a, b in zip(captured, direct, strict=True)):
            failed.append({"operation": case.operation, "shape": case.shape})
    return {"driver": launcher.driver_for(stream.cuda_stream).name, "failed": failed}


@dataclass(frozen=True)
class Timed:
    """How long a function took, as `timing` says it, and whether a graph of it was replayed; why not, where refused."""

    timing: dict[str, Any]
    graph: bool
    refused: str | None = None

    @property
    def seconds(self) -> float:
        """The median."""
        return float(self.timing["median"])


class Clock:
    """Seconds of a function over some runs; on a GPU replayed as a graph where it can be captured."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats

    def time(self, work: Callable[[], Any]) -> Timed:
        if self.device.type != "cuda":
            work()
            samples = []
            for _ in range(self.repeats):
                started = time.perf_counter()
                work()
                samples.append(time.perf_counter() - started)
            return Timed(timing(samples), graph=False)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        try:
            run, refused = capture(work)[0].replay, None
        except RuntimeError as error:
            run, refused = work, " ".join(str(error).split())[:200]
        run()
        samples = []
        for _ in range(self.repeats):
            first, second = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            run()
            second.record()
            second.synchronize()
            samples.append(first.elapsed_time(second) / 1e3)
        return Timed(timing(samples), graph=refused is None, refused=refused)


PASSES = ("forward", "both")
"""What is timed of a variant: forward alone, and with the backward pass."""


def time_variant(case: Case, variant: Variant, cotangents: Sequence[Tensor], clock: Clock) -> dict[str, Timed]:
    """Both passes of one way to compute a case."""

    def forward() -> None:
        with torch.no_grad():
            variant(*case.inputs)

    return {"forward": clock.time(forward), "both": clock.time(lambda: run_both(variant, case.inputs, cotangents))}


def kept_bytes(case: Case, variant: Variant) -> int:
    """Memory on the GPU that is kept between the passes, without the outputs."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    outputs = variant(*case.inputs)
    given = sum(y.numel() * y.element_size() for y in outputs if y is not None)
    return torch.cuda.memory_allocated() - before - given


def about(passes: dict[str, Timed]) -> dict[str, Any]:
    """What to know of a variant's times, for JSON."""
    refused = {name: timed.refused for name, timed in passes.items() if timed.refused}
    return {"graph": {name: timed.graph for name, timed in passes.items()}} | (
        {"not_captured": refused} if refused else {}
    )


def named(variants: dict[str, dict[str, Timed]]) -> dict[str, Any]:
    """The timings of a row, such as "fused both"."""
    return {f"{name} {kind}": timed.timing for name, passes in variants.items() for kind, timed in passes.items()}


def time_case(case: Case, clock: Clock, compiled: bool) -> dict[str, Any]:
    """A row of the table."""
    cotangents = cotangents_for(case)
    # The float64 definition of the largest shapes needs more memory than it is worth; the checks have the small ones.
    variants = {"fused": case.fused, "definition": case.definition, "separate": case.separate, **case.more}
    if compiled:
        torch._dynamo.reset()
        variants["compiled"] = torch.compile(case.separate, dynamic=False)
    timed: dict[str, dict[str, Timed]] = {}
    values: dict[str, Any] = {}
    for name, variant in variants.items():
        gc.collect()
        try:
            passes = time_variant(case, variant, cotangents, clock)
            values[name] = about(passes)
            if clock.device.type == "cuda":
                values[name]["kept_bytes"] = kept_bytes(case, variant)
            timed[name] = passes
        except Exception as error:
            values[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
            if name == "fused":
                raise
    moved = {"forward": case.forward_bytes, "both": case.forward_bytes + case.backward_bytes}
    values["fused"]["bandwidth"] = {kind: moved[kind] / timed["fused"][kind].seconds for kind in PASSES}
    for name in ("definition", "separate", "compiled"):
        if name in timed:
            values[name]["times_fused"] = {
                kind: timed[name][kind].seconds / timed["fused"][kind].seconds for kind in PASSES
            }
    of = {"operation": case.operation, "shape": case.shape, "dtype": str(case.dtype)[6:]}
    return new_row(of, timings=named(timed), **values)


def time_synthesis(
    config: GeneratorConfig, batch: int, dtype: torch.dtype, launcher: Launcher, device: torch.device, clock: Clock
) -> dict[str, Any]:
    """The synthesis from row 3 on and its gradient to rows 3 to 7: fused, and layer by layer."""
    torch.manual_seed(0)
    generator = Generator(config).to(device).freeze()
    with torch.no_grad():
        w_plus = torch.randn(batch, config.rows, config.w_dim, device=device)
        prefix = generator.prefix(w_plus, 3)
        prefix = prefix._replace(features=last(prefix.features.to(dtype)))
    for module in generator.modules():
        if isinstance(module, ModulatedConv):
            assert module.folded is not None
            folded = module.folded.to(dtype)
            module.folded = last(folded) if folded.shape[-1] > 1 else folded
    stop = min(8, config.rows - 1)
    rows = w_plus[:, 3:stop].clone().requires_grad_()

    def draw() -> Tensor:
        codes = [*w_plus[:, :3].unbind(1), *rows.unbind(1), *w_plus[:, stop:].unbind(1)]
        return generator.synthesis_from(prefix, codes)

    def both() -> Tensor:
        return torch.autograd.grad(draw().square().mean(), [rows])[0]

    def forward() -> None:
        with torch.no_grad():
            draw()

    timed: dict[str, dict[str, Timed]] = {}
    values: dict[str, Any] = {}
    own, gradients = stylegan2.launcher_for, {}
    try:
        for name, by in (("fused", launcher), ("separate", None)):
            stylegan2.launcher_for = lambda device, by=by: by  # type: ignore[assignment]
            gradients[name] = both().detach().clone()
            timed[name] = {"forward": clock.time(forward), "both": clock.time(both)}
            values[name] = about(timed[name])
            if device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                both()
                values[name]["peak_bytes"] = torch.cuda.max_memory_allocated() - before
    finally:
        stylegan2.launcher_for = own  # type: ignore[assignment]
    a, b = (gradients[name].double() for name in ("fused", "separate"))
    values["gradient_difference"] = float((a - b).abs().max() / b.abs().max())
    values["times_fused"] = timed["separate"]["both"].seconds / timed["fused"]["both"].seconds
    of = {"operation": SYNTHESIS, "resolution": config.resolution, "batch": batch, "dtype": str(dtype)[6:]}
    return new_row(of, timings=named(timed), **values)


def copy_bandwidth(device: torch.device, clock: Clock, rehearse: bool) -> float:
    """Bytes a second read and written by a large copy: what a pass can reach at most."""
    source = torch.empty(2**16 if rehearse else 2**29, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / clock.time(lambda: target.copy_(source)).seconds


def rehearsal_launcher() -> Launcher:
    from tests.kernels.host_launcher import HostLauncher

    return HostLauncher(Path(tempfile.mkdtemp(prefix="host-kernels-")))


def say(of: dict[str, Any]) -> None:
    """Print a row as it is made: milliseconds of both passes, and the fused variant's bandwidth."""
    case = of["case"]

    def milliseconds(name: str) -> str:
        timed = of["timings"].get(f"{name} both")
        return f"{1e3 * timed['median']:9.3f}" if timed else f"{'-':>9}"

    kinds = "".join(milliseconds(name) for name in ("fused", "separate", "compiled", "definition"))
    where = f"{case['operation']:26}{case.get('shape', case.get('resolution')):<24}"
    speed = of["values"]["fused"].get("bandwidth", {}).get("both")
    print(f"{where:50}{case['dtype']:9}{kinds}" + (f"{speed / 1e12:8.2f} TB/s" if speed else ""), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 512, 256, 128, 64])
    parser.add_argument("--resolutions", type=int, nargs="+", default=[1024, 256, 64], help="of the whole synthesis")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=360, help="begin nothing new after so long")
    parser.add_argument("--compile-seconds", type=float, default=120, help="of torch.compile, at most; 0: without")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU at tiny sizes")
    arguments = parser.parse_args()
    started = time.monotonic()

    def left() -> float:
        return arguments.seconds - (time.monotonic() - started)

    if arguments.rehearse:
        arguments.batch, arguments.sides, arguments.resolutions, arguments.repeats = 1, [8, 4], [16], 1
        arguments.compile_seconds = 0
    elif not torch.cuda.is_available():
        print("no GPU that PyTorch can use: --rehearse runs this on the CPU", file=sys.stderr)
        return 2
    device = torch.device("cpu" if arguments.rehearse else "cuda")
    clock = Clock(device, arguments.repeats)
    torch.backends.cudnn.benchmark = True
    result = new_result(
        "kernels_gpu",
        "are the fused kernels right on this GPU, and what do they save",
        rehearsal=arguments.rehearse,
        batch=arguments.batch,
        sides=arguments.sides,
        resolutions=arguments.resolutions,
        repeats=arguments.repeats,
        tf32={"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32},
    )
    values = result["values"]
    checks: dict[str, Any] = {}
    values["checks"] = checks

    def save() -> None:
        result["seconds"] = time.monotonic() - started
        write(arguments.output, result)

    def attempt(what: str, work: Callable[..., Any], *with_these: Any) -> Any:
        """What the work gives, or None and a note: what fails costs no other figure."""

        def failed(why: str) -> None:
            leave_out(result, what, why)

        return attempted(what, lambda: work(*with_these), failed, save)

    def checked(name: str, check: Callable[..., Any], *with_these: Any) -> None:
        checks[name] = attempt(name, check, *with_these) or {"failed": ["it could not be run: see left_out"]}

    launcher: Launcher
    if arguments.rehearse:
        launcher = rehearsal_launcher()
        checked("host", check, launcher, device)
    else:
        first = time.monotonic()
        launcher = CudaLauncher(torch.device("cuda", torch.cuda.current_device()), home().kernels)
        values["compile_seconds"] = time.monotonic() - first
        if find_nvcc() is not None:
            binaries = compile_all([launcher.architecture], folder=home().kernels)
            values["registers"] = {
                use.kernel: use.registers for each in binaries for use in each.uses if not use.kernel.endswith("_any")
            }
            values["spills"] = [use.kernel for each in binaries for use in each.spills]
        drivers = {"driver": CudaLauncher(launcher.device, home().kernels, pycuda=False)}
        if launcher.pycuda is not None:
            drivers["pycuda"] = launcher
        for name, each in drivers.items():
            checked(name, check_on_a_stream, each, device)
            checked(f"{name} in a graph", check_graph, each, device)
        checks.setdefault("pycuda", "not installed")
    for name, report in checks.items():
        print(f"checks, {name}: {report if isinstance(report, str) else report.get('worst_error', '')}", end=" ")
        print(f"{len(report['failed'])} failed" if isinstance(report, dict) else "", flush=True)
    values["copy_bandwidth"] = attempt("copy", copy_bandwidth, device, clock, arguments.rehearse)
    save()

    dtypes = [torch.bfloat16, torch.float16, torch.float32]
    print(f"{'milliseconds, forward and backward':59}{'fused':>9}{'separate':>9}{'compiled':>9}{'defined':>9}")
    for resolution in arguments.resolutions:
        config = GeneratorConfig(resolution=resolution)
        if arguments.rehearse:
            config = GeneratorConfig(resolution=resolution, z_dim=8, w_dim=8, channel_base=128, channel_max=16)
        for dtype in dtypes:
            what = f"synthesis {resolution} {dtype}"
            if left() < 0:
                leave_out(result, what, "out of time")
                continue
            timed = attempt(what, time_synthesis, config, arguments.batch, dtype, launcher, device, clock)
            if timed is not None:
                result["rows"].append(timed)
                say(timed)
    compiling = 0.0
    for make in timed_cases(arguments.batch, arguments.sides, dtypes, launcher, device):
        if left() < 0:
            leave_out(result, "some of the kernels' times", "out of time")
            break
        torch.manual_seed(0)
        case = attempt("inputs of a kernel", make)
        if case is None:
            continue
        # Compiling takes longer than all else: the 16-bit type that is recommended, and within its time.
        compiled = case.dtype == torch.bfloat16 and compiling < arguments.compile_seconds
        before = time.monotonic()
        timed = attempt(f"{case.operation} {case.shape} {case.dtype}", time_case, case, clock, compiled)
        compiling += time.monotonic() - before if compiled else 0.0
        del case
        if timed is not None:
            result["rows"].append(timed)
            say(timed)
    save()
    print(f"written to {arguments.output}")
    wrong = any(report["failed"] for report in checks.values() if isinstance(report, dict))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
