"""A graph is held against its network in float64, and one that is off is refused with the layer's name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper

from faceanon_engine.engine.choices import PRECISIONS
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.sessions.graphs import GRAPHS, Artifact, Tolerance
from faceanon_engine.engine.system.digests import sha256_of_all
from faceanon_engine.export import verify as verify_module
from faceanon_engine.export.onnx_export import Traced, export_graph
from faceanon_engine.export.verify import Finding, _worse, in_float64, layer_errors, verify
from tests.support.export_network import export_network


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_precision_of_the_demo_bundle_holds(graph: str, demo: Bundle, traced: Any, tmp_path: Path) -> None:
    errors = {}
    for precision in PRECISIONS:
        made = export_graph(demo, graph, precision, tmp_path, traced=traced(demo, graph))
        errors[precision] = made.reached["relative"]
        ways = {(each["inputs"], each["run"]) for each in made.reached["findings"]}
        kinds = {"random"} if graph == "mapping" else {"samples", "random"}
        runs = {"fp32": {"onnxruntime"}, "fp16": {"onnxruntime", "rounded"}, "bf16": {"rounded"}}[precision]
        if precision == "bf16" and not made.reached["not_run"]:
            runs = {"onnxruntime", "rounded"}
        assert ways == {(kind, run) for kind in kinds for run in runs}
    # Each is as exact as its type can be, and no better: what was compared is what was asked for.
    assert errors["fp32"] < 2e-6 < errors["fp16"] < 2e-3 < errors["bf16"] < 2e-2


def changed(traced: Traced, name: str, scale: float) -> Traced:
    """The graph with that constant multiplied."""
    model = ModelProto()
    model.CopyFrom(traced.model)
    (tensor,) = [each for each in model.graph.initializer if each.name == name]
    values = numpy_helper.to_array(tensor) * np.float32(scale)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return dataclasses.replace(traced, model=model)


@pytest.mark.parametrize(
    ("graph", "constant", "layer"),
    [
        ("identity", "body.1.res_layer.1.weight", "body.1.res_layer.1"),
        ("synthesis", "layers.3.weight", "layers.3"),
        ("attributes", "blocks.0.mlp.c_fc.bias", "blocks.0.mlp.c_fc"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_layer_that_is_off_is_named(
    graph: str, constant: str, layer: str, precision: Any, tiny: Bundle, traced: Any, tmp_path: Path
) -> None:
    # Random networks of this size have biases of zero somewhere; a factor on what is not zero is what is looked for.
    broken = changed(traced(tiny, graph), constant, 1.7)
    with pytest.raises(
        UserError, match=rf"graph {graph} in {precision} misses .* beyond that is {layer} \("
    ) as refusal:
        export_graph(tiny, graph, precision, tmp_path, traced=broken)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == [], "nothing is left of a graph that was refused"


def test_what_overflows_in_fp16_is_named(tiny: Bundle, tmp_path: Path) -> None:
    """Bias and noise within the range whose sum is not, in one layer of the synthesis."""
    generator = tiny.load("generator").train()
    generator.layers[2].bias.data[0] = 4e4
    generator.layers[2].noise_strength.data += 1e4
    with pytest.raises(UserError, match=r"misses .* largest error inf .* is layers\.2 .* use --precision bf16"):
        export_network(generator.eval(), "synthesis", "fp16", tmp_path)


def test_a_tolerance_of_ones_own_is_kept(tiny: Bundle, traced: Any, tmp_path: Path) -> None:
    made = export_graph(tiny, "mapping", "fp16", tmp_path, traced=traced(tiny, "mapping"), check=False)
    report = verify(made, tiny)
    assert report.artifact.asked == verify_module.TOLERANCES["fp16"]
    with pytest.raises(UserError, match="misses its tolerance"):
        verify(made, tiny, tolerance=Tolerance(1e-9, 1e-9))
    worst = max(each.maximum for each in report.findings)
    verify(made, tiny, tolerance=Tolerance(worst * 1.01, 1))


def test_layers_agree_in_order(demo: Bundle, traced: Any, tmp_path: Path) -> None:
    made = export_graph(demo, "identity", "fp32", tmp_path, traced=traced(demo, "identity"), check=False)
    value = np.random.default_rng(0).uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)
    found = layer_errors(made, demo.load("identity_encoder"), value)
    names = [each.layer for each in found]
    assert len(names) > 40
    assert names.index("input_layer") < names.index("body.0") < names.index("body.4") < names.index("output_layer")
    assert max(each.relative for each in found) < 2e-6, "every layer compared is the layer it is named after"


def test_own_images_are_taken(tiny: Bundle, traced: Any, tmp_path: Path) -> None:
    made = export_graph(tiny, "identity", "fp32", tmp_path, traced=traced(tiny, "identity"), check=False)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    samples, _ = verify(made, tiny, images=pixels).findings
    assert (samples.inputs, samples.count) == ("samples", 3)


def test_an_artifact_of_another_bundle_or_damaged_is_refused(
    tiny: Bundle, demo: Bundle, traced: Any, tmp_path: Path
) -> None:
    made = export_graph(tiny, "mapping", "fp32", tmp_path, traced=traced(tiny, "mapping"), check=False)
    with pytest.raises(UserError, match="was exported from another bundle than 'demo'"):
        verify(made, demo)
    made.path.write_bytes(made.path.read_bytes()[:-1])
    with pytest.raises(UserError, match="is damaged"):
        verify(made, tiny)


def test_a_graph_that_cannot_be_run_is_no_pass(tiny: Bundle, traced: Any, tmp_path: Path) -> None:
    made = export_graph(tiny, "mapping", "fp32", tmp_path, traced=traced(tiny, "mapping"), check=False)
    model = onnx.load(str(made.path))
    model.graph.node[0].op_type = "NoSuchOperator"
    made.path.write_bytes(model.SerializeToString())
    unknown: Artifact = dataclasses.replace(made, sha256=sha256_of_all(made.files))
    with pytest.raises(UserError, match=r"cannot be run by ONNX Runtime \(.*NoSuchOperator"):
        verify(unknown, tiny)


@pytest.mark.parametrize("role", ["identity_encoder", "attribute_encoder", "inverter", "generator"])
def test_networks_are_widened_only_while_they_run(role: str, tiny: Bundle) -> None:
    network = tiny.load(role)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    copy = tiny.load(role).train().double().eval()
    value = (
        torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1 if role != "generator" else torch.randn(2, 16).double()
    )

    def run(made: Any) -> torch.Tensor:
        with torch.no_grad():
            found = made(value)
        return found if isinstance(found, torch.Tensor) else found.tokens

    with in_float64(network) as wide:
        found = run(wide)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, run(copy), rtol=1e-12, atol=1e-12)
    for key, value_after in network.state_dict().items():
        assert value_after.dtype == before[key].dtype
        assert torch.equal(value_after, before[key]), key


def test_an_image_alone_that_is_further_off_counts_in_every_figure() -> None:
    together = Finding("random", "onnxruntime", 6, maximum_absolute=0.1, mean_absolute=0.01, maximum=0.2, relative=0.02)
    alone = Finding("random", "onnxruntime", 1, maximum_absolute=0.3, mean_absolute=0.03, maximum=0.1, relative=0.04)
    worse = _worse(together, alone)
    assert (worse.count, worse.maximum_absolute, worse.mean_absolute) == (6, 0.3, 0.03)
    assert (worse.maximum, worse.relative) == (0.2, 0.04)
