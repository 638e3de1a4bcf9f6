"""What a step cannot be faster than: its arithmetic and its memory traffic, layer by layer, on a given machine.

A styled layer of the generator reads and writes every activation once in the forward pass, and in the backward pass
reads its output's gradient and its own output and writes its input's gradient; weights are read once and do not count.
A layer takes at least the longer of its arithmetic at the peak rate and its traffic at the memory's. The encoders'
arithmetic is counted by Torch on tensors without memory; their traffic is small beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Dense rates by name of the device, from the makers' data sheets: TFLOP/s by precision, memory in TB/s.
DATA_SHEETS: dict[str, dict[str, float]] = {
    "H200": {"fp32": 67, "tf32": 495, "fp16": 989, "bf16": 989, "memory": 4.8},
    "H100": {"fp32": 67, "tf32": 495, "fp16": 989, "bf16": 989, "memory": 3.35},
    "A100": {"fp32": 19.5, "tf32": 156, "fp16": 312, "bf16": 312, "memory": 2.0},
    "L40S": {"fp32": 91.6, "tf32": 183, "fp16": 362, "bf16": 362, "memory": 0.86},
    "RTX 4090": {"fp32": 82.6, "tf32": 82.6, "fp16": 165, "bf16": 165, "memory": 1.01},
}


@dataclass(frozen=True)
class Layer:
    """One image's share of a layer: multiply-adds forward, and activations in and out."""

    name: str
    multiply_adds: int
    elements_in: int
    elements_out: int


def generator_layers(config: Any, first_row: int = 3) -> list[Layer]:
    """The layers that every step runs: those from the first optimised row on."""
    layers = []
    for row in range(first_row, config.rows - 1):
        side = 4 * 2 ** ((row + 1) // 2)
        up = row % 2 == 1
        cin = config.channels(side // 2 if up else side)
        cout = config.channels(side)
        # A transposed convolution with stride 2 multiplies every input pixel by the kernel once.
        places = (side // 2) ** 2 if up else side**2
        elements_in = places * cin
        layers.append(Layer(f"{'up' if up else 'conv'} {side}", places * cin * cout * 9, elements_in, side**2 * cout))
    return layers


def encoder_multiply_adds(identity_config: Any, attribute_config: Any) -> dict[str, int]:
    """Multiply-adds of one forward pass of each encoder, counted without any memory."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from faceanon_engine.engine.networks.build import build

    multiply_adds = {}
    for role, config in (("identity_encoder", identity_config), ("attribute_encoder", attribute_config)):
        with torch.device("meta"):
            network: Any = build(role, config).eval()
            pixels = torch.empty(1, 3, config.input_size, config.input_size)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            (network.embed if role == "identity_encoder" else network.encode)(pixels)
        multiply_adds[role] = counter.get_total_flops() // 2
    return multiply_adds


def floors(
    generator_config: Any, identity_config: Any, attribute_config: Any, precision: str, rates: dict[str, float]
) -> dict[str, float]:
    """Seconds that one image's step takes at least, at these rates (TFLOP/s by precision, memory in TB/s)."""
    width = 2 if precision in ("fp16", "bf16") else 4
    arithmetic, memory, bound = 0.0, 0.0, 0.0
    for layer in generator_layers(generator_config):
        busy = 2 * 2 * layer.multiply_adds / (rates[precision] * 1e12)  # forward and data gradient, two each
        moved = (2 * layer.elements_in + 3 * layer.elements_out) * width / (rates["memory"] * 1e12)
        arithmetic, memory, bound = arithmetic + busy, memory + moved, bound + max(busy, moved)
    encoders = sum(encoder_multiply_adds(identity_config, attribute_config).values())
    encoding = 4 * encoders / (rates[precision] * 1e12)
    return {
        "generator_arithmetic": arithmetic,
        "generator_memory": memory,
        "generator": bound,
        "encoders": encoding,
        "step": bound + encoding,
    }


def data_sheet(name: str) -> dict[str, float] | None:
    """The maker's rates for a device, None where it is not in the table."""
    return next((rates for key, rates in DATA_SHEETS.items() if key in name), None)


def measured_rates(device: str = "cuda", size: int = 8192) -> dict[str, float]:
    """What the device reaches: a large matrix product in each precision (TFLOP/s), a large copy (TB/s)."""
    import torch

    from faceanon_engine.engine.networks.precision import computing

    rates = {}
    for precision in ("fp32", "tf32", "fp16", "bf16"):
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        with computing(precision):  # type: ignore[arg-type]
            seconds = quickest(lambda a=a, b=b: a @ b, device)
        rates[precision] = 2 * size**3 / seconds / 1e12
    source = torch.empty(size * size * 4, device=device)
    target = torch.empty_like(source)
    rates["memory"] = 2 * source.numel() * 4 / quickest(lambda: target.copy_(source), device) / 1e12
    return rates


def quickest(work: Any, device: str, repeats: int = 5) -> float:
    """Seconds of the quickest of a few runs after a warm-up."""
    import time

    import torch

    best = float("inf")
    for repeat in range(repeats + 2):
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        if repeat >= 2:
            best = min(best, time.perf_counter() - started)
    return best
