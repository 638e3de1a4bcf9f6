"""Devices by their names."""

from __future__ import annotations

from collections.abc import Callable

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.cuda_driver import Gpu, gpus

MOST_PROCESSES = 64
_MOST_DIGITS = 4
_LONGEST_SHOWN = 40


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
    if name != "cuda" and not (kind == "cuda" and number.isascii() and number.isdecimal()):
        raise UserError(f"unknown device {_shown(name)}: use auto, cpu or cuda")
    index = int(number[-_MOST_DIGITS:] or 0)
    if len(number.lstrip("0")) > _MOST_DIGITS or index >= len(gpus()):
        there = f"this machine has {len(gpus())} GPUs, counted from cuda:0" if gpus() else "no usable NVIDIA GPU here"
        raise UserError(f"device {_shown(name)}: {there}, see 'faceanon-engine doctor'; use --device cpu")
    return f"cuda:{index}"


def resolve_for_torch(name: str) -> str:
    """The device on which Torch is to run; raises UserError also where the installed Torch cannot use it."""
    device = resolve(name, lambda _: torch_sees_gpus())
    if device != "cpu" and not torch_sees_gpus():
        raise UserError(f"device {_shown(name)}: the installed torch cannot use it, see 'faceanon-engine doctor'")
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
    """The devices that share a job, each "cpu" or "cuda:N", from "cuda:0,cuda:1" or "all"; none where text is None.

    The same device may be named several times: it runs as many processes. Raises UserError for a name that means no
    device that works here, an empty one, more than `MOST_PROCESSES`, and where "all" finds no GPU.
    """
    if text is None:
        return ()
    if text.strip() != "all":
        names = [name.strip() for name in text.split(",")]
        if not any(names):
            raise UserError(f"devices {_shown(text)} names none: give cuda:0,cuda:1 or all")
        if not all(names):
            raise UserError(f"devices {_shown(text)} has an empty name: give one or several, such as cuda:0,cuda:1")
        if len(names) > MOST_PROCESSES:
            raise UserError(f"devices names {len(names)}, one process each: give at most {MOST_PROCESSES}")
        return tuple(map(resolve_for_torch, names))
    if not gpus() or not torch_sees_gpus():
        raise UserError("devices all: no usable NVIDIA GPU here, see 'faceanon-engine doctor'; use --device cpu")
    return tuple(f"cuda:{gpu.index}" for gpu in gpus())


def _shown(name: str) -> str:
    """A name in a message, where it need not be one."""
    return repr(name if len(name) <= _LONGEST_SHOWN else name[:_LONGEST_SHOWN] + "...")
