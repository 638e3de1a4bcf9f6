"""`extract`, `invert` and `pair`: the stages alone, for those who keep the intermediate results.

Results are arrays in one file, .npz or .safetensors by its name, with a row for every face. The rows' inputs stand in
`input` (text) and `face` of an .npz, and as JSON in the metadata of a .safetensors file; beside them the digest of the
bundle that made the arrays, `bundle`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

from faceanon_engine.cli import options
from faceanon_engine.cli.console import ProgressObserver, error_console, output_console, print_about, print_json, say
from faceanon_engine.engine.errors import UserError

if TYPE_CHECKING:
    from faceanon_engine.engine.method.pool import Pool, PoolSpec
    from faceanon_engine.engine.method.preset import Preset
    from faceanon_engine.engine.models.bundle import Bundle
    from faceanon_engine.engine.sessions.opening import Prepare
    from faceanon_engine.engine.sessions.runs import ForwardStages, Runs

Arrays = dict[str, npt.NDArray[Any]]
_SUFFIXES = (".npz", ".safetensors")


@dataclass(frozen=True)
class Table:
    """Arrays with a row for every face, where each row is from, and the digest of the bundle that made them."""

    inputs: list[str]
    faces: list[int]
    arrays: Arrays
    bundle: str | None


@dataclass(frozen=True)
class Opened:
    """What the stages run with."""

    bundle: Bundle
    preset: Preset
    runs: Runs
    stages: ForwardStages
    flags: dict[str, Any]

    def about(self) -> dict[str, str]:
        """What really runs, for people."""
        return {
            "device": self.runs.device,
            **self.runs.about(),
            "bundle": f"{self.bundle.name} ({self.bundle.digest[:12]})",
        }

    def pool(self, spec: PoolSpec, observer: ProgressObserver) -> Pool:
        """The pool of that specification, made where it is missing, which needs Torch."""
        from faceanon_engine.engine.method.pool import Pool
        from faceanon_engine.engine.system.home import home

        recipe, precision = self.preset.pairing_generated, self.runs.precision
        try:
            found = Pool.open(home().pools / spec.directory_name)
            if found.spec == spec and found.has_embedding(recipe, precision):
                return found
        except UserError:
            pass
        from faceanon_engine.engine.method.falco import Stages

        stages = Stages(
            self.bundle,
            self.preset,
            self.runs.device,
            backend=self.runs.backend,
            precision=precision,
            prepare=_prepare(self.runs.backend, observer),
        )
        return stages.pool(spec, progress=observer.progress)


def stage_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What all stages take."""
    for option in reversed(
        (
            options.bundle,
            options.preset,
            options.align,
            options.limit,
            options.batch_size,
            options.device,
            options.backend,
            options.precision,
            options.as_json,
            options.log_level,
        )
    ):
        command = option(command)
    return command


_input = click.argument("input", type=click.Path(path_type=Path))
_out = click.argument("out", type=click.Path(path_type=Path))


@click.command()
@_input
@_out
@stage_options
@click.pass_context
def extract(context: click.Context, input: Path, out: Path, **flags: Any) -> None:
    """Write attribute and identity features of the faces of INPUT to OUT (.npz or .safetensors).

    attribute_embedding float32 [N, E], which pairing compares; identity_embedding float32 [N, D] of unit length.
    Beside them, input and face say where each row is from, bundle which networks made them.
    """

    def features(stages: ForwardStages, images: Any) -> Arrays:
        return {
            "attribute_embedding": stages.embed_attributes(images),
            "identity_embedding": stages.embed_identity(images),
        }

    _run(context, input, out, flags, features)


@click.command()
@_input
@_out
@stage_options
@click.pass_context
def invert(context: click.Context, input: Path, out: Path, **flags: Any) -> None:
    """Write the latent codes of the faces of INPUT to OUT (.npz or .safetensors): w_plus float32 [N, rows, w_dim]."""
    _run(context, input, out, flags, lambda stages, images: {"w_plus": stages.invert(images)})


@click.command()
@_input
@_out
@click.option(
    "--neighbours", type=click.IntRange(min=1), default=1, show_default=True, metavar="K", help="For each face."
)
@options.metric
@options.pool_size
@options.truncation
@options.seed
@stage_options
@click.pass_context
def pair(
    context: click.Context,
    input: Path,
    out: Path,
    neighbours: int,
    metric: Any,
    pool_size: int | None,
    truncation: float,
    seed: int,
    **flags: Any,
) -> None:
    """Write the nearest generated faces of INPUT to OUT (.npz or .safetensors).

    INPUT is images, or a file that `extract` wrote. neighbour_id int64 [N, K] counts the pool's faces,
    neighbour_distance float64 [N, K].
    """
    from faceanon_engine.engine.method.pairing import NearestNeighbours
    from faceanon_engine.engine.method.pool import choose_spec

    _checked_suffix(out)
    if pool_size is not None and neighbours > pool_size:
        raise UserError(
            f"{neighbours} neighbours were asked for, the pool holds {pool_size}: ask for at most that many"
        )
    messages = error_console()
    failures: list[dict[str, str]] = []
    with ProgressObserver(messages, "pairing") as observer:
        opened = _open(flags, observer)
        if input.suffix.lower() in _SUFFIXES:
            table = read_table(input)
            if "attribute_embedding" not in table.arrays:
                raise UserError(f"{input} holds no attribute_embedding: give a file that 'extract' wrote, or images")
            if table.bundle not in (None, opened.bundle.digest):
                raise UserError(
                    f"{input} was made with bundle {str(table.bundle)[:12]}, this is {opened.bundle.digest[:12]}: "
                    "choose the same one with --bundle"
                )
            print_about(messages, opened.about())
        else:
            table, failures = _table(
                opened,
                input,
                lambda stages, images: {"attribute_embedding": stages.embed_attributes(images)},
                observer,
            )
        spec = choose_spec(opened.bundle.digest, pool_size, truncation, seed, inputs=len(table.inputs))
        pool = opened.pool(spec, observer)
    index = NearestNeighbours(pool.embedding(opened.preset.pairing_generated, opened.runs.precision), metric)
    found = index.search(table.arrays["attribute_embedding"], neighbours)
    arrays: Arrays = {"neighbour_id": found.ids, "neighbour_distance": found.distances}
    result = Table(table.inputs, table.faces, arrays, opened.bundle.digest)
    _finish(context, out, result, failures, flags["as_json"])


def _run(
    context: click.Context,
    input: Path,
    out: Path,
    flags: dict[str, Any],
    compute: Callable[[ForwardStages, Any], Arrays],
) -> None:
    _checked_suffix(out)
    with ProgressObserver(error_console(), str(context.info_name)) as observer:
        table, failures = _table(_open(flags, observer), input, compute, observer)
    _finish(context, out, table, failures, flags["as_json"])


def _open(flags: dict[str, Any], observer: ProgressObserver) -> Opened:
    from faceanon_engine.engine.method.preset import get_preset
    from faceanon_engine.engine.models.bundle import Bundle
    from faceanon_engine.engine.sessions.runs import of_bundle, settle

    bundle, preset = Bundle.open(flags["bundle"]), get_preset(flags["preset"])
    runs = settle(flags["backend"], flags["precision"], flags["device"])
    stages = of_bundle(bundle, preset, runs, prepare=_prepare(runs.backend, observer))
    return Opened(bundle, preset, runs, stages, flags)


def _prepare(backend: str, observer: ProgressObserver) -> Prepare | None:
    if backend == "torch":
        return None
    from faceanon_engine.export.prepare import telling

    return telling(observer.note)


def _table(
    opened: Opened,
    input: Path,
    compute: Callable[[ForwardStages, Any], Arrays],
    observer: ProgressObserver,
) -> tuple[Table, list[dict[str, str]]]:
    """Run a stage over all faces of the inputs; inputs that cannot be used are returned beside, with the reason."""
    from faceanon_engine.engine.datasets.folder import find_inputs, left_out
    from faceanon_engine.engine.datasets.reader import Reader, ahead, thread_count, threads
    from faceanon_engine.engine.errors import InputError
    from faceanon_engine.engine.images.pixels import from_uint8
    from faceanon_engine.engine.method.capacity import choose_batch_size

    flags = opened.flags
    samples = list(find_inputs(input))[: flags["limit"]]
    if not samples:
        raise UserError(f"no images in {input}")
    reader = Reader(flags["align"], opened.bundle.resolution)
    size = flags["batch_size"] or choose_batch_size(opened.runs)
    observer.started(opened.about(), len(samples), 0)
    for note in left_out(input):
        observer.note(note)
    inputs: list[str] = []
    faces: list[int] = []
    batch: list[npt.NDArray[np.uint8]] = []
    parts: list[Arrays] = []
    failures: list[dict[str, str]] = []

    def flush() -> None:
        if batch:
            parts.append(compute(opened.stages, from_uint8(np.stack(batch))))
            batch.clear()

    with threads() as executor:
        for sample, future in ahead(executor, reader.read, samples, size + thread_count()):
            path = sample.key
            try:
                found = future.result().faces
            except InputError as error:
                failures.append({"input": path, "reason": error.reason, "message": error.message})
                observer.input_finished(path, failed=True)
                continue
            for number, face in enumerate(found):
                inputs.append(path)
                faces.append(number)
                batch.append(face.pixels)
                if len(batch) >= size:
                    flush()
            observer.input_finished(path, failed=False)
        flush()
    if not parts:
        raise UserError(f"none of the {len(samples)} inputs in {input} could be used: {failures[0]['message']}")
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Table(inputs, faces, arrays, opened.bundle.digest), failures


def _checked_suffix(out: Path) -> None:
    if out.suffix.lower() not in _SUFFIXES:
        raise UserError(f"{out} is neither .npz nor .safetensors: name it one of the two")
    if not out.absolute().parent.is_dir():
        raise UserError(f"the folder of {out} does not exist: make it first")


def write_table(out: Path, table: Table) -> None:
    """Write a table under its name's format; it appears whole or not at all. Raises UserError when it cannot."""
    from faceanon_engine.engine.system.files import write_result

    if out.suffix.lower() == ".npz":
        stream = io.BytesIO()
        rows: Arrays = {"input": np.array(table.inputs, dtype=str), "face": np.array(table.faces, np.int64)}
        rows["bundle"] = np.array(table.bundle or "")
        np.savez(stream, allow_pickle=False, **rows, **table.arrays)
        content = stream.getvalue()
    else:
        from safetensors.numpy import save

        content = save(
            {name: np.ascontiguousarray(array) for name, array in table.arrays.items()},
            metadata={
                "input": json.dumps(table.inputs),
                "face": json.dumps(table.faces),
                "bundle": table.bundle or "",
            },
        )
    write_result(out, content)


def read_table(path: Path) -> Table:
    """Read a table; raises UserError for a file that is none."""
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            inputs = [str(name) for name in arrays.pop("input")]
            faces = [int(face) for face in arrays.pop("face")]
            bundle = str(arrays.pop("bundle", ""))
        else:
            from safetensors import safe_open

            with safe_open(path, framework="numpy") as stored:
                arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                metadata = stored.metadata() or {}
            inputs, faces = json.loads(metadata["input"]), json.loads(metadata["face"])
            bundle = metadata.get("bundle", "")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except Exception as error:
        raise UserError(f"{path} cannot be read as a file of 'extract': {' '.join(str(error).split())}") from None
    return Table(inputs, faces, arrays, bundle or None)


def _finish(context: click.Context, out: Path, table: Table, failures: Sequence[dict[str, str]], as_json: bool) -> None:
    write_table(out, table)
    code = 1 if failures else 0
    if as_json:
        print_json(
            {
                "out": str(out),
                "rows": len(table.inputs),
                "arrays": {name: list(array.shape) for name, array in table.arrays.items()},
                "failures": list(failures),
                "exit_code": code,
            }
        )
    else:
        console = output_console()
        for failure in failures:
            say(console, f"failed: {failure['input']}: {failure['message']}")
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in table.arrays.items())
        say(console, f"{len(table.inputs)} faces, {len(failures)} inputs failed: {out} ({shapes})")
    context.exit(code)
