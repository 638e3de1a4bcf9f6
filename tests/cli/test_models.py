"""Bundles from the command line, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.golden.stand_ins import write_checkpoint
from tests.support.small_checkpoints import write_encoders
from tests.support.tiny_bundle import write_tiny_bundle


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "faceanon_engine.cli.main", *arguments]
    environment = {**os.environ, "FACEANON_HOME": str(home)}
    return subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment, check=False)


def test_official_files_become_a_bundle_that_is_listed_and_verified(tmp_path: Path) -> None:
    files = write_encoders(tmp_path)
    write_checkpoint("stylegan2-genforce-64", tmp_path / "gan.pth")
    done = run(
        tmp_path, "models", "import", *files, str(tmp_path / "gan.pth"), "--name", "mine", "--licence-note", "ours"
    )
    assert done.returncode == 0, done.stderr
    listed = json.loads(run(tmp_path, "models", "list", "--json").stdout)["bundles"][0]
    assert (listed["name"], listed["resolution"]) == ("mine", 64)
    source = listed["networks"]["generator"]
    assert (source["format"], source["file"], source["licence"]) == ("genforce", "gan.pth", "ours")
    assert len(source["sha256"]) == 64
    assert run(tmp_path, "models", "verify", "mine").returncode == 0

    file = tmp_path / "bundles" / "mine" / "generator.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    damaged = run(tmp_path, "models", "verify", "mine")
    assert damaged.returncode == 1
    assert "generator.safetensors" in damaged.stdout

    again = run(tmp_path, "models", "import", *files, "--name", "mine")
    assert again.returncode == 2
    assert "exists" in again.stderr


def test_what_is_missing_or_doubled_is_named(tmp_path: Path) -> None:
    files = write_encoders(tmp_path)
    missing = run(tmp_path, "models", "import", *files, "--name", "mine")
    assert missing.returncode == 2
    assert "lacks generator" in missing.stderr
    doubled = run(tmp_path, "models", "import", *files, files[1], "--name", "mine")
    assert doubled.returncode == 2
    assert "both hold the identity_encoder" in doubled.stderr
    assert not (tmp_path / "bundles" / "mine").exists()


def test_fetch_says_what_to_place_where(tmp_path: Path) -> None:
    done = run(tmp_path, "models", "fetch", "model_ir_se50.pth", "--dir", str(tmp_path / "weights"))
    assert done.returncode == 2
    assert str(tmp_path / "weights" / "model_ir_se50.pth") in done.stdout
    assert run(tmp_path, "models", "fetch", "nothing.pth").returncode == 2


def test_doctor_names_what_works_and_why_not(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundles" / "tiny")
    machine = json.loads(run(tmp_path, "doctor", "--json").stdout)
    assert machine["backends"]["torch cpu"]["works"]
    assert machine["backends"]["onnxruntime cpu"]["works"]
    assert all(entry["works"] or entry["reason"] for entry in machine["backends"].values())
    assert {"name": "tiny", "works": True, "pixels": 32} in machine["bundles"]
    assert machine["disk"]["free"] > 0


def test_a_bad_bundle_is_named_in_one_line_beside_the_others(tmp_path: Path) -> None:
    good = write_tiny_bundle(tmp_path / "bundles" / "good").path
    bad = {
        "cut": '{"format": 1',
        "deep": "[" * 50_000,
        "list": "[]",
        "odd": (good / "bundle.json").read_text().replace('"source": {}', '"source": 3'),
        "sizes": (good / "bundle.json").read_text().replace('"bytes": ', '"bytes": -'),
        "types": (good / "bundle.json").read_text().replace('"config": {', '"config": [{').replace("},", "}],", 1),
    }
    for name, text in bad.items():
        (tmp_path / "bundles" / name).mkdir()
        (tmp_path / "bundles" / name / "bundle.json").write_text(text)
    listed = run(tmp_path, "models", "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    damaged = [line for line in listed.stdout.splitlines() if line.startswith("damaged: ")]
    assert [line.split(":")[1].strip() for line in damaged] == sorted(bad)
    assert all(str(tmp_path / "bundles" / name) in line for name, line in zip(sorted(bad), damaged, strict=True))
    assert {"good", "demo"} <= {line.split()[0] for line in listed.stdout.splitlines() if line.strip()}
    rows = json.loads(run(tmp_path, "models", "list", "--json").stdout)["bundles"]
    assert {row["name"]: "problem" in row for row in rows} == {**dict.fromkeys(bad, True), "good": False, "demo": False}
    for name in bad:
        opened = run(tmp_path, "models", "verify", name)
        assert opened.returncode == 2
        assert opened.stderr.count("\n") == 1
        assert "mistake in the program" not in opened.stderr


def test_a_bundle_is_calibrated_and_jobs_are_told(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundles" / "tiny")
    for folder, count, high in (("known", 100, 40), ("other", 3, 40)):
        (tmp_path / folder).mkdir()
        random = np.random.default_rng(5)
        for number in range(count):
            pixels = random.integers(0, high, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number:03d}.png")
    few = ["--align", "never", "--optimise", "0", "--device", "cpu"]
    words = ["--trained-on", "dark noise"]
    short = run(tmp_path, "models", "calibrate", "tiny", str(tmp_path / "other"), *words, *few)
    assert (short.returncode, short.stdout) == (2, "")
    assert "at least 100" in short.stderr
    done = run(tmp_path, "models", "calibrate", "tiny", str(tmp_path / "known"), *words, *few, "--preset", "falco")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("falco: 99 of 100 of 100 known faces have at most neighbour distance ")
    (row,) = (
        row for row in json.loads(run(tmp_path, "models", "list", "--json").stdout)["bundles"] if row["name"] == "tiny"
    )
    assert row["trained_on"] == "dark noise"
    chosen = ["--bundle", "tiny", "--align", "never", "--steps", "0", "--pool-size", "1024", "--contact-sheet", "1"]
    chosen += ["--limit", "3"]
    record = tmp_path / "bundles" / "tiny" / "bundle.json"
    for folder, outside in (("known", False), ("other", True)):
        if outside:  # networks of random numbers know nothing from anything: as if they had known easier faces
            content = json.loads(record.read_text())
            content["domain"]["measured"][0]["attribute_before"] = [0.0] * 9
            record.write_text(json.dumps(content))
        job = run(tmp_path, "anonymize", str(tmp_path / folder), str(tmp_path / "out" / folder), *chosen)
        assert job.returncode == 0, job.stderr
        assert "trained on: dark noise" in job.stderr
        assert ("looked at before beginning: 3 of 3 faces" in job.stderr) == outside, job.stderr
        assert ("warning: 3 of 3 faces are unlike" in job.stdout) == outside, job.stdout
    refused = run(tmp_path, "anonymize", str(tmp_path / "other"), str(tmp_path / "out" / "strict"), *chosen, "--strict")
    assert (refused.returncode, refused.stderr.count("strict refuses")) == (2, 1)
    assert not [*(tmp_path / "out" / "strict" / "release").glob("*")]
