"""The stages as commands write what the job uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from faceanon_engine.engine.models.write import write_bundle
from tests.support.fake_worker import make_inputs
from tests.support.tiny_bundle import write_tiny_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "tiny")
    make_inputs(tmp_path / "in", 3)
    return tmp_path


def call(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FACEANON_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "faceanon_engine.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_stages_give_the_same_whichever_way_they_are_joined(folder: Path) -> None:
    (folder / "in" / "bad.png").write_bytes(b"")
    common = ("--bundle", folder / "tiny", "--device", "cpu")
    extracted = call(folder, "extract", folder / "in", folder / "f.npz", *common, "--align", "never", "--json")
    assert extracted.returncode == 1, extracted.stderr
    report = json.loads(extracted.stdout)
    assert (report["rows"], [failure["input"] for failure in report["failures"]]) == (3, ["bad.png"])
    with np.load(folder / "f.npz", allow_pickle=False) as features:
        assert features["input"].tolist() == ["photo-00.png", "photo-01.png", "photo-02.png"]
        assert features["attribute_embedding"].shape == (3, 16)
        np.testing.assert_allclose(np.linalg.norm(features["identity_embedding"], axis=1), 1, atol=1e-5)
    made = call(folder, "pool", "create", "--size", 20, *common)
    assert made.returncode == 0, made.stderr
    listed = json.loads(call(folder, "pool", "list", "--json").stdout)
    assert [pool["size"] for pool in listed["pools"]] == [20]
    from_file = call(folder, "pair", folder / "f.npz", folder / "a.npz", *common, "--neighbours", 2)
    assert from_file.returncode == 0, from_file.stderr
    from_images = call(
        folder, "pair", folder / "in", folder / "b.safetensors", *common, "--neighbours", 2, "--align", "never"
    )
    assert from_images.returncode == 1, from_images.stderr
    with safe_open(folder / "b.safetensors", framework="numpy") as second, np.load(folder / "a.npz") as first:
        assert first["neighbour_id"].shape == (3, 2)
        np.testing.assert_array_equal(first["neighbour_id"], second.get_tensor("neighbour_id"))
        assert json.loads(second.metadata()["input"]) == first["input"].tolist()


def test_invert_writes_one_code_a_face(folder: Path) -> None:
    out = folder / "codes.safetensors"
    run = call(folder, "invert", folder / "in", out, "--bundle", folder / "tiny", "--align", "never", "--limit", 2)
    assert run.returncode == 0, run.stderr
    with safe_open(out, framework="numpy") as stored:
        assert stored.get_tensor("w_plus").shape == (2, 8, 16)


def test_pair_refuses_features_of_other_networks(folder: Path) -> None:
    """Another bundle's features may be as many: their neighbours would mean nothing."""
    import torch

    from faceanon_engine.engine.models.write import NetworkToWrite
    from faceanon_engine.engine.networks.build import NETWORKS, build
    from tests.support.tiny_bundle import CONFIGS

    torch.manual_seed(8)
    networks = [
        (role, NETWORKS[role][0](**config), build(role, config).state_dict()) for role, config in CONFIGS.items()
    ]
    write_bundle(folder / "other", "other", [NetworkToWrite(*network) for network in networks])
    for suffix in ("npz", "safetensors"):
        features = folder / f"f.{suffix}"
        made = call(folder, "extract", folder / "in", features, "--bundle", folder / "tiny", "--align", "never")
        assert made.returncode == 0, made.stderr
        refused = call(folder, "pair", features, folder / "p.npz", "--pool-size", 8, "--bundle", folder / "other")
        assert refused.returncode == 2, refused.stdout
        assert "was made with bundle" in refused.stderr


def test_more_neighbours_than_the_pool_holds_are_refused_at_once(folder: Path) -> None:
    run = call(folder, "pair", folder / "in", folder / "p.npz", "--neighbours", 9, "--pool-size", 8)
    assert (run.returncode, run.stderr.count("\n")) == (2, 1), run.stderr


def test_faces_of_files_of_one_name_can_be_told_apart(folder: Path) -> None:
    make_inputs(folder / "there", 1)
    (folder / "in" / "list.txt").write_text("photo-00.png\n../there/../in/photo-00.png\n../photo-00.png\n")
    (folder / "photo-00.png").write_bytes((folder / "in" / "photo-01.png").read_bytes())
    run = call(
        folder, "invert", folder / "in" / "list.txt", folder / "c.npz", "--bundle", folder / "tiny", "--align", "never"
    )
    assert run.returncode == 0, run.stderr
    with np.load(folder / "c.npz") as codes:
        assert len(set(codes["input"].tolist())) == 3


def test_pair_refuses_what_extract_did_not_write(folder: Path) -> None:
    (folder / "x.npz").write_bytes(b"no")
    run = call(folder, "pair", folder / "x.npz", folder / "y.npz", "--bundle", folder / "tiny")
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert not (folder / "y.npz").exists()
