"""Where a whole optimisation ends in float32, bfloat16 and, with --fp16, float16.

    python benchmarks/optimise_precision.py

Most CPUs have no float16 arithmetic: there it is emulated and very slow, and says nothing about time.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from demo_runs import ROOT, Demo, main

from faceanon_engine.engine.precision import Precision
from faceanon_engine.engine.step import StepSettings

PRECISIONS: list[Precision] = ["fp32", "bf16"]


def settings(demo: Demo, margin: float) -> Mapping[str, StepSettings]:
    """The precisions; tf32 where the device has it."""
    more: list[Precision] = ["tf32", "fp16"] if demo.device.type == "cuda" else []
    return {name: StepSettings(demo.preset, margin, precision=name) for name in [*PRECISIONS, *more]}


if __name__ == "__main__":
    if "--fp16" in sys.argv:
        sys.argv.remove("--fp16")
        PRECISIONS.append("fp16")
    main(
        "where a 50-step run in 16 bits ends, against float32",
        str(__doc__),
        ROOT / "benchmarks" / "results" / "optimise_precision-demo.json",
        settings,
    )
