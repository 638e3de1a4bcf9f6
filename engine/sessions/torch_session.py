"""A network run by PyTorch: the reference that every other backend is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions.graphs import TensorSpec
from faceanon_engine.engine.sessions.session import About, Session, as_array, is_tensor

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "mapping": lambda network, z: network.mapping(z),
    "synthesis": lambda network, w_plus: network.synthesis(w_plus),
    "inverter": lambda network, image: network(image),
    "identity": lambda network, image: network(image),
    "attributes": lambda network, image: network(image).embedding,
    "attribute_tokens": lambda network, image: network(image).tokens,
}
_DTYPES = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchSession(Session):
    """A frozen network in eager mode; 16-bit precisions through autocast, inputs and outputs in float32."""

    def __init__(
        self, network: Any, graph: str, input: TensorSpec, output: TensorSpec, *, precision: str, device: torch.device
    ) -> None:
        super().__init__(input, output)
        self._network = network
        self._graph = graph
        self._precision = precision
        self._device = device

    def _run(self, batch: Any) -> Any:
        dtype = _DTYPES[self._precision]
        tensor = batch if is_tensor(batch) else torch.from_numpy(batch)
        x = tensor.to(self._device)
        if x.dtype == torch.uint8:
            from faceanon_engine.engine.features import from_uint8

            x = from_uint8(x)
        try:
            with torch.no_grad(), torch.autocast(self._device.type, dtype, enabled=dtype is not None):
                found = CALLS[self._graph](self._network, x).float()
        except torch.OutOfMemoryError:
            raise out_of_memory(self._graph, len(batch), str(self._device)) from None
        return found.to(batch.device) if is_tensor(batch) else as_array(found)

    def describe(self) -> About:
        cpu = self._device.type == "cpu"
        return About(
            backend="torch",
            version=torch.__version__,
            provider="torch",
            precision=self._precision,
            device=str(self._device) if cpu else f"{self._device} ({torch.cuda.get_device_name(self._device)})",
            graph=self._graph,
            detail=f"{torch.get_num_threads()} threads" if cpu else "",
        )


def out_of_memory(graph: str, count: int, device: str) -> UserError:
    """The line for a batch that does not fit."""
    smaller = "give a smaller --batch-size or a 16-bit --precision" if count > 1 else "use a 16-bit --precision or cpu"
    return UserError(f"out of memory running {graph} on {count} images on {device}: {smaller}")
