"""Is a face left in photographs that are given back, and is everything else as it was?

Draws photographs of several people with the boxes of their faces, half of them as PNG, has a job give them back, and
looks at the results with a fresh detector: which of the faces that it sees does no row explain? In lossless ones it
counts the pixels that changed outside of every crop and redacted place. What the detector missed from the start is
counted by size: that is still there.

    python -m benchmarks.give_back
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.result import RESULTS, new_result, new_row, table, write
from faceanon_engine import anonymize
from faceanon_engine.demo.people import HELD_OUT_SEED
from faceanon_engine.demo.scenes import Scene, draw_scene
from faceanon_engine.engine.datasets.recall import Recall, recall
from faceanon_engine.engine.images.align import Frame
from faceanon_engine.engine.images.detect import FaceDetector
from faceanon_engine.engine.images.overlap import overlaps
from faceanon_engine.engine.job.manifest import InputRow, ItemRow, Manifest
from faceanon_engine.engine.job.rows import by_input

Floats = npt.NDArray[np.floating[Any]]
FIRST_SEED = HELD_OUT_SEED + 500_000
SIZES = (20, 28, 40, 64, 1000)
"""Bounds of the longer side of a true box, in pixels."""
REDACTED_AROUND = 0.32
"""Beyond a box's sides, as a share: what `redact` draws over, and a pixel for rounding."""


def scenes(folder: Path, count: int) -> dict[str, Scene]:
    """Photographs of 2 to 14 people, 0.15 to 1 megapixels, by their names; they are written to the folder."""
    random = np.random.default_rng(11)
    drawn = {}
    for number in range(count):
        width = int(random.integers(480, 1200))
        people = int(random.integers(2, 15))
        scene = draw_scene(FIRST_SEED + 1000 * number + number % 3, people, width, round(width * 2 / 3))
        name = f"{number:04d}{'.png' if number % 2 else '.jpg'}"
        Image.fromarray(scene.image).save(folder / name, **({} if number % 2 else {"quality": 92}))
        drawn[name] = scene
    return drawn


def allowed(shape: tuple[int, ...], rows: list[ItemRow], size: int) -> npt.NDArray[np.bool_]:
    """bool [H, W]: where a photograph may differ: in the crops of new faces, and around redacted boxes."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    places = np.stack([x, y, np.ones_like(x)], axis=-1).astype(float)
    mask = np.zeros(shape[:2], bool)
    for row in rows:
        frame = Frame.from_json(json.loads(str(row.frame)))
        if row.state == "done":
            inverse = np.linalg.inv(np.vstack([frame.affine, [0, 0, 1]]))[:2]
            place = places @ inverse.T
            mask |= ((place > -0.5) & (place < size - 0.5)).all(axis=-1)
        else:
            left, top, right, bottom = np.asarray(frame.box)
            around = REDACTED_AROUND * (right - left) + 1, REDACTED_AROUND * (bottom - top) + 1
            mask |= (abs(x - (left + right) / 2) < (right - left) / 2 + around[0]) & (
                abs(y - (top + bottom) / 2) < (bottom - top) / 2 + around[1]
            )
    return mask


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--steps", type=int, default=0, help="of the optimisation: they do not matter here")
    parser.add_argument("--output", type=Path, default=RESULTS / "give_back.json")
    arguments = parser.parse_args()
    result = new_result(
        "give_back", "is a face left in photographs given back", photos=arguments.photos, steps=arguments.steps
    )
    with tempfile.TemporaryDirectory() as place:
        folder, output = Path(place, "in"), Path(place, "out")
        folder.mkdir()
        drawn = scenes(folder, arguments.photos)
        begun = time.monotonic()
        job = anonymize(folder, output, results="photos", steps=arguments.steps, bundle="demo", contact_sheet=0)
        seconds = time.monotonic() - begun
        with Manifest.read(job.manifest) as manifest:
            inputs, rows = manifest.inputs(), by_input(manifest.items())
        measure(result, drawn, inputs, rows, output)
        megapixels = sum(scene.image[..., 0].size for scene in drawn.values()) / 1e6
        result["values"]["seconds_of_job"] = seconds
        result["values"]["megapixels"] = megapixels
        result["values"]["job"] = {
            "faces": job.faces.to_json() if job.faces else None,
            "photos": job.photos.to_json() if job.photos else None,
        }
    write(arguments.output, result)
    print(table(result["rows"], ["faces", "with_a_row", "recall", "recall_95"]))
    print(json.dumps({name: value for name, value in result["values"].items() if name != "job"}, indent=1))
    print(f"written to {arguments.output}")
    return 0


def measure(
    result: dict[str, Any],
    drawn: dict[str, Scene],
    inputs: dict[str, InputRow],
    rows: dict[str, list[ItemRow]],
    output: Path,
) -> None:
    detector = FaceDetector()
    totals: Counter[str] = Counter(photos=len(drawn))
    found = dict.fromkeys(SIZES, Recall())
    for name, scene in drawn.items():
        known = rows.get(name, [])
        own = np.array([json.loads(str(row.frame))["box"] for row in known], float).reshape(-1, 4)
        for bound in SIZES:
            longer = (scene.boxes[:, 2:] - scene.boxes[:, :2]).max(axis=1) if len(scene.boxes) else np.zeros(0)
            below = [0, *SIZES][SIZES.index(bound)]
            part = scene.boxes[(longer >= below) & (longer < bound)]
            found[bound] += recall(own, part)
        if inputs[name].state != "done":
            totals["withheld"] += 1
            continue
        totals["given_back"] += 1
        given = np.asarray(Image.open(output / "release" / str(inputs[name].output)).convert("RGB"))
        seen = [face.box for face in detector.detect(given)]
        explained = overlaps(np.array(seen).reshape(-1, 4), own).max(axis=1, initial=0) > 0.2
        totals["faces_seen_in_results"] += len(seen)
        totals["faces_seen_and_not_explained"] += int((~explained).sum())
        totals["same_size"] += given.shape == scene.image.shape
        if name.endswith(".png"):
            changed = (given != scene.image).any(axis=-1)
            totals["lossless"] += 1
            totals["pixels_changed"] += int(changed.sum())
            totals["pixels_changed_outside"] += int((changed & ~allowed(given.shape, known, 64)).sum())
    result["values"].update(totals)
    for index, bound in enumerate(SIZES):
        share = found[bound]
        case = {"face in pixels": f"{[0, *SIZES][index]} to {bound}"}
        result["rows"].append(
            new_row(
                case,
                faces=share.faces,
                with_a_row=share.found,
                recall=share.share,
                recall_95=list(share.interval()),
            )
        )


if __name__ == "__main__":
    sys.exit(main())
