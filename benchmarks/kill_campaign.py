"""Whether a job that is killed at any moment, again and again, ends as one that nothing stopped.

    python -m benchmarks.kill_campaign --kills 100

Real jobs on the demo's pictures, by turns in one process and in two, are ended at random moments by SIGKILL, SIGINT and
SIGTERM in turn, and the same command goes on with them. After every end no process may be left, what is recorded has to
be there whole, byte for byte what a job that nothing stopped gives, and what was done before may not be made again. A
signal that can be heard has to end it in one line with 130 and leave neither lock nor temporary file; a job that is
done leaves none whatever was done to it. One thread a process: with others rounding would fall differently. Exits with
1 when anything of this does not hold. Writes one JSON.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil

from benchmarks.result import RESULTS, ROOT, new_result, new_row, table, timing, write
from faceanon_engine.engine.job.manifest import ItemRow, Manifest

SIGNALS = ("SIGKILL", "SIGINT", "SIGTERM")
MODES = {1: ("--device", "cpu"), 2: ("--devices", "cpu,cpu")}
"""Options by the number of processes."""
_LISTENS_AFTER = 2.0
"""Seconds that Python itself may take to start; until then it ends in its own way."""
_PATIENCE = 60.0


def results_folder(output: Path) -> Path:
    """Where a job's results lie."""
    release = output / "release"
    return release if release.is_dir() else output


def private_folder(output: Path) -> Path:
    """Where a job's manifest lies."""
    private = output / "private"
    return private if private.is_dir() else output


def done_rows(output: Path) -> list[ItemRow]:
    """What is recorded as done; nothing before there is a manifest."""
    path = private_folder(output) / "manifest.sqlite"
    if not path.is_file():
        return []
    with Manifest.read(path) as manifest:
        return manifest.items("done")


def results(output: Path) -> dict[str, bytes]:
    """All pictures of a job by their names."""
    folder = results_folder(output)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def leftovers(output: Path) -> list[str]:
    """Locks, temporary files and a journal: what no job that has ended may leave."""
    patterns = (".faceanon*", "*.lock", "*-journal")
    return sorted(str(path.relative_to(output)) for pattern in patterns for path in output.rglob(pattern))


class Campaign:
    """Jobs that are killed until they are done."""

    def __init__(self, folder: Path, images: int, steps: int, seed: int) -> None:
        self._folder = folder
        self._steps = steps
        self._random = random.Random(seed)
        self._inputs = folder / "in"
        self._inputs.mkdir()
        for path in sorted((ROOT / "demo" / "samples").glob("*.png"))[:images]:
            shutil.copy(path, self._inputs)
        self._environment = os.environ | {
            "FACEANON_HOME": str(folder / "home"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }
        self.expected: dict[str, bytes] = {}
        self.seconds: dict[int, float] = {}
        """What a job takes that nothing stops, by the number of processes."""
        self._running: subprocess.Popen[str] | None = None
        self.problems: list[str] = []
        self.kills: list[dict[str, Any]] = []
        self.jobs = 0

    def undisturbed(self) -> None:
        """Do the job once in one process and once in two; the results are to be the same."""
        for again, processes in ((False, 1), (True, 1), (True, 2)):  # the first one makes the pool
            output = self._folder / f"whole-{again}-{processes}"
            started = time.monotonic()
            code, said = self._wait(self._start(output, processes))
            self.seconds[processes] = time.monotonic() - started
            self._hold(code == 0, f"a job that nothing stops ends with {code}: {said}")
            self._hold(not leftovers(output), f"it leaves {leftovers(output)}")
            found = results(output)
            self._hold(not self.expected or found == self.expected, f"{processes} processes give other bytes than one")
            self.expected = self.expected or found

    def run(self, kills: int) -> None:
        """Kill jobs so many times, and let the last one end."""
        modes = cycle(MODES)
        while len(self.kills) < kills:
            self.jobs += 1
            self._job(next(modes), kills)

    def _job(self, processes: int, kills: int) -> None:
        output = self._folder / f"job-{self.jobs}"
        stamps: dict[str, int] = {}
        while True:
            process = self._start(output, processes)
            if len(self.kills) >= kills or not self._kill(process, output, processes):
                code, said = self._wait(process)
                self._hold(code == 0, f"job {self.jobs} ends with {code}: {said}")
                break
            stamps = self._look(output, stamps)
        self._look(output, stamps)
        self._hold(results(output) == self.expected, f"job {self.jobs}: other bytes than a job that nothing stopped")
        self._hold(not leftovers(output), f"job {self.jobs} leaves {leftovers(output)}")
        shutil.rmtree(output)

    def _start(self, output: Path, processes: int) -> subprocess.Popen[str]:
        options = {"--steps": self._steps, "--pool-size": 64, "--batch-size": 2, "--align": "never", "--bundle": "demo"}
        command = [sys.executable, "-m", "faceanon_engine.cli.main", "anonymize", str(self._inputs), str(output)]
        command += [str(part) for pair in options.items() for part in pair] + [
            "--contact-sheet",
            "0",
            *MODES[processes],
        ]
        self._running = subprocess.Popen(
            command,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        return self._running

    def stop(self) -> None:
        """End what still runs."""
        if self._running is not None and self._running.poll() is None:
            self._running.kill()
            self._running.wait()

    def _wait(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Exit code and last line of a process, when it ends by itself."""
        _, said = process.communicate()
        return process.returncode, (said.splitlines() or [""])[-1]

    def _kill(self, process: subprocess.Popen[str], output: Path, processes: int) -> bool:
        """End the process at a random moment; False where it ended before by itself."""
        name = SIGNALS[len(self.kills) % len(SIGNALS)]
        least = 0.0 if name == "SIGKILL" else _LISTENS_AFTER
        moment = self._random.uniform(least, max(least, self.seconds[processes]))
        try:
            process.wait(moment)
            return False
        except subprocess.TimeoutExpired:
            pass
        begun = len(done_rows(output))
        family = self._family(process)
        process.send_signal(getattr(signal, name))
        sent = time.monotonic()
        _, said = process.communicate(timeout=_PATIENCE)
        seconds = time.monotonic() - sent
        _, alive = psutil.wait_procs(family, timeout=_PATIENCE)
        where = f"job {self.jobs}, {name} after {moment:.1f} s, {processes} processes"
        orphans = [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
        self._hold(not orphans, f"{where}: {len(orphans)} processes stay")
        if name != "SIGKILL":
            ended = process.returncode in (0, 130)  # 0 where it was done just then
            self._hold(ended and "Traceback" not in said, f"{where}: ends with {process.returncode}: {said}")
            self._hold(not leftovers(output), f"{where}: leaves {leftovers(output)}")
        self.kills.append({"signal": name, "processes": processes, "done": begun, "seconds": seconds})
        print(f"{len(self.kills)}: {where}, {begun} done, ended in {seconds:.2f} s", flush=True)
        return True

    def _family(self, process: subprocess.Popen[str]) -> list[psutil.Process]:
        try:
            return psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _look(self, output: Path, before: dict[str, int]) -> dict[str, int]:
        """Compare what is recorded and what is there; modification times of the results by their names."""
        folder = results_folder(output)
        found = results(output) if folder.is_dir() else {}
        for name, data in found.items():
            self._hold(data == self.expected.get(name), f"job {self.jobs}: {name} is not what it should be")
        stamps = {}
        for row in done_rows(output):
            self._hold(row.output in found, f"job {self.jobs}: {row.output} is recorded and not there")
            stamps[str(row.output)] = (folder / str(row.output)).stat().st_mtime_ns
        for name, stamp in before.items():
            self._hold(stamps.get(name) == stamp, f"job {self.jobs}: {name} was done, and was lost or made again")
        return stamps

    def _hold(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)
            print(f"PROBLEM: {problem}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, default=RESULTS / "kill_campaign.json")
    arguments = parser.parse_args()
    started = time.monotonic()
    parameters = {name: getattr(arguments, name) for name in ("kills", "images", "steps", "seed")}
    result = new_result("kill_campaign", "whether a job that is killed ends as one that nothing stopped", **parameters)
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), arguments.images, arguments.steps, arguments.seed)
        try:
            campaign.undisturbed()
            if not campaign.problems:
                campaign.run(arguments.kills)
        finally:
            campaign.stop()
    for processes in MODES:
        for name in SIGNALS:
            kills = [each for each in campaign.kills if (each["signal"], each["processes"]) == (name, processes)]
            if kills:
                case = {"signal": name, "processes": processes}
                ends = {"until it ended": timing([each["seconds"] for each in kills])}
                under_way = sum(0 < each["done"] < arguments.images for each in kills)
                result["rows"].append(new_row(case, timings=ends, kills=len(kills), between_results=under_way))
    result["values"] = {
        "kills": len(campaign.kills),
        "jobs": campaign.jobs,
        "seconds_undisturbed": campaign.seconds,
        "problems": campaign.problems,
    }
    result["seconds"] = time.monotonic() - started
    write(arguments.output, result)
    print(table(result["rows"], ["kills", "between_results"]))
    print(f"{len(campaign.kills)} kills of {campaign.jobs} jobs, {len(campaign.problems)} problems: {arguments.output}")
    return 1 if campaign.problems else 0


if __name__ == "__main__":
    sys.exit(main())
