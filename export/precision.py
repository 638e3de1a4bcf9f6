"""Strongly typed 16-bit graphs from a float32 one, and the float32 graph that rounds wherever a 16-bit one does.

A graph's precision is in its tensors' types and nowhere else: TensorRT takes it from there, ONNX Runtime does too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from faceanon_engine.engine.choices import Precision
from faceanon_engine.engine.errors import UserError

TYPES: dict[Precision, int] = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
}
# Normalisation and softmax: their sums lose small terms in 16 bits.
WIDE_OPERATORS = frozenset({"BatchNormalization", "LayerNormalization", "ReduceMean", "Softmax"})
# TensorRT for RTX (1.7) has no transposed convolution in bfloat16: an engine cannot be built of a graph with one.
WIDE_IN_BFLOAT16 = frozenset({"ConvTranspose"})
# These move values or pick among them, and keep the type that comes in.
MOVING_OPERATORS = frozenset(
    {"Concat", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Slice", "Split", "Squeeze"}
    | {"Transpose", "Unsqueeze"}
)
# Inputs whose type the operator fixes, whatever its data are.
FIXED_INPUTS = {"Resize": (1, 2, 3)}
# Convolutions take bfloat16 from this opset on; nothing else that is used here changed since 20.
BFLOAT16_OPSET = 22
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})


def scope(node: NodeProto) -> str:
    """The layer that a node belongs to; nodes are named LAYER/OPERATOR."""
    return node.name.rpartition("/")[0]


def to_precision(model: ModelProto, precision: Precision, islands: Collection[str]) -> ModelProto:
    """The float32 model with its inner tensors in that precision; inputs and outputs keep their types.

    Nodes in the scope of `islands` (names of layers) and normalisations stay in float32; casts stand wherever the two
    meet. The model given is used up. Raises UserError when a weight is beyond the precision's range.
    """
    if precision == "fp32":
        return model
    return _Typing(model, TYPES[precision], islands).run()


class _Typing:
    """One conversion: the types of the values so far, and the casts that were made."""

    def __init__(self, model: ModelProto, low: int, islands: Collection[str]) -> None:
        self.model = model
        self.low = low
        self.islands = tuple(islands)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.types = _types(model)
        self.nodes: list[NodeProto] = []
        self.casts: dict[tuple[str, int], str] = {}
        self.new_constants: dict[str, TensorProto] = {}

    def run(self) -> ModelProto:
        graph = self.model.graph
        outputs = {output.name for output in graph.output}
        for node in graph.node:
            self._convert(node, outputs)
        used = {name for node in self.nodes for name in node.input}
        # A new message, because an old one keeps the memory of what is taken out of it.
        made = ModelProto(ir_version=self.model.ir_version, opset_import=self.model.opset_import)
        made.graph.name = graph.name
        made.graph.input.extend(graph.input)
        made.graph.output.extend(graph.output)
        made.graph.node.extend(self.nodes)
        made.graph.initializer.extend(tensor for name, tensor in self.constants.items() if name in used)
        made.graph.initializer.extend(self.new_constants.values())
        if self.low == TensorProto.BFLOAT16:
            (opset,) = [entry for entry in made.opset_import if entry.domain == ""]
            opset.version = max(opset.version, BFLOAT16_OPSET)
        return made

    def _is_float(self, name: str) -> bool:
        return self.types.get(name) in FLOATS

    def _kind(self, node: NodeProto) -> int:
        """The float type that the node works in."""
        name = scope(node)
        if node.op_type in WIDE_OPERATORS or any(name == each or name.startswith(f"{each}.") for each in self.islands):
            return TensorProto.FLOAT
        if self.low == TensorProto.BFLOAT16 and node.op_type in WIDE_IN_BFLOAT16:
            return TensorProto.FLOAT
        if node.op_type in MOVING_OPERATORS:
            moved = {self.types[each] for each in node.input if self._is_float(each) and each not in self.constants}
            return TensorProto.FLOAT if TensorProto.FLOAT in moved else self.low
        return self.low

    def _convert(self, node: NodeProto, outputs: Collection[str]) -> None:
        if not any(self._is_float(name) for name in (*node.input, *node.output)):
            self.nodes.append(node)
            return
        if node.op_type == "Cast":
            # From whole numbers; only the preprocessing has one, and it is an island.
            self.nodes.append(node)
            return
        kind = self._kind(node)
        for index, name in enumerate(node.input):
            if self._is_float(name) and index not in FIXED_INPUTS.get(node.op_type, ()):
                node.input[index] = self._as(name, kind)
        self.nodes.append(node)
        for index, name in enumerate(node.output):
            if not self._is_float(name):
                continue
            if kind == self.low and name in outputs:
                node.output[index] = inner = f"{name}:inner"
                self.types[inner] = kind
                self.nodes.append(_cast(inner, name, TensorProto.FLOAT, f"{scope(node)}/Cast_{name}"))
            else:
                self.types[name] = kind

    def _as(self, name: str, kind: int) -> str:
        """The value in that type: itself, or a cast of it that later nodes share."""
        if self.types[name] == kind:
            return name
        key = (name, kind)
        if key not in self.casts:
            text = TensorProto.DataType.Name(kind).lower()
            self.casts[key] = made = f"{name}:{text}"
            if name in self.constants:
                self.new_constants[made] = _constant(self.constants[name], made, kind)
            else:
                layer = name.partition(":")[0]
                self.nodes.append(_cast(name, made, kind, f"{layer}/Cast_{text}" if layer else made))
            self.types[made] = kind
        return self.casts[key]


def _types(model: ModelProto) -> dict[str, int]:
    """Element types of all values; raises ValueError when one is not known."""
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    unknown = [name for node in graph.node for name in node.output if name and not types.get(name)]
    if unknown:
        raise ValueError(f"the type of {unknown[0]} is not recorded in the graph")
    return types


def _cast(source: str, target: str, kind: int, name: str) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=name, to=kind)


def _constant(tensor: TensorProto, name: str, kind: int) -> TensorProto:
    values = numpy_helper.to_array(tensor).astype(np.float32)
    largest = float(np.abs(values).max(initial=0))
    if kind == TensorProto.FLOAT16 and largest > float(np.finfo(np.float16).max):
        raise UserError(f"weight {tensor.name} reaches {largest:.3g}, beyond fp16: use --precision bf16 or fp32")
    return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(kind)), name)


def rounded(model: ModelProto) -> ModelProto:
    """A float32 graph that rounds every value that is 16-bit in `model`, right after it is computed.

    Operators then compute in float32 on values that 16 bits can hold, as GPUs do, which multiply in 16 bits and sum in
    float32. It shows what the 16-bit graph loses where a runtime cannot run it, or runs it without rounding between
    operators. A float32 model comes back as it is. Values keep their names. The model given is not changed.
    """
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    if not FLOATS - {TensorProto.FLOAT} & {*kinds.values(), *_cast_targets(model)}:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    del graph.value_info[:]
    nodes = list(graph.node)
    del graph.node[:]
    for tensor in graph.initializer:
        if tensor.data_type in FLOATS - {TensorProto.FLOAT}:
            # Cast where it is used: the weights themselves may lie in another file.
            name, tensor.name = tensor.name, f"{tensor.name}:stored"
            graph.node.append(_cast(tensor.name, name, TensorProto.FLOAT, f"{name}/Cast"))
    for node in nodes:
        graph.node.extend(_rounded(node, kinds))
    return made


def _cast_targets(model: ModelProto) -> Iterator[int]:
    for node in model.graph.node:
        if node.op_type == "Cast":
            yield helper.get_node_attr_value(node, "to")


def _rounded(node: NodeProto, kinds: dict[str, int]) -> list[NodeProto]:
    """The node in float32 and the rounding of what it gives; notes in `kinds` the types it had in the 16-bit graph."""
    if node.op_type == "Cast":
        kind = helper.get_node_attr_value(node, "to")
        kinds[node.output[0]] = kind
        if kind not in FLOATS:
            return [node]
        if kind == TensorProto.FLOAT:
            # From a 16-bit type this does nothing now; from whole numbers it does what it did.
            return [node]
        return _rounding(node.input[0], node.output[0], kind, node.name)
    fixed = FIXED_INPUTS.get(node.op_type, ())
    low = {
        kinds[name]
        for index, name in enumerate(node.input)
        if index not in fixed and kinds.get(name, TensorProto.FLOAT) in FLOATS - {TensorProto.FLOAT}
    }
    if not low or node.op_type in ("Shape", "Size"):
        return [node]
    (kind,) = low
    kinds.update(dict.fromkeys(node.output, kind))
    if node.op_type in MOVING_OPERATORS:
        return [node]
    result = [node]
    for index, name in enumerate(node.output):
        node.output[index] = exact = f"{name}:exact"
        result += _rounding(exact, name, kind, f"{node.name}_round")
    return result


def _rounding(source: str, target: str, kind: int, name: str) -> list[NodeProto]:
    return [
        _cast(source, f"{target}:rounded", kind, f"{name}_down"),
        _cast(f"{target}:rounded", target, TensorProto.FLOAT, f"{name}_up"),
    ]


def expose(model: ModelProto, names: Collection[str]) -> ModelProto:
    """The model with further float32 outputs, where it has values of those names; the model given is not changed."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    there = {output.name for output in made.graph.output}
    known = {name for node in made.graph.node for name in node.output}
    for name in names:
        if name in known - there:
            made.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return made
