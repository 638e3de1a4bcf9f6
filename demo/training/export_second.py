"""Stores the second recogniser, which only the evidence uses, in the repository.

    python -m faceanon_engine.demo.training.export_second RUN demo/evaluation

RUN was made by `identity --architecture plain --seed 1`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from faceanon_engine.demo.training.common import load_average
from faceanon_engine.demo.training.identity import PlainEncoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    state = load_average(arguments.run, PlainEncoder()).state_dict()
    halves = {key: value.to(torch.float16).contiguous() for key, value in state.items() if value.is_floating_point()}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / "second_recogniser.safetensors"
    save_file(halves, file)
    file.chmod(0o644)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
