"""Whole optimisations of the demo's samples under several settings, measured alike: used by the scripts beside it.

Values are of the delivered code in float32 at full resolution, whatever the steps were made in. On a shared machine
processor seconds say more than wall seconds; both are given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from machine import describe  # noqa: E402

from faceanon_engine.engine.step import StepSettings  # noqa: E402


@dataclass(frozen=True)
class Run:
    """One setting's results, an entry an image; pictures float32 [N, 3, R, R] in [-1, 1]."""

    cosine: Any
    attribute: Any
    images: Any
    steps: list[int]
    wall: float
    processor: float


class Demo:
    """The demo bundle with originals and pool, for runs of the optimisation alone."""

    def __init__(self, limit: int, device: str, pool_root: Path | None = None) -> None:
        import torch

        from faceanon_engine.engine.bundle import Bundle, demo_path
        from faceanon_engine.engine.features import from_uint8
        from faceanon_engine.engine.images import find_inputs
        from faceanon_engine.engine.optimise import mix_codes, real_targets
        from faceanon_engine.engine.pipeline import Anonymizer, Stages
        from faceanon_engine.engine.pool import PoolSpec
        from faceanon_engine.engine.preset import PRESETS
        from faceanon_engine.engine.reader import Reader
        from faceanon_engine.engine.step import Networks

        preset = PRESETS["falco"]
        bundle = Bundle.open(demo_path())
        stages = Stages(bundle, preset, device)
        pool = stages.pool(PoolSpec(bundle.digest, 1024), batch_size=32)
        found = Anonymizer(bundle, preset=preset, pool=pool, device=device)
        reader = Reader("never", found.resolution)
        samples = [file for file in find_inputs(ROOT / "demo" / "samples") if file.path.stem.startswith("person")]
        pixels = np.stack([reader.faces_of(file)[0] for file in samples[:limit]])
        originals = found.to_device(from_uint8(torch.tensor(pixels)))
        neighbours = found.pair(found.embed_attributes(originals))
        fakes = torch.from_numpy(np.array(pool.w[neighbours.ids[:, 0]], np.float32)).to(found.device)
        real = torch.as_tensor(found.invert(originals)).to(found.device)
        self.preset = preset
        self.bundle = bundle
        self.device = found.device
        self.networks = Networks(found.generator, found.identity_encoder, found.attribute_encoder)
        self.w_plus = mix_codes(real, found.generator.broadcast(fakes), preset)
        self.targets = real_targets(found.identity_encoder, found.attribute_encoder, originals, preset)

    def run(self, settings: StepSettings, together: int) -> Run:
        """Optimise every original with these settings, so many together."""
        import torch

        from faceanon_engine.engine.continuous import Ticket, make_lanes, optimise_continuously
        from faceanon_engine.engine.cuda_step import stepper_for
        from faceanon_engine.engine.optimise import compare
        from faceanon_engine.engine.precision import lowered
        from faceanon_engine.engine.step import begin

        networks = lowered(self.networks, settings.precision)
        state = begin(self.networks.generator, self.w_plus, self.targets, settings)
        tickets = [Ticket(number, state.part(number, 1)) for number in range(len(state))]
        lanes = make_lanes(networks, settings, together, stepper_for(self.device))
        wall, processor = time.perf_counter(), time.process_time()
        groups = list(optimise_continuously(networks, lanes, tickets))
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        results = sorted((result for group in groups for result in group), key=lambda result: result.key)
        with torch.no_grad():
            images = self.networks.generator.synthesis(torch.stack([result.w_plus for result in results]))
            cosine, attribute = compare(*self.networks[1:], images, self.targets, settings.preset)
        return Run(
            cosine.cpu().numpy(),
            attribute.cpu().numpy(),
            images.cpu().numpy(),
            [result.steps for result in results],
            wall,
            processor,
        )


def row(name: str, run: Run, reference: Run, margin: float) -> dict[str, Any]:
    """One setting's numbers, beside those of the reference."""
    count = len(run.steps)
    off = np.abs(run.cosine - margin)
    return {
        "setting": name,
        "images": count,
        "steps_mean": statistics.mean(run.steps),
        "steps": run.steps,
        "processor_seconds_per_image": run.processor / count,
        "wall_seconds_per_image": run.wall / count,
        "time_saved": 1 - run.processor / reference.processor,
        "identity_off_margin_mean": float(off.mean()),
        "identity_off_margin_largest": float(off.max()),
        "identity_cosine_change_mean": float(np.abs(run.cosine - reference.cosine).mean()),
        "identity_cosine_change_largest": float(np.abs(run.cosine - reference.cosine).max()),
        "attribute_loss_mean": float(run.attribute.mean()),
        "attribute_loss_change_of_mean": float(run.attribute.mean() / reference.attribute.mean() - 1),
        "attribute_loss_change_per_image_mean": float((run.attribute / reference.attribute - 1).mean()),
        "attribute_loss_change_per_image_largest": float(np.abs(run.attribute / reference.attribute - 1).max()),
        "pixel_change_mean_of_255": float(np.abs(run.images - reference.images).mean() * 127.5),
    }


def main(
    question: str, description: str, default: Path, settings: Callable[[Demo, float], Mapping[str, StepSettings]]
) -> None:
    """Run every setting, the first being the reference; print a table, write JSON."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=24, help="originals")
    parser.add_argument("--together", type=int, default=8, help="slots")
    parser.add_argument("--margin", type=float, nargs="*", default=[0.0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=default)
    arguments = parser.parse_args()
    demo = Demo(arguments.limit, arguments.device)
    cases = []
    for margin in arguments.margin:
        rows: list[dict[str, Any]] = []
        reference: Run | None = None
        for name, wanted in settings(demo, margin).items():
            run = demo.run(wanted, arguments.together)
            reference = reference or run
            rows.append(row(name, run, reference, margin))
            found = rows[-1]
            print(
                f"margin {margin:g} {name:>22}: {found['steps_mean']:4.1f} steps, "
                f"{found['processor_seconds_per_image']:6.2f} s an image ({100 * found['time_saved']:+.0f} % saved), "
                f"off margin {found['identity_off_margin_mean']:.4f}, attributes {found['attribute_loss_mean']:.2f} "
                f"({100 * found['attribute_loss_change_of_mean']:+.1f} %), "
                f"pixels {found['pixel_change_mean_of_255']:.1f}",
                flush=True,
            )
        cases.append({"margin": margin, "rows": rows})
    bundle = {"name": demo.bundle.name, "digest": demo.bundle.digest}
    result = {"question": question, "bundle": bundle, "together": arguments.together, "cases": cases}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result | {"machine": describe()}, indent=1) + "\n", encoding="utf-8")
    print(f"written to {arguments.output}")
