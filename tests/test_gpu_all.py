"""The one command for a GPU: no part of it costs another, and every part is there to be run."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu_all import LEAST_SECONDS, ROOT, Part, headline, parts, run


def outcome(folder: Path, program: str, seconds: float) -> dict[str, object]:
    result = folder / "result.json"
    part = Part("part", [sys.executable, "-c", program, str(result)], result, seconds)
    return run(part, dict(os.environ), 60, folder / "words.txt")


def test_a_part_that_fails_tells_why_and_keeps_what_it_wrote(tmp_path: Path) -> None:
    program = "import sys; open(sys.argv[1], 'w').write('{\"rows\": [1]}'); raise SystemExit('it broke')"
    found = outcome(tmp_path, program, 60)
    assert (found["outcome"], found["result"]) == ("exit code 1", {"rows": [1]})
    assert "it broke" in str(found["last_words"])
    assert outcome(tmp_path, "import sys; open(sys.argv[1], 'w').write('{\"rows\": [1')", 60)["unreadable"]


def test_a_part_that_takes_too_long_ends_with_what_it_started(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time; open(sys.argv[1], 'w').write('{\"rows\": [1]}');"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    found = outcome(tmp_path, program, 8)
    assert (found["outcome"], found["result"]) == ("out of time", {"rows": [1]})
    child = int(str(found["last_words"]))
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
        files = [word for word in part.command[1:] if word.endswith(".py") or word == "tests/kernels"]
        assert len(files) == 1
        assert (ROOT / files[0]).exists(), part.command
    assert headline({part.name: {"outcome": "out of time"} for part in full}) == {}
