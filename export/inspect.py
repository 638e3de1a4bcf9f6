"""What is inside an engine or an exported graph: layers, precisions, sizes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions import Artifact
from faceanon_engine.engine.sessions.cache import read_entry
from faceanon_engine.engine.sessions.tensorrt_session import load_module, make_logger
from faceanon_engine.engine.system import gpus
from faceanon_engine.export.tensorrt import Layer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contents:
    """A file's facts, name by name, and its layers; `source` says where the layers are known from."""

    facts: dict[str, str]
    source: str
    layers: list[Layer]


def inspect(path: Path) -> Contents:
    """Look into an engine (.plan) or an exported graph (.onnx); raises UserError when it is neither or damaged."""
    look = {".onnx": _graph, ".plan": _engine}.get(path.suffix)
    if look is None:
        raise UserError(f"{path} is neither an engine (.plan) nor an exported graph (.onnx)")
    if not path.is_file():
        raise UserError(f"{path} is not there: 'faceanon-engine build' says in build-report.json where it put what")
    return look(path)


def _engine(path: Path) -> Contents:
    entry = read_entry(path)
    key = entry.key
    facts = {
        "engine": str(path),
        "size": f"{entry.bytes} bytes",
        "network": f"{key.graph}, {key.precision}, image input {key.image_input}",
        "backend": f"{key.backend} {key.backend_version}",
        "architecture": key.architecture,
        "batch": str(key.profile),
        "options": ", ".join(f"{name} {value}" for name, value in vars(key.options).items() if value) or "none",
        "bundle": key.bundle,
        "graph": key.graph_digest,
        "built in": f"{entry.details.get('seconds', 0):.2f} s",
    }
    layers = [Layer(**{**layer, "shape": tuple(layer["shape"])}) for layer in entry.details.get("layers", [])]
    source = "the network as it was built; fused layers are shown where the engine can be opened, on its GPU"
    if gpus():
        fused = _fused(entry.path.read_bytes(), key.backend)
        if fused:
            return Contents(facts, "the engine itself, after fusion", fused)
    return Contents(facts, source, layers)


def _fused(plan: bytes, backend: str) -> list[Layer]:
    """The layers of an engine that can be opened here; empty when it cannot or tells nothing."""
    import json

    try:
        trt = load_module(backend)
        runtime = trt.Runtime(make_logger(trt, []))
        if hasattr(runtime, "engine_host_code_allowed"):
            runtime.engine_host_code_allowed = True  # as when it is run; its checksum was compared
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            return []
        text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        layers = json.loads(text).get("Layers", [])
    except Exception as error:
        # Whatever keeps it from being opened here, what was recorded when it was built can be shown.
        logger.info("the engine cannot be looked into: %s", error)
        return []
    described = []
    for layer in layers:
        if isinstance(layer, str):
            described.append(Layer(layer, "", "", (), 0))
            continue
        output: dict[str, Any] = (layer.get("Outputs") or [{}])[0]
        described.append(
            Layer(
                name=str(layer.get("Name", "")),
                type=str(layer.get("LayerType", "")),
                precision=str(output.get("Format/Datatype", output.get("Format", ""))),
                shape=tuple(int(size) for size in output.get("Dimensions", [])),
                weights=0,
            )
        )
    return described


def _graph(path: Path) -> Contents:
    artifact = Artifact.read(path)
    artifact.check()
    try:
        import onnx
    except ImportError as error:
        raise UserError(f"looking into a graph needs onnx ({error}): pip install 'faceanon-engine[export]'") from None
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path), load_external_data=False))
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    sizes = {tensor.name: _bytes(tensor) for tensor in model.graph.initializer}
    layers = []
    for node in model.graph.node:
        output = known.get(node.output[0])
        kind = ""
        shape: tuple[int, ...] = ()
        if output is not None:
            tensor = output.type.tensor_type
            kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
            shape = tuple(int(size.dim_value) or -1 for size in tensor.shape.dim)
        weights = sum(sizes.get(name, 0) for name in node.input)
        layers.append(Layer(node.name, node.op_type, kind, shape, weights))
    reached = artifact.reached
    facts = {
        "graph": str(path),
        "size": f"{artifact.bytes} bytes",
        "network": f"{artifact.graph}, {artifact.precision}, image input {artifact.image_input}",
        "opset": str(artifact.opset),
        "bundle": artifact.bundle_digest,
        "sha256": artifact.sha256,
        "made with": ", ".join(f"{name} {version}" for name, version in artifact.tools.items()),
        "error": (
            f"largest {reached['maximum']:.2e} of the output's root mean square, against float64"
            if "maximum" in reached
            else "not verified"
        ),
    }
    return Contents(facts, "the graph", layers)


def _bytes(tensor: Any) -> int:
    import math

    import onnx

    return int(math.prod(tensor.dims)) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
