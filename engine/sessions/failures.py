"""What the failure of a backend means, in words for the person at the terminal."""

from __future__ import annotations


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


def first_line(error: BaseException) -> str:
    """The first line of an error's message, its type where there is none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
