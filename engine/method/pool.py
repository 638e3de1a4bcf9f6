"""The pool of generated faces that originals are paired with: codes and features in arrays, no file per face.

A pool is a directory: `pool.json`, `w.npy` float32 [M, w_dim] (truncated codes, repeated to w+ when used) and
`embedding-RECIPE.npy` float32 [M, E] (attribute embeddings, one file for each pixel recipe that was asked for).

    {"format": 2, "spec": {"bundle": ..., "size": M, "truncation_psi": ..., "seed": ...},
     "sha256": {"w.npy": ..., "embedding-RECIPE.npy": ...}}

Opening looks at the record and the arrays' headers; what an array holds is compared with its checksum, and looked
through for numbers that are not finite, when it is first asked for: 0.1 s for 60,000 faces. Arrays are memory-mapped; a
face is drawn again from its code when somebody wants to see it. Face i depends on the bundle, the truncation, the seed
and i alone, so pools of different sizes share their beginning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.method.preset import DEFAULT_TRUNCATION
from faceanon_engine.engine.networks.recipe import PixelRecipe
from faceanon_engine.engine.system.digests import sha256_of, sha256_of_values
from faceanon_engine.engine.system.files import write_atomic
from faceanon_engine.engine.system.home import home
from faceanon_engine.engine.system.printable import first_line
from faceanon_engine.engine.system.reading import open_file, read_record

FORMAT = 2
_WITHOUT_CHECKSUMS = 1
RECORD = "pool.json"
CODES = "w.npy"
LARGEST_AUTOMATIC = 60_000
_LARGEST = 2**31 - 1
"""Faces that anybody could ask for, and columns that an array could have."""
_LARGEST_RECORD = 2**20
_ROWS_TOGETHER = 8192
_SHA256 = re.compile("[0-9a-f]{64}")
_ARRAY_NAME = re.compile(r"w\.npy|embedding-[a-z0-9-]{1,80}\.npy")


class OutdatedPoolError(UserError):
    """A finished pool of the format without checksums: nobody can say whether it is whole."""


@dataclass(frozen=True)
class PoolSpec:
    """What determines a pool's content: bundle digest, number of faces, truncation psi, seed."""

    bundle: str
    size: int
    truncation_psi: float = DEFAULT_TRUNCATION
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"a pool of {self.size} faces cannot be made: give a size of at least 1")
        if not 0 < self.truncation_psi <= 1:
            raise UserError(f"truncation {self.truncation_psi} is outside (0, 1]: {DEFAULT_TRUNCATION} is usual")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed {self.seed} is outside 0 to 2^64 - 1: give a smaller number")

    @property
    def digest(self) -> str:
        """sha256 of the specification, which is all that the content depends on."""
        return sha256_of_values(asdict(self))

    @property
    def directory_name(self) -> str:
        """Where the pool lies below the pools' root."""
        # Every digit of psi, so that no two pools lie in one place.
        return f"{self.bundle[:16]}/psi{float(self.truncation_psi)!r}-seed{self.seed}-n{self.size}"


def sample_z(seed: int, first: int, count: int, z_dim: int) -> npt.NDArray[np.float32]:
    """Standard normal codes float32 [count, z_dim] of faces first..first+count-1; each depends on its number alone."""
    rows = [
        np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64))).standard_normal(z_dim)
        for index in range(first, first + count)
    ]
    return np.asarray(rows, np.float32).reshape(count, z_dim)


class Pool:
    """An opened pool; see the module's description for the arrays."""

    def __init__(self, path: Path, spec: PoolSpec, checksums: Mapping[str, str]) -> None:
        """`checksums` are the sha256 of the arrays by their file names; raises UserError for codes that cannot be."""
        self.path = path
        self.spec = spec
        self.checksums = dict(checksums)
        self._codes = self._array(CODES)

    @classmethod
    def open(cls, path: Path) -> Pool:
        """Open a pool's directory; raises UserError when it is missing, unfinished or damaged.

        That it is of the format without checksums is an OutdatedPoolError. Checksums are compared when an array is
        asked for.
        """
        return cls(path, *_read_record(path))

    @cached_property
    def w(self) -> npt.NDArray[np.float32]:
        """Codes float32 [M, w_dim], memory-mapped; raises UserError where they are not those that were made."""
        return self._verified(CODES, self._codes)

    @property
    def size(self) -> int:
        """Number of faces."""
        return self.spec.size

    @property
    def digest(self) -> str:
        """Digest of the specification."""
        return self.spec.digest

    def embedding(self, recipe: PixelRecipe, precision: str = "fp32") -> npt.NDArray[np.float32]:
        """Attribute embeddings float32 [M, E], memory-mapped, of networks that computed in that precision.

        Raises UserError when they were not computed, or are not those that were.
        """
        name = self.embedding_file(recipe, precision).name
        if not self.has_embedding(recipe, precision):
            raise UserError(f"pool {self.path} has no features for this preset: make them with 'pool create'")
        return self._verified(name, self._array(name))

    def check_spec(self, spec: PoolSpec) -> None:
        """Raise UserError where this is not the pool of that specification, though it lies in its place."""
        if self.spec != spec:
            raise UserError(
                f"pool {self.path} is damaged, {RECORD} is another pool's: delete the folder, it is made again"
            )

    def check_columns(self, w_dim: int) -> None:
        """Raise UserError where the codes are not of so many numbers each."""
        if self._codes.shape[1] != w_dim:
            raise self._damaged(CODES, f"has {self._codes.shape[1]} columns, the generator takes {w_dim}")

    def has_embedding(self, recipe: PixelRecipe, precision: str = "fp32") -> bool:
        """Whether features for that recipe and precision are there."""
        file = self.embedding_file(recipe, precision)
        return file.name in self.checksums and file.is_file()

    def embedding_file(self, recipe: PixelRecipe, precision: str = "fp32") -> Path:
        """Where those features lie or would lie."""
        # One file serves every backend: in one precision they differ by rounding, as devices do.
        return self.path / (
            f"embedding-{recipe.tag}.npy" if precision == "fp32" else f"embedding-{recipe.tag}-{precision}.npy"
        )

    def _array(self, name: str) -> npt.NDArray[np.float32]:
        """The array float32 [M, columns] of that file, memory-mapped; raises UserError for a header that is not so."""
        file = self.path / name
        try:
            with open_file(file) as stream:
                if np.lib.format.read_magic(stream) != (1, 0):
                    raise ValueError("another version of the format")
                shape, in_columns, dtype = np.lib.format.read_array_header_1_0(stream)
                offset, end = stream.tell(), stream.seek(0, 2)
        except FileNotFoundError:
            raise self._damaged(name, "is missing") from None
        except Exception as error:  # NumPy reads a header as Python: a damaged one may raise anything
            raise self._damaged(name, f"cannot be read ({first_line(error)[:200]})") from None
        # Read before a single row is: not more is mapped than the file holds.
        if dtype != np.dtype("<f4") or in_columns or len(shape) != 2 or not 1 <= shape[1] <= _LARGEST:
            raise self._damaged(name, f"holds {dtype} {shape}, expected float32 rows")
        if shape[0] != self.size:
            raise self._damaged(name, f"has {shape[0]} rows, {RECORD} says {self.size}")
        if end - offset != 4 * shape[0] * shape[1]:
            raise self._damaged(name, f"has {end} bytes, its header says {offset + 4 * shape[0] * shape[1]}")
        try:
            return np.memmap(file, np.dtype("<f4"), "r", offset, shape)
        except (OSError, ValueError) as error:
            raise self._damaged(name, f"cannot be read ({first_line(error)[:200]})") from None

    def _verified(self, name: str, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        try:
            checksum = sha256_of(self.path / name)
        except OSError as error:
            raise self._damaged(name, f"cannot be read ({error.strerror or error})") from None
        if checksum != self.checksums[name]:
            raise self._damaged(name, f"is not what was made, its sha256 is not the one in {RECORD}")
        if not all(np.isfinite(rows).all() for rows in np.array_split(array, -(-len(array) // _ROWS_TOGETHER))):
            raise self._damaged(name, "holds numbers that are not finite")
        if len(array) > 1 and np.array_equal(array[0], array[1]) and bool((array == array[0]).all()):
            raise self._damaged(name, "says the same of every face")
        return array

    def _damaged(self, name: str, what: str) -> UserError:
        return UserError(f"pool {self.path} is damaged, {name} {what}: delete the folder, it is made again")


def write_record(path: Path, spec: PoolSpec, checksums: Mapping[str, str]) -> None:
    """Write `pool.json` of the pool in that directory; raises OSError."""
    content = {"format": FORMAT, "spec": asdict(spec), "sha256": dict(checksums)}
    write_atomic(path / RECORD, json.dumps(content, indent=1, sort_keys=True).encode())


def _read_record(path: Path) -> tuple[PoolSpec, dict[str, str]]:
    """What `pool.json` says: the specification, and the arrays' checksums; every value is looked at."""
    try:
        content = read_record(path / RECORD, _LARGEST_RECORD)
        if type(content.get("format")) is not int:
            raise ValueError("it is no pool's")
        if content["format"] == _WITHOUT_CHECKSUMS:
            raise OutdatedPoolError(
                f"pool {path} was made by an earlier version and has no checksums: delete the folder, it is made again"
            )
        if content["format"] != FORMAT:
            raise UserError(
                f"pool {path} has format {str(content['format'])[:20]}, this version reads {FORMAT}: delete the "
                "folder, it is made again"
            )
        return _spec_in(content.get("spec")), _checksums_in(content.get("sha256"))
    except FileNotFoundError:
        raise UserError(f"no finished pool at {path}: make one with 'faceanon-engine pool create'") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"pool {path}: {RECORD} cannot be read ({first_line(error)[:200]}): delete the folder, it is made again"
        ) from None


def _spec_in(value: Any) -> PoolSpec:
    """The specification of a record; raises ValueError for what cannot be one."""
    if not isinstance(value, dict) or set(value) != {each.name for each in fields(PoolSpec)}:
        raise ValueError("its spec is none")
    if not (isinstance(value["bundle"], str) and _SHA256.fullmatch(value["bundle"])):
        raise ValueError("its bundle is no sha256")
    if any(type(value[name]) is not int for name in ("size", "seed")) or value["size"] > _LARGEST:
        raise ValueError("its size or its seed is no whole number that could be one")
    if type(value["truncation_psi"]) not in (int, float):
        raise ValueError("its truncation_psi is no number")
    try:
        return PoolSpec(**value)
    except UserError as error:
        raise ValueError(str(error).partition(":")[0]) from None


def _checksums_in(value: Any) -> dict[str, str]:
    """The checksums of a record by file names, with one of the codes; raises ValueError for what cannot be some."""
    if not isinstance(value, dict) or CODES not in value:
        raise ValueError("its checksums are none")
    for name, checksum in value.items():
        # What is no name of an array might lead out of the folder.
        if not _ARRAY_NAME.fullmatch(name) or not isinstance(checksum, str) or not _SHA256.fullmatch(checksum):
            raise ValueError("one of its checksums is none")
    return value


def find_pool(spec: PoolSpec, recipe: PixelRecipe, precision: str = "fp32", root: Path | None = None) -> Pool | None:
    """The finished pool of that specification with features for that recipe and precision; None where there is none.

    Of one that is damaged it is None, too: whoever wants to make it is told.
    """
    try:
        pool = Pool.open((root or home().pools) / spec.directory_name)
    except UserError:
        return None
    return pool if pool.spec == spec and pool.has_embedding(recipe, precision) else None


def check_pool(spec: PoolSpec, recipe: PixelRecipe, precision: str = "fp32", root: Path | None = None) -> None:
    """Raise UserError where making, or opening, the pool of that specification would find a damaged one."""
    path = (root or home().pools) / spec.directory_name
    if not (path / RECORD).exists():
        return
    try:
        pool = Pool.open(path)
    except OutdatedPoolError:
        return  # it is made anew
    pool.check_spec(spec)
    _ = pool.w
    if pool.has_embedding(recipe, precision):
        pool.embedding(recipe, precision)


def list_pools(root: Path | None = None) -> list[Pool]:
    """All finished pools below the root, sorted by path; damaged ones are left out."""
    pools = []
    for file in sorted((root or home().pools).glob(f"*/*/{RECORD}")):
        try:
            pools.append(Pool.open(file.parent))
        except UserError:
            continue
    return pools


def automatic_size(inputs: int) -> int:
    """Pool size for a number of originals: at least twice as many fakes, 1,024 to 60,000, a power of two below."""
    size = 1024
    while size < enough(inputs):
        size *= 2
    return min(size, LARGEST_AUTOMATIC)


def enough(inputs: int) -> int:
    """Fakes that a number of originals needs: two for each, at most as many as the paper's pool has."""
    return min(2 * inputs, LARGEST_AUTOMATIC)


def choose_spec(
    bundle: str,
    size: int | None,
    truncation_psi: float,
    seed: int,
    *,
    inputs: int,
    root: Path | None = None,
) -> PoolSpec:
    """The pool a job uses: the size asked for, else the largest there is for these settings, else an automatic one.

    Passed over are those that are too small for the inputs, and one whose making was stopped before it had any
    features: it may have been too large to wait for.
    """
    if size is None:
        existing = [
            pool.size
            for pool in list_pools(root)
            if (pool.spec.bundle, pool.spec.truncation_psi, pool.spec.seed) == (bundle, truncation_psi, seed)
            and pool.size >= enough(inputs)
            and any(name != CODES for name in pool.checksums)
        ]
        size = max(existing, default=automatic_size(inputs))
    return PoolSpec(bundle, size, truncation_psi, seed)
