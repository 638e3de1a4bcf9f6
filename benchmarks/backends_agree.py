"""Do the backends and precisions pair the same faces and give the same codes as float32 Torch?

    python benchmarks/backends_agree.py OUT.json [--pool 1024] [--originals 1000]

Originals are faces that the generator draws from other seeds than the pool's, and the sample pictures. Every case makes
its own pool features, as a job would, and is compared with Torch in float32: the share of originals with the same
nearest fake, how far apart the two fakes were where it is another, and the errors of codes and features as shares of
the reference's root mean square.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.datasets.sample import sample_at
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import from_uint8
from faceanon_engine.engine.method.falco import Stages
from faceanon_engine.engine.method.pool import PoolSpec, sample_z
from faceanon_engine.engine.method.preset import PRESETS
from faceanon_engine.engine.models.bundle import Bundle, demo_path
from faceanon_engine.engine.system.machine import describe_machine
from faceanon_engine.export.prepare import prepare

CASES = (("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "fp16"), ("torch", "bf16"))
PRESET = PRESETS["falco"]


def originals(stages: Stages, count: int) -> Any:
    """Faces float32 [count + samples, 3, R, R] in [-1, 1], as they come out of image files."""
    side = stages.resolution
    files = sorted((demo_path().parent / "samples").glob("person-*.*"))
    reader = Reader("never", side)
    parts = [np.stack([reader.read(sample_at(file)).faces[0].pixels for file in files])]
    with torch.no_grad():
        for first in range(0, count, 32):
            z = torch.from_numpy(sample_z(1, first, min(32, count - first), stages.generator.config.z_dim))
            w = stages.generator.truncate(stages.generator.mapping(z), 1.0)
            parts.append(stages.synthesise(stages.generator.broadcast(w)))
    return from_uint8(np.concatenate(parts))


def run(bundle: Bundle, backend: str, precision: str, spec: PoolSpec, images: Any) -> dict[str, Any]:
    """Features, codes and neighbours of one case; the pool is made anew."""
    stages = Stages(bundle, PRESET, "cpu", backend=backend, precision=precision, prepare=prepare)
    with tempfile.TemporaryDirectory() as home:
        built, before = Path(os.environ["FACEANON_HOME"]) / "engines", os.environ["FACEANON_HOME"]
        built.mkdir(parents=True, exist_ok=True)
        (Path(home) / "engines").symlink_to(built)
        os.environ["FACEANON_HOME"] = home
        try:
            pool = stages.pool(spec, batch_size=16)
            features = np.array(pool.embedding(PRESET.pairing_generated, precision))
        finally:
            os.environ["FACEANON_HOME"] = before
    found = {
        "attributes": np.concatenate([stages.embed_attributes(images[i : i + 16]) for i in range(0, len(images), 16)]),
        "codes": np.concatenate([stages.invert(images[i : i + 16]) for i in range(0, len(images), 16)]),
        "pool": features,
    }
    distances = np.linalg.norm(found["attributes"][:, None].astype(np.float64) - features[None], axis=2)
    return found | {"neighbours": distances.argmin(axis=1), "about": stages.runs.about()}


def compare(found: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """What of a case differs from the reference."""
    same = found["neighbours"] == reference["neighbours"]
    gaps = []
    for row in np.flatnonzero(~same):
        query = reference["attributes"][row].astype(np.float64)
        near, other = (
            np.linalg.norm(reference["pool"][case["neighbours"][row]] - query) for case in (reference, found)
        )
        gaps.append(float(other / near - 1))
    return {
        "same_neighbour": float(same.mean()),
        "others": int((~same).sum()),
        "gap_of_others": gaps,
        **{f"{name}_error": errors(found[name], reference[name]) for name in ("attributes", "codes", "pool")},
    }


def errors(found: Any, expected: Any) -> dict[str, float]:
    """Largest and root mean square difference, as shares of the root mean square expected."""
    difference, scale = found.astype(np.float64) - expected, float(np.sqrt(np.square(expected).mean()))
    return {
        "maximum": float(np.abs(difference).max()) / scale,
        "relative": float(np.sqrt(np.square(difference).mean())) / scale,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--pool", type=int, default=1024)
    parser.add_argument("--originals", type=int, default=1000)
    options = parser.parse_args()
    bundle = Bundle.open("demo")
    spec = PoolSpec(bundle.digest, options.pool)
    with tempfile.TemporaryDirectory() as home:
        os.environ["FACEANON_HOME"] = home
        images = originals(Stages(bundle, PRESET, "cpu"), options.originals)
        reference: dict[str, Any] = {}
        rows = []
        for backend, precision in CASES:
            try:
                found = run(bundle, backend, precision, spec, images)
            except UserError as error:
                rows.append({"backend": backend, "precision": precision, "not_run": str(error)})
                continue
            reference = reference or found
            row = {"backend": backend, "precision": precision, "about": found["about"], **compare(found, reference)}
            rows.append(row)
            print(f"{backend:12} {precision}  same neighbour {100 * row['same_neighbour']:.2f} %", flush=True)
    result = {
        "what": "agreement of backends with float32 Torch",
        "machine": describe_machine(),
        "bundle": bundle.digest,
        "originals": len(images),
        "pool": options.pool,
        "cases": rows,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
