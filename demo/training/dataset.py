"""Renders the training sets to disk once: codes and pictures in two array files, finished chunk by chunk.

    python -m faceanon_engine.demo.training.dataset scenes 40000 DATA
    python -m faceanon_engine.demo.training.dataset people 24000 DATA

"scenes" are independent vectors. "people" are persons with a dozen pictures each; in half of a person's pictures hair,
skin colour and beard are another's, so that a recogniser learns the face and not the hair.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faceanon_engine.demo.people import GROUPS, INDEX, SIZE, sample, sample_person
from faceanon_engine.demo.render import render_codes

CHUNK = 480
PICTURES = 12
DISGUISES = (
    *(name for name in GROUPS["pose"] if name.startswith("hair")),
    *("melanin", "skin_hue", "hair_dark", "hair_red", "hair_grey", "beard", "moustache"),
)


def scene_codes(chunk: int) -> npt.NDArray[np.float32]:
    """Independent vectors [CHUNK, P] of a chunk."""
    return sample(10_000_000 + chunk, CHUNK)


def people_codes(chunk: int) -> npt.NDArray[np.float32]:
    """Vectors [CHUNK, P] of CHUNK / PICTURES persons, one after the other, half of the pictures disguised."""
    people = []
    columns = [INDEX[name] for name in DISGUISES]
    for person in range(CHUNK // PICTURES):
        seed = 20_000_000 + chunk * CHUNK + person
        codes = sample_person(seed, PICTURES)
        codes[PICTURES // 2 :, columns] = sample(seed + CHUNK // 2, PICTURES // 2)[:, columns]
        people.append(codes)
    return np.concatenate(people)


def _chunk(job: tuple[str, int, int]) -> tuple[int, Any, Any]:
    kind, chunk, size = job
    codes = scene_codes(chunk) if kind == "scenes" else people_codes(chunk)
    return chunk, codes, render_codes(codes, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["scenes", "people"])
    parser.add_argument("count", type=int)
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    arguments.data.mkdir(parents=True, exist_ok=True)
    chunks = -(-arguments.count // CHUNK)
    stem = arguments.data / f"{arguments.kind}-{arguments.size}"
    counter = Path(f"{stem}.done")
    shapes = {
        "codes": ((chunks * CHUNK, SIZE), np.float32),
        "images": ((chunks * CHUNK, *[arguments.size] * 2, 3), np.uint8),
    }
    arrays = {}
    for name, (shape, kind) in shapes.items():
        path = Path(f"{stem}-{name}.npy")
        if path.exists() and counter.exists() and np.load(path, mmap_mode="r").shape == shape:
            arrays[name] = np.load(path, mmap_mode="r+")
        else:
            counter.unlink(missing_ok=True)
            arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
    done = int(counter.read_text()) if counter.exists() else 0
    jobs = [(arguments.kind, chunk, arguments.size) for chunk in range(done, chunks)]
    with ProcessPoolExecutor(arguments.processes) as pool:
        for chunk, codes, images in pool.map(_chunk, jobs):
            arrays["codes"][chunk * CHUNK : (chunk + 1) * CHUNK] = codes
            arrays["images"][chunk * CHUNK : (chunk + 1) * CHUNK] = images
            for array in arrays.values():
                array.flush()
            counter.write_text(str(chunk + 1))
            print(f"{(chunk + 1) * CHUNK} of {chunks * CHUNK}", flush=True)


if __name__ == "__main__":
    main()
