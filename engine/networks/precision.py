"""What the optimisation computes in: float32, TensorFloat-32, float16 or bfloat16.

In 16 bits the activations and the weights of convolutions and matrix products are 16 bits wide. What would lose by it
stays in float32: styles and demodulation, the sum of the toRGB layers, resizing, normalisations and the residual stream
of the transformer, losses, gradients of the code, Adam.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from faceanon_engine.engine.choices import OptimisePrecision
from faceanon_engine.engine.errors import UserError

if TYPE_CHECKING:
    from faceanon_engine.engine.networks.irse import IdentityEncoder
    from faceanon_engine.engine.networks.stylegan2 import Generator
    from faceanon_engine.engine.networks.vit import AttributeEncoder


_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def compute_dtype(precision: OptimisePrecision) -> torch.dtype:
    """The type of activations."""
    return _DTYPES[precision]


def checked_precision(precision: str, device: torch.device) -> OptimisePrecision:
    """The precision, if the device can compute in it; raises UserError otherwise."""
    if precision not in _DTYPES:
        raise UserError(f"unknown optimise-precision {precision!r}: use one of {', '.join(_DTYPES)}")
    if precision == "tf32" and device.type != "cuda":
        raise UserError(f"optimise-precision tf32 needs an NVIDIA GPU, and this runs on {device}: use fp32 or bf16")
    if device.type == "cuda" and precision in ("tf32", "bf16") and torch.cuda.get_device_capability(device)[0] < 8:
        name = torch.cuda.get_device_name(device)
        raise UserError(f"optimise-precision {precision} needs an Ampere or later GPU, and this is a {name}: use fp16")
    return precision  # type: ignore[return-value]


@contextmanager
def computing(precision: OptimisePrecision) -> Iterator[None]:
    """Let float32 products on a GPU be rounded to TensorFloat-32 or not, as the precision says.

    PyTorch allows it for convolutions unless told otherwise, so that "float32" would not be what it is called.
    """
    if not torch.cuda.is_available():
        yield
        return
    wanted = "tf32" if precision == "tf32" else "ieee"
    places = _switches()
    before = [getattr(place, name) for place, name in places]
    try:
        for place, name in places:
            setattr(place, name, wanted if name == "fp32_precision" else wanted == "tf32")
        yield
    finally:
        for (place, name), value in zip(places, before, strict=True):
            setattr(place, name, value)


def _switches() -> list[tuple[Any, str]]:
    """Where PyTorch keeps the choice for matrix products and convolutions; the two generations must not be mixed."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(cudnn, "conv") and hasattr(cudnn.conv, "fp32_precision"):
        return [(matmul, "fp32_precision"), (cudnn.conv, "fp32_precision")]
    return [(matmul, "allow_tf32"), (cudnn, "allow_tf32")]


def lowered(networks: Networks, precision: OptimisePrecision) -> Networks:
    """The networks for a precision: copies with 16-bit weights, or the same ones."""
    dtype = compute_dtype(precision)
    if dtype == torch.float32:
        return networks
    copies: list[Any] = [copy.deepcopy(network) for network in networks]
    generator, identity_encoder, attribute_encoder = copies
    for module in generator.freeze().modules():
        # The styles' own layers, demodulation constants, noise and biases stay: they are the float32 islands.
        if getattr(module, "folded", None) is not None:
            module.folded = module.folded.to(dtype)
    for encoder in (identity_encoder, attribute_encoder):
        for name, parameter in encoder.named_parameters():
            if parameter.ndim >= 2 and "embedding" not in name:
                parameter.data = parameter.data.to(dtype)
    for parameter in identity_encoder.parameters():
        if parameter.ndim == 4 and parameter.is_cuda:
            # cuDNN computes 16 bits with channels last: of another layout it turns every activation round and back.
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return type(networks)(generator, identity_encoder, attribute_encoder)


class Networks(NamedTuple):
    """The three networks that a step runs, frozen, in the precision it computes in."""

    generator: Generator
    identity_encoder: IdentityEncoder
    attribute_encoder: AttributeEncoder
