"""Each training takes steps that make its loss smaller, goes on after a stop, and gives networks that fit a bundle."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from faceanon_engine.demo.people import HELD_OUT_SEED
from faceanon_engine.demo.training import dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for kind in ("scenes", "people"):
        call("dataset", kind, str(dataset.CHUNK), str(folder), "--processes", "1")
    return folder


def call(module: str, *arguments: str) -> None:
    name = f"faceanon_engine.demo.training.{module}"
    with patch.object(sys, "argv", [name, *arguments]):
        importlib.import_module(name).main()


def test_a_short_run_of_every_training_makes_a_bundle(data: Path, tmp_path: Path) -> None:
    short = ["--batch", "4", "--threads", "1"]
    drawing, generator, codes, faces, identity, attributes = (
        str(tmp_path / run) for run in ("drawing", "generator", "codes", "faces", "identity", "attributes")
    )
    seen = ["--generator", generator, "--begin", codes, "--identity", identity, "--attributes", attributes]
    for module, run, more in (
        ("generator", "drawing", ["--mapping-steps", "20"]),
        ("sharpen", "generator", ["--generator", drawing]),
        ("identity", "faces", []),
        ("identity", "identity", ["--begin", faces, "--generator", generator]),
        ("attributes", "attributes", []),
        ("inverter", "codes", ["--generator", generator, "--code-steps", "5"]),
        ("inverter", "inverter", seen),
    ):
        begun = 12 if module == "sharpen" else 0
        call(module, str(data), str(tmp_path / run), *short, *more, "--steps", "10")
        first = torch.load(tmp_path / run / "checkpoint.pt", weights_only=True)
        assert first["step"] == begun + 10
        call(module, str(data), str(tmp_path / run), *short, *more, "--steps", "12")
        second = torch.load(tmp_path / run / "checkpoint.pt", weights_only=True)
        assert second["step"] == begun + 12
        assert all(torch.isfinite(value).all() for value in second["networks"].values() if value.is_floating_point())
        changed = [k for k, v in second["networks"].items() if not torch.equal(v, first["networks"][k])]
        assert len(changed) > len(second["networks"]) / 3, module
    call("inverter", str(data), str(tmp_path / "begun"), *short, *seen, "--steps", "0")
    begun = torch.load(tmp_path / "begun" / "checkpoint.pt", weights_only=True)["networks"]
    average = torch.load(tmp_path / "codes" / "checkpoint.pt", weights_only=True)["average"]
    assert all(torch.equal(begun[f"inverter.{name}"], value) for name, value in average.items())
    call("identity", str(data), str(tmp_path / "same"), *short, "--begin", identity, "--steps", "0")
    kept, same = (torch.load(tmp_path / run / "checkpoint.pt", weights_only=True) for run in ("identity", "same"))
    assert all(torch.equal(same["networks"][name], value) for name, value in kept["networks"].items())
    call("assemble", str(tmp_path), str(tmp_path / "bundle"), "--known", "0")
    content = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert content["extra"]["training"]["generator"]["steps"] == 24
    assert content["extra"]["training"]["identity_encoder"]["steps"] == 24
    assert content["extra"]["training"]["inverter"]["steps"] == 24
    from faceanon_engine.engine.models.bundle import Bundle

    assert Bundle.open(tmp_path / "bundle").verify() == []


def test_what_the_encoders_see_counts_only_where_it_differs(data: Path, tmp_path: Path) -> None:
    from faceanon_engine.demo.training.common import Data
    from faceanon_engine.demo.training.inverter import Seen

    for module in ("identity", "attributes"):
        call(module, str(data), str(tmp_path / module), "--batch", "4", "--threads", "1", "--steps", "1")
    options = argparse.Namespace(identity=tmp_path / "identity", attributes=tmp_path / "attributes", device="cpu")
    _, images = Data(data, "scenes").batch(np.arange(4), torch.device("cpu"))
    same = Seen(options).losses(images, images)
    other = Seen(options).losses(images.flip(0), images)
    for name in ("identity", "attributes"):
        assert abs(float(same[name])) < 1e-5 < 1e-3 < float(other[name]), name


def test_training_people_are_never_held_out_ones() -> None:
    highest = 20_000_000 + 10_000 * dataset.CHUNK + dataset.CHUNK
    assert highest < HELD_OUT_SEED


def test_people_keep_their_faces_and_half_of_them_change_their_hair() -> None:
    from faceanon_engine.demo.people import INDEX

    codes = dataset.people_codes(0)[: dataset.PICTURES]
    assert np.ptp(codes[:, INDEX["nose_width"]]) == 0
    half = dataset.PICTURES // 2
    assert np.ptp(codes[:half, INDEX["haircut"]]) == 0
    assert np.ptp(codes[half:, INDEX["haircut"]]) > 0


def test_the_mapping_network_learns_what_pictures_are_drawn_from() -> None:
    from faceanon_engine.demo.training.common import GENERATOR
    from faceanon_engine.demo.training.mapping import fit_mapping
    from faceanon_engine.engine.networks.stylegan2 import Mapping

    torch.manual_seed(0)
    codes = dataset.scene_codes(0)
    assert fit_mapping(Mapping(GENERATOR), codes, steps=400) < 0.5
