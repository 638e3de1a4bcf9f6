"""Images a second of a whole job: reading, features, inversion, pairing, 50 steps, encoding, writing, recording.

    python -m benchmarks.job_gpu --images 96 --output job-1024.json

Networks have the official shapes and random weights, pictures are noise at 1024 px. Loading the networks and making the
pool are told apart from the rest: a data set pays for them once.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.result import leave_out, new_result, new_row, table, write
from benchmarks.step_gpu import configurations
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.models.write import NetworkToWrite, write_bundle
from faceanon_engine.engine.networks.build import build
from faceanon_engine.engine.networks.e4e import InverterConfig


def random_bundle(folder: Path, tiny: bool) -> Bundle:
    """Networks with random weights, as a bundle."""
    import torch

    torch.manual_seed(0)
    generator, identity, attribute = configurations(32 if tiny else 1024, tiny)
    inverter = InverterConfig(32, 8, 16, (1, 1, 1, 1), (8, 8, 16, 16), 4) if tiny else InverterConfig()
    configs = {
        "generator": generator,
        "inverter": inverter,
        "identity_encoder": identity,
        "attribute_encoder": attribute,
    }
    networks = [NetworkToWrite(role, config, build(role, config).state_dict()) for role, config in configs.items()]
    return write_bundle(folder, folder.name, networks)


class Watch:
    """Notes when the pool is made, when the first step is, and when each image is done."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.pool_done = self.started
        self.first_step: float | None = None
        self.finished: list[float] = []


def run_job(folder: Path, preset: str, format: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One job over the pictures in `folder`, and how quick it was."""
    import faceanon_engine
    from faceanon_engine.engine.job.report import JobObserver

    watch = Watch()

    class Timed(JobObserver):
        def progress(self, done: float, total: float | None, what: str = "") -> None:
            watch.pool_done = time.monotonic()

        def batch(self, size: int, step: int, steps: int) -> None:
            watch.first_step = watch.first_step or time.monotonic()

        def input_finished(self, path: str, failed: bool) -> None:
            watch.finished.append(time.monotonic())

    result = faceanon_engine.anonymize(
        folder / "in",
        folder / f"out-{preset}-{format}",
        bundle=folder / "networks",
        preset=preset,  # type: ignore[arg-type]
        steps=3 if arguments.tiny else None,
        device=arguments.device,
        optimise_precision=arguments.precision,
        format=format,  # type: ignore[arg-type]
        align="never",
        pool_size=8 if arguments.tiny else 256,
        contact_sheet=0,
        observer=Timed(),
    )
    begun = watch.first_step or watch.started
    return new_row(
        {"preset": preset, "format": format},
        done=result.done,
        failed=result.failed,
        seconds=result.seconds,
        seconds_before_first_step=begun - watch.started,
        images_per_second_after_first_step=result.done / (max(watch.finished) - begun),
        about=dict(result.about),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--presets", nargs="*", default=["falco", "fast"])
    parser.add_argument("--seconds", type=float, default=600, help="begin no other job after so long")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    import torch

    started = time.monotonic()
    report = new_result(
        "job_gpu",
        "images a second of a whole job",
        images=arguments.images,
        precision=arguments.precision,
        device=arguments.device,
        tiny=arguments.tiny,
    )
    with tempfile.TemporaryDirectory(prefix="faceanon-job-") as scratch:
        folder = Path(scratch)
        random_bundle(folder / "networks", arguments.tiny)
        side = 32 if arguments.tiny else 1024
        (folder / "in").mkdir()
        random = np.random.default_rng(0)
        for number in range(arguments.images):
            coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / "in" / f"{number:04}.jpg", quality=95)
        for format in ("jpeg", "png"):
            for preset in arguments.presets:
                if time.monotonic() - started > arguments.seconds:
                    leave_out(report, f"{preset} {format}", "out of time")
                    continue
                try:
                    report["rows"].append(run_job(folder, preset, format, arguments))
                except Exception as error:  # costs no other job
                    leave_out(report, f"{preset} {format}", error)
                    print(report["left_out"][-1]["why"], file=sys.stderr, flush=True)
                else:
                    print(table(report["rows"][-1:], ["done", "images_per_second_after_first_step"]), flush=True)
                write(arguments.output, report)
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
    return 0 if report["rows"] else 1


if __name__ == "__main__":
    sys.exit(main())
