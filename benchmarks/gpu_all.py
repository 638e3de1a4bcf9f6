"""Everything that needs a GPU, in one command: checks, then times; one JSON.

    python benchmarks/gpu_all.py --output benchmarks/results/gpu-h200.json
    python benchmarks/gpu_all.py --rehearse

It runs from the repository on a machine with Python 3.11 or later and PyTorch, without the network and without the
package being installed. Wheels of what else is missing may lie in a folder given by --wheels, filled where there is a
network: `pip download --only-binary :all: --python-version 3.12 -d wheels psutil platformdirs ...` (all of PACKAGES
below). Every part is a process of its own: one that fails or takes too long costs the others nothing, and the JSON is
written anew after each. --rehearse runs the same code on the CPU at tiny sizes, so that no mistake in it is found out
on a GPU's time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

import from_checkout  # noqa: E402

# What the engine and its tests need besides PyTorch: module and package.
PACKAGES = {
    "numpy": "numpy",
    "psutil": "psutil",
    "platformdirs": "platformdirs",
    "safetensors": "safetensors",
    "filelock": "filelock",
    "PIL": "pillow",
    "faiss": "faiss-cpu",
    "click": "click",
    "rich": "rich",
    "yaml": "pyyaml",
    "onnxruntime": "onnxruntime",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
}


@dataclass(frozen=True)
class Part:
    """A process: its command, the JSON or junit file that it writes, and the longest that it may take in seconds."""

    name: str
    command: list[str]
    result: Path | None = None
    seconds: float = 600
    environment: dict[str, str] = field(default_factory=dict)


def parts(folder: Path, rehearse: bool) -> list[Part]:
    """What is run, the most important first: checks, the step at 1024 px, kernels, smaller sides, whole runs, a job."""
    python = sys.executable
    device = "cpu" if rehearse else "cuda"
    found: list[Part] = []

    def tests(name: str, *paths: str, seconds: float) -> None:
        report = folder / f"{name}.xml"
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *paths]
        found.append(Part(name, command, report, seconds))

    def script(name: str, file: str, *arguments: object, seconds: float) -> None:
        result = folder / f"{name}.json"
        command = [python, str(HERE / file), *map(str, arguments), "--output", str(result)]
        found.append(Part(name, command, result, seconds))

    def step(side: int, seconds: float, *more: object) -> None:
        sizes: tuple[object, ...] = ("--repeats", 8, "--seconds", 0.6 * seconds)
        if rehearse:
            sizes = (
                "--tiny",
                "--repeats",
                2,
                "--batches",
                1,
                2,
                "--precisions",
                "bf16",
                "fp32",
                "--steps",
                3,
                "--ends",
                2,
            )
        real = {64: 32, 256: 64, 1024: 128}[side] if rehearse else side
        script(f"step-{side}", "step_gpu.py", "--side", real, "--device", device, *sizes, *more, seconds=seconds)

    tests("tests-gpu", "tests/gpu", seconds=420)
    step(1024, 480)
    if (HERE / "kernels_gpu.py").is_file():
        script("kernels", "kernels_gpu.py", *(["--rehearse"] if rehearse else []), seconds=420)
    job = ["--images", 2, "--tiny", "--device", "cpu"] if rehearse else ["--images", 96]
    script("job", "job_gpu.py", *job, seconds=300)
    if not rehearse:
        tests("tests-kernels", "tests/kernels", seconds=300)
    step(256, 240)
    step(64, 180)
    limit = ["--limit", 1, "--together", 1] if rehearse else ["--limit", 48, "--together", 16, "--fp16"]
    for name in ("optimise_precision", "proxy_resolution", "stopping"):
        more = limit if name == "optimise_precision" else [each for each in limit if each != "--fp16"]
        if not rehearse or name == "optimise_precision":
            script(f"demo-{name}", f"{name}.py", "--device", device, *more, seconds=180)
    return found


def run(part: Part, environment: dict[str, str], seconds: float) -> dict[str, Any]:
    """Run a part; what it wrote, and how it ended."""
    started = time.monotonic()
    try:
        done = subprocess.run(
            part.command,
            cwd=ROOT,
            env=environment | part.environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=max(1.0, min(seconds, part.seconds)),
            check=False,
        )
        code, said = done.returncode, done.stdout + done.stderr
        outcome = "ok" if code == 0 else f"exit code {code}"
    except subprocess.TimeoutExpired as error:
        texts = (
            text.decode(errors="replace") if isinstance(text, bytes) else text for text in (error.stdout, error.stderr)
        )
        outcome, said = "out of time", "".join(text or "" for text in texts)
    found: dict[str, Any] = {"outcome": outcome, "seconds": time.monotonic() - started}
    if outcome != "ok":
        found["last_words"] = said[-4000:]
    if part.result is not None and part.result.is_file():
        try:
            read = junit if part.result.suffix == ".xml" else lambda path: json.loads(path.read_text(encoding="utf-8"))
            found["result"] = read(part.result)
        except (ValueError, ElementTree.ParseError) as error:
            found["unreadable"] = str(error)
    elif outcome == "ok":
        found["outcome"] = "wrote nothing"
    return found


def junit(path: Path) -> dict[str, Any]:
    """Counts, and what failed or was skipped with the reason."""
    cases = ElementTree.parse(path).getroot().iter("testcase")
    found: dict[str, Any] = {"passed": 0, "failed": [], "skipped": {}}
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        trouble = [child for child in case if child.tag in ("failure", "error")]
        skipped = [child for child in case if child.tag == "skipped"]
        if trouble:
            found["failed"].append(
                {"test": name, "message": (trouble[0].text or trouble[0].get("message") or "")[-1500:]}
            )
        elif skipped:
            reason = skipped[0].get("message") or ""
            found["skipped"][reason] = found["skipped"].get(reason, 0) + 1
        else:
            found["passed"] += 1
    return found


def machine() -> dict[str, Any]:
    """What this runs on; without PyTorch, or where it cannot be loaded, only the reason."""
    found: dict[str, Any] = {"python": sys.version.split()[0]}
    tool = shutil.which("nvidia-smi")
    if tool:
        query = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"
        done = subprocess.run([tool, f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True)
        found["nvidia_smi"] = done.stdout.strip().splitlines()
    missing = [name for module, name in PACKAGES.items() if lacks(module)]
    found["missing_packages"] = missing
    return found


def install_missing(wheels: Path) -> None:
    """Install what is missing from a folder of wheels, one package at a time: one that does not fit costs no other."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    for module, name in PACKAGES.items():
        if lacks(module):
            subprocess.run([*command, "--find-links", str(wheels), name], check=False)


def lacks(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is None


def headline(results: dict[str, Any]) -> dict[str, Any]:
    """The few numbers one asks for first."""
    found: dict[str, Any] = {}
    for side in (64, 256, 1024):
        step = results.get(f"step-{side}", {}).get("result", {})
        rows = step.get("rows", [])
        if not rows:
            continue

        def speed(row: dict[str, Any]) -> float:
            return float(row.get("graph", row["without_graph"])["images_per_second_at_50_steps"])

        best = max(rows, key=speed)
        found[f"{side} px"] = {
            "images_per_second": speed(best),
            "precision": best["precision"],
            "batch": best["batch"],
            "times_plain_loop": best.get("times_plain_loop"),
            "share_of_roofline_measured": best.get("share_of_roofline_measured"),
            "share_of_roofline_data_sheet": best.get("share_of_roofline_data_sheet"),
        }
    for name in ("tests-gpu", "tests-kernels"):
        counts = results.get(name, {}).get("result")
        if counts:
            skipped = sum(counts["skipped"].values())
            found[name] = f"{counts['passed']} passed, {len(counts['failed'])} failed, {skipped} skipped"
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--minutes", type=float, default=26, help="for everything; parts that would begin later are left out"
    )
    parser.add_argument("--only", nargs="*", help="names of parts")
    parser.add_argument("--wheels", type=Path, help="folder of wheels of missing packages")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU at tiny sizes")
    arguments = parser.parse_args()
    output = arguments.output or ROOT / ("gpu-rehearsal.json" if arguments.rehearse else "benchmarks/results/gpu.json")

    started = time.monotonic()
    if arguments.wheels:
        install_missing(arguments.wheels)
    results: dict[str, Any] = {}
    report = {
        "question": "does everything work on this GPU, and how fast is it",
        "rehearsal": arguments.rehearse,
        "machine": machine(),
        "headline": {},
        "parts": results,
    }
    with tempfile.TemporaryDirectory(prefix="faceanon-gpu-") as scratch:
        folder = Path(scratch)
        environment = from_checkout.environment(from_checkout.link(folder / "package"))
        environment["FACEANON_HOME"] = str(folder / "home")
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        todo = [part for part in parts(folder, arguments.rehearse) if not arguments.only or part.name in arguments.only]
        for part in todo:
            left = 60 * arguments.minutes - (time.monotonic() - started)
            results[part.name] = (
                run(part, environment, left) if left > 5 else {"outcome": "out of time before it began"}
            )
            found = results[part.name]
            print(f"{part.name:>24}: {found['outcome']} after {found.get('seconds', 0):.0f} s", flush=True)
            report["headline"] = headline(results)
            report["seconds"] = time.monotonic() - started
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report["headline"], indent=1))
    print(f"written to {output}")
    failed = [name for name, found in results.items() if found["outcome"] != "ok"]
    if failed:
        print(f"not all went well: {', '.join(failed)}; see last_words there", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
