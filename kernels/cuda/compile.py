"""CUDA sources to fat binaries by nvcc, kept by what went into them, with what the assembler says of every kernel.

`python -m faceanon_engine.kernels.cuda.compile --folder FOLDER` builds all of them for all architectures and prints the
report; `--json FILE` writes it, too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parent.parent
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
"""Compute capabilities, times ten, that a fat binary holds machine code for; later ones take the PTX of the last."""

_FLAGS = ("-std=c++17", "-O3", "-Xptxas", "-v")


class CompileError(RuntimeError):
    """No compiler, or it refused a source."""


@dataclass(frozen=True)
class KernelUse:
    """What one kernel takes on one architecture: registers a thread, the rest in bytes."""

    kernel: str
    architecture: int
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    static_shared: int


@dataclass(frozen=True)
class FatBinary:
    """A compiled source: where it lies, what it holds machine code for, the compiler's processor time, its kernels."""

    source: str
    path: Path
    architectures: tuple[int, ...]
    compiler: str
    seconds: float
    uses: tuple[KernelUse, ...]

    @property
    def spills(self) -> tuple[KernelUse, ...]:
        """Kernels whose values did not fit into registers."""
        return tuple(use for use in self.uses if use.spill_stores or use.spill_loads)


def source_names() -> tuple[str, ...]:
    """The sources there are, by name, without the suffix."""
    return tuple(sorted(path.stem for path in SOURCES.glob("*.cu")))


def find_nvcc() -> Path | None:
    """The CUDA compiler: on the path, in CUDA_HOME, or where its installer puts it."""
    candidates = [shutil.which("nvcc"), f"{os.environ.get('CUDA_HOME', '')}/bin/nvcc", "/usr/local/cuda/bin/nvcc"]
    return next((Path(path) for path in candidates if path and os.access(path, os.X_OK)), None)


def compiler_version(nvcc: Path) -> str:
    """The compiler's own words, on one line; raises CompileError when it has none."""
    done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"{nvcc} does not run: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return " ".join(done.stdout.splitlines()[-2:])


def source_hash(name: str) -> str:
    """What the source and the headers beside it amount to; a change of either is another binary."""
    digest = hashlib.sha256()
    for path in (SOURCES / f"{name}.cu", *sorted((SOURCES / "cuda").glob("*.cuh"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def targets(architectures: Sequence[int]) -> list[str]:
    """nvcc's options for machine code of each, and the PTX of the last for those to come."""
    options = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in architectures]
    last = max(architectures)
    return [*options, f"-gencode=arch=compute_{last},code=compute_{last}"]


def parse_report(text: str) -> tuple[KernelUse, ...]:
    """The assembler's remarks (`-Xptxas -v`) as values."""
    uses = []
    entry = re.compile(
        r"Compiling entry function '(?P<kernel>\w+)' for 'sm_(?P<architecture>\d+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<spill_stores>\d+) bytes spill stores, (?P<spill_loads>\d+) bytes spill"
        r".*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    for match in entry.finditer(text):
        remarks = match.groupdict()
        shared = re.search(r"(\d+) bytes smem", remarks.pop("rest"))
        kernel = remarks.pop("kernel")
        numbers = {key: int(value) for key, value in remarks.items()}
        uses.append(KernelUse(kernel=kernel, static_shared=int(shared[1]) if shared else 0, **numbers))
    return tuple(uses)


def read_binary(record: Path) -> FatBinary:
    """What was kept of an earlier compilation."""
    data = json.loads(record.read_text(encoding="utf-8"))
    data["uses"] = tuple(KernelUse(**use) for use in data["uses"])
    data["architectures"] = tuple(data["architectures"])
    return FatBinary(path=record.with_suffix(".fatbin"), **data)


def runs_on(architecture: int, binary: FatBinary) -> int:
    """How well a binary suits a GPU: 3 its own machine code, 2 that of its generation, 1 PTX, 0 not at all."""
    if architecture in binary.architectures:
        return 3
    if any(made // 10 == architecture // 10 and made < architecture for made in binary.architectures):
        return 2
    return int(max(binary.architectures) < architecture)


def _kept(records: Iterable[Path]) -> Iterator[FatBinary]:
    """The binaries of these records that are there and that this version can read."""
    for record in records:
        try:
            binary = read_binary(record)
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if binary.path.is_file():
            yield binary


def find_compiled(name: str, architecture: int, folder: Path, least: int = 3) -> FatBinary | None:
    """The kept binary of the source as it is now that suits that GPU best, whichever compiler made it.

    One that suits it less than `least`, see `runs_on`, is not taken.
    """
    kept = _kept(sorted(folder.glob(f"{name}-{source_hash(name)}-*.json")))
    fit = [binary for binary in kept if runs_on(architecture, binary) >= least]
    return max(fit, key=lambda binary: runs_on(architecture, binary), default=None)


def compile_source(
    name: str,
    architectures: Sequence[int] = ARCHITECTURES,
    *,
    folder: Path,
    nvcc: Path | None = None,
    jobs: int = 1,
) -> FatBinary:
    """The source's fat binary for these architectures, from `folder` when it was made before.

    `jobs` architectures are compiled at a time. Raises CompileError without nvcc or with its message.
    """
    nvcc = nvcc or find_nvcc()
    if nvcc is None:
        raise CompileError("nvcc was not found: install the CUDA toolkit, or put its bin folder on the path")
    architectures = tuple(sorted(set(architectures)))
    version = compiler_version(nvcc)
    made_by = hashlib.sha256(repr((version, _FLAGS, targets(architectures))).encode()).hexdigest()[:16]
    record = folder / f"{name}-{source_hash(name)}-{made_by}.json"
    kept = next(_kept([record]), None)
    if kept is not None:
        return kept

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        output = Path(scratch) / "out.fatbin"
        command = [str(nvcc), "-fatbin", *_FLAGS, f"-I{SOURCES}", *targets(architectures), f"--threads={jobs}"]
        before = sum(os.times()[2:4])
        done = subprocess.run(
            [*command, "-o", str(output), str(SOURCES / f"{name}.cu")], capture_output=True, text=True, check=False
        )
        seconds = sum(os.times()[2:4]) - before
        if done.returncode:
            raise CompileError(f"nvcc refused {name}.cu:\n{done.stderr.strip() or done.stdout.strip()}")
        binary = FatBinary(
            source=name,
            path=record.with_suffix(".fatbin"),
            architectures=architectures,
            compiler=version,
            seconds=seconds,
            uses=parse_report(done.stdout + done.stderr),
        )
        about = {key: value for key, value in asdict(binary).items() if key != "path"}
        written = Path(scratch) / "out.json"
        written.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        # The record is what a later call looks for, so it comes last.
        os.replace(output, binary.path)
        os.replace(written, record)
    return binary


def compile_all(architectures: Sequence[int], *, folder: Path, jobs: int = 1) -> list[FatBinary]:
    """Every source's fat binary for these architectures, as `compile_source` makes them."""
    return [compile_source(name, architectures, folder=folder, jobs=jobs) for name in source_names()]


def report(binaries: Sequence[FatBinary]) -> str:
    """A table: every kernel's registers on every architecture, its stack and spills."""
    architectures = sorted({number for binary in binaries for number in binary.architectures})
    lines = [f"{'registers of a thread':44}" + "".join(f"{f'sm_{number}':>8}" for number in architectures)]
    for binary in binaries:
        for kernel in sorted({use.kernel for use in binary.uses}):
            each = {use.architecture: use for use in binary.uses if use.kernel == kernel}
            marks = [
                f"{each[number].registers}{'!' if each[number].spill_stores else ''}" if number in each else "-"
                for number in architectures
            ]
            lines.append(f"{kernel:44}" + "".join(f"{mark:>8}" for mark in marks))
    spilled = sum(len(binary.spills) for binary in binaries)
    shared = max((use.static_shared for binary in binaries for use in binary.uses), default=0)
    lines.append(f"{spilled} kernels spill; static shared memory at most {shared} bytes")
    return "\n".join(lines)


def summary(binaries: Sequence[FatBinary]) -> dict[str, Any]:
    """The same as values for JSON: in all, by architecture, and every kernel's registers; sources by their hash."""
    every = [use for binary in binaries for use in binary.uses]

    def taken(uses: Sequence[KernelUse]) -> dict[str, int]:
        return {
            "kernels": len(uses),
            "registers_of_a_thread_at_most": max((use.registers for use in uses), default=0),
            "kernels_that_spill": sum(bool(use.spill_stores or use.spill_loads) for use in uses),
            "spilled_bytes": sum(use.spill_stores + use.spill_loads for use in uses),
            "stack_bytes_at_most": max((use.stack for use in uses), default=0),
            "static_shared_bytes_at_most": max((use.static_shared for use in uses), default=0),
        }

    architectures = sorted({use.architecture for use in every})
    sources: dict[str, Any] = {}
    for binary in binaries:
        registers: dict[str, dict[str, int]] = {}
        for use in sorted(binary.uses, key=lambda use: (use.kernel, use.architecture)):
            registers.setdefault(use.kernel, {})[f"sm_{use.architecture}"] = use.registers
        about = {"hash": source_hash(binary.source), "compiler_processor_seconds": round(binary.seconds, 1)}
        sources[binary.source] = {**about, "bytes": binary.path.stat().st_size, "registers": registers}
    return {
        "question": "what the fused kernels take of a GPU, as the assembler says",
        "compiler": ", ".join(sorted({binary.compiler for binary in binaries})),
        "total": taken(every) | {"compiler_processor_seconds": round(sum(binary.seconds for binary in binaries), 1)},
        "architectures": {
            f"sm_{number}": taken([use for use in every if use.architecture == number]) for number in architectures
        },
        "sources": sources,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--folder", type=Path, required=True, help="where to keep the binaries")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="also write the report here")
    options = parser.parse_args(arguments)
    try:
        binaries = compile_all(options.architectures, folder=options.folder, jobs=options.jobs)
    except CompileError as error:
        print(error, file=sys.stderr)
        return 1
    print(report(binaries))
    for binary in binaries:
        print(f"{binary.path} ({binary.path.stat().st_size / 1024:.0f} KiB, {binary.seconds:.1f} s)")
    if options.json:
        options.json.write_text(json.dumps(summary(binaries), indent=1) + "\n", encoding="utf-8")
    return 1 if any(binary.spills for binary in binaries) else 0


if __name__ == "__main__":
    sys.exit(main())
