"""Typing a graph: what becomes 16-bit, what stays, and what rounding it costs."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from faceanon_engine.engine.choices import Precision
from faceanon_engine.engine.errors import UserError
from faceanon_engine.export.precision import expose, rounded, to_precision

WEIGHT = (np.random.default_rng(0).standard_normal((4, 4)) * 3).astype(np.float32)
BIAS = np.array([0.1, -2.0, 300.0, 4.0], np.float32)


def small_model(weight: np.ndarray = WEIGHT) -> ModelProto:
    """x -> first (product) -> island.sum (+ bias) -> second (product) -> y, as tracing leaves it: named, with types."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["first"], name="first/MatMul"),
        helper.make_node("Add", ["first", "bias"], ["island.sum"], name="island.sum/Add"),
        helper.make_node("Softmax", ["island.sum"], ["soft"], name="soft/Softmax"),
        helper.make_node("Transpose", ["island.sum"], ["turned"], name="turned/Transpose"),
        helper.make_node("MatMul", ["turned", "weight"], ["second"], name="second/MatMul"),
        helper.make_node("Mul", ["second", "soft"], ["y"], name="last/Mul"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [value("x", TensorProto.FLOAT, [4, 4])],
        [value("y", TensorProto.FLOAT, [4, 4])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(BIAS, "bias")],
        value_info=[
            value(name, TensorProto.FLOAT, [4, 4]) for name in ("first", "island.sum", "soft", "turned", "second")
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def types_of(model: ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    graph = inferred.graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def run(model: ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


@pytest.mark.parametrize(("precision", "low"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_islands_stay_wide_and_the_rest_becomes_narrow(precision: Precision, low: int) -> None:
    model = to_precision(small_model(), precision, ["island"])
    onnx.checker.check_model(model, full_check=True)
    types = types_of(model)
    assert types["x"] == types["y"] == TensorProto.FLOAT
    assert types["first"] == types["second"] == low
    assert types["island.sum"] == types["soft"] == types["turned"] == TensorProto.FLOAT
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert sorted(weights.values()) == sorted([TensorProto.FLOAT, low]), "one bias, one weight, each stored once"
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == len({(node.input[0], node.attribute[0].i) for node in casts}), "casts are shared"
    # bfloat16 convolutions begin with that opset, and older runtimes take older graphs.
    assert model.opset_import[0].version == (22 if precision == "bf16" else 20)


def test_without_islands_only_normalisation_stays_wide() -> None:
    types = types_of(to_precision(small_model(), "fp16", []))
    assert types["island.sum"] == TensorProto.FLOAT16
    assert types["soft"] == TensorProto.FLOAT


def test_float32_stays_as_it_is() -> None:
    assert to_precision(small_model(), "fp32", ["island"]) == small_model()
    assert rounded(small_model()) == small_model()


def test_a_weight_beyond_the_range_is_refused() -> None:
    large = WEIGHT.copy()
    large[1, 2] = 7e4
    with pytest.raises(UserError, match=r"weight weight reaches 7e\+04, beyond fp16: use --precision bf16"):
        to_precision(small_model(large), "fp16", [])
    to_precision(small_model(large), "bf16", [])


@pytest.mark.parametrize(("precision", "kind"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_rounding_is_that_of_the_type(precision: Precision, kind: str) -> None:
    import ml_dtypes

    narrow = np.float16 if kind == "float16" else ml_dtypes.bfloat16
    model = to_precision(small_model(), precision, ["island"])
    emulated = expose(rounded(model), ["first", "island.sum", "second", "no such value"])
    assert not any(
        node.op_type != "Cast" and types_of(emulated).get(name) not in (TensorProto.FLOAT, None)
        for node in emulated.graph.node
        for name in node.output
    ), "everything is computed in float32"
    x = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)
    found = run(emulated, x)

    def down(values: np.ndarray) -> np.ndarray:
        return values.astype(narrow).astype(np.float32)

    first = down(down(x) @ down(WEIGHT))
    added = first + BIAS
    second = down(down(added.T) @ down(WEIGHT))
    soft = np.exp(added - added.max(axis=-1, keepdims=True))
    soft /= soft.sum(axis=-1, keepdims=True)
    np.testing.assert_array_equal(found["first"], first)
    np.testing.assert_array_equal(found["island.sum"], added)
    np.testing.assert_allclose(found["second"], second, rtol=float(ml_dtypes.finfo(narrow).eps))
    np.testing.assert_allclose(found["y"], down(second * down(soft)), rtol=2 * float(ml_dtypes.finfo(narrow).eps))


def test_rounding_shows_what_overflows() -> None:
    """The CPU provider may compute float16 in float32 between operators; rounding each value does not hide it."""
    model = to_precision(small_model(), "fp16", [])
    x = np.full((4, 4), 3e4, np.float32)
    assert np.isinf(run(expose(rounded(model), ["first"]), x)["first"]).any()


def test_the_float16_graph_runs_as_it_is() -> None:
    x = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)
    exact = run(small_model(), x)["y"]
    found = run(to_precision(small_model(), "fp16", ["island"]), x)["y"]
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() / np.abs(exact).max() < 5e-3
