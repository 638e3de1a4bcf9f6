"""Do the backends and precisions pair the same faces and give the same codes as float32 Torch?

    python -m benchmarks.backends_agree --output benchmarks/results/backends_agree-demo.json

Originals are faces that the generator draws from other seeds than the pool's, and the sample pictures. Every case makes
its own pool features, as a job would, and is compared with Torch in float32: the share of originals with the same
nearest fake, how far apart the two fakes were where it is another, and the errors of codes and features as shares of
the reference's root mean square.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from benchmarks.result import RESULTS, leave_out, new_result, new_row, table, write
from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.datasets.sample import sample_at
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import from_uint8, to_uint8
from faceanon_engine.engine.method.pool import PoolSpec, sample_z
from faceanon_engine.engine.method.pool_opening import open_or_make_pool
from faceanon_engine.engine.method.preset import PRESETS
from faceanon_engine.engine.method.stages import embed_attributes, invert_images
from faceanon_engine.engine.models.bundle import Bundle, demo_path
from faceanon_engine.engine.models.opened import OpenedNetworks
from faceanon_engine.engine.sessions.runs import sessions_of_bundle, settle
from faceanon_engine.export.prepare import prepare

CASES = (("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "fp16"), ("torch", "bf16"))
PRESET = PRESETS["falco"]


def originals(bundle: Bundle, count: int) -> Any:
    """Faces float32 [count + samples, 3, R, R] in [-1, 1], as they come out of image files."""
    files = sorted((demo_path().parent / "samples").glob("person-*.*"))
    reader = Reader("never", bundle.resolution)
    parts = [np.stack([reader.read(sample_at(file)).faces[0].pixels for file in files])]
    generator = OpenedNetworks(bundle).generator
    with torch.no_grad():
        for first in range(0, count, 32):
            z = torch.from_numpy(sample_z(1, first, min(32, count - first), generator.config.z_dim))
            parts.append(to_uint8(generator(z)).numpy())
    return from_uint8(np.concatenate(parts))


def run(bundle: Bundle, backend: str, precision: str, spec: PoolSpec, images: Any) -> dict[str, Any]:
    """Features, codes and neighbours of one case; the pool is made anew."""
    runs, networks = settle(backend, precision, "cpu"), OpenedNetworks(bundle)
    sessions = sessions_of_bundle(bundle, runs, prepare=prepare, networks=networks)
    with tempfile.TemporaryDirectory() as root:
        pool = open_or_make_pool(spec, networks, sessions, PRESET, root=Path(root), batch_size=16)
        features = np.array(pool.embedding(PRESET.pairing_generated, precision))
    batches = [images[first : first + 16] for first in range(0, len(images), 16)]
    attributes = np.concatenate([embed_attributes(sessions, batch, PRESET.pairing_real) for batch in batches])
    codes = np.concatenate([invert_images(sessions, batch) for batch in batches])
    distances = np.linalg.norm(attributes[:, None].astype(np.float64) - features[None], axis=2)
    return {
        "attributes": attributes,
        "codes": codes,
        "pool": features,
        "neighbours": distances.argmin(axis=1),
        "about": runs.about(),
    }


def compare(answers: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """What of a case differs from the reference."""
    same = answers["neighbours"] == reference["neighbours"]
    gaps = []
    for original in np.flatnonzero(~same):
        query = reference["attributes"][original].astype(np.float64)
        near, other = (
            np.linalg.norm(reference["pool"][case["neighbours"][original]] - query) for case in (reference, answers)
        )
        gaps.append(float(other / near - 1))
    return {
        "same_neighbour": float(same.mean()),
        "others": int((~same).sum()),
        "gap_of_others": gaps,
        **{f"{name}_error": errors(answers[name], reference[name]) for name in ("attributes", "codes", "pool")},
    }


def errors(computed: Any, expected: Any) -> dict[str, float]:
    """Largest and root mean square difference, as shares of the root mean square expected."""
    difference, scale = computed.astype(np.float64) - expected, float(np.sqrt(np.square(expected).mean()))
    return {
        "maximum": float(np.abs(difference).max()) / scale,
        "relative": float(np.sqrt(np.square(difference).mean())) / scale,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "backends_agree-demo.json")
    parser.add_argument("--pool", type=int, default=1024, help="generated faces to pair with")
    parser.add_argument("--originals", type=int, default=1000, help="drawn faces, beside the sample pictures")
    options = parser.parse_args()
    bundle = Bundle.open("demo")
    result = new_result(
        "backends_agree",
        "do the backends and precisions pair the same faces and give the same codes as float32 Torch",
        bundle={"name": bundle.name, "digest": bundle.digest},
        pool=options.pool,
        drawn_originals=options.originals,
    )
    spec = PoolSpec(bundle.digest, options.pool)
    with tempfile.TemporaryDirectory() as home:
        os.environ["FACEANON_HOME"] = home
        images = originals(bundle, options.originals)
        result["values"]["originals"] = len(images)
        reference: dict[str, Any] = {}
        for backend, precision in CASES:
            print(f"{backend} {precision}", flush=True)
            try:
                answers = run(bundle, backend, precision, spec, images)
            except UserError as error:
                leave_out(result, f"{backend} {precision}", error)
                continue
            reference = reference or answers
            differences = compare(answers, reference)
            case = {"backend": backend, "precision": precision}
            result["rows"].append(new_row(case, about=answers["about"], **differences))
    write(options.output, result)
    print(table(result["rows"], ["same_neighbour", "others"]))
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
