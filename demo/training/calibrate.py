"""Measures how drawn people score that nothing was trained on, and writes it into the demo bundle.

python -m faceanon_engine.demo.training.calibrate demo/bundle
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from faceanon_engine.demo import labelled
from faceanon_engine.demo.people import HELD_OUT_SEED
from faceanon_engine.engine.job.calibrate import FACES, OPTIMISED, calibrate
from faceanon_engine.engine.job.report import JobObserver
from faceanon_engine.engine.job.settings import job_settings

FIRST_PERSON = HELD_OUT_SEED + 20_000
TRAINED_ON = "people that this project draws, and no photographs"


class _Saying(JobObserver):
    def progress(self, done: float, total: float | None, what: str = "") -> None:
        print(f"{what}: {done:g} of {total or 0:g}", flush=True)


def calibrate_on_drawn(bundle: Path, faces: int = FACES, optimised: int = OPTIMISED) -> None:
    """Draw so many people, and measure and write what the bundle's networks make of them."""
    with tempfile.TemporaryDirectory() as folder:
        people = Path(folder) / "people"
        for _ in labelled.write(people, people=faces, per_person=1, size=256, seed=FIRST_PERSON, processes=2):
            pass
        calibrate(job_settings(people, "", {"bundle": bundle}), TRAINED_ON, optimised=optimised, observer=_Saying())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--faces", type=int, default=FACES)
    parser.add_argument("--optimised", type=int, default=OPTIMISED, help="of them, to the end; by every preset")
    arguments = parser.parse_args()
    calibrate_on_drawn(arguments.bundle, arguments.faces, arguments.optimised)


if __name__ == "__main__":
    main()
