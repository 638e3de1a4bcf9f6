"""The one command for a GPU: no part of it costs another, and every part is there to be run."""

from __future__ import annotations

import os
import re
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_all import LEAST_SECONDS, PACKAGES, ROOT, Part, headline, parts, run
from benchmarks.result import new_row, timing


def outcome(folder: Path, program: str, seconds: float) -> dict[str, object]:
    result = folder / "result.json"
    part = Part("part", [sys.executable, "-c", program, str(result)], result, seconds)
    return run(part, dict(os.environ), 60, folder / "words.txt")


def test_a_part_that_fails_tells_why_and_keeps_what_it_wrote(tmp_path: Path) -> None:
    program = "import sys; open(sys.argv[1], 'w').write('{\"rows\": [1]}'); raise SystemExit('it broke')"
    ended = outcome(tmp_path, program, 60)
    assert (ended["outcome"], ended["result"]) == ("exit code 1", {"rows": [1]})
    assert "it broke" in str(ended["last_words"])
    assert outcome(tmp_path, "import sys; open(sys.argv[1], 'w').write('{\"rows\": [1')", 60)["unreadable"]


def test_a_part_that_takes_too_long_ends_with_what_it_started(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time; open(sys.argv[1], 'w').write('{\"rows\": [1]}');"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    ended = outcome(tmp_path, program, 8)
    assert (ended["outcome"], ended["result"]) == ("out of time", {"rows": [1]})
    child = int(str(ended["last_words"]))
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    pytest.fail("what the part started runs on")


def test_every_part_can_be_run_and_the_first_matter_most(tmp_path: Path) -> None:
    full, short = parts(tmp_path, False), parts(tmp_path, False, 9.5)
    assert [part.name for part in full[:2]] == ["tests-gpu-kernels", "step-1024"]
    assert [part.name for part in short] == [part.name for part in full]
    assert all(a.seconds <= b.seconds for a, b in zip(short, full, strict=True))
    assert all(part.seconds >= LEAST_SECONDS for part in short)
    for part in [*full, *parts(tmp_path, True)]:
        assert part.command[:2] == [sys.executable, "-m"]
        module, last = part.command[2], part.command[-1]
        file = last if module == "pytest" else f"{module.replace('.', '/')}.py"
        assert file.startswith(("tests/", "benchmarks/"))
        assert (ROOT / file).exists(), part.command
    assert headline({part.name: {"outcome": "out of time"} for part in full}) == {}


def test_the_headline_has_the_few_numbers_one_asks_for_first() -> None:
    def engine(precision: str, speed: float) -> dict[str, Any]:
        case = {"loop": "engine", "precision": precision, "batch": 16}
        return new_row(case, images_per_second_at_50_steps=speed, times_plain_loop=speed / 2, finite=True)

    plain = new_row({"loop": "plain", "precision": "fp32", "batch": 1}, images_per_second_at_50_steps=20.0)
    part = new_row({"part": "generator", "loop": "engine", "precision": "bf16", "batch": 16})
    drawn = {"operation": "synthesis", "resolution": 1024, "batch": 8, "dtype": "bfloat16"}
    kernels = [
        new_row(drawn, timings={"fused both": timing([0.5])}, times_fused=3.0),
        new_row({"operation": "conv", "shape": "1x8->8x4x4", "dtype": "bfloat16"}),
    ]
    job = new_row({"preset": "fast", "format": "png"}, images_per_second_after_first_step=4.0)
    few = headline(
        {
            "step-1024": {"result": {"rows": [plain, engine("fp32", 2.0), engine("bf16", 5.0), part]}},
            "kernels": {"result": {"rows": kernels}},
            "job": {"result": {"rows": [job]}},
            "tests-kernels": {"result": {"passed": 3, "failed": [], "skipped": {"no GPU": 2}}},
            "step-64": {"outcome": "out of time"},
        }
    )
    assert few["1024 px"]["images_per_second"] == 5.0
    assert (few["1024 px"]["precision"], few["1024 px"]["times_plain_loop"]) == ("bf16", 2.5)
    assert few["synthesis 1024 px bfloat16, batch 8"] == {"seconds": 0.5, "by_torch_over_fused": 3.0}
    assert few["job fast png"] == {"images_per_second": 4.0}
    assert few["tests-kernels"] == "3 passed, 0 failed, 2 skipped"
    assert len(few) == 4


def test_what_may_have_to_be_installed_are_all_of_the_packages_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[<>=]", each)[0] for each in project["dependencies"]} - {"torch"}
    assert needed <= set(PACKAGES.values())
