"""What the options of the optimisation save and change: whole runs on the demo's samples, measured alike.

    python -m benchmarks.demo_runs stopping
    python -m benchmarks.demo_runs proxy
    python -m benchmarks.demo_runs precision

stopping: the rule of the preset `fast`, a stricter and a laxer one. proxy: optimising through the generator's picture
at 32 px, on the way to its 64, with more or fewer steps at the end; the demo's encoders take pictures of 64 and 48 px
whatever they are given, so that only the generator's part is saved, which at 1024 px is three quarters of the step.
precision: float32, bfloat16 and, with --fp16 or on a GPU, float16, which most CPUs emulate, so that it says nothing
about time there.

Values are of the delivered code in float32 at full resolution, whatever the steps were made in. On a shared machine
processor seconds say more than wall seconds; both are given.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.result import RESULTS, ROOT, new_result, new_row, table, write
from faceanon_engine.engine.choices import OptimisePrecision
from faceanon_engine.engine.method.preset import PRESETS
from faceanon_engine.engine.method.step import StepSettings

# What of a row is printed; everything is written.
SHOWN = (
    "steps_mean",
    "processor_seconds_per_image",
    "time_saved",
    "identity_off_margin_mean",
    "attribute_loss_mean",
    "attribute_loss_change_of_mean",
    "pixel_change_mean_of_255",
)

Settings = Mapping[str, StepSettings]
"""The settings that are compared, by what they are called; the first is what the others are held to."""


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

        from faceanon_engine.engine.datasets.folder import find_inputs
        from faceanon_engine.engine.datasets.reader import Reader
        from faceanon_engine.engine.images.pixels import from_uint8
        from faceanon_engine.engine.method.compare import real_targets
        from faceanon_engine.engine.method.pairing import NearestNeighbours
        from faceanon_engine.engine.method.pool import PoolSpec
        from faceanon_engine.engine.method.pool_opening import open_or_make_pool
        from faceanon_engine.engine.method.stages import embed_attributes, invert_images
        from faceanon_engine.engine.method.step import mix_codes
        from faceanon_engine.engine.models.bundle import Bundle, demo_path
        from faceanon_engine.engine.models.opened import OpenedNetworks
        from faceanon_engine.engine.sessions.runs import sessions_of_bundle, settle
        from faceanon_engine.engine.system.devices import resolve_for_torch

        preset = PRESETS["falco"]
        bundle = Bundle.open(demo_path())
        runs = settle("torch", "fp32", resolve_for_torch(device))
        opened = OpenedNetworks(bundle, runs.device)
        sessions = sessions_of_bundle(bundle, runs, networks=opened)
        pool = open_or_make_pool(PoolSpec(bundle.digest, 1024), opened, sessions, preset, batch_size=32)
        reader = Reader("never", bundle.resolution)
        samples = [each for each in find_inputs(ROOT / "demo" / "samples") if each.path.stem.startswith("person")]
        pixels = np.stack([reader.read(sample).faces[0].pixels for sample in samples[:limit]])
        self.preset = preset
        self.bundle = bundle
        self.device = torch.device(runs.device)
        self.networks = opened.for_steps
        originals = from_uint8(torch.tensor(pixels)).to(self.device)
        index = NearestNeighbours(pool.embedding(preset.pairing_generated))
        neighbours = index.search(embed_attributes(sessions, originals, preset.pairing_real))
        fakes = torch.from_numpy(np.array(pool.w[neighbours.ids[:, 0]], np.float32)).to(self.device)
        real = torch.as_tensor(invert_images(sessions, originals)).to(self.device)
        self.w_plus = mix_codes(real, opened.generator.broadcast(fakes), preset)
        self.targets = real_targets(*self.networks[1:], originals, preset)

    def run(self, settings: StepSettings, together: int) -> Run:
        """Optimise every original with these settings, so many together."""
        import torch

        from faceanon_engine.engine.method.compare import compare
        from faceanon_engine.engine.method.continuous import Ticket, make_lanes, optimise_continuously
        from faceanon_engine.engine.method.cuda_graph import stepper_for
        from faceanon_engine.engine.method.step import begin
        from faceanon_engine.engine.networks.precision import lowered

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


def figures(run: Run, reference: Run, margin: float) -> dict[str, Any]:
    """One setting's numbers, beside those of the reference; seconds are of one whole run, an image's share."""
    count = len(run.steps)
    off = np.abs(run.cosine - margin)
    return {
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


def stopping(demo: Demo, margin: float, fp16: bool) -> Settings:
    """All steps, the preset's rule, and stricter and laxer ones."""
    rule = PRESETS["fast"].stopping
    assert rule is not None
    settings = {"all steps": StepSettings(demo.preset, margin)}
    for improvement in (0.02, rule.improvement, 0.05):
        preset = replace(demo.preset, stopping=replace(rule, improvement=improvement))
        name = f"improved < {100 * improvement:g} %" + (" (fast)" if improvement == rule.improvement else "")
        settings[name] = StepSettings(preset, margin)
    return settings


def proxy(demo: Demo, margin: float, fp16: bool) -> Settings:
    """The whole picture all the time, and the proxy with more or fewer steps at the end."""
    settings = {"full resolution": StepSettings(demo.preset, margin)}
    for finish in (20, 10, 5, 1):
        preset = replace(demo.preset, proxy_resolution=32, proxy_finish=finish)
        settings[f"32 px, last {finish} full"] = StepSettings(preset, margin)
    return settings


def precision(demo: Demo, margin: float, fp16: bool) -> Settings:
    """The precisions that the device has."""
    on_gpu = demo.device.type == "cuda"
    names: list[OptimisePrecision] = ["fp32", "bf16"]
    if on_gpu:
        names.append("tf32")
    if on_gpu or fp16:
        names.append("fp16")
    return {name: StepSettings(demo.preset, margin, precision=name) for name in names}


@dataclass(frozen=True)
class Question:
    """What is asked, by which settings, and where its answer lies."""

    words: str
    settings: Callable[[Demo, float, bool], Settings]
    result: str


QUESTIONS = {
    "stopping": Question("what stopping early saves and changes", stopping, "stopping-demo.json"),
    "proxy": Question("what a proxy resolution saves and changes", proxy, "proxy_resolution-demo.json"),
    "precision": Question(
        "where a 50-step run in 16 bits ends, against float32", precision, "optimise_precision-demo.json"
    ),
}


def main() -> None:
    """Run every setting, the first being the reference; print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--limit", type=int, default=24, help="originals")
    parser.add_argument("--together", type=int, default=8, help="slots")
    parser.add_argument("--margin", type=float, nargs="*", default=[0.0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fp16", action="store_true", help="float16 on a CPU, too: very slow")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    question = QUESTIONS[arguments.question]
    output = arguments.output or RESULTS / question.result
    demo = Demo(arguments.limit, arguments.device)
    result = new_result(
        "demo_runs",
        question.words,
        settings=arguments.question,
        bundle={"name": demo.bundle.name, "digest": demo.bundle.digest},
        limit=arguments.limit,
        together=arguments.together,
        device=arguments.device,
    )
    for margin in arguments.margin:
        reference: Run | None = None
        for name, wanted in question.settings(demo, margin, arguments.fp16).items():
            run = demo.run(wanted, arguments.together)
            reference = reference or run
            values = figures(run, reference, margin)
            result["rows"].append(new_row({"margin": margin, "setting": name}, **values))
            write(output, result)
            print(f"margin {margin:g} {name}: {values['processor_seconds_per_image']:.2f} s an image", flush=True)
    print(table(result["rows"], SHOWN))
    print(f"written to {output}")


if __name__ == "__main__":
    main()
