"""An exported graph held against its network in float64 Torch, on pictures and on random inputs.

Two ways of running it are compared: ONNX Runtime on the CPU as users run it, and, for 16-bit graphs, the same graph in
float32 with every 16-bit value rounded (`precision.rounded`). The second is the harder one: the CPU provider computes
runs of float16 operators in float32 without rounding between them, and does not know most operators in bfloat16.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceanon_engine.engine.choices import Precision
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images import from_uint8, to_uint8
from faceanon_engine.engine.networks import Generator
from faceanon_engine.engine.sessions import GRAPHS, Artifact
from faceanon_engine.engine.sessions.graphs import Tolerance
from faceanon_engine.engine.system import first_line
from faceanon_engine.engine.system.packages import version_of
from faceanon_engine.export.precision import expose, rounded
from faceanon_engine.export.wrappers import run_network, wrap

if TYPE_CHECKING:
    import onnxruntime

    from faceanon_engine.engine.models import Bundle

Array = npt.NDArray[Any]

# Shares of the reference's root mean square. Rounding once to fp32, fp16 or bf16 costs 6e-8, 5e-4 or 4e-3 at most;
# these leave room for a few dozen layers of it: two to three times what the demo bundle and networks of the FFHQ shapes
# with random weights were measured to need.
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(maximum=1e-5, relative=2e-6),
    "fp16": Tolerance(maximum=2e-2, relative=4e-3),
    "bf16": Tolerance(maximum=1.5e-1, relative=3e-2),
}


@dataclass(frozen=True)
class Finding:
    """Errors of one way of running the graph on one kind of inputs.

    inputs: "samples" (pictures, or codes made of them) or "random". run: "onnxruntime" or "rounded". maximum_absolute,
    mean_absolute: of all differences. maximum, relative: as `Tolerance` has them.
    """

    inputs: str
    run: str
    count: int
    maximum_absolute: float
    mean_absolute: float
    maximum: float
    relative: float


@dataclass(frozen=True)
class Report:
    """What verification found; `artifact` is the one given with the tolerance asked for and the errors reached."""

    artifact: Artifact
    findings: tuple[Finding, ...]
    not_run: str
    """Why ONNX Runtime on the CPU did not run the graph itself; empty when it did."""


def tolerance_for(graph: str, precision: Precision) -> Tolerance:
    """What a graph of that precision has to keep.

    The synthesis and the inverter may be twice as far off anywhere, not in the mean: theirs is the largest error of
    many values behind the most layers, and on noise, which is no picture, single codes of an inverter stand far out.
    """
    tolerance = TOLERANCES[precision]
    return replace(tolerance, maximum=2 * tolerance.maximum) if graph in ("synthesis", "inverter") else tolerance


def verify(
    artifact: Artifact, bundle: Bundle, *, images: Array | None = None, tolerance: Tolerance | None = None
) -> Report:
    """Hold an exported graph of a bundle against the bundle's network.

    `images` float32 [N, 3, R, R] in [-1, 1] or uint8 [N, R, R, 3] take the place of the sample pictures. Raises
    UserError when the artifact is damaged, is another bundle's, or misses the tolerance, naming the first layer beyond
    it.
    """
    artifact.check()
    if artifact.bundle_digest != bundle.digest:
        raise UserError(f"{artifact.path} was exported from another bundle than {bundle.name!r}: export it again")
    graph = GRAPHS[artifact.graph]
    side = int(bundle.networks["generator"]["config"]["resolution"])
    samples = _pictures(bundle, side) if images is None else _as_float(images)
    inputs = _inputs_of(bundle, artifact, samples)
    return verify_network(artifact, lambda: bundle.load(graph.role), inputs, tolerance)


def verify_network(
    artifact: Artifact,
    load: Callable[[], nn.Module],
    inputs: Mapping[str, Array],
    tolerance: Tolerance | None = None,
) -> Report:
    """Hold an exported graph against the network that `load` gives, on inputs by their kind; see `verify`."""
    tolerance = tolerance or tolerance_for(artifact.graph, artifact.precision)
    # The network is let go of before the graph is loaded: of the large ones, one at a time is enough.
    with in_float64(load()) as wide:
        expected = {kind: _reference(wide, artifact, values) for kind, values in inputs.items()}
    del wide
    findings: list[Finding] = []
    not_run = ""
    for run in ("onnxruntime", *(["rounded"] if artifact.precision != "fp32" else [])):
        try:
            session = _Runner(artifact) if run == "onnxruntime" else _Runner(artifact, rounded(_skeleton(artifact)))
        except UserError:
            raise
        except Exception as error:
            # The provider's own exception types are not part of its interface.
            if run == "rounded" or artifact.precision != "bf16":
                raise UserError(f"{artifact.path} cannot be run by ONNX Runtime ({first_line(error)})") from error
            not_run = first_line(error)
            continue
        for kind, values in inputs.items():
            # The batch is free: all at once, and one alone.
            findings.append(_finding(kind, run, session(values), expected[kind]))
            if len(values) > 1:
                alone = _finding(kind, run, session(values[:1]), expected[kind][:1])
                findings[-1] = _worse(findings[-1], alone)
        del session
    for finding in findings:
        if not (finding.maximum <= tolerance.maximum and finding.relative <= tolerance.relative):
            raise UserError(_miss(artifact, load(), inputs[finding.inputs], finding, tolerance))
    reached = {
        "maximum": max(each.maximum for each in findings),
        "relative": max(each.relative for each in findings),
        "maximum_absolute": max(each.maximum_absolute for each in findings),
        "mean_absolute": max(each.mean_absolute for each in findings),
        "findings": [asdict(each) for each in findings],
        "not_run": not_run,
    }
    tools = {**artifact.tools, "onnxruntime": version_of("onnxruntime", "onnxruntime-gpu") or "unknown"}
    return Report(replace(artifact, asked=tolerance, reached=reached, tools=tools), tuple(findings), not_run)


# --- the reference --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def in_float64(network: nn.Module) -> Iterator[nn.Module]:
    """The network computing in float64, as it is defined: nothing kept that was computed in float32.

    Each module's own weights are widened while it runs and are as they were afterwards; a large network never lies in
    memory in float64 as a whole.
    """
    if isinstance(network, Generator):
        # Its methods are called past its module's hooks, and it is small.
        yield copy.deepcopy(network).train().double().eval().requires_grad_(False)
        return
    narrow: dict[nn.Module, tuple[dict[str, Any], dict[str, Any]]] = {}

    def widen(module: nn.Module, _inputs: Any) -> None:
        narrow[module] = dict(module._parameters), dict(module._buffers)
        for key, value in module._parameters.items():
            if value is not None:
                module._parameters[key] = nn.Parameter(value.detach().double(), requires_grad=False)
        for key, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                module._buffers[key] = buffer.double()

    def restore(module: nn.Module, *_: Any) -> None:
        module._parameters, module._buffers = narrow.pop(module)

    hooks = []
    for module in network.modules():
        if module._parameters or module._buffers:
            hooks.append(module.register_forward_pre_hook(widen))
            hooks.append(module.register_forward_hook(restore))
    try:
        yield network
    finally:
        for hook in hooks:
            hook.remove()
        for module in list(narrow):
            restore(module)


@torch.no_grad()
def _reference(network: nn.Module, artifact: Artifact, values: Array) -> Array:
    """What the network in float64 gives for the graph's inputs, one at a time, float64."""
    outputs = []
    for value in values:
        tensor = torch.from_numpy(value[None])
        if tensor.dtype == torch.uint8:
            tensor = tensor.permute(0, 3, 1, 2).double() / 127.5 - 1
        outputs.append(run_network(network, artifact.graph, tensor.double()).numpy())
    return np.concatenate(outputs)


# --- inputs ---------------------------------------------------------------------------------------------------------


def random_inputs(artifact: Artifact, network: nn.Module, count: int, seed: int = 0) -> Array:
    """Inputs that no picture looks like: noise, and for images also blotches; codes around the average."""
    random = torch.Generator().manual_seed(seed)
    spec = next(iter(artifact.inputs.values()))
    shape = [int(size) for size in spec.shape[1:]]
    kind = GRAPHS[artifact.graph].input
    if kind == "z":
        return torch.randn(count, *shape, generator=random).numpy()
    if kind == "w_plus":
        w_avg: Any = network.w_avg
        return (w_avg.float() + torch.randn(count, *shape, generator=random)).numpy()
    side = shape[1]
    noise = torch.rand(count, 3, side, side, generator=random) * 2 - 1
    coarse = torch.randn(count, 3, 8, 8, generator=random)
    blotches = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False).clamp(-1, 1)
    images = torch.where((torch.arange(count) % 2 == 0)[:, None, None, None], blotches, noise)
    return _to_pixels(images) if spec.dtype == "uint8" else images.numpy()


def _inputs_of(bundle: Bundle, artifact: Artifact, samples: Array) -> dict[str, Array]:
    """Inputs of the graph by kind, made of the sample pictures and at random."""
    graph = GRAPHS[artifact.graph]
    spec = next(iter(artifact.inputs.values()))
    side = samples.shape[-1]
    count = 6 if side <= 128 else 2
    samples = samples[: count + 2]
    if not graph.takes_image:
        generator = bundle.load("generator")
        z = torch.randn(count, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
        if graph.input == "z":
            return {"random": z.numpy()}
        with torch.no_grad():
            codes = generator.broadcast(generator.mapping(z)).contiguous()
            inverted = bundle.load("inverter")(torch.from_numpy(samples))
        return {"samples": inverted.numpy(), "random": codes.numpy()}
    noise = random_inputs(artifact, bundle.load(graph.role), count)
    return {"samples": _to_pixels(torch.from_numpy(samples)) if spec.dtype == "uint8" else samples, "random": noise}


def _pictures(bundle: Bundle, side: int) -> Array:
    """Pictures float32 [N, 3, side, side]: the samples that come with the source, or the generator's own."""
    from PIL import Image, ImageOps

    from faceanon_engine.engine.models import demo_path

    files = sorted((demo_path().parent / "samples").glob("person-*.*"))[:8]
    if files:
        pixels = []
        for file in files:
            with Image.open(file) as image:
                pixels.append(np.asarray(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS)))
        return from_uint8(torch.from_numpy(np.stack(pixels))).numpy()
    generator = bundle.load("generator")
    with torch.no_grad():
        z = torch.randn(8 if side <= 128 else 2, generator.config.z_dim, generator=torch.Generator().manual_seed(1))
        return torch.cat([generator(each[None], 0.7) for each in z]).clamp(-1, 1).numpy()


def _as_float(images: Array) -> Array:
    if images.dtype == np.uint8:
        return from_uint8(torch.from_numpy(images)).numpy()
    return images.astype(np.float32)


def _to_pixels(images: Tensor) -> Array:
    return to_uint8(images).numpy()


# --- running --------------------------------------------------------------------------------------------------------


class _Runner:
    """The graph in ONNX Runtime on the CPU; a model given in its stead may keep its weights in the artifact's files."""

    def __init__(self, artifact: Artifact, model: onnx.ModelProto | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # Waiting threads sleep: verification is not what a machine is there for.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source: str | bytes = str(artifact.path)
        if model is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(artifact.path.parent)
            )
            # Operator by operator: fusions would leave roundings out, and all weights would be widened at once.
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            source = model.SerializeToString()
        self.session: onnxruntime.InferenceSession = onnxruntime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"]
        )
        self.input = next(iter(artifact.inputs))
        self.output = next(iter(artifact.outputs))

    def __call__(self, values: Array) -> Array:
        return self.session.run([self.output], {self.input: values})[0]

    def all(self, values: Array) -> dict[str, Array]:
        """Every output by name."""
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {self.input: values}), strict=True))


def _skeleton(artifact: Artifact) -> onnx.ModelProto:
    """The graph without the weights that lie in other files."""
    return onnx.load(str(artifact.path), load_external_data=False)


def _finding(kind: str, run: str, given: Array, expected: Array) -> Finding:
    if given.shape != expected.shape:
        raise UserError(f"the graph gives {given.shape}, its network {expected.shape}: export it again")
    maximum, relative, difference = _shares(given, expected)
    return Finding(
        kind, run, len(given), float(difference.max()), float(difference.mean()), maximum=maximum, relative=relative
    )


def _shares(given: Array, expected: Array) -> tuple[float, float, Array]:
    """Largest and root mean square difference as shares of the reference's root mean square; all differences."""
    difference = np.abs(given.astype(np.float64) - expected)
    # What is not a number is as wrong as can be, and must not pass a comparison.
    difference = np.where(np.isnan(difference), np.inf, difference)
    scale = max(float(np.sqrt(np.square(expected, dtype=np.float64).mean())), 1e-30)
    return float(difference.max() / scale), float(np.sqrt(np.square(difference).mean()) / scale), difference


def _worse(a: Finding, b: Finding) -> Finding:
    names = ("maximum_absolute", "mean_absolute", "maximum", "relative")
    return replace(a, **{name: max(getattr(a, name), getattr(b, name)) for name in names})


# --- where it goes wrong --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerError:
    """A layer's output against float64, as `Tolerance` has it."""

    layer: str
    maximum: float
    relative: float


@torch.no_grad()
def layer_errors(artifact: Artifact, network: nn.Module, value: Array) -> list[LayerError]:
    """The errors of every layer whose output the graph still has, in the order they are computed, for one input.

    16-bit graphs are run with every value rounded.
    """
    spec = next(iter(artifact.inputs.values()))
    side = int(spec.shape[-2]) if GRAPHS[artifact.graph].takes_image else 0
    wide = wrap(network, artifact.graph, side=side, image_input=artifact.image_input)
    outputs: dict[str, Array] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output.float().numpy()

        return hook

    for name, module in wide.named_modules():
        if name:
            module.register_forward_hook(keep(name))
    tensor = torch.from_numpy(value)
    wide(tensor if tensor.dtype == torch.uint8 else tensor.double())
    del wide
    model = expose(rounded(_skeleton(artifact)), outputs)
    order = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
    given = _Runner(artifact, model).all(value)
    errors = []
    for name in sorted(given.keys() & outputs.keys(), key=order.__getitem__):
        if given[name].shape == outputs[name].shape:
            maximum, relative, _ = _shares(given[name], outputs[name])
            errors.append(LayerError(name, maximum, relative))
    return errors


def _miss(artifact: Artifact, network: nn.Module, values: Array, finding: Finding, tolerance: Tolerance) -> str:
    """The line for a graph that misses its tolerance."""
    error = (
        f"largest error {finding.maximum:.2g} and root mean square {finding.relative:.2g} of the output's own, "
        f"allowed are {tolerance.maximum:.2g} and {tolerance.relative:.2g}"
    )
    # A layer's largest error is often a larger share than its output's: it is looked at when nothing else was missed.
    by_maximum = finding.relative <= tolerance.relative
    where = "no layer before the output is beyond that"
    for value in values:
        for layer in layer_errors(artifact, network, value[None]):
            within = layer.maximum <= tolerance.maximum if by_maximum else layer.relative <= tolerance.relative
            if not within:
                where = f"the first layer beyond that is {layer.layer} ({layer.maximum:.2g} and {layer.relative:.2g})"
                break
        else:
            continue
        break
    what = f"graph {artifact.graph} in {artifact.precision} misses its tolerance on {finding.inputs} inputs"
    advice = {"fp32": "export it again", "fp16": "use --precision bf16 or fp32", "bf16": "use --precision fp16 or fp32"}
    return f"{what} ({finding.run}): {error}; {where}: {advice[artifact.precision]}"
