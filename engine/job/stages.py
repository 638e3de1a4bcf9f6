"""The stages alone, for those who keep the intermediate results: features, codes and pairs of all faces of a data set.

With another backend than "torch", and what it runs already built, nothing here loads Torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faceanon_engine.engine.datasets.folder import left_out
from faceanon_engine.engine.datasets.reader import prefetch, thread_count, threads
from faceanon_engine.engine.errors import InputError, UserError
from faceanon_engine.engine.images.pixels import Floats, Pixels, from_uint8
from faceanon_engine.engine.job.report import Failure, JobObserver
from faceanon_engine.engine.job.samples import inputs_of, reader_of
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.job.tables import Arrays, Table, is_table
from faceanon_engine.engine.method.capacity import images_that_fit
from faceanon_engine.engine.method.pairing import NearestNeighbours
from faceanon_engine.engine.method.pool import Pool, PoolSpec, choose_spec
from faceanon_engine.engine.method.pool_opening import open_or_make_pool
from faceanon_engine.engine.method.preset import Preset, get_preset
from faceanon_engine.engine.method.stages import embed_attributes, embed_identity, invert_images
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.models.opened import OpenedNetworks
from faceanon_engine.engine.sessions.opening import Prepare
from faceanon_engine.engine.sessions.runs import Sessions, sessions_of_bundle, settle

Compute = Callable[["OpenedStages", Floats], Arrays]


@dataclass(frozen=True)
class StageResult:
    """A row for every face, and the inputs that could not be used, with the reasons."""

    table: Table
    failures: tuple[Failure, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 when everything is done, 1 when something failed."""
        return 1 if self.failures else 0


@dataclass(frozen=True)
class OpenedStages:
    """What the stages run with, closed at the end of a `with` block; networks are loaded when they are first needed."""

    settings: JobSettings
    networks: OpenedNetworks
    preset: Preset
    sessions: Sessions

    @classmethod
    def open(cls, settings: JobSettings, prepare: Prepare | None = None) -> OpenedStages:
        """Find the bundle and settle what runs it; raises UserError for what is unknown or does not work here.

        Of the settings, those of `StageOptions` count. `prepare` makes what the backend lacks.
        """
        bundle, preset = Bundle.open(settings.bundle), get_preset(settings.preset)
        runs = settle(settings.backend, settings.precision, settings.device)
        networks = OpenedNetworks(bundle, runs.device)
        return cls(settings, networks, preset, sessions_of_bundle(bundle, runs, prepare=prepare, networks=networks))

    @property
    def bundle(self) -> Bundle:
        """The bundle that runs."""
        return self.networks.bundle

    def about(self) -> dict[str, str]:
        """What really runs, for people."""
        runs = self.sessions.runs
        return {
            "device": runs.device,
            **runs.about(),
            "bundle": f"{self.bundle.name} ({self.bundle.digest[:12]})",
        }

    def pool(self, spec: PoolSpec, observer: JobObserver | None = None) -> Pool:
        """The pool of that specification with the features the preset pairs by, made where it is missing."""
        return open_or_make_pool(
            spec,
            self.networks,
            self.sessions,
            self.preset,
            batch_size=self.settings.batch_size,
            progress=None if observer is None else observer.progress,
        )

    def __enter__(self) -> OpenedStages:
        return self

    def __exit__(self, *exception: object) -> None:
        self.sessions.close()


def extract(
    settings: JobSettings, *, observer: JobObserver | None = None, prepare: Prepare | None = None
) -> StageResult:
    """Features of the faces of the input, a folder of images, one image, or a text file of paths.

    attribute_embedding float32 [N, E], which pairing compares; identity_embedding float32 [N, D] of unit length.
    Raises UserError for settings, missing inputs, and when none of them could be used.
    """

    def features(opened: OpenedStages, images: Floats) -> Arrays:
        return {
            **_attributes(opened, images),
            "identity_embedding": embed_identity(opened.sessions, images, opened.preset.identity_real),
        }

    with OpenedStages.open(settings, prepare) as opened:
        return _over_faces(opened, features, observer)


def invert(
    settings: JobSettings, *, observer: JobObserver | None = None, prepare: Prepare | None = None
) -> StageResult:
    """Latent codes of the faces of the input: w_plus float32 [N, rows, w_dim]; as `extract`."""

    def codes(opened: OpenedStages, images: Floats) -> Arrays:
        return {"w_plus": invert_images(opened.sessions, images)}

    with OpenedStages.open(settings, prepare) as opened:
        return _over_faces(opened, codes, observer)


def pair(
    settings: JobSettings,
    *,
    neighbours: int = 1,
    observer: JobObserver | None = None,
    prepare: Prepare | None = None,
) -> StageResult:
    """The nearest generated faces of the input, which is images, or a file that holds what `extract` gave.

    neighbour_id int64 [N, neighbours] counts the pool's faces, neighbour_distance float64 [N, neighbours]. The pool is
    made where it is missing. Raises UserError as `extract`, for a number of neighbours that no pool can have, and when
    the file is of another bundle.
    """
    size = settings.pool_size
    if neighbours < 1:
        raise UserError(f"{neighbours} neighbours were asked for: ask for at least 1")
    if size is not None and neighbours > size:
        raise UserError(f"{neighbours} neighbours were asked for, the pool holds {size}: ask for at most that many")
    observer = observer or JobObserver()
    with OpenedStages.open(settings, prepare) as opened:
        if is_table(settings.input):
            features = StageResult(_features_in(settings.input, opened))
            observer.started(opened.about(), 0, 0)
        else:
            features = _over_faces(opened, _attributes, observer)
        table = features.table
        spec = choose_spec(opened.bundle.digest, size, settings.truncation, settings.seed, inputs=len(table))
        embedding = opened.pool(spec, observer).embedding(
            opened.preset.pairing_generated, opened.sessions.runs.precision
        )
    nearest = NearestNeighbours(embedding, settings.metric).search(table.arrays["attribute_embedding"], neighbours)
    arrays: Arrays = {"neighbour_id": nearest.ids, "neighbour_distance": nearest.distances}
    return StageResult(Table(table.inputs, table.faces, arrays, opened.bundle.digest), features.failures)


def _attributes(opened: OpenedStages, images: Floats) -> Arrays:
    return {"attribute_embedding": embed_attributes(opened.sessions, images, opened.preset.pairing_real)}


def _features_in(file: Path, opened: OpenedStages) -> Table:
    table = Table.read(file)
    if "attribute_embedding" not in table.arrays:
        raise UserError(f"{file} holds no attribute_embedding: give a file that 'extract' wrote, or images")
    embedding = table.arrays["attribute_embedding"]
    if embedding.ndim != 2 or embedding.dtype.kind != "f" or not np.isfinite(embedding).all():
        raise UserError(f"{file} holds an attribute_embedding that is none: expected finite numbers [N, E]")
    if table.bundle not in (None, opened.bundle.digest):
        raise UserError(
            f"{file} was made with bundle {str(table.bundle)[:12]}, this is {opened.bundle.digest[:12]}: "
            "choose the same one with --bundle"
        )
    return table


def _over_faces(opened: OpenedStages, compute: Compute, observer: JobObserver | None) -> StageResult:
    """Run a stage over all faces of the inputs, in batches across inputs."""
    observer = observer or JobObserver()
    settings, source = opened.settings, opened.settings.input
    samples = inputs_of(source, settings.limit)
    reader = reader_of(settings, opened.bundle.resolution)
    size = settings.batch_size or images_that_fit(opened.sessions.runs.device)
    observer.started(opened.about(), len(samples), 0)
    for note in left_out(source):
        observer.note(note)
    inputs: list[str] = []
    faces: list[int] = []
    batch: list[Pixels] = []
    parts: list[Arrays] = []
    failures: list[Failure] = []

    def flush() -> None:
        if batch:
            parts.append(compute(opened, from_uint8(np.stack(batch))))
            batch.clear()

    with threads() as executor:
        for sample, future in prefetch(executor, reader.read, samples, size + thread_count()):
            try:
                read = future.result()
            except InputError as error:
                failures.append(Failure(sample.key, 0, error.reason, error.message))
                observer.input_finished(sample.key, failed=True)
                continue
            for number, face in enumerate(read.faces):
                inputs.append(sample.key)
                faces.append(number)
                batch.append(face.pixels)
                if len(batch) >= size:
                    flush()
            observer.input_finished(sample.key, failed=False)
        flush()
    if not parts:
        raise UserError(f"none of the {len(samples)} inputs in {source} could be used: {failures[0].message}")
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return StageResult(Table(inputs, faces, arrays, opened.bundle.digest), tuple(failures))
