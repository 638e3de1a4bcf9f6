"""Making a pool: codes from the mapping network, pictures and features from sessions; a stopped one can resume."""

from __future__ import annotations

import io
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import Floats
from faceanon_engine.engine.method.capacity import steps_that_fit
from faceanon_engine.engine.method.pool import (
    CODES,
    RECORD,
    OutdatedPoolError,
    Pool,
    PoolSpec,
    sample_z,
    write_record,
)
from faceanon_engine.engine.method.stages import embed_attributes
from faceanon_engine.engine.networks.recipe import PixelRecipe
from faceanon_engine.engine.sessions.runs import Sessions
from faceanon_engine.engine.system.digests import sha256_of
from faceanon_engine.engine.system.files import write_atomic
from faceanon_engine.engine.system.home import home
from faceanon_engine.engine.system.locks import locked
from faceanon_engine.engine.system.progress import Progress

if TYPE_CHECKING:
    from faceanon_engine.engine.models.opened import OpenedNetworks
    from faceanon_engine.engine.networks.stylegan2 import Generator

logger = logging.getLogger(__name__)

Embed = Callable[[Floats], Floats]
"""Attribute embeddings [N, E] of the faces of codes w [N, w_dim]."""
_CODES_TOGETHER = 1024
_MOST_PICTURES = 64


class ResumableArray:
    """An array file float32 [rows, columns] that is filled from the front and takes its final name when full.

    It is written as any file is, not through a memory map: on a full disk a map ends the process, a write raises.
    """

    def __init__(self, path: Path, rows: int, columns: int) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._counter = path.with_name(path.name + ".progress")
        header = io.BytesIO()
        about = {"descr": "<f4", "fortran_order": False, "shape": (rows, columns)}
        np.lib.format.write_array_header_1_0(header, about)
        self._first_byte, self._row_bytes = len(header.getvalue()), 4 * columns
        self.done = self._rows_so_far(header.getvalue(), rows)
        self._stream = open(self._partial, "r+b" if self.done else "w+b")  # noqa: SIM115
        if not self.done:
            self._stream.write(header.getvalue())

    def _rows_so_far(self, header: bytes, rows: int) -> int:
        """Rows that an interrupted creation left; none where what it left is damaged or of another shape."""
        try:
            done = min(rows, int(self._counter.read_text()))
            with open(self._partial, "rb") as stream:
                whole = stream.seek(0, os.SEEK_END) >= self._first_byte + done * self._row_bytes
                stream.seek(0)
                return done if whole and stream.read(len(header)) == header else 0
        except (OSError, ValueError):
            return 0

    def put(self, first: int, values: npt.NDArray[np.float32]) -> None:
        self._stream.seek(self._first_byte + first * self._row_bytes)
        self._stream.write(np.ascontiguousarray(values, "<f4").tobytes())
        self._stream.flush()
        os.fsync(self._stream.fileno())
        write_atomic(self._counter, str(first + len(values)).encode())

    def finish(self, record: Callable[[str], None]) -> None:
        """Give the file its name; before that `record` is told its sha256, so that a kill leaves none without one."""
        self._stream.close()
        record(sha256_of(self._partial))
        os.replace(self._partial, self._path)
        self._counter.unlink(missing_ok=True)


def make_pool(
    spec: PoolSpec,
    networks: OpenedNetworks,
    sessions: Sessions,
    recipe: PixelRecipe,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
    root: Path | None = None,
) -> Pool:
    """The pool of that specification with features under that recipe, made or completed.

    `batch_size` None takes what fits; otherwise as `create_pool`.
    """
    generator = networks.generator

    def embed(w: Floats) -> Floats:
        codes = generator.broadcast(torch.from_numpy(w).to(networks.device)).contiguous()
        return embed_attributes(sessions, sessions.session("synthesis").run(codes), recipe)

    size = batch_size or steps_that_fit(generator.config, networks.device, _MOST_PICTURES)
    precision = sessions.runs.precision
    return create_pool(
        spec, generator, recipe, embed, root=root, batch_size=size, progress=progress, precision=precision
    )


def create_pool(
    spec: PoolSpec,
    generator: Generator,
    recipe: PixelRecipe,
    embed: Embed,
    *,
    root: Path | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    precision: str = "fp32",
) -> Pool:
    """Make the pool, or what is missing of it, and open it.

    An interrupted creation goes on where it stopped; two processes that want the same pool do the work once. A pool of
    the format without checksums is made anew. `progress` counts faces. `embed` gives the features under that recipe,
    computed in that precision; the codes themselves always come from the generator's mapping in float32. Raises
    UserError when the folder cannot be written, when what is there is damaged, and for features that are not finite.
    """
    path = (root or home().pools) / spec.directory_name
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock")
        with locked(lock, waiting=f"another process is making the pool {path}: waiting for it"):
            pool = _begun(spec, generator, path)
            if not pool.has_embedding(recipe, precision):
                _make_features(pool, pool.embedding_file(recipe, precision), embed, batch_size, progress)
                pool = Pool.open(path)
    except OSError as error:
        raise UserError(
            f"the pool at {path} cannot be written ({error.strerror or error}): free space there or set FACEANON_HOME"
        ) from None
    return pool


def _begun(spec: PoolSpec, generator: Generator, path: Path) -> Pool:
    """The pool with its codes, which are made where there are none, or none that anybody could verify."""
    try:
        if (path / RECORD).exists():
            pool = Pool.open(path)
            pool.check_spec(spec)
            pool.check_columns(generator.config.w_dim)
            return pool
    except OutdatedPoolError:
        logger.warning("pool %s was made by an earlier version and has no checksums: it is made anew", path)
        shutil.rmtree(path)
        path.mkdir()
    _make_codes(spec, generator, path)
    return Pool.open(path)


@torch.no_grad()
def _make_codes(spec: PoolSpec, generator: Generator, path: Path) -> None:
    codes = ResumableArray(path / CODES, spec.size, generator.config.w_dim)
    for first in range(codes.done, spec.size, _CODES_TOGETHER):
        count = min(_CODES_TOGETHER, spec.size - first)
        z = torch.from_numpy(sample_z(spec.seed, first, count, generator.config.z_dim))
        w = generator.truncate(generator.mapping(z.to(generator.w_avg.device)), spec.truncation_psi)
        codes.put(first, w.float().cpu().numpy())
    checksums: dict[str, str] = {}
    codes.finish(lambda checksum: checksums.update({CODES: checksum}))
    write_record(path, spec, checksums)


@torch.no_grad()
def _make_features(pool: Pool, file: Path, embed: Embed, batch_size: int, progress: Progress | None) -> None:
    features: ResumableArray | None = None
    first = 0
    while first < pool.size:
        values = embed(np.array(pool.w[first : first + batch_size], np.float32))
        if not np.isfinite(values).all():
            raise UserError(
                f"the attribute encoder gives features that are not finite for faces {first} to "
                f"{first + len(values) - 1} of the pool {pool.path}: check the bundle with 'models verify'"
            )
        if features is None:
            features = ResumableArray(file, pool.size, values.shape[1])
            if features.done:
                first = features.done
                continue
        features.put(first, values)
        first += len(values)
        if progress is not None:
            progress(first, pool.size, "making the pool")
    assert features is not None
    # Recorded before it has its name: killed in between, the features are finished again rather than made again.
    features.finish(lambda checksum: write_record(pool.path, pool.spec, pool.checksums | {file.name: checksum}))
