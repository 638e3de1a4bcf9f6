"""A bundle with the official networks' shapes and weights that mean nothing, to measure what the real ones cost.

    python -m benchmarks.stand_in_bundle /tmp/ffhq-stand-in
    faceanon-engine bench --bundle /tmp/ffhq-stand-in

StyleGAN2 at 1024 px, e4e's encoder, ArcFace's IR-SE50 and FaRL's ViT-B/16, as the importer makes them of checkpoints in
the official layouts. Times and memory do not depend on the weights' values; the pictures are noise. Takes 1.7 GB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from faceanon_engine.engine.models.write import NetworkToWrite, write_bundle
from tests.golden.stand_ins import imported

CHECKPOINTS = ("stylegan2-rosinality-1024", "e4e-encoder-1024", "arcface-irse50-112", "farl-vit-b16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    networks = []
    for name in CHECKPOINTS:
        network = imported(name)
        networks.append(
            NetworkToWrite(network.role, network.config, network.state_dict, {"origin": f"stand-in for {name}"})
        )
    bundle = write_bundle(folder, folder.name, networks, description="stand-in weights in the official shapes")
    print(bundle.path)


if __name__ == "__main__":
    main()
