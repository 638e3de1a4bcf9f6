"""What the stopping rule of the preset `fast` saves, and what it changes.

python benchmarks/stopping.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from demo_runs import ROOT, Demo, main

from faceanon_engine.engine.preset import PRESETS
from faceanon_engine.engine.step import StepSettings


def settings(demo: Demo, margin: float) -> Mapping[str, StepSettings]:
    """All steps, the preset's rule, and stricter and laxer ones."""
    rule = PRESETS["fast"].stopping
    assert rule is not None
    found = {"all steps": StepSettings(demo.preset, margin)}
    for improvement in (0.02, rule.improvement, 0.05):
        preset = replace(demo.preset, stopping=replace(rule, improvement=improvement))
        name = f"improved < {100 * improvement:g} %" + (" (fast)" if improvement == rule.improvement else "")
        found[name] = StepSettings(preset, margin)
    return found


if __name__ == "__main__":
    main(
        "what stopping early saves and changes",
        str(__doc__),
        ROOT / "benchmarks" / "results" / "stopping-demo.json",
        settings,
    )
