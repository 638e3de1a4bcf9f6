"""What the fused kernels take of a GPU, as the assembler says: registers, stack and spills on every architecture.

    python -m benchmarks.kernels_compile

Needs nvcc and no GPU; binaries are kept, and compiled again only when their source changed.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.result import RESULTS, new_result, write
from faceanon_engine.engine.system.home import home
from faceanon_engine.kernels.cuda.compile import (
    ARCHITECTURES,
    CompileError,
    compile_all,
    report,
    summary,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, nargs="+", default=list(ARCHITECTURES))
    parser.add_argument(
        "--folder", type=Path, default=home().kernels, help="where to keep the binaries; default: this user's cache"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=RESULTS / "kernels-compile.json")
    arguments = parser.parse_args()
    try:
        binaries = compile_all(arguments.architectures, folder=arguments.folder, jobs=arguments.jobs)
    except CompileError as error:
        print(error, file=sys.stderr)
        return 1
    values = summary(binaries)
    result = new_result("kernels_compile", values.pop("question"), architectures=arguments.architectures)
    result["versions"]["nvcc"] = values["compiler"]
    result["values"] = values
    write(arguments.output, result)
    print(report(binaries))
    print(f"written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
