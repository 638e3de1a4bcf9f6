"""What makes ONNX Runtime fast or slow on the CPU for the encoders: one thing changed at a time, beside Torch eager.

    python -m benchmarks.onnxruntime_cpu --output benchmarks/results/onnxruntime_cpu.json
    python -m benchmarks.onnxruntime_cpu --clock cpu --threads 1        # on a machine that does other things, too

Every variant is measured in turns with all others on the same batch; see docs/bench.md. With `--clock cpu` the time is
what the processor spent on this process, which another program cannot lengthen much: use it with one thread. For the
demo bundle each variant's embeddings are compared with float32's on drawn people: the least cosine, and how often the
nearest of a gallery of other people stays the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.result import new_result, new_row, table, timing, write
from faceanon_engine.demo.people import HELD_OUT_SEED, sample_person
from faceanon_engine.demo.render import render_codes
from faceanon_engine.engine.bench.inputs import make_inputs
from faceanon_engine.engine.bench.measure import (
    Budget,
    ProcessorLoad,
    Samples,
    host_probe,
    measure_interleaved,
    paired_ratio,
)
from faceanon_engine.engine.bench.sessions import open_for_bench
from faceanon_engine.engine.images import from_uint8
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.sessions.cache import EngineCache
from faceanon_engine.export.prepare import prepare

Floats = npt.NDArray[np.float32]
ENCODERS = ("identity", "attributes", "inverter")
LEVELS = {
    "no graph optimisation": "ORT_DISABLE_ALL",
    "optimisation: basic": "ORT_ENABLE_BASIC",
    "optimisation: extended": "ORT_ENABLE_EXTENDED",
    "optimisation: all, blocked layout": "ORT_ENABLE_ALL",
}
FIRST_PERSON = HELD_OUT_SEED + 9000


def session(model: Path | bytes, threads: int, level: str = "ORT_ENABLE_ALL", **entries: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    for name, value in {"session.intra_op.allow_spinning": "0", **entries}.items():
        options.add_session_config_entry(name, value)
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


# Rewriting a graph


def rewritten(
    model: ModelProto, kind: str, replace: Callable[[NodeProto, str, Callable[[str, Any], str]], list[NodeProto]]
) -> ModelProto:
    """The model with every node of that kind replaced; `replace` gets the node, a name, and a maker of constants."""
    copied = ModelProto()
    copied.CopyFrom(model)
    nodes = []
    for number, node in enumerate(model.graph.node):
        if node.op_type != kind:
            nodes.append(node)
            continue

        def constant(name: str, value: Any, _number: int = number) -> str:
            array = numpy_helper.from_array(np.asarray(value, np.float32), f"rewritten_{_number}_{name}")
            copied.graph.initializer.append(array)
            return str(array.name)

        nodes += replace(node, f"rewritten_{number}", constant)
    del copied.graph.node[:]
    copied.graph.node.extend(nodes)
    return copied


def pointwise_prelu(model: ModelProto) -> ModelProto:
    """relu(x) + slope * (x - relu(x)): exactly the same numbers, from operators that have fast kernels."""

    def replace(node: NodeProto, name: str, _: Callable[[str, Any], str]) -> list[NodeProto]:
        x, slope = node.input
        return [
            helper.make_node("Relu", [x], [f"{name}_above"]),
            helper.make_node("Sub", [x, f"{name}_above"], [f"{name}_below"]),
            helper.make_node("Mul", [f"{name}_below", slope], [f"{name}_scaled"]),
            helper.make_node("Add", [f"{name}_above", f"{name}_scaled"], list(node.output)),
        ]

    return rewritten(model, "PRelu", replace)


def blocked_prelu(model: ModelProto) -> ModelProto:
    """The same from 1x1 depthwise convolutions, which ONNX Runtime keeps in the convolutions' blocked layout."""
    slopes = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}

    def replace(node: NodeProto, name: str, constant: Callable[[str, Any], str]) -> list[NodeProto]:
        slope = slopes[node.input[1]].reshape(-1, 1, 1, 1)
        depthwise = {"group": len(slope), "kernel_shape": [1, 1]}
        minus, scale = constant("minus", -np.ones_like(slope)), constant("scale", -slope)
        return [
            helper.make_node("Relu", [node.input[0]], [f"{name}_above"]),
            helper.make_node("Conv", [node.input[0], minus], [f"{name}_turned"], **depthwise),
            helper.make_node("Relu", [f"{name}_turned"], [f"{name}_below"]),
            helper.make_node("Conv", [f"{name}_below", scale], [f"{name}_scaled"], **depthwise),
            helper.make_node("Add", [f"{name}_scaled", f"{name}_above"], list(node.output)),
        ]

    return rewritten(model, "PRelu", replace)


class Batches(CalibrationDataReader):
    """Pictures for the calibration of activations, eight at a time."""

    def __init__(self, pictures: Floats) -> None:
        self._parts: Iterator[Floats] = iter(np.array_split(pictures, max(1, len(pictures) // 8)))

    def get_next(self) -> dict[str, Floats] | None:
        part = next(self._parts, None)
        return None if part is None else {"image": part}


def quantised(path: Path, folder: Path, calibration: Floats | None) -> Path:
    """The graph in int8: weights per channel; activations dynamically, or statically where there are pictures."""
    model, whole = onnx.load(path), folder / "whole.onnx"
    kinds = {node.op_type for node in model.graph.node}
    # The tools want weights and graph in one file, or where they put them themselves.
    onnx.save(model, whole)
    prepared, made = folder / "prepared.onnx", folder / f"int8-{'dynamic' if calibration is None else 'static'}.onnx"
    quant_pre_process(whole, prepared, skip_symbolic_shape=True)
    large = model.ByteSize() > 2**30
    if calibration is None:
        quantize_dynamic(
            prepared,
            made,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            use_external_data_format=large,
        )
    else:
        quantize_static(
            prepared,
            made,
            Batches(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            op_types_to_quantize=["Conv"] if kinds & {"PRelu"} else ["MatMul", "Gemm"],
            use_external_data_format=large,
        )
    return made


def saved(model: ModelProto, path: Path) -> Path:
    onnx.save(model, path, save_as_external_data=True, location=f"{path.stem}.data")
    return path


# Accuracy


def people(count: int, first: int, side: int) -> Floats:
    """Pictures of drawn people in [-1, 1], one of each."""
    codes = np.concatenate([sample_person(first + number, 1) for number in range(count)])
    return from_uint8(render_codes(codes, side))


def flat(values: Any) -> Floats:
    return np.asarray(values, np.float32).reshape(len(values), -1)


def agreement(vectors: Floats, reference: Floats, gallery: Floats) -> dict[str, float]:
    """How near the vectors [N, E] are to float32's, and how often the nearest of the gallery is the same."""
    cosine = (vectors * reference).sum(1) / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1))

    def nearest(queries: Floats) -> npt.NDArray[np.int64]:
        return ((queries[:, None] - gallery[None]) ** 2).sum(2).argmin(1)

    return {
        "least_cosine": float(cosine.min()),
        "largest_difference": float(np.abs(vectors - reference).max() / np.sqrt(np.mean(reference**2))),
        "same_neighbour": float((nearest(vectors) == nearest(reference)).mean()),
    }


def makers(
    bundle: Bundle, graph: str, folder: Path, threads: int, calibration: Floats | None
) -> dict[str, Callable[[], Callable[[Floats], Any]]]:
    """What can be tried, by name: each makes a function of images."""

    def opened(backend: str, precision: Any) -> Callable[[Floats], Any]:
        prepared = {"prepare": prepare}
        return open_for_bench(
            bundle, graph, backend=backend, precision=precision, device="cpu", largest=8, **prepared
        ).run

    def runs(model: Path, **settings: str) -> Callable[[Floats], Any]:
        made = session(model, threads, **settings)
        return lambda images: made.run(None, {"image": images})[0]

    def path() -> Path:
        artifact = EngineCache().find_graph(bundle.digest, graph, "fp32", "float")
        assert artifact is not None, "the session is opened first, which exports the graph"
        return artifact.path

    variants: dict[str, Callable[[], Callable[[Floats], Any]]] = {
        "torch eager": lambda: opened("torch", "fp32"),
        "onnxruntime session": lambda: opened("onnxruntime", "fp32"),
        "torch eager, bf16": lambda: opened("torch", "bf16"),
    }
    for name, level in LEVELS.items():
        variants[name] = lambda level=level: runs(path(), level=level)
    if threads > 1:
        variants["spinning threads"] = lambda: runs(path(), **{"session.intra_op.allow_spinning": "1"})
    if graph != "attributes":
        for name, rewrite in (("of pointwise operators", pointwise_prelu), ("in the blocked layout", blocked_prelu)):
            file = folder / f"{rewrite.__name__}.onnx"
            variants[f"PReLU {name}"] = lambda rewrite=rewrite, file=file: runs(saved(rewrite(onnx.load(path())), file))
    variants["int8, dynamic"] = lambda: runs(quantised(path(), folder, None))
    if calibration is not None:
        variants["int8, static"] = lambda: runs(quantised(path(), folder, calibration))
    return variants


def examine(bundle: Bundle, graph: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    drawn = bundle.name == "demo"
    side = int(bundle.networks["generator"]["config"]["resolution"])
    clock = time.process_time_ns if arguments.clock == "cpu" else time.perf_counter_ns
    images = make_inputs(bundle, graph, arguments.batch, 0)
    budget = Budget(
        min_seconds=arguments.seconds, min_iterations=arguments.iterations, max_seconds=60 + arguments.seconds, rounds=3
    )
    with tempfile.TemporaryDirectory() as name:
        calibration = people(64, FIRST_PERSON, side) if drawn else None
        possible = makers(bundle, graph, Path(name), arguments.threads, calibration)
        wanted = arguments.only.split(";") if arguments.only else list(possible)
        tried = {
            what: make() for what, make in possible.items() if what in ("torch eager", "onnxruntime session", *wanted)
        }
        probes = {what: host_probe(lambda run=run: run(images), clock) for what, run in tried.items()}
        samples: dict[str, Samples] = measure_interleaved(probes, budget, clock=clock)
        reference = flat(tried["onnxruntime session"](images))
        rows = []
        if drawn:
            queries, others = people(arguments.people, FIRST_PERSON + 64, side), people(512, FIRST_PERSON + 5000, side)
            expected, gallery = (flat(tried["onnxruntime session"](pictures)) for pictures in (queries, others))
        with FlopCounterMode(display=False) as counter:
            tried["torch eager"](images)
        for what, taken in samples.items():
            run = timing([milliseconds / 1e3 for milliseconds in taken.milliseconds()])
            values: dict[str, Any] = {
                "gflops": counter.get_total_flops() / run["median"] / 1e9,
                "times_torch_eager": paired_ratio(samples["torch eager"], taken),
                "largest_difference": float(
                    np.abs(flat(tried[what](images)) - reference).max() / np.sqrt(np.mean(reference**2))
                ),
            }
            if drawn:
                values["on_drawn_people"] = agreement(flat(tried[what](queries)), expected, gallery)
            case = {"network": graph, "variant": what, "batch": arguments.batch}
            rows.append(new_row(case, timings={"run": run}, **values))
    print(table(rows, ["gflops", "times_torch_eager", "largest_difference"]), flush=True)
    return rows


def matrix_rate(clock: Callable[[], int]) -> float:
    """GFLOP/s of Torch's float32 matrix product at its best size: the ceiling that networks of these can reach."""
    a, b = torch.rand(1536, 1536), torch.rand(1536, 1536)
    best = 0.0
    for _ in range(12):
        started = clock()
        a @ b
        best = max(best, 2 * 1536**3 / (clock() - started))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="demo")
    parser.add_argument("--networks", default=",".join(ENCODERS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--seconds", type=float, default=3.0, help="least time for a variant")
    parser.add_argument("--iterations", type=int, default=6, help="least runs of a variant")
    parser.add_argument("--only", help="names of variants, with ; between them, beside Torch eager and the session")
    parser.add_argument("--people", type=int, default=500, help="drawn people whose neighbours are compared")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.clock == "cpu" and arguments.threads > 1:
        parser.error("--clock cpu adds up all threads: give --threads 1")
    torch.set_num_threads(arguments.threads)
    bundle, load = Bundle.open(arguments.bundle), ProcessorLoad()
    clock = time.process_time_ns if arguments.clock == "cpu" else time.perf_counter_ns
    result = new_result(
        "onnxruntime_cpu",
        "what makes ONNX Runtime fast or slow on the CPU for the encoders, beside Torch eager",
        bundle={"name": bundle.name, "digest": bundle.digest},
        networks=arguments.networks.split(","),
        batch=arguments.batch,
        threads=arguments.threads,
        clock=arguments.clock,
        seconds=arguments.seconds,
        iterations=arguments.iterations,
        only=arguments.only,
        people=arguments.people,
    )
    for graph in arguments.networks.split(","):
        result["rows"] += examine(bundle, graph, arguments)
    values = result["values"]
    values |= {"others_share": load.others(), "matrix_product_gflops": matrix_rate(clock)}
    print(
        f"matrix product: {values['matrix_product_gflops']:.0f} GFLOP/s; others had {values['others_share'] or 0:.0%}"
    )
    if arguments.output:
        write(arguments.output, result)


if __name__ == "__main__":
    main()
