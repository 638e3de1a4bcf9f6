"""What optimising through a smaller picture of the generator saves, and what it changes.

    python benchmarks/proxy_resolution.py

The demo's generator draws 64 px and passes 32 px on the way, where half its work is still to come. Its feature
networks take pictures of 64 and 48 px whatever they are given, so that only the generator's part is saved here; at
1024 px that part is three quarters of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from demo_runs import ROOT, Demo, main

from faceanon_engine.engine.step import StepSettings


def settings(demo: Demo, margin: float) -> Mapping[str, StepSettings]:
    """The whole picture all the time, and the proxy with more or fewer steps at the end."""
    found = {"full resolution": StepSettings(demo.preset, margin)}
    for finish in (20, 10, 5, 1):
        preset = replace(demo.preset, proxy_resolution=32, proxy_finish=finish)
        found[f"32 px, last {finish} full"] = StepSettings(preset, margin)
    return found


if __name__ == "__main__":
    main(
        "what a proxy resolution saves and changes",
        str(__doc__),
        ROOT / "benchmarks" / "results" / "proxy_resolution-demo.json",
        settings,
    )
