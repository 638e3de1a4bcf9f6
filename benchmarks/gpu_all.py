"""Everything that needs a GPU, in one command: checks, then times; one JSON.

    python -m benchmarks.gpu_all --output benchmarks/results/gpu-h200.json
    python -m benchmarks.gpu_all --minutes 9.5 --wheels .whl
    python -m benchmarks.gpu_all --rehearse

It runs from the repository on a machine with Python 3.11 or later and PyTorch, without the network and without the
package being installed. What else is missing may lie in a folder given by --wheels, filled where there is a network:
`pip download --only-binary :all: --python-version 3.12 -d wheels faiss-cpu platformdirs ...` (of PACKAGES below);
PyCUDA has no wheels and can lie there as source. Every part is a process of its own: one that fails or takes too long
costs the others nothing, and the JSON is written anew after each. The parts that matter most come first, and each may
take less the fewer --minutes there are. --rehearse runs the same code on the CPU at tiny sizes, so that no mistake in
it is found out on a GPU's time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

if not __package__:  # started as a file, which leaves the repository's root off the path
    sys.path.insert(0, str(ROOT))

# What the engine and its tests need besides PyTorch: module and package.
PACKAGES = {
    "numpy": "numpy",
    "psutil": "psutil",
    "lazy_loader": "lazy-loader",
    "platformdirs": "platformdirs",
    "safetensors": "safetensors",
    "filelock": "filelock",
    "scipy": "scipy",
    "PIL": "pillow",
    "faiss": "faiss-cpu",
    "click": "click",
    "rich": "rich",
    "yaml": "pyyaml",
    "onnxruntime": "onnxruntime",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
    "pycuda": "pycuda",
}
RESULT = Path("benchmarks", "results", "gpu.json")
FULL_MINUTES = 26
"""With fewer than these, parts may take less."""
LEAST_SECONDS = 90
"""A part's time is not cut below this: loading PyTorch and compiling the kernels takes a good part of it."""


@dataclass(frozen=True)
class Part:
    """A process: its command, the JSON or junit file that it writes, and the longest that it may take in seconds."""

    name: str
    command: list[str]
    result: Path | None = None
    seconds: float = 600


def parts(folder: Path, rehearse: bool, minutes: float = FULL_MINUTES) -> list[Part]:
    """What is run, the most important first: the kernels' checks, the step at 1024 px and its checks, times, a job."""
    python = sys.executable
    device = "cpu" if rehearse else "cuda"
    made: list[Part] = []

    def limit(seconds: float) -> float:
        return max(LEAST_SECONDS, seconds * min(1.0, minutes / FULL_MINUTES))

    def tests(name: str, *paths: str, seconds: float) -> None:
        report = folder / f"{name}.xml"
        command = [python, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}", *paths]
        made.append(Part(name, command, report, limit(seconds)))

    def script(name: str, module: str, *arguments: object, seconds: float) -> None:
        result = folder / f"{name}.json"
        command = [python, "-m", f"benchmarks.{module}", *map(str, arguments), "--output", str(result)]
        made.append(Part(name, command, result, limit(seconds)))

    def step(side: int, seconds: float) -> None:
        sizes: tuple[object, ...] = ("--repeats", 8, "--seconds", 0.7 * limit(seconds))
        if rehearse:
            sizes = ("--tiny", "--repeats", 2, "--batches", 2, 1, "--precisions", "bf16", "fp32", "--steps", 3)
            sizes = (*sizes, "--ends", 2)
        real = {64: 32, 256: 64, 1024: 128}[side] if rehearse else side
        script(f"step-{side}", "step_gpu", "--side", real, "--device", device, *sizes, seconds=seconds)

    tests("tests-gpu-kernels", "tests/gpu/test_kernels.py", seconds=180)
    step(1024, 480)
    tests("tests-gpu-step", "tests/gpu/test_cuda_step.py", seconds=240)
    cuts = ("--rehearse",) if rehearse else ("--seconds", 0.7 * limit(420), "--compile-seconds", 0.25 * limit(420))
    script("kernels", "kernels_gpu", *cuts, seconds=420)
    job = ("--images", 2, "--tiny", "--device", "cpu") if rehearse else ("--images", 96, "--seconds", 0.5 * limit(300))
    script("job", "job_gpu", *job, seconds=300)
    tests("tests-gpu-job", "tests/gpu/test_job.py", seconds=240)
    step(256, 180)
    step(64, 120)
    few = ("--limit", 1, "--together", 1) if rehearse else ("--limit", 24, "--together", 24)
    for question in ("precision",) if rehearse else ("precision", "stopping", "proxy"):
        script(f"demo-{question}", "demo_runs", question, "--device", device, *few, seconds=120)
    if not rehearse:
        tests("tests-gpu-sessions", "tests/gpu/test_sessions.py", seconds=240)
        fused = ("tests/engine/networks/test_stylegan2_fused.py", "tests/engine/method/test_fused_compare.py")
        tests("tests-kernels", "tests/kernels", *fused, seconds=180)
    return made


def run(part: Part, environment: dict[str, str], seconds: float, words: Path) -> dict[str, Any]:
    """Run a part; what it wrote, and how it ended. What it says goes to the file `words`."""
    started = time.monotonic()
    # Not a pipe, which a process that it started and left would keep open; a group of its own, which ends as a whole.
    with words.open("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            part.command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(timeout=max(1.0, min(seconds, part.seconds)))
            outcome = "ok" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            outcome = "out of time"
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    ended: dict[str, Any] = {"outcome": outcome, "seconds": time.monotonic() - started}
    if outcome != "ok":
        ended["last_words"] = words.read_text(encoding="utf-8", errors="replace")[-4000:]
    if part.result is not None and part.result.is_file():
        try:
            read = junit if part.result.suffix == ".xml" else lambda path: json.loads(path.read_text(encoding="utf-8"))
            ended["result"] = read(part.result)
        except (ValueError, ElementTree.ParseError) as error:
            ended["unreadable"] = str(error)
    elif outcome == "ok":
        ended["outcome"] = "wrote nothing"
    return ended


def junit(path: Path) -> dict[str, Any]:
    """Counts, and what failed or was skipped with the reason."""
    cases = ElementTree.parse(path).getroot().iter("testcase")
    counts: dict[str, Any] = {"passed": 0, "failed": [], "skipped": {}}
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        trouble = [child for child in case if child.tag in ("failure", "error")]
        skipped = [child for child in case if child.tag == "skipped"]
        if trouble:
            counts["failed"].append(
                {"test": name, "message": (trouble[0].text or trouble[0].get("message") or "")[-1500:]}
            )
        elif skipped:
            reason = skipped[0].get("message") or ""
            counts["skipped"][reason] = counts["skipped"].get(reason, 0) + 1
        else:
            counts["passed"] += 1
    return counts


def install_missing(wheels: Path) -> None:
    """Install what is missing from a folder of wheels, one package at a time: one that does not fit costs no other."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    for module, name in PACKAGES.items():
        if lacks(module):
            try:
                # What a source is built with has to be there: nothing is fetched.
                more = ["--no-build-isolation", "--find-links", str(wheels), name]
                subprocess.run([*command, *more], timeout=240, check=False)
            except subprocess.TimeoutExpired:
                print(f"{name}: installing it took too long", file=sys.stderr)
    importlib.invalidate_caches()


def lacks(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is None


def headline(results: dict[str, Any]) -> dict[str, Any]:
    """The few numbers one asks for first, of what each part came to; parts that wrote no result are left out."""
    few: dict[str, Any] = {}

    def rows(part: str) -> list[dict[str, Any]]:
        return results.get(part, {}).get("result", {}).get("rows", [])

    for side in (64, 256, 1024):
        steps = [row for row in rows(f"step-{side}") if "times_plain_loop" in row["values"]]
        if not steps:
            continue
        best = max(steps, key=lambda row: row["values"]["images_per_second_at_50_steps"])
        few[f"{side} px"] = {
            "images_per_second": best["values"]["images_per_second_at_50_steps"],
            "precision": best["case"]["precision"],
            "batch": best["case"]["batch"],
            "times_plain_loop": best["values"]["times_plain_loop"],
            "share_of_roofline_measured": best["values"].get("share_of_roofline_measured"),
            "share_of_roofline_data_sheet": best["values"].get("share_of_roofline_data_sheet"),
        }
    for name, part in results.items():
        counts = part.get("result")
        if name.startswith("tests-") and counts:
            skipped = sum(counts["skipped"].values())
            few[name] = f"{counts['passed']} passed, {len(counts['failed'])} failed, {skipped} skipped"
    for row in rows("kernels"):
        case = row["case"]
        if case["operation"] == "synthesis":
            key = f"synthesis {case['resolution']} px {case['dtype']}, batch {case['batch']}"
            seconds = row["timings"]["fused both"]["median"]
            few[key] = {"seconds": seconds, "by_torch_over_fused": row["values"]["times_fused"]}
    for row in rows("job"):
        key = f"job {row['case']['preset']} {row['case']['format']}"
        few[key] = {"images_per_second": row["values"]["images_per_second_after_first_step"]}
    return few


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--minutes", type=float, default=FULL_MINUTES, help="for everything; parts that would begin later are left out"
    )
    parser.add_argument("--only", nargs="*", help="names of parts")
    parser.add_argument("--wheels", type=Path, help="folder of wheels of missing packages")
    parser.add_argument("--commit", help="of the code, where this copy of it has no git to ask")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU at tiny sizes")
    arguments = parser.parse_args()
    default = Path(tempfile.gettempdir(), "gpu-rehearsal.json") if arguments.rehearse else ROOT / RESULT
    output = arguments.output or default

    started = time.monotonic()
    if arguments.wheels:
        install_missing(arguments.wheels)
    # Not above: what they import may just have been installed.
    from benchmarks.result import UNKNOWN, new_result, write
    from faceanon_engine.engine.system.machine import describe_moment

    results: dict[str, Any] = {}
    report = new_result(
        "gpu_all",
        "does everything work on this GPU, and how fast is it",
        rehearsal=arguments.rehearse,
        minutes=arguments.minutes,
        only=arguments.only,
    )
    if report["commit"] == UNKNOWN and arguments.commit:
        report["commit"] = arguments.commit
    values = report["values"]
    values["before"] = describe_moment()
    values["missing_packages"] = [name for module, name in PACKAGES.items() if lacks(module)]
    values |= {"headline": {}, "parts": results}
    with tempfile.TemporaryDirectory(prefix="faceanon-gpu-") as scratch:
        folder = Path(scratch)
        environment = dict(os.environ)
        # Workers that a job starts import the package from here, too.
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
        environment["FACEANON_HOME"] = str(folder / "home")
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        every = parts(folder, arguments.rehearse, arguments.minutes)
        unknown = set(arguments.only or ()) - {part.name for part in every}
        if unknown:
            parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(part.name for part in every)}")
        for part in every:
            if arguments.only and part.name not in arguments.only:
                continue
            left = 60 * arguments.minutes - (time.monotonic() - started)
            try:
                ended = (
                    run(part, environment, left, folder / f"{part.name}.txt") if left > 5 else {"outcome": "no time"}
                )
            except OSError as error:
                ended = {"outcome": f"could not be run: {error}"}
            results[part.name] = ended
            print(f"{part.name:>24}: {ended['outcome']} after {ended.get('seconds', 0):.0f} s", flush=True)
            values["headline"] = headline(results)
            report["seconds"] = time.monotonic() - started
            write(output, report)
    print(json.dumps(values["headline"], indent=1))
    print(f"written to {output}")
    failed = [name for name, ended in results.items() if ended["outcome"] != "ok"]
    if failed:
        print(f"not all went well: {', '.join(failed)}; see last_words there", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
