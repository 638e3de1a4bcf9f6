"""Every script starts, says what it is for, and writes results that keep to the schema."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from benchmarks.result import ROOT, read

SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if "def main()" in path.read_text("utf-8"))


def start(script: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    """What a script's main gives, in this process."""
    monkeypatch.setenv("OMP_WAIT_POLICY", os.environ.get("OMP_WAIT_POLICY", "PASSIVE"))
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    return importlib.import_module(f"benchmarks.{script}").main()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_what_it_is_for(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if script in ("demo_evidence", "demo_faces", "find_faces", "frame_landmarks", "give_back", "onnxruntime_cpu"):
        pytest.importorskip("numba", reason="the renderer's packages are not installed")
    with pytest.raises(SystemExit) as ended:
        start(script, monkeypatch, "--help")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"python -m benchmarks.{script}" in shown
    assert (importlib.import_module(f"benchmarks.{script}").__doc__ or "").splitlines()[0] in " ".join(shown.split())


@pytest.mark.parametrize(
    ("file", "arguments", "code", "words"),
    [
        ("optimise_step.py", ["--help"], 0, "--golden"),
        ("gpu_all.py", ["--only", "nothing", "--rehearse"], 2, "no part nothing: there are tests-gpu-kernels"),
    ],
)
def test_a_script_starts_as_a_file_where_nothing_is_installed(
    file: str, arguments: list[str], code: int, words: str, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / "benchmarks" / file), *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "cases"),
    [
        (
            "step_gpu",
            "--side 32 --tiny --device cpu --repeats 1 --batches 1 --precisions fp32 --ends 0",
            [{"loop": "plain"}, {"loop": "engine"}, {"part": "generator"}, {"part": "identity_encoder"}],
        ),
        (
            "job_gpu",
            "--images 1 --tiny --device cpu --presets falco",
            [{"preset": "falco", "format": "jpeg"}, {"preset": "falco", "format": "png"}],
        ),
    ],
)
def test_what_a_script_measures_keeps_to_the_schema(
    script: str, arguments: str, cases: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FACEANON_HOME", str(tmp_path / "home"))
    assert not start(script, monkeypatch, *arguments.split(), "--output", tmp_path / "result.json")
    result = read(tmp_path / "result.json")
    schema = json.loads((ROOT / "benchmarks" / "result.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(result)
    for case in cases:
        assert [row for row in result["rows"] if case.items() <= row["case"].items()], case
    assert not result["left_out"]


def test_the_step_is_compared_with_the_plain_loop_image_by_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from benchmarks import optimise_step

    seconds = {"plain": [4.0, 6.0], "plain-kept": [4.0, 4.0], "1-fp32": [2.0, 2.0], "4-fp32": [4.0, 6.0]}
    taken = {case: iter(times) for case, times in (seconds | {"1-bf16": [1.0, 1.0]}).items()}
    peaks = iter([3, 1, 1, 1, 1, 2, 1, 1, 1, 1])

    def run_case(golden: Path, case: str, steps: int) -> dict[str, Any]:
        return {"seconds": [next(taken[case])], "peak_bytes": next(peaks) * 10**9}

    monkeypatch.setattr(optimise_step, "run_case", run_case)
    start("optimise_step", monkeypatch, "--steps", 1, "--output", tmp_path / "result.json")
    rows = read(tmp_path / "result.json")["rows"]
    by_case = {(row["case"]["loop"], row["case"]["precision"], row["case"]["batch"]): row for row in rows}
    assert len(by_case) == 5
    assert by_case["plain", "fp32", 1]["values"] == {
        "median_seconds_per_image_step": 5.0,
        "ratio_to_plain": 1.0,
        "peak_memory_gb": 3.0,
    }
    assert by_case["engine", "fp32", 4]["values"]["ratio_to_plain"] == pytest.approx(4.0)
    assert by_case["engine", "fp32", 4]["timings"]["step"]["samples"] == [4.0, 6.0]
    assert by_case["engine", "bf16", 1]["values"]["ratio_to_plain"] == pytest.approx(5.0)
