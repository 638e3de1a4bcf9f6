"""Networks run by Torch: what happens to what goes in, and to what does not fit."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from faceanon_engine.engine.sessions.graphs import TensorSpec
from faceanon_engine.engine.sessions.torch_session import TorchSession
from faceanon_engine.engine.system.memory import OutOfMemory, is_out_of_memory

SPEC = TensorSpec("float32", ("N", 3))


class Doubling(torch.nn.Module):
    def mapping(self, z: torch.Tensor) -> torch.Tensor:
        return z * 2


class Full(torch.nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def mapping(self, _z: torch.Tensor) -> torch.Tensor:
        raise self.error


def session_of(network: torch.nn.Module) -> TorchSession:
    return TorchSession(network, "mapping", SPEC, SPEC, precision="fp32", device=torch.device("cpu"))


def test_arrays_that_must_not_be_written_to_are_taken_without_a_word() -> None:
    x = np.ones((2, 3), np.float32)
    x.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(session_of(Doubling()).run(x), x * 2)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: out of memory"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_is_said_so_and_a_job_goes_on_with_fewer(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match="out of memory running mapping on 2 images on cpu: give a smaller") as caught:
        session_of(Full(error)).run(np.zeros((2, 3), np.float32))
    assert is_out_of_memory(caught.value)


def test_other_failures_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="sizes do not match"):
        session_of(Full(RuntimeError("sizes do not match"))).run(np.zeros((2, 3), np.float32))
