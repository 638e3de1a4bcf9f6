"""An exported graph run by ONNX Runtime, on the CPU or through its CUDA provider."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
from typing import Any

import numpy as np

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions.graphs import Artifact
from faceanon_engine.engine.sessions.session import About, Session
from faceanon_engine.engine.system.cores import usable_cores
from faceanon_engine.engine.system.memory import OutOfMemory, is_out_of_memory, says_out_of_memory
from faceanon_engine.engine.system.printable import first_line
from faceanon_engine.engine.system.tensors import as_array, is_tensor, like

logger = logging.getLogger(__name__)

CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
# The least that can be opened: y = x of one float32, in opset 13 and IR version 7.
_LEAST_GRAPH = (
    b'\x08\x07:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01g'
    b"Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


class OnnxRuntimeSession(Session):
    """A graph in ONNX Runtime. On CUDA, tensors on the same GPU go in and out by address."""

    def __init__(
        self, artifact: Artifact, *, device: str = "cpu", threads: int | None = None, max_batch: int | None = None
    ) -> None:
        """Open a graph on "cpu" or "cuda:N"; `threads` of the CPU provider, by default one a usable core.

        Raises UserError when the package, the provider, or a kernel that the graph needs is missing.
        """
        (input_name, takes), (output_name, gives) = *artifact.inputs.items(), *artifact.outputs.items()
        super().__init__(takes, gives, max_batch)
        self._names = (input_name, output_name)
        self._artifact = artifact
        self._device = device
        self._index = int(device.partition(":")[2] or 0)
        self._provider = CPU_PROVIDER if device == "cpu" else CUDA_PROVIDER
        self._threads = threads or usable_cores()
        self._runtime, self._session = self._open()

    def _open(self) -> tuple[Any, Any]:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"onnxruntime cannot be loaded ({first_line(error)}): install it, or use another --backend"
            ) from None
        if self._provider not in onnxruntime.get_available_providers():
            raise UserError(
                f"onnxruntime {onnxruntime.__version__} here is built without {self._provider}: install "
                "onnxruntime-gpu in place of onnxruntime, or use --device cpu"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # Threads that spin while they wait take the cores that decoding, and other programs, need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # fp32 means float32: TF32 would keep ten bits of the mantissa.
        settings: dict[str, Any] = {"device_id": self._index, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}
        provider: Any = self._provider if self._provider == CPU_PROVIDER else (CUDA_PROVIDER, settings)
        try:
            session = open_strictly(str(self._artifact.path), options, provider)
        except Exception as error:
            raise self._explained(error, onnxruntime.__version__) from None
        running = session.get_providers()[0]
        if running != self._provider:
            raise UserError(
                f"onnxruntime {onnxruntime.__version__} gave {running} where {self._provider} was asked for: its CUDA "
                "libraries or the driver do not fit, see 'faceanon-engine doctor'; or use --device cpu, or another "
                "--backend"
            )
        return onnxruntime, session

    def _explained(self, error: Exception, version: str) -> UserError:
        text = " ".join(str(error).split())
        artifact = self._artifact
        if type(error).__name__ == "NotImplemented" or "NOT_IMPLEMENTED" in text:
            node = re.search(r"for (?:the node )?(\S+?)(?:\(\d+\))? node with name '([^']*)'", text)
            where = f"operator {node[1]} of node {node[2]}" if node else text[:200]
            return UserError(
                f"onnxruntime {version} has no {self._provider} kernel in {artifact.precision} for {where} in "
                f"{artifact.graph}: use --precision fp32, or another --backend"
            )
        if says_out_of_memory(text):
            return UserError(
                f"out of memory opening {artifact.graph} on {self._device}: use a 16-bit --precision or cpu"
            )
        return UserError(
            f"onnxruntime {version} cannot open {artifact.path} ({text[:200]}): build it again with --force"
        )

    def _run(self, batch: Any) -> Any:
        try:
            if (
                is_tensor(batch)
                and batch.is_cuda
                and (self._provider, self._index) == (CUDA_PROVIDER, batch.get_device())
            ):
                return self._run_by_address(batch)
            feed = {self._names[0]: as_array(batch)}
            return like(self._session.run([self._names[1]], feed)[0], batch)
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(self._artifact.graph, len(batch), self._device) from None
            raise

    def _run_by_address(self, batch: Any) -> Any:
        import torch

        shape = (len(batch), *(int(size) for size in self.output.shape[1:]))
        output = torch.empty(shape, dtype=getattr(torch, self.output.dtype), device=batch.device)
        binding = self._session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, self._names[0], batch),
            (binding.bind_output, self._names[1], output),
        ):
            kind = np.dtype(str(tensor.dtype).removeprefix("torch."))
            bind(name, "cuda", self._index, kind, tuple(tensor.shape), tensor.data_ptr())
        # ONNX Runtime works on a stream of its own: what made the input has to be through, and its own work after it.
        torch.cuda.current_stream(batch.device).synchronize()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return output

    def describe(self) -> About:
        running = self._session.get_providers()[0]
        return About(
            backend="onnxruntime",
            version=self._runtime.__version__,
            provider=running,
            precision=self._artifact.precision,
            device=self._device,
            graph=self._artifact.graph,
            detail=f"{self._threads} threads" if running == CPU_PROVIDER else "",
        )

    def close(self) -> None:
        self._session = None


def open_strictly(model: str | bytes, options: Any, provider: Any) -> Any:
    """An `onnxruntime.InferenceSession` that keeps its provider; which one came up, `get_providers` says.

    By default ONNX Runtime prints to stdout and goes on with the CPU when a provider fails, even in mid-job.
    A provider whose libraries cannot be loaded it leaves out without a word even so.
    """
    import onnxruntime

    if CUDA_PROVIDER in (provider, provider[0]):
        _load_cuda_libraries(onnxruntime)
    return onnxruntime.InferenceSession(model, options, providers=[provider], enable_fallback=0)


@functools.cache
def why_no_cuda(index: int) -> str | None:
    """Why the CUDA provider does not come up on GPU `index`, or None when it does: tried once, with the least graph."""
    import onnxruntime

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return "onnxruntime is built without CUDA: install onnxruntime-gpu in its place"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = open_strictly(_LEAST_GRAPH, options, (CUDA_PROVIDER, {"device_id": index}))
    except Exception as error:
        return first_line(error)
    if session.get_providers()[0] != CUDA_PROVIDER:
        return "its CUDA libraries or the driver do not fit, see 'faceanon-engine doctor'"
    return None


def _load_cuda_libraries(onnxruntime: Any) -> None:
    """Load CUDA's libraries from NVIDIA's packages, where a loader does not look and no Torch has loaded them yet.

    What cannot be loaded is told by a provider that does not come up; ONNX Runtime prints it besides, where JSON goes.
    """
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            onnxruntime.preload_dlls()
        logger.info("loading CUDA's libraries: %s", said.getvalue() or "done")
