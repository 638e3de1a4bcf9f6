"""Devices by their names."""

from __future__ import annotations

from collections.abc import Callable

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.cuda_driver import Gpu, gpus


def resolve(name: str, can_use: Callable[[str], bool] | None = None) -> str:
    """ "cpu" or "cuda:N" of a device's name, without loading Torch.

    "auto" is the first GPU where there is one and `can_use("cuda:0")` does not say otherwise. Raises UserError when
    the device is unknown or not there.
    """
    kind, _, number = name.partition(":")
    if name == "auto":
        return "cuda:0" if gpus() and (can_use is None or can_use("cuda:0")) else "cpu"
    if name == "cpu":
        return "cpu"
    if kind != "cuda" or (number and not number.isdecimal()):
        raise UserError(f"unknown device {name!r}: use auto, cpu or cuda")
    if int(number or 0) >= len(gpus()):
        there = f"this machine has {len(gpus())} GPUs, counted from cuda:0" if gpus() else "no usable NVIDIA GPU here"
        raise UserError(f"device {name!r}: {there}, see 'faceanon-engine doctor'; use --device cpu")
    return f"cuda:{int(number or 0)}"


def resolve_for_torch(name: str) -> str:
    """The device on which Torch is to run; raises UserError also where the installed Torch cannot use it."""
    device = resolve(name, lambda _: torch_sees_gpus())
    if device != "cpu" and not torch_sees_gpus():
        raise UserError(f"device {name!r}: the installed torch cannot use it, see 'faceanon-engine doctor'")
    return device


def torch_sees_gpus() -> bool:
    """Whether Torch is built for CUDA and the driver fits it."""
    import torch

    return torch.cuda.is_available()


def index_of(device: str) -> int:
    """N of "cuda:N"."""
    return int(device.partition(":")[2] or 0)


def gpu_of(device: str) -> Gpu:
    """The GPU of "cuda:N", which has to be there."""
    return gpus()[index_of(device)]


def device_names(text: str | None) -> tuple[str, ...]:
    """The devices that share a job, from "cuda:0,cuda:1" or "all"; none when they were not asked for.

    The same device may be named several times. Raises UserError where "all" finds no GPU.
    """
    if text is None:
        return ()
    if text.strip() != "all":
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        if not names:
            raise UserError(f"devices {text!r} names none: give cuda:0,cuda:1 or all")
        return names
    if not gpus() or not torch_sees_gpus():
        raise UserError("devices all: no usable NVIDIA GPU here, see 'faceanon-engine doctor'; use --device cpu")
    return tuple(f"cuda:{gpu.index}" for gpu in gpus())
