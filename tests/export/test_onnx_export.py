"""All graphs of a bundle leave as ONNX, run in ONNX Runtime, and agree with Torch."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto

from faceanon_engine.engine.choices import PRECISIONS, Precision
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import from_uint8
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.sessions.graphs import GRAPHS, Artifact, signature
from faceanon_engine.export import onnx_export
from faceanon_engine.export.onnx_export import export_graph, trace_bundle, typed
from faceanon_engine.export.wrappers import run_network

# Shares of the reference's root mean square, as ONNX Runtime runs it on the CPU; float32 Torch is off by 1e-6 itself.
LIMITS = {"fp32": 1e-5, "fp16": 1e-2}


def configs(bundle: Bundle) -> dict[str, Any]:
    return {role: entry["config"] for role, entry in bundle.networks.items()}


def session(model: ModelProto | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(model: ModelProto | Path, value: np.ndarray) -> np.ndarray:
    opened = session(model)
    return opened.run(None, {opened.get_inputs()[0].name: value})[0]


def inputs(bundle: Bundle, graph: str, count: int) -> np.ndarray:
    takes, _ = signature(configs(bundle), graph)
    random = torch.Generator().manual_seed(count)
    value = torch.randn(count, *(int(size) for size in takes.shape[1:]), generator=random)
    return (value.mul(0.5).clamp(-1, 1) if GRAPHS[graph].takes_image else value).numpy()


def share(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.sqrt(np.square(expected).mean()))


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_demo_bundle_agrees_with_torch_at_every_batch(graph: str, demo: Bundle, traced: Any) -> None:
    network = demo.load(GRAPHS[graph].role)
    values = {count: inputs(demo, graph, count) for count in (1, 3, 8)}
    with torch.no_grad():
        expected = {
            count: run_network(network, graph, torch.from_numpy(value)).numpy() for count, value in values.items()
        }
    for precision, limit in LIMITS.items():
        model, _ = typed(traced(demo, graph), precision)  # type: ignore[arg-type]
        opened = session(model)
        for count, value in values.items():
            (found,) = opened.run(None, {GRAPHS[graph].input: value})
            assert found.dtype == np.float32
            assert share(found, expected[count]) < limit, (precision, count)


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_graph_has_the_signature_that_is_promised(graph: str, demo: Bundle, traced: Any) -> None:
    takes, gives = signature(configs(demo), graph)
    (given,), (found,) = traced(demo, graph).model.graph.input, traced(demo, graph).model.graph.output
    assert (given.name, onnx_export._spec(given)) == (GRAPHS[graph].input, takes)
    assert (found.name, onnx_export._spec(found)) == (GRAPHS[graph].output, gives)


def float_types(model: ModelProto) -> dict[str, int]:
    """Element types of all values by name, as ONNX infers them."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in inferred.initializer}


@pytest.mark.parametrize(("precision", "low"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
@pytest.mark.parametrize("graph", GRAPHS)
def test_what_needs_float32_keeps_it_and_the_rest_is_narrow(
    graph: str, precision: Precision, low: int, demo: Bundle, traced: Any
) -> None:
    model, _ = typed(traced(demo, graph), precision)
    onnx.checker.check_model(model, full_check=True)
    types = float_types(model)
    wide = {"Softmax", "LayerNormalization", "BatchNormalization", "Sqrt", "ReduceMean", "ReduceSum", "Reciprocal"}
    # Styles and demodulation; the sums of toRGB, of codes and of the transformer's stream; preprocessing; unit length.
    parts = ("modulation", "enlarge", "add_bias", "sum", "add_1", "add_2", "preprocess", "normalise", "position")
    narrow = 0
    for node in model.graph.node:
        layer, _, operator = node.name.rpartition("/")
        if operator.startswith("Cast"):
            continue
        if node.op_type in wide or any(part in layer.split(".") for part in parts):
            assert types[node.output[0]] == TensorProto.FLOAT, node.name
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and types[node.output[0]] == low:
            assert {types[name] for name in node.input} == {low}, node.name
            narrow += 1
    # TensorRT for RTX builds no transposed convolution in bfloat16.
    kinds = ("Conv",) if precision == "bf16" else ("Conv", "ConvTranspose")
    heavy = [node for node in model.graph.node if node.op_type in kinds]
    assert all(types[node.output[0]] == low for node in heavy), "every convolution is narrow"
    assert narrow >= {"mapping": 2, "attributes": 20, "attribute_tokens": 20}.get(graph, len(heavy))
    assert {types[value.name] for value in (*model.graph.input, *model.graph.output)} == {TensorProto.FLOAT}


@pytest.mark.parametrize("graph", ["identity", "attributes"])
def test_pixels_give_what_their_image_gives(graph: str, tiny: Bundle, traced: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    image = from_uint8(torch.from_numpy(pixels)).numpy()
    for precision in ("fp32", "fp16"):
        from_image = run(typed(traced(tiny, graph), precision)[0], image)
        from_pixels = run(typed(traced(tiny, graph, "uint8"), precision)[0], pixels)
        assert share(from_pixels, from_image) < LIMITS[precision]


def test_nodes_and_values_are_named_after_layers(demo: Bundle, traced: Any) -> None:
    graph = traced(demo, "identity").model.graph
    names = {name for node in graph.node for name in node.output}
    assert {"input_layer", "body.0", "body.3.res_layer", "output_layer", "preprocess"} <= names
    assert len({node.name for node in graph.node}) == len(graph.node)
    assert {node.name.rpartition("/")[0] for node in graph.node} >= {"body.1.res_layer.5.fc1", "normalise"}
    # Where this ran, and from which file, is nobody's business and would make every export another file.
    assert b".py" not in traced(demo, "identity").model.SerializeToString()


def test_simplifying_leaves_out_nodes_and_changes_no_numbers(tiny: Bundle, traced: Any) -> None:
    plain, said = typed(traced(tiny, "synthesis"), "fp32", simplify=False)
    slim, helped = typed(traced(tiny, "synthesis"), "fp32")
    assert (said, helped) == (False, True)
    assert len(slim.graph.node) < len(plain.graph.node)
    value = inputs(tiny, "synthesis", 2)
    assert share(run(slim, value), run(plain, value)) < 1e-5


def test_an_artifact_is_recorded_and_read_again(tiny: Bundle, traced: Any, tmp_path: Path) -> None:
    made = export_graph(tiny, "attributes", "fp16", tmp_path, traced=traced(tiny, "attributes"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attributes-fp16.json", "attributes-fp16.onnx"]
    assert Artifact.read(made.path) == Artifact.read(made.record) == made
    made.check()
    takes, gives = signature(configs(tiny), "attributes")
    assert (made.inputs, made.outputs) == ({"image": takes}, {"embedding": gives})
    assert (made.bundle_digest, made.precision, made.opset) == (tiny.digest, "fp16", 20)
    assert {"torch", "onnx", "onnxscript", "onnxruntime"} <= made.tools.keys()
    assert made.asked is not None
    assert 0 < made.reached["maximum"] <= made.asked.maximum
    assert {(each["inputs"], each["run"]) for each in made.reached["findings"]} == {
        (kind, way) for kind in ("samples", "random") for way in ("onnxruntime", "rounded")
    }
    # Files get separated: the graph says itself what it is.
    properties = {entry.key: entry.value for entry in onnx.load(str(made.path)).metadata_props}
    assert properties["faceanon_engine.bundle"] == tiny.digest
    assert properties["faceanon_engine.precision"] == "fp16"


def test_the_same_network_gives_the_same_bytes(tiny: Bundle, tmp_path: Path) -> None:
    made = [export_graph(tiny, "mapping", "fp32", tmp_path / name, check=False) for name in ("one", "two")]
    assert made[0].sha256 == made[1].sha256
    assert made[0].reached == {}, "what was not verified says so"


def test_large_weights_lie_beside_the_graph(
    tiny: Bundle, traced: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = export_graph(tiny, "inverter", "fp32", tmp_path / "inside", traced=traced(tiny, "inverter"))
    monkeypatch.setattr(onnx_export, "EXTERNAL_BYTES", 1000)
    for precision in PRECISIONS:
        made = export_graph(tiny, "inverter", precision, tmp_path, traced=traced(tiny, "inverter"))
        (data,) = made.data
        assert made.files == (made.path, tmp_path / data)
        assert made.path.stat().st_size < (tmp_path / data).stat().st_size
        assert Artifact.read(made.path) == made
        if precision == "fp32":
            value = inputs(tiny, "inverter", 2)
            assert np.array_equal(run(made.path, value), run(inside.path, value))
    damaged = bytearray((tmp_path / data).read_bytes())
    damaged[-1] ^= 1
    (tmp_path / data).write_bytes(damaged)
    with pytest.raises(UserError, match=r"is damaged, its sha256 is not the recorded one"):
        Artifact.read(made.path).check()
    (tmp_path / data).unlink()
    with pytest.raises(UserError, match=r"cannot be read"):
        made.check()


def test_another_export_replaces_the_files_of_the_one_before(
    tiny: Bundle, traced: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "EXTERNAL_BYTES", 1000)
    bystander = tmp_path / "inverter-fp32-notes.data"
    bystander.write_text("somebody's")
    graph = traced(tiny, "inverter")
    first = export_graph(tiny, "inverter", "fp32", tmp_path, traced=graph, check=False)
    changed = ModelProto()
    changed.CopyFrom(graph.model)
    (tensor,) = [each for each in changed.graph.initializer if each.name == "latlayer1.weight"]
    tensor.raw_data = bytes(len(tensor.raw_data))
    second = export_graph(
        tiny, "inverter", "fp32", tmp_path, traced=dataclasses.replace(graph, model=changed), check=False
    )
    assert first.data != second.data
    assert not first.files[1].exists()
    assert bystander.exists()
    second.check()
    assert Artifact.read(first.path) == second
    with pytest.raises(UserError, match="cannot be read"):
        first.check()


def test_a_stopped_export_leaves_what_was_there(
    tiny: Bundle, traced: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = export_graph(tiny, "mapping", "fp32", tmp_path, traced=traced(tiny, "mapping"), check=False)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_export, "write_atomic", stop)
    with pytest.raises(KeyboardInterrupt):
        export_graph(tiny, "mapping", "fp32", tmp_path, traced=traced(tiny, "mapping"), check=False)
    assert len(list(tmp_path.iterdir())) == 2
    made.check()


def test_exports_at_once_leave_a_whole_one(tiny: Bundle, traced: Any, tmp_path: Path) -> None:
    graph = traced(tiny, "mapping")
    threads = [
        threading.Thread(
            target=export_graph, args=(tiny, "mapping", "fp32", tmp_path), kwargs={"traced": graph, "check": False}
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Artifact.read(tmp_path / "mapping-fp32.onnx").check()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda content: content.pop("sha256"), "no record of an exported graph"),
        (lambda content: content.update(format=99), "no record of an exported graph"),
        (lambda content: content.update(path="../x.onnx"), "leads out of the folder"),
        (lambda content: content.update(data=["/etc/passwd"]), "leads out of the folder"),
        (lambda content: content.update(extra=1), "unknown entries extra"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(
    change: Any, line: str, tiny: Bundle, traced: Any, tmp_path: Path
) -> None:
    made = export_graph(tiny, "mapping", "fp32", tmp_path, traced=traced(tiny, "mapping"), check=False)
    content = json.loads(made.record.read_text())
    change(content)
    made.record.write_text(json.dumps(content))
    with pytest.raises(UserError, match=line):
        Artifact.read(made.path)


def test_what_cannot_be_asked_for_is_named(tiny: Bundle, traced: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown graph 'discriminator': use one of mapping, synthesis"):
        export_graph(tiny, "discriminator", "fp32", tmp_path)
    with pytest.raises(UserError, match=r"unknown precision 'int8': use one of fp32, fp16, bf16"):
        export_graph(tiny, "mapping", "int8", tmp_path, traced=traced(tiny, "mapping"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="asked for is identity"):
        export_graph(tiny, "identity", "fp32", tmp_path, traced=traced(tiny, "mapping"))
    with pytest.raises(UserError, match=r"no record|cannot be read"):
        Artifact.read(tmp_path / "absent.onnx")


def test_an_operator_that_cannot_be_exported_is_named(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Eigenvalues(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(z.unflatten(1, (4, 4))).real

    monkeypatch.setattr(onnx_export, "wrap", lambda *_, **__: Eigenvalues())
    with pytest.raises(UserError, match=r"graph mapping cannot be exported \(.*linalg_eig") as refusal:
        trace_bundle(tiny, "mapping")
    assert "\n" not in str(refusal.value)


def test_a_folder_that_cannot_be_written_is_named(tiny: Bundle, traced: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_graph(tiny, "mapping", "fp32", tmp_path / "file" / "x", traced=traced(tiny, "mapping"))
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(UserError, match="cannot be written"):
            export_graph(tiny, "mapping", "fp32", tmp_path / "locked", traced=traced(tiny, "mapping"))
