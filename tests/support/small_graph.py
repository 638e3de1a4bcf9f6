"""Exported graphs of a few operators, written directly: what runs graphs can be tested without exporting any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from faceanon_engine.engine.sessions.graphs import GRAPHS, Artifact, TensorSpec, artifact_name
from faceanon_engine.engine.system.digests import sha256_of_all

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 8


def write_linear(
    folder: Path, *, graph: str = "mapping", bundle: str = "b" * 64, weight: np.ndarray = WEIGHT
) -> Artifact:
    """`graph` as x [N, 4] -> x @ weight [N, 3]."""
    known = GRAPHS[graph]
    node = helper.make_node("MatMul", [known.input, "weight"], [known.output], name="layers.0/MatMul")
    return write(folder, graph, [node], [numpy_helper.from_array(weight, "weight")], (4,), (3,), bundle=bundle)


def write(
    folder: Path,
    graph: str,
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    takes: tuple[int, ...],
    gives: tuple[int, ...],
    *,
    bundle: str = "b" * 64,
    opsets: tuple[tuple[str, int], ...] = (("", 20),),
) -> Artifact:
    """A graph of these nodes with its record."""
    known = GRAPHS[graph]
    value = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            nodes,
            graph,
            [value(known.input, TensorProto.FLOAT, ["N", *takes])],
            [value(known.output, TensorProto.FLOAT, ["N", *gives])],
            weights,
        ),
        opset_imports=[helper.make_opsetid(*each) for each in opsets],
        ir_version=10,
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{artifact_name(graph, 'fp32')}.onnx"
    onnx.save(model, str(path))
    artifact = Artifact(
        graph=graph,
        precision="fp32",
        path=path,
        sha256=sha256_of_all((path,)),
        bundle_digest=bundle,
        inputs={known.input: TensorSpec("float32", ("N", *takes))},
        outputs={known.output: TensorSpec("float32", ("N", *gives))},
        opset=opsets[0][1],
    )
    artifact.write()
    return artifact
