"""A frozen network to an ONNX graph: traced once, typed, simplified, verified, and only then put in its place."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import torch
from onnx import ModelProto, TensorProto, external_data_helper, helper
from torch import nn

from faceanon_engine.engine.choices import PRECISIONS, ImageInput, Precision
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions import Artifact
from faceanon_engine.engine.sessions.graphs import BATCH, TensorSpec, artifact_name, get_graph
from faceanon_engine.engine.system import first_line, our_version, write_atomic
from faceanon_engine.engine.system.digests import sha256_of_all, sha256_of_chunks
from faceanon_engine.engine.system.files import atomic_file, staging_folder
from faceanon_engine.engine.system.packages import OURS, versions_of
from faceanon_engine.export.precision import to_precision
from faceanon_engine.export.wrappers import Float32Island, wrap

if TYPE_CHECKING:
    from faceanon_engine.engine.models import Bundle

OPSET = 20
# Weights of more than this lie in a file of their own: a graph with all in it must stay well below protobuf's 2 GB, and
# small graphs are handier in one file.
EXTERNAL_BYTES = 64 * 2**20
# Beyond this the simplifier's copies would be what limits memory, and it finds next to nothing in these graphs.
SIMPLIFY_BYTES = 192 * 2**20


@dataclass(frozen=True)
class Traced:
    """A graph in float32 before it is typed: where every precision starts.

    model: nodes are named LAYER/OPERATOR and values after the layers they come out of. islands: the layers that stay
    in float32.
    """

    graph: str
    image_input: ImageInput
    side: int
    model: ModelProto
    islands: tuple[str, ...]


def example(network: nn.Module, graph: str, side: int, image_input: ImageInput = "float") -> torch.Tensor:
    """Two inputs of the right shape and type for the graph of that network; images of side `side`."""
    config: Any = network.config
    takes = get_graph(graph).input
    if takes == "z":
        return torch.zeros(2, config.z_dim)
    if takes == "w_plus":
        return torch.zeros(2, config.rows, config.w_dim)
    return torch.zeros(2, 3, side, side) if image_input == "float" else torch.zeros(2, side, side, 3, dtype=torch.uint8)


def trace(network: nn.Module, graph: str, *, side: int = 0, image_input: ImageInput = "float") -> Traced:
    """The graph of a frozen network in float32, with a dynamic batch.

    side: of the images that the graph takes, in pixels; graphs that take codes need none. Raises UserError when the
    network has a part that cannot be exported.
    """
    known = get_graph(graph)
    if not known.takes_image:
        image_input = "float"
    wrapped = wrap(network, graph, side=side, image_input=image_input, dtype=torch.float32)
    inputs = (example(network, graph, side, image_input),)
    try:
        with _quiet():
            program = torch.onnx.export(
                wrapped,
                inputs,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},),
                input_names=[known.input],
                output_names=[known.output],
                opset_version=OPSET,
                optimize=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = first_line(error.__cause__ or error)
        raise UserError(
            f"graph {graph} cannot be exported ({reason}): check the versions of torch and onnxscript"
        ) from error
    assert program is not None
    model = _named(program.model_proto, wrapped)
    islands = tuple(name for name, module in wrapped.named_modules() if isinstance(module, Float32Island))
    return Traced(graph, image_input, side, model, islands)


def trace_bundle(bundle: Bundle, graph: str, *, image_input: ImageInput = "float") -> Traced:
    """The graph of a bundle's network in float32."""
    side = int(bundle.networks["generator"]["config"]["resolution"])
    return trace(bundle.load(get_graph(graph).role), graph, side=side, image_input=image_input)


def typed(traced: Traced, precision: Precision, *, simplify: bool = True, keep: bool = True) -> tuple[ModelProto, bool]:
    """The graph in that precision, and whether simplifying made it smaller.

    What was traced is used up unless `keep` says that it is still needed.
    """
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision {precision!r}: use one of {', '.join(PRECISIONS)}")
    model = traced.model
    if keep:
        model = ModelProto()
        model.CopyFrom(traced.model)
    model = to_precision(model, precision, traced.islands)
    if not simplify or _weight_bytes(model) > SIMPLIFY_BYTES:
        return model, False
    slim = _simplified(model)
    return (model, False) if slim is None else (slim, True)


def export_graph(
    bundle: Bundle,
    graph: str,
    precision: Precision,
    folder: Path,
    *,
    image_input: ImageInput = "float",
    simplify: bool = True,
    traced: Traced | None = None,
    check: bool = True,
) -> Artifact:
    """Export a graph of the bundle into the folder and verify it; the files appear when it holds.

    `traced` saves tracing again for another precision; `check` false leaves verification out, and the record says so.
    Raises UserError when the graph misses the precision's tolerance, naming the first layer that does.
    """
    from faceanon_engine.export.verify import verify

    shared = traced is not None
    traced = traced or trace_bundle(bundle, graph, image_input=image_input)
    if traced.graph != graph or traced.image_input != (image_input if get_graph(graph).takes_image else "float"):
        raise ValueError(f"traced is {traced.graph} ({traced.image_input}), asked for is {graph} ({image_input})")
    digest = bundle.digest
    with staged(traced, precision, folder, bundle_digest=digest, simplify=simplify, keep=shared) as staging:
        del traced
        artifact = staging.artifact
        if check:
            artifact = verify(artifact, bundle).artifact
        return staging.publish(artifact)


@dataclass(frozen=True)
class Staging:
    """An artifact in a folder of its own, not yet where people look for it."""

    artifact: Artifact
    folder: Path

    def publish(self, artifact: Artifact) -> Artifact:
        """Move the files to their place, each atomically, the record last: without it nothing is taken for whole.

        The weights of an artifact that was there are cleared away.
        """
        for file in reversed(artifact.files):  # the weights before the graph that names them
            os.replace(file, self.folder / file.name)
        moved = replace(artifact, path=self.folder / artifact.path.name)
        moved.write()
        for file in self.folder.glob(f"{moved.path.stem}-*.data"):
            if file.name not in moved.data and re.fullmatch(r"[0-9a-f]{16}", file.stem.rpartition("-")[2]):
                file.unlink(missing_ok=True)
        return moved


@contextlib.contextmanager
def staged(
    traced: Traced,
    precision: Precision,
    folder: Path,
    *,
    bundle_digest: str = "",
    simplify: bool = True,
    keep: bool = True,
) -> Iterator[Staging]:
    """The typed graph written to a staging folder beside its later place; what is not published vanishes at the end.

    What was traced is used up unless `keep` says that it is still needed.
    """
    model, slim = typed(traced, precision, simplify=simplify, keep=keep)
    stem = artifact_name(traced.graph, precision, traced.image_input)
    try:
        with staging_folder(folder / stem) as temporary:
            tools = {
                OURS: our_version(),
                **versions_of(["torch", "onnx", "onnxscript", *(["onnxslim"] if slim else [])]),
            }
            _describe(model, traced, precision, bundle_digest)
            path = temporary / f"{stem}.onnx"
            data = _write(model, path)
            artifact = Artifact(
                graph=traced.graph,
                precision=precision,
                path=path,
                sha256=sha256_of_all((path, *(temporary / name for name in data))),
                bundle_digest=bundle_digest,
                inputs={value.name: _spec(value) for value in model.graph.input},
                outputs={value.name: _spec(value) for value in model.graph.output},
                opset=next(entry.version for entry in model.opset_import if entry.domain == ""),
                image_input=traced.image_input,
                data=data,
                tools=tools,
            )
            # Both hold all weights; verification needs the memory.
            del model, traced
            yield Staging(artifact, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror or error}): free space, check rights") from None


# --- names ----------------------------------------------------------------------------------------------------------


def _named(model: ModelProto, wrapped: nn.Module) -> ModelProto:
    """The model with nodes named LAYER/OPERATOR, and values that leave a layer named after it.

    What the exporter notes besides, such as where in which file an operator was called, is dropped: it differs from
    machine to machine.
    """
    graph = model.graph
    layers = {name for name, module in wrapped.named_modules() if not isinstance(module, nn.ModuleList)} - {""}
    scopes = [_scope(node, layers) for node in graph.node]
    counts: Counter[str] = Counter()
    names: dict[str, str] = {}
    producer = {name: index for index, node in enumerate(graph.node) for name in node.output}
    consumers: dict[str, list[str]] = {}
    for node, scope in zip(graph.node, scopes, strict=True):
        for name in node.input:
            consumers.setdefault(name, []).append(scope)
    outputs = {value.name for value in graph.output}
    left: dict[str, list[str]] = {}
    for name, index in producer.items():
        used_by = [*consumers.get(name, []), *([""] if name in outputs else [])]
        layer = _outermost_left(scopes[index], used_by, layers)
        if layer and name not in outputs:
            left.setdefault(layer, []).append(name)
    for node, scope in zip(graph.node, scopes, strict=True):
        base = f"{scope}/{node.op_type}"
        counts[base] += 1
        node.name = base if counts[base] == 1 else f"{base}_{counts[base]}"
        for index, name in enumerate(node.output):
            if name and name not in outputs:
                names[name] = node.name if not index else f"{node.name}:{index}"
    for layer, values in left.items():
        # A layer that gives several values is not compared; which is which is not written anywhere.
        if len(values) == 1:
            names[values[0]] = layer
    for node in graph.node:
        for index, name in enumerate(node.input):
            tensor_names = names.get(name)
            if tensor_names:
                node.input[index] = tensor_names
        for index, name in enumerate(node.output):
            node.output[index] = names.get(name, name)
        del node.metadata_props[:]
        node.doc_string = ""
    parameters = {name for name, _ in (*wrapped.named_parameters(), *wrapped.named_buffers())}
    _name_constants(model, parameters)
    kept = [value for value in graph.value_info if value.name in names]
    for value in kept:
        value.name = names[value.name]
        del value.metadata_props[:]
    infos = [value.SerializeToString() for value in kept]
    del graph.value_info[:]
    for info in infos:
        graph.value_info.add().ParseFromString(info)
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
    del model.metadata_props[:]
    del graph.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    return model


def _scope(node: onnx.NodeProto, layers: set[str]) -> str:
    """The deepest layer that the node was called in, "" for none."""
    deepest = ""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            for name in re.findall(r"'([^']*)'", entry.value):
                if name in layers and len(name) > len(deepest):
                    deepest = name
    return deepest


def _outermost_left(made_in: str, used_by: list[str], layers: set[str]) -> str:
    """The largest of the layers around `made_in` that holds none of the places where the value is used, "" for none."""
    parts = made_in.split(".") if made_in else []
    for count in range(1, len(parts) + 1):
        layer = ".".join(parts[:count])
        if layer in layers and all(place != layer and not place.startswith(f"{layer}.") for place in used_by):
            return layer
    return ""


def _name_constants(model: ModelProto, parameters: set[str]) -> None:
    """Constants that the exporter made get the name of the first node that reads them."""
    names: dict[str, str] = {}
    taken: Counter[str] = Counter()
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in constants and name not in parameters:
                if name not in names:
                    base = f"{node.name}:constant"
                    taken[base] += 1
                    names[name] = base if taken[base] == 1 else f"{base}_{taken[base]}"
                node.input[index] = names[name]
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
        del tensor.metadata_props[:]
        tensor.doc_string = ""


# --- simplifying and writing ----------------------------------------------------------------------------------------


def _simplified(model: ModelProto) -> ModelProto | None:
    """The model as onnxslim leaves it, or None when it is not there or finds nothing to leave out."""
    try:
        import onnxslim
    except ImportError:
        return None
    before = len(model.graph.node)
    copy = ModelProto()
    copy.CopyFrom(model)
    with _quiet():
        slim = onnxslim.slim(copy)
    if slim is None or len(slim.graph.node) >= before:
        return None
    return slim


def _weight_bytes(model: ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def _describe(model: ModelProto, traced: Traced, precision: Precision, bundle_digest: str) -> None:
    """Write into the graph itself what it is: files get separated from their records."""
    helper.set_model_props(
        model,
        {
            "faceanon_engine.graph": traced.graph,
            "faceanon_engine.precision": precision,
            "faceanon_engine.image_input": traced.image_input,
            "faceanon_engine.bundle": bundle_digest,
        },
    )
    model.producer_name = OURS
    model.producer_version = our_version()
    del model.graph.value_info[:]


def _write(model: ModelProto, path: Path) -> tuple[str, ...]:
    """Write the graph; returns the names of the files that hold its weights, if they are not in it."""
    if _weight_bytes(model) <= EXTERNAL_BYTES:
        write_atomic(path, model.SerializeToString(deterministic=True))
        return ()
    digest = sha256_of_chunks(tensor.raw_data for tensor in model.graph.initializer)
    # Named by its content: a graph that is there keeps its weights while this one is put in its place.
    data = f"{path.stem}-{digest[:16]}.data"
    with atomic_file(path.parent / data) as temporary, open(temporary, "wb") as stream:
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) < 1024:
                continue
            stream.write(b"\0" * (-stream.tell() % 4096))
            offset = stream.tell()
            stream.write(tensor.raw_data)
            external_data_helper.set_external_data(tensor, data, offset, stream.tell() - offset)
            tensor.ClearField("raw_data")
    write_atomic(path, model.SerializeToString(deterministic=True))
    return (data,)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    names: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8"}
    shape = tuple(BATCH if each.dim_param else int(each.dim_value) for each in kind.shape.dim)
    return TensorSpec(names[kind.elem_type], shape)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of what is not used here, such as torchvision; it would drown what people should read."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "onnxslim")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
