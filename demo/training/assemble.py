"""Makes the demo bundle of the trainings' averaged networks.

    python -m faceanon_engine.demo.training.assemble RUNS demo/bundle

RUNS holds the runs `generator`, `inverter`, `identity` and `attributes`. The attribute head that answers CelebA's
attributes is written beside the networks, for evaluation. At last it is measured how people score on whom nothing was
trained: `calibrate.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from faceanon_engine.demo.training.attributes import ATTRIBUTES
from faceanon_engine.demo.training.calibrate import calibrate_on_drawn
from faceanon_engine.demo.training.common import (
    ATTRIBUTE_ENCODER,
    GENERATOR,
    IDENTITY_ENCODER,
    INVERTER,
    load_average,
)
from faceanon_engine.demo.training.inverter import average_code
from faceanon_engine.engine.job.calibrate import FACES
from faceanon_engine.engine.models import NetworkToWrite, write_bundle
from faceanon_engine.engine.models.bundle import MANIFEST
from faceanon_engine.engine.networks import AttributeEncoder, Generator, IdentityEncoder, Inverter
from faceanon_engine.engine.system import sha256_of

HEAD = "attribute_head.safetensors"


def _trained(run: Path) -> dict[str, Any]:
    checkpoint = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    took = {name: checkpoint[name] + checkpoint.get("earlier", {}).get(name, 0) for name in ("step", "seconds")}
    return {"steps": took["step"], "seconds": round(took["seconds"]), "networks": checkpoint["networks"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--known", type=int, default=FACES, help="people drawn to measure what it knows; 0: nobody")
    arguments = parser.parse_args()
    generator: Any = load_average(arguments.runs / "generator", Generator(GENERATOR))
    generator.w_avg.copy_(average_code(generator))
    networks, notes = [], {}
    for role, run, network, config in (
        ("generator", "generator", generator, GENERATOR),
        ("inverter", "inverter", Inverter(INVERTER), INVERTER),
        ("identity_encoder", "identity", IdentityEncoder(IDENTITY_ENCODER), IDENTITY_ENCODER),
        ("attribute_encoder", "attributes", AttributeEncoder(ATTRIBUTE_ENCODER), ATTRIBUTE_ENCODER),
    ):
        if role != "generator":
            load_average(arguments.runs / run, network)
        source = {
            "format": "faceanon-engine demo training",
            "file": f"demo/training/{run}.py",
            "licence": "Apache-2.0; trained on pictures drawn from CC0 shapes, of no real person",
        }
        networks.append(NetworkToWrite(role, config, network.state_dict(), source))
        trained = _trained(arguments.runs / run)
        notes[role] = {"steps": trained["steps"], "training_seconds": trained["seconds"]}
    head = _trained(arguments.runs / "attributes")["networks"]
    bundle = write_bundle(
        arguments.bundle,
        "demo",
        networks,
        dtype="float16",
        description="Small networks trained on drawn, synthetic people. They show how the program works; they know no "
        "photographs.",
        extra={"training": notes, "attributes": list(ATTRIBUTES)},
    )
    file = bundle.path / HEAD
    count = len(ATTRIBUTES)
    save_file(
        {"weight": head["head.weight"][:count].contiguous(), "bias": head["head.bias"][:count].contiguous()}, file
    )
    file.chmod(0o644)
    content = bundle.content
    content["extra"]["attribute_head"] = {"file": HEAD, "sha256": sha256_of(file)}
    (bundle.path / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if arguments.known:
        calibrate_on_drawn(bundle.path, arguments.known)
    total = sum(path.stat().st_size for path in bundle.path.iterdir())
    print(f"{bundle.path}: {total / 1e6:.1f} MB, digest {bundle.digest[:12]}")


if __name__ == "__main__":
    main()
