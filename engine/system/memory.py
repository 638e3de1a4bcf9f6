"""How much memory is free, and what it looks like when it runs out."""

from __future__ import annotations

MEMORY_SHARE = 0.8
"""Share of the free memory that may be expected to be taken."""


class OutOfMemory(MemoryError):
    """A batch that does not fit into the device's memory, said in one line; a smaller one may fit."""

    def __init__(self, graph: str, count: int, device: str) -> None:
        ways = ["give a smaller --batch-size"] * (count > 1) + ["use a 16-bit --precision"]
        if device != "cpu":
            ways.append("run on the cpu")
        super().__init__(f"out of memory running {graph} on {count} images on {device}: {' or '.join(ways)}")


def says_out_of_memory(text: str) -> bool:
    """Whether a message of ONNX Runtime, TensorRT, Torch or CUDA means that memory ran out."""
    text = text.lower()
    known = (
        "out of memory",
        "out_of_memory",
        "outofmemory",
        "memoryerror",
        "bad_alloc",
        "failed to allocate",
        "can't allocate memory",
        "cudamalloc",
    )
    return any(word in text for word in known)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of a backend means that memory ran out."""
    return says_out_of_memory(f"{type(error).__name__} {error}")


def free_memory(device: str = "cpu") -> int:
    """Bytes that can be taken now on "cpu" or "cuda:N"; Torch is loaded for a GPU alone."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)


def would_not_fit(needed: float) -> str | None:
    """Why work that is expected to take so many bytes is better not tried, or None when there is room for it.

    A system out of memory ends a process without a word; what is known beforehand is not risked.
    """
    free = free_memory()
    if needed <= free * MEMORY_SHARE:
        return None
    return f"it would take about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
