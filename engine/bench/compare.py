"""Two results of `bench` side by side: what became slower, and whether they may be compared at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceanon_engine.engine.bench.measure import drift
from faceanon_engine.engine.bench.plan import SCHEMA, SCHEMA_VERSION
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.machine import fingerprint
from faceanon_engine.engine.system.printable import first_line, shown
from faceanon_engine.engine.system.reading import open_file

_MOST_BYTES = 2**26
"""Of a file that is read; a whole measurement takes half a megabyte."""
_LISTS = ("sessions", "steps", "left_out", "notes")


@dataclass(frozen=True)
class Change:
    """One case in both results: medians in milliseconds."""

    what: str
    old_ms: float
    new_ms: float
    noise: float
    """How far rounds of the same measurement were apart, the worse of both results, as a share."""

    @property
    def slower_by(self) -> float:
        """Share by which the median grew; negative when it shrank."""
        return self.new_ms / self.old_ms - 1

    @property
    def within_noise(self) -> bool:
        return abs(self.slower_by) <= self.noise


@dataclass(frozen=True)
class Comparison:
    """Cases of both results, largest loss first, and the names of those that only one of them has."""

    changes: tuple[Change, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    versions: tuple[str, ...]
    """What else changed between the two, a line each, such as a library's version."""

    def regressions(self, above: float) -> tuple[Change, ...]:
        """Cases whose median grew by more than that share."""
        return tuple(change for change in self.changes if change.slower_by > above)


def read_result(path: Path) -> dict[str, Any]:
    """A result that was written before; raises UserError when the file is none, or of another version of the schema."""
    try:
        with open_file(path) as file:
            text = file.read(_MOST_BYTES)
        content = json.loads(text.decode("utf-8"), parse_constant=_no_number)
        if content["schema"] != SCHEMA:
            raise KeyError("schema")
        version = content["schema_version"]
        if version == SCHEMA_VERSION:
            fingerprint(content["machine"])
            for name in _LISTS:
                list(content[name])
            _medians(content)
            content["bundle"]["digest"], content["mode"], content["settings"]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a file that 'bench --output' wrote") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is no result of bench ({first_line(error)}): give a file that 'bench --output' wrote"
        ) from None
    if version != SCHEMA_VERSION:
        found = shown(version)
        raise UserError(f"{path} has schema version {found}, this version reads {SCHEMA_VERSION!r}: measure again")
    return dict(content)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no duration")


def obstacles(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Why the two should not be compared, a line each: another machine, other networks, another preset."""
    before, after = fingerprint(old["machine"]), fingerprint(new["machine"])
    differences = [f"{name}: {before[name]} then, {after[name]} now" for name in before if before[name] != after[name]]
    if old["device"] != new["device"]:
        differences.append(f"device: {old['device']} then, {new['device']} now")
    if old["bundle"]["digest"] != new["bundle"]["digest"]:
        differences.append(f"bundle: {old['bundle']['name']} then, {new['bundle']['name']} now, with other networks")
    return differences


def accepted_obstacles(old: dict[str, Any], new: dict[str, Any], *, anyway: bool = False) -> list[str]:
    """The obstacles, where they are to be passed over; raises UserError with them where they are not."""
    differences = obstacles(old, new)
    if differences and not anyway:
        raise UserError(
            f"the results are not of the same machine and networks ({'; '.join(differences)}): "
            "measure again here, or add --compare-anyway"
        )
    return differences


def compare_results(old: dict[str, Any], new: dict[str, Any]) -> Comparison:
    """Medians of the cases that both results have; see `obstacles` for whether that means anything."""
    before, after = _medians(old), _medians(new)
    changes = [
        Change(what, before[what][0], after[what][0], max(before[what][1], after[what][1]))
        for what in before
        if what in after
    ]
    ours, theirs = old["machine"], new["machine"]
    pairs = [("python", ours["python"], theirs["python"]), ("driver", ours["driver"], theirs["driver"])]
    pairs.append(("faceanon-engine", ours["faceanon_engine"], theirs["faceanon_engine"]))
    for name in sorted({*ours["versions"], *theirs["versions"]}):
        pairs.append((name, ours["versions"].get(name), theirs["versions"].get(name)))
    return Comparison(
        changes=tuple(sorted(changes, key=lambda change: -change.slower_by)),
        only_old=tuple(what for what in before if what not in after),
        only_new=tuple(what for what in after if what not in before),
        versions=tuple(f"{name} {then or 'absent'} -> {now or 'absent'}" for name, then, now in pairs if then != now),
    )


def case_name(entry: dict[str, Any]) -> str:
    """How a case of a result is called."""
    if "graph" in entry:
        queued = " queued" if entry["queued"] else ""
        return f"{entry['graph']} {entry['backend']} {entry['precision']} batch {entry['batch']}{queued}"
    return f"optimise {entry['preset']} {entry['precision']} batch {entry['batch']}"


def _medians(result: dict[str, Any]) -> dict[str, tuple[float, float]]:
    medians = {}
    for kind, part in (("sessions", "total_ms"), ("steps", "step_ms")):
        for entry in result[kind]:
            medians[case_name(entry)] = (float(entry[part]["p50"]), drift(entry["round_medians_ms"]))
    return medians
