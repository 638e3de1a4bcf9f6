"""The host build that the kernels are tested with: its 16-bit types round as they should, and it sees misuse."""

from __future__ import annotations

import ctypes
import subprocess

import pytest
import torch

from tests.kernels.host_launcher import COMPILER, HOST

PROGRAM = """
#include "emulation.h"
#include <cuda_fp16.h>
#include <cuda_bf16.h>
extern "C" void to_half(const float* x, uint16_t* y, int n) {
  for (int i = 0; i < n; ++i) y[i] = __float2half(x[i]).bits;
}
extern "C" void from_half(const uint16_t* x, float* y, int n) {
  for (int i = 0; i < n; ++i) y[i] = __half2float({x[i]});
}
extern "C" void to_bf16(const float* x, uint16_t* y, int n) {
  for (int i = 0; i < n; ++i) y[i] = __float2bfloat16(x[i]).bits;
}
extern "C" void from_bf16(const uint16_t* x, float* y, int n) {
  for (int i = 0; i < n; ++i) y[i] = __bfloat162float({x[i]});
}
struct Arguments { float* out; };
void sum(const Arguments& a) {
  float x = 1.f + threadIdx.x;
  for (int by = 16; by > 0; by /= 2) x += __shfl_xor_sync(0xffffffffu, x, by);
  shared_memory[threadIdx.x] = x;
  __syncthreads();
  if (threadIdx.x == 0) a.out[blockIdx.x] = shared_memory[0] + shared_memory[33];
}
KERNEL(sum_of_warps, 1, Arguments, sum)
void half_a_barrier(const Arguments& a) {
  if (threadIdx.x < 40) __syncthreads();
  else __shfl_xor_sync(0xffffffffu, 1.f, 1);
}
KERNEL(divergent, 1, Arguments, half_a_barrier)
void beyond(const Arguments& a) { shared_memory[threadIdx.x] = 1.f; }
KERNEL(too_far, 1, Arguments, beyond)
void unset(const Arguments& a) { a.out[0] = shared_memory[5]; }
KERNEL(unwritten, 1, Arguments, unset)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if COMPILER is None:
        pytest.skip("g++ is not installed: it compiles the CUDA sources for the host")
    path = tmp_path_factory.mktemp("emulation") / "library.so"
    command = [COMPILER, "-std=c++17", "-O1", "-fPIC", "-shared", f"-I{HOST}", "-x", "c++", "-", "-o", str(path)]
    subprocess.run(command, input=PROGRAM, text=True, check=True)
    return ctypes.CDLL(str(path))


def run(library: ctypes.CDLL, kernel: str, out: torch.Tensor, threads: int, shared: int, blocks: int = 1) -> str | None:
    function = getattr(library, kernel)
    function.restype = ctypes.c_char_p
    address = ctypes.c_void_p(out.data_ptr())
    said = function((ctypes.c_uint * 6)(blocks, 1, 1, threads, 1, 1), ctypes.c_uint(shared), ctypes.byref(address))
    return None if said is None else said.decode()


@pytest.mark.parametrize(("name", "dtype"), [("half", torch.float16), ("bf16", torch.bfloat16)])
def test_sixteen_bit_types_are_torchs(name: str, dtype: torch.dtype, library: ctypes.CDLL) -> None:
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16)
    wide = torch.empty(2**16)
    getattr(library, f"from_{name}")(ctypes.c_void_p(every.data_ptr()), ctypes.c_void_p(wide.data_ptr()), 2**16)
    expected = every.view(dtype).float()
    assert torch.equal(wide.nan_to_num(7.0), expected.nan_to_num(7.0))
    # All values, the middles between neighbours, what lies just beside them, and what overflows.
    finite = expected[expected.isfinite()].double().unique()
    middles = (finite[1:] + finite[:-1]) / 2
    values = torch.cat([finite, middles, middles * (1 + 1e-6), middles * (1 - 1e-6)]).float()
    values = torch.cat([values, torch.tensor([65519.9, 65520.0, 1e38, -1e38, 1e-30, -0.0, float("inf"), float("nan")])])
    narrow = torch.empty(len(values), dtype=torch.uint16)
    getattr(library, f"to_{name}")(ctypes.c_void_p(values.data_ptr()), ctypes.c_void_p(narrow.data_ptr()), len(values))
    actual, wanted = narrow.view(dtype), values.to(dtype)
    assert torch.equal(actual.isnan(), wanted.isnan())
    assert torch.equal(actual.nan_to_num(7.0, 9.0, -9.0), wanted.nan_to_num(7.0, 9.0, -9.0))
    assert torch.equal(actual.isinf(), wanted.isinf())


def test_barriers_and_shuffles_exchange_between_threads(library: ctypes.CDLL) -> None:
    out = torch.zeros(3)
    assert run(library, "sum_of_warps", out, 64, 64 * 4, blocks=3) is None
    assert out.tolist() == [sum(range(1, 65))] * 3


def test_misuse_is_seen(library: ctypes.CDLL) -> None:
    out = torch.zeros(1)
    assert run(library, "divergent", out, 64, 0) == "threads wait at different barriers"
    assert run(library, "too_far", out, 64, 60 * 4) == "written behind the shared memory asked for"
    assert run(library, "too_far", out, 64, 64 * 4) is None
    assert run(library, "too_far", out, 64, 64 * 1024) == "more shared memory than every GPU has"
    assert run(library, "too_far", out, 2048, 0) == "a block has 1 to 1024 threads"
    assert run(library, "unwritten", out, 64, 64 * 4) is None
    assert out.isnan().all()
