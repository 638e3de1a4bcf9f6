"""What `faceanon-engine bench` measures, kept as a result: its own JSON as it is, and its curves beside it.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.bench_command --output benchmarks/results/bench-cpu.json -- all
    python -m benchmarks.bench_command --show benchmarks/results/bench-cpu.json
    python -m benchmarks.bench_command --show benchmarks/results/bench-cpu.json -- --compare mine.json

What follows `--` is handed on to `bench`; docs/bench.md says what its figures mean.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.result import new_result, read, write
from faceanon_engine.engine.bench.plan import SCHEMA

QUESTION = "how fast is every network on every backend, as `faceanon-engine bench` measures it"


def bench(*arguments: object) -> int:
    """Run the command; its exit code."""
    command = [sys.executable, "-m", "faceanon_engine.cli.main", "bench", *map(str, arguments)]
    return subprocess.run(command, check=False).returncode


def kept(measured: dict[str, Any]) -> dict[str, Any]:
    """The result of what `bench` wrote, which is embedded as it is."""
    result = new_result("bench_command", QUESTION, command=measured["command"])
    return result | {"seconds": measured["seconds"], "values": {"bench": measured}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--output", type=Path, help="measure, and keep the result here")
    task.add_argument("--show", type=Path, help="measure nothing, and show this result")
    parser.add_argument("arguments", nargs="*", help="of bench, behind --")
    options = parser.parse_args()
    if options.show:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / options.show.name
            write(file, read(options.show)["values"]["bench"])
            return bench("--from", file, *options.arguments)
    code = bench(*options.arguments, "--output", options.output)
    # A result of before is still there when nothing could be measured.
    if options.output.is_file() and (measured := read(options.output)).get("schema") == SCHEMA:
        write(options.output, kept(measured))
    return code


if __name__ == "__main__":
    sys.exit(main())
