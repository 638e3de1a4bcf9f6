"""The pool of generated faces that originals are paired with: codes and features in arrays, no file per face.

A pool is a directory: `pool.json`, `w.npy` float32 [M, w_dim] (truncated codes, repeated to w+ when used) and
`embedding-RECIPE.npy` float32 [M, E] (attribute embeddings, one file for each pixel recipe that was asked for).
Arrays are memory-mapped; a face is drawn again from its code when somebody wants to see it. Face i depends on the
bundle, the truncation, the seed and i alone, so pools of different sizes share their beginning.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.method.preset import DEFAULT_TRUNCATION
from faceanon_engine.engine.networks.recipe import PixelRecipe
from faceanon_engine.engine.system.digests import sha256_of_values
from faceanon_engine.engine.system.home import home

FORMAT = 1
LARGEST_AUTOMATIC = 60_000


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

    def __init__(self, path: Path, spec: PoolSpec) -> None:
        self.path = path
        self.spec = spec
        try:
            self.w: npt.NDArray[np.float32] = np.load(path / "w.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise UserError(
                f"pool {path}: w.npy cannot be read ({error}): delete the folder, it is made again"
            ) from None
        if self.w.ndim != 2 or len(self.w) != spec.size:
            raise UserError(
                f"pool {path}: w.npy has shape {self.w.shape}, expected {spec.size} rows: delete the folder"
            )

    @classmethod
    def open(cls, path: Path) -> Pool:
        """Open a pool's directory; raises UserError when it is missing, unfinished or damaged."""
        try:
            content = json.loads((path / "pool.json").read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise UserError(
                    f"pool {path} has format {content['format']}, this version reads {FORMAT}: make it again"
                )
            return cls(path, PoolSpec(**content["spec"]))
        except FileNotFoundError:
            raise UserError(f"no finished pool at {path}: make one with 'faceanon-engine pool create'") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"pool {path}: pool.json cannot be read ({error}): delete the folder") from None

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

        Raises UserError when they were not computed.
        """
        path = self.embedding_file(recipe, precision)
        try:
            embedding: npt.NDArray[np.float32] = np.load(path, mmap_mode="r")
        except FileNotFoundError:
            raise UserError(f"pool {self.path} has no features for this preset: make them with 'pool create'") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): delete it, it is made again") from None
        if embedding.ndim != 2 or len(embedding) != self.size:
            raise UserError(
                f"{path} has shape {embedding.shape}, expected {self.size} rows: delete it, it is made again"
            )
        return embedding

    def has_embedding(self, recipe: PixelRecipe, precision: str = "fp32") -> bool:
        """Whether features for that recipe and precision are there."""
        return self.embedding_file(recipe, precision).is_file()

    def embedding_file(self, recipe: PixelRecipe, precision: str = "fp32") -> Path:
        """Where those features lie or would lie."""
        # One file serves every backend: in one precision they differ by rounding, as devices do.
        return self.path / (
            f"embedding-{recipe.tag}.npy" if precision == "fp32" else f"embedding-{recipe.tag}-{precision}.npy"
        )


def find_pool(spec: PoolSpec, recipe: PixelRecipe, precision: str = "fp32", root: Path | None = None) -> Pool | None:
    """The finished pool of that specification with features for that recipe and precision; None where there is none."""
    try:
        pool = Pool.open((root or home().pools) / spec.directory_name)
    except UserError:
        return None
    return pool if pool.spec == spec and pool.has_embedding(recipe, precision) else None


def list_pools(root: Path | None = None) -> list[Pool]:
    """All finished pools below the root, sorted by path; damaged ones are left out."""
    pools = []
    for file in sorted((root or home().pools).glob("*/*/pool.json")):
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
            and any(pool.path.glob("embedding-*.npy"))
        ]
        size = max(existing, default=automatic_size(inputs))
    return PoolSpec(bundle, size, truncation_psi, seed)
