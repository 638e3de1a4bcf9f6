"""How well drawn people, whom the demo's networks know, are told from photographs, which they do not know.

    pip download --no-deps scikit-image      # its data holds a photograph, and 100 grey crops of 25 px of others
    python -m benchmarks.known_faces --photographs FOLDER --grey lfw_subset.npy

People are drawn from seeds that neither a training nor the bundle's own measurement uses. A face is outside where its
attribute loss is beyond what the bundle records of 99 of 100 known faces, before the first step or after the last; a
job as the program judges it. Jobs are drawn at random from the faces measured. Photographs are not in the repository.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.result import RESULTS, new_result, new_row, table, write
from faceanon_engine.engine.datasets.folder import find_inputs
from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.job.domain import LOOKED_AT
from faceanon_engine.engine.method.falco import Falco
from faceanon_engine.engine.method.pool import PoolSpec
from faceanon_engine.engine.method.preset import alike, get_preset
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.models.domain import LIMIT, QUANTILES, Limits, known, limits_of
from faceanon_engine.engine.sessions.runs import settle

Pixels = npt.NDArray[np.uint8]
Losses = npt.NDArray[np.floating[Any]]
FIRST_PERSON = 900_000_000 + 16_000
GREY_CROPS_OF_PEOPLE = 100
"""The first so many of scikit-image's file; the others show no face."""
TOGETHER = 16
JOBS = 20_000
SIZES = (1, 2, 3, 5, 10, LOOKED_AT, 50)

# What a person may set, and what is measured beside the default: preset, margin, pool, truncation, metric, steps made.
CASES: tuple[dict[str, Any], ...] = (
    {},
    {"pool": 64},
    {"pool": 16_384},
    {"truncation": 1.0},
    {"metric": "cosine"},
    {"preset": "falco-released"},
    {"preset": "fast"},
    {"margin": 0.9},
)
OPTIMISED = ("preset", "margin")


def drawn(people: int, reader: Reader) -> Pixels:
    """Their faces as a job reads them."""
    from faceanon_engine.demo import labelled

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "people"
        for _ in labelled.write(place, people=people, per_person=1, size=256, seed=FIRST_PERSON, processes=2):
            pass
        return photographed(place, reader)


def photographed(folder: Path, reader: Reader) -> Pixels:
    """All faces of a folder's pictures."""
    faces = [face.pixels for sample in find_inputs(folder) for face in reader.read(sample).faces]
    return np.stack(faces)


def grey_crops(file: Path, side: int) -> Pixels:
    """Crops of people of 25 px, brought to the networks' side."""
    crops = (np.load(file)[:GREY_CROPS_OF_PEOPLE] * 255).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(crop).convert("RGB").resize((side, side))) for crop in crops])


def spread(faces: Pixels, count: int) -> Pixels:
    return faces[np.linspace(0, len(faces) - 1, min(count, len(faces))).round().astype(int)]


def in_parts(work: Any, faces: Pixels, names: Sequence[str]) -> dict[str, Losses]:
    parts = [work(faces[first : first + TOGETHER]) for first in range(0, len(faces), TOGETHER)]
    return {name: np.concatenate([getattr(part, name) for part in parts]).astype(float) for name in names}


def described(values: Losses, limit: float | None) -> dict[str, Any]:
    quantiles = [round(float(value), 2) for value in np.quantile(values, QUANTILES)]
    shares = {} if limit is None else {"limit": limit, "beyond": float((values > limit).mean())}
    return {"faces": len(values), "quantiles": quantiles, **shares}


def jobs_outside(losses: Losses, limits: Limits, *, after: bool, random: np.random.Generator) -> dict[str, float]:
    """Share of jobs of so many of these faces that the program says are outside."""
    verdicts = [limits.verdict(None, loss) if after else limits.verdict(loss) for loss in losses]
    return {
        str(size): sum(
            known(random.choice(verdicts, size, replace=False), limits).verdict == "outside" for _ in range(JOBS)
        )
        / JOBS
        for size in SIZES
        if size <= len(losses)
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--grey", type=Path, help="scikit-image's data/lfw_subset.npy")
    parser.add_argument("--people", type=int, default=400, help="drawn, and measured before the first step")
    parser.add_argument("--optimised", type=int, default=100, help="of each kind, to the end, as it comes")
    parser.add_argument("--optimised-otherwise", type=int, default=40, help="with other presets and margins")
    parser.add_argument("--output", type=Path, default=RESULTS / "known_faces.json")
    arguments = parser.parse_args()
    result = new_result(
        "known_faces",
        "how well people whom the demo's networks know are told from photographs",
        people=arguments.people,
        optimised=arguments.optimised,
        optimised_otherwise=arguments.optimised_otherwise,
        jobs=JOBS,
    )
    bundle = Bundle.open("demo")
    if bundle.domain is None:
        sys.exit("the demo bundle records nothing of what it knows: python -m faceanon_engine.demo.training.calibrate")
    begun, random = time.monotonic(), np.random.default_rng(3)
    reader = Reader("auto", bundle.resolution)
    kinds = {"drawn people": drawn(arguments.people, reader)}
    for kind, given, make in (
        ("photographs", arguments.photographs, lambda path: photographed(path, reader)),
        ("grey crops of 25 px", arguments.grey, lambda path: grey_crops(path, bundle.resolution)),
    ):
        if given is None:
            result["left_out"].append({"what": kind, "why": "none were given"})
        else:
            kinds[kind] = make(given)
    recorded = {entry["preset"]: entry["neighbour_distance"][LIMIT] for entry in bundle.domain["measured"]}
    result["values"] = {"quantiles": list(QUANTILES), "trained_on": bundle.domain["trained_on"]}
    if not (arguments.optimised and arguments.optimised_otherwise):
        result["left_out"].append({"what": "losses after the last step", "why": "not asked for (--optimised)"})
    for case in CASES:
        if "margin" in case and not arguments.optimised_otherwise:
            continue
        preset = get_preset(case.get("preset", "falco"))
        limits = limits_of(bundle.domain, preset.name, preset.steps, alike=alike(preset))
        assert limits is not None
        falco = Falco.open(
            bundle,
            settle("torch", "fp32", "cpu"),
            PoolSpec(bundle.digest, case.get("pool", 1024), case.get("truncation", 0.7)),
            replace(preset),
            margin=case.get("margin", 0.0),
            metric=case.get("metric", "euclidean"),
        )
        for kind, faces in kinds.items():
            values: dict[str, Any] = {}
            if "margin" not in case:  # of which nothing depends before the first step
                before = in_parts(falco.before_steps, faces, ("attribute_before", "neighbour_distance"))
                values["attribute_before"] = described(before["attribute_before"], limits.before)
                distance = recorded[preset.name] if not {"pool", "truncation", "metric"} & {*case} else None
                values["neighbour_distance"] = described(before["neighbour_distance"], distance)
                values["jobs_outside_before"] = jobs_outside(
                    before["attribute_before"], limits, after=False, random=random
                )
            to_end = arguments.optimised_otherwise if case else arguments.optimised
            if to_end and (not case or {*case} & {*OPTIMISED}):
                few = spread(faces, to_end)
                after = in_parts(falco.anonymize, few, ("attribute_after",))["attribute_after"]
                values["attribute_after"] = described(after, limits.after)
                values["jobs_outside_after"] = jobs_outside(after, limits, after=True, random=random)
            setting = ", ".join(f"{name} {value}" for name, value in case.items()) or "as it comes"
            shares = {
                f"{name}_beyond": values[f"attribute_{name}"].get("beyond")
                for name in ("before", "after")
                if f"attribute_{name}" in values
            }
            result["rows"].append(new_row({"settings": setting, "faces": kind}, **values))
            print(setting, kind, shares, flush=True)
            result["seconds"] = time.monotonic() - begun
            write(arguments.output, result)
    print(table(result["rows"], []))
    print(f"written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
