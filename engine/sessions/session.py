"""One interface to run a frozen network on a batch, whatever runs it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions.graphs import TensorSpec
from faceanon_engine.engine.system.tensors import is_tensor, like

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]
Batch = TypeVar("Batch", Array, "torch.Tensor")


@dataclass(frozen=True)
class Profile:
    """Batch sizes an engine serves: the least, the one it is tuned for, the most. Raises UserError when disordered."""

    min: int = 1
    opt: int = 8
    max: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise UserError(
                f"batch profile {self}: give a least, a usual and a largest batch, each at least the one before"
            )

    @property
    def fixed(self) -> bool:
        """Whether there is only one size, so that a CUDA graph can replay it."""
        return self.min == self.max

    def __str__(self) -> str:
        return str(self.min) if self.fixed else f"{self.min},{self.opt},{self.max}"


@dataclass(frozen=True)
class About:
    """What really runs: asked of the running session, never of the settings."""

    backend: str
    """torch, onnxruntime, tensorrt or tensorrt-rtx."""
    version: str
    provider: str
    """The part of the backend that computes, such as CPUExecutionProvider; the backend's name where it has no parts."""
    precision: str
    device: str
    graph: str
    detail: str = ""
    """Threads, batch profile, CUDA graphs: what else decides the speed."""

    def __str__(self) -> str:
        provider = "" if self.provider == self.backend else f" {self.provider}"
        return f"{self.backend} {self.version}{provider}"


class Session(ABC):
    """A frozen network that can be run. One thread at a time is let in; close it, or use it as a context."""

    def __init__(self, input: TensorSpec, output: TensorSpec, max_batch: int | None = None, min_batch: int = 1) -> None:
        """What goes in and comes out; batches above `max_batch` are split, those below `min_batch` are filled up."""
        self.input = input
        self.output = output
        self.max_batch = max_batch
        self.min_batch = min_batch
        self._lock = threading.Lock()

    def run(self, batch: Batch) -> Batch:
        """The output for a batch of any size: an array for an array, a tensor on the same device for a tensor.

        float32, or uint8 where the graph takes it; other float types are converted. Raises ValueError for another shape
        or type, OutOfMemory when the batch does not fit.
        """
        self._check(batch)
        count = len(batch)
        if not count:
            return _empty_like(batch, self.output)
        with self._lock:
            if self.max_batch is None or self.min_batch <= count <= self.max_batch:
                return self._run(_converted(batch, self.input.dtype))
            parts = []
            for first in range(0, count, self.max_batch):
                part = _converted(batch[first : first + self.max_batch], self.input.dtype)
                missing = self.min_batch - len(part)
                parts.append(self._run(_filled_up(part, missing) if missing > 0 else part)[: len(part)])
            return parts[0] if len(parts) == 1 else _concatenated(parts)

    @abstractmethod
    def _run(self, batch: Any) -> Any:
        """Run a contiguous batch of the right type, within the sizes allowed."""

    @abstractmethod
    def describe(self) -> About:
        """What really runs."""

    def close(self) -> None:
        """Give back what the session holds; it cannot be used afterwards."""
        return

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check(self, batch: Any) -> None:
        expected = self.input.shape[1:]
        if batch.ndim != len(expected) + 1 or tuple(batch.shape[1:]) != expected:
            raise ValueError(f"the input has shape {tuple(batch.shape)}, expected [N, {', '.join(map(str, expected))}]")
        kind = str(batch.dtype).removeprefix("torch.")
        if (kind == "uint8") != (self.input.dtype == "uint8") or not kind.startswith(("float", "bfloat", "uint8")):
            raise ValueError(f"the input has type {kind}, expected {self.input.dtype}")


def _converted(batch: Any, dtype: str) -> Any:
    if is_tensor(batch):
        import torch

        return batch.detach().to(getattr(torch, dtype)).contiguous()
    return np.ascontiguousarray(batch, dtype=dtype)


def _empty_like(batch: Any, output: TensorSpec) -> Any:
    shape = (0, *(int(size) for size in output.shape[1:]))
    return like(np.zeros(shape, output.dtype), batch)


def _filled_up(part: Any, missing: int) -> Any:
    return _concatenated([part] + [part[-1:]] * missing)


def _concatenated(parts: list[Any]) -> Any:
    if is_tensor(parts[0]):
        import torch

        return torch.cat(parts)
    return np.concatenate(parts)
