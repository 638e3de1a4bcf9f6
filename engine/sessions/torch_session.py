"""A network run by PyTorch: the reference that every other backend is compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from faceanon_engine.engine.networks.precision import computing
from faceanon_engine.engine.sessions.graphs import TensorSpec
from faceanon_engine.engine.sessions.session import About, Session
from faceanon_engine.engine.system.memory import OutOfMemory, is_out_of_memory
from faceanon_engine.engine.system.tensors import as_array, as_tensor, is_tensor

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
    """A frozen network in eager mode; inputs and outputs are float32 in every precision.

    16-bit precisions run through autocast. Synthesis has weights of that type instead: autocast would narrow the sums
    of demodulation, which overflow in float16. float32 is float32 on a GPU, too, not TensorFloat-32.
    """

    def __init__(
        self, network: Any, graph: str, input: TensorSpec, output: TensorSpec, *, precision: str, device: torch.device
    ) -> None:
        super().__init__(input, output)
        dtype = _DTYPES[precision]
        self._network = network if dtype is None or graph != "synthesis" else _narrowed(network, dtype)
        self._autocast = dtype if graph != "synthesis" else None
        self._graph = graph
        self._precision = precision
        self._device = device

    def _run(self, batch: Any) -> Any:
        dtype = self._autocast
        x = as_tensor(batch).to(self._device)
        if x.dtype == torch.uint8:
            from faceanon_engine.engine.images.pixels import from_uint8

            x = from_uint8(x)
        try:
            with (
                torch.no_grad(),
                computing("fp32"),
                torch.autocast(self._device.type, dtype, enabled=dtype is not None),
            ):
                output = CALLS[self._graph](self._network, x).float()
        except (RuntimeError, MemoryError) as error:
            # Torch's own type for it is that of GPUs alone.
            if is_out_of_memory(error):
                raise OutOfMemory(self._graph, len(batch), str(self._device)) from None
            raise
        return output.to(batch.device) if is_tensor(batch) else as_array(output)

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


def _narrowed(generator: Any, dtype: torch.dtype) -> Any:
    """A copy of a generator whose convolutions have weights of that type; styles and constants stay as they are."""
    narrow = copy.deepcopy(generator).freeze()
    # Everything takes the type of what it is given, so that of the first features decides.
    narrow.const.data = narrow.const.data.to(dtype)
    for module in narrow.modules():
        if getattr(module, "folded", None) is not None:
            module.folded = module.folded.to(dtype)
    return narrow
