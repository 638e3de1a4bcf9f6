"""One layout for every JSON below results/: made, filled, written whole or not at all, printed as a small table.

`result.schema.json` is its JSON Schema. A script makes a new result, appends rows and sets values, and writes it as
often as it likes: what was measured before something failed is kept.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faceanon_engine.engine.bench.measure import summarise, thinned
from faceanon_engine.engine.system.files import write_result
from faceanon_engine.engine.system.machine import describe_machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SCHEMA = "faceanon-engine/benchmark"
SCHEMA_VERSION = 1
UNKNOWN = "unknown"
KEPT_SAMPLES = 200
"""Samples that a timing keeps, evenly spaced in time; statistics are over all of them."""

# What a description of the machine says of programs, and not of the machine.
_SOFTWARE = ("python", "faceanon_engine", "cuda", "cudnn")


def new_result(script: str, question: str, /, **parameters: Any) -> dict[str, Any]:
    """A result without figures: what is asked, how it was measured, by which code, on which machine; ready for JSON.

    `script` is the name of the module below benchmarks/; `parameters` are all that another run needs to be the same.
    """
    machine = describe_machine()
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "question": question,
        "what": {"script": f"benchmarks.{script}", "parameters": parameters},
        "commit": commit(),
        "versions": {name: machine.pop(name) for name in _SOFTWARE} | machine.pop("versions"),
        "machine": machine,
        "rows": [],
        "values": {},
        "left_out": [],
    }


def commit(root: Path = ROOT) -> str:
    """The commit whose code runs, "-dirty" behind it when a tracked file differs; "unknown" where git does not say.

    Results do not count: the one before this was written into the same tree.
    """
    name = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
    if not name or changed is None:
        return UNKNOWN
    return f"{name}-dirty" if changed else name


def _git(root: Path, *arguments: str) -> str | None:
    """What git answers, or None when it is missing or refuses."""
    try:
        answer = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def timing(seconds: Sequence[float]) -> dict[str, Any]:
    """Statistics of at least one duration in seconds, with samples; percentiles are interpolated linearly.

    `spread` is (p90 - p10) / median. Raises ValueError for no durations.
    """
    statistics = asdict(summarise(seconds))
    median = statistics.pop("p50")
    return {"unit": "s", "median": median, **statistics, "samples": thinned(seconds, KEPT_SAMPLES)}


def new_row(case: Mapping[str, Any], /, *, timings: Mapping[str, Any] | None = None, **values: Any) -> dict[str, Any]:
    """One of several cases of a result: what tells it from the others, its timings by name, its other values."""
    return {"case": dict(case), "timings": dict(timings or {}), "values": values}


def leave_out(result: dict[str, Any], what: str, why: object) -> None:
    """Note what was not measured, and why in at most 600 characters."""
    reason = f"{type(why).__name__}: {why}" if isinstance(why, BaseException) else str(why)
    result["left_out"].append({"what": what, "why": reason[:600]})


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write the result, atomically, with the folders to it; raises UserError when it cannot be written."""
    write_result(path, (json.dumps(result, indent=1) + "\n").encode())


def read(path: Path) -> dict[str, Any]:
    """A result that was written; raises OSError, and ValueError when it is no JSON."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def table(rows: Iterable[Mapping[str, Any]], values: Sequence[str] = ()) -> str:
    """Rows in columns: what each is of, the medians of its timings in their units, and the values named."""
    lines = [
        {
            **{name: str(cell) for name, cell in each["case"].items()},
            **{f"{name} [{t['unit']}]": f"{t['median']:.4g}" for name, t in each["timings"].items()},
            **{name: _cell(each["values"][name]) for name in values if name in each["values"]},
        }
        for each in rows
    ]
    names = list(dict.fromkeys(name for line in lines for name in line))
    columns = [[name, *(line.get(name, "-") for line in lines)] for name in names]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        for cells in zip(*columns, strict=True)
    )


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(_cell, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
