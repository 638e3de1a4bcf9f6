"""What networks know is recorded, read as somebody else's file is, and tells known faces from others."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.models.domain import LIMIT, QUANTILES, Limits, Verdict, are_limits, known, limits_of
from faceanon_engine.engine.models.write import write_domain
from tests.support.tiny_bundle import write_tiny_bundle

LIMITS = Limits("drawn people", 75.0, 50.0)


def section() -> dict[str, Any]:
    def rising(first: float) -> list[float]:
        return [first + number for number in range(len(QUANTILES))]

    entry = {"steps": 50, "margin": 0.0, "faces": 300, "optimised": 100}
    scores = {"neighbour_distance": rising(5.0), "attribute_before": rising(40.0), "attribute_after": rising(20.0)}
    return {
        "trained_on": "drawn people",
        "pool": {"size": 1024, "truncation_psi": 0.7, "seed": 0},
        "quantiles": list(QUANTILES),
        "measured": [{"preset": "falco", **entry, **scores}],
    }


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (74.9, None, "inside"),
        (75.1, None, "outside"),
        (90.0, 49.0, "inside"),  # what came of it says more than how it began
        (60.0, 51.0, "outside"),
        (None, 51.0, "outside"),
        (None, None, "unknown"),
        (math.nan, None, "unknown"),
        (60.0, math.inf, "unknown"),
    ],
)
def test_a_face_is_judged_by_its_last_loss_or_else_its_first(
    before: float | None, after: float | None, verdict: Verdict
) -> None:
    assert LIMITS.verdict(before, after) == verdict


def test_without_a_limit_for_the_last_loss_the_first_one_decides() -> None:
    assert Limits("drawn people", 75.0).verdict(80.0, 1.0) == "outside"
    assert Limits("drawn people", 75.0).verdict(70.0, 1000.0) == "inside"


@pytest.mark.parametrize(
    ("inside", "outside", "verdict"),
    [
        (0, 1, "outside"),
        (1, 0, "inside"),
        (1, 1, "inside"),  # one odd face of two
        (0, 2, "outside"),
        (6, 2, "outside"),
        (7, 2, "inside"),
        (3, 1, "inside"),
        (75, 25, "outside"),
        (76, 24, "inside"),
    ],
)
def test_single_odd_faces_make_no_unknown_job(inside: int, outside: int, verdict: Verdict) -> None:
    verdicts: list[Verdict] = [*["inside"] * inside, *["outside"] * outside, "unknown", "unknown"]  # type: ignore[list-item]
    judged = known(verdicts, LIMITS)
    assert (judged.verdict, judged.faces, judged.outside) == (verdict, inside + outside, outside)
    assert str(judged) == f"{outside} of {inside + outside} faces are unlike what the networks know (drawn people)"


def test_what_nobody_measured_is_unknown() -> None:
    assert known(["outside"] * 9, None).verdict == "unknown"
    assert known(["unknown"] * 9, LIMITS).verdict == "unknown"
    assert limits_of(None, "falco", 50) is None


def test_limits_are_those_of_the_preset_and_its_steps() -> None:
    domain = section()
    first, last = 40.0 + LIMIT, 20.0 + LIMIT
    assert limits_of(domain, "falco", 50) == Limits("drawn people", first, last)
    assert limits_of(domain, "falco", 10) == Limits("drawn people", first)
    assert limits_of(domain, "falco", None) == Limits("drawn people", first)
    assert limits_of(domain, "fast", 50) is None
    assert limits_of(domain, "fast", 50, alike={"falco", "fast"}) == Limits("drawn people", first)
    del domain["measured"][0]["attribute_after"]
    assert limits_of(domain, "falco", 50) == Limits("drawn people", first)


def test_a_bundle_keeps_what_it_knows_and_stays_the_same_bundle(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    before = json.loads((bundle.path / "bundle.json").read_text())
    assert bundle.domain is None
    write_domain(bundle, section())
    opened = Bundle.open(bundle.path)
    assert opened.domain == bundle.domain == section()
    assert (opened.digest, opened.verify()) == (bundle.digest, [])
    after = json.loads((bundle.path / "bundle.json").read_text())
    assert after.pop("domain") == section()
    assert after == before
    assert sorted(path.name for path in bundle.path.iterdir() if path.name.startswith(".")) == []


def change(path: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def apply(domain: dict[str, Any]) -> Any:
        target: Any = domain
        *way, name = path.split(".")
        for step in way:
            target = target[int(step) if step.isdigit() else step]
        target[int(name) if name.isdigit() else name] = value
        return domain

    return apply


@pytest.mark.parametrize(
    "apply",
    [
        lambda _: [],
        lambda _: 7,
        lambda domain: {name: value for name, value in domain.items() if name != "pool"},
        change("more", 1),
        change("trained_on", ""),
        change("trained_on", "x" * 301),
        change("trained_on", 7),
        change("pool", []),
        change("pool.size", "1024"),
        change("pool.size", True),
        change("quantiles", [0.0, 1.0]),
        change("measured", []),
        change("measured", {}),
        change("measured", [{}] * 65),
        change("measured.0", "falco"),
        change("measured.0.preset", 3),
        change("measured.0.steps", -1),
        change("measured.0.faces", 2.5),
        change("measured.0.margin", None),
        change("measured.0.attribute_before", [1.0] * (len(QUANTILES) - 1)),
        change("measured.0.attribute_before.8", 1.0),
        change("measured.0.attribute_after.3", "34"),
        change("measured.0.attribute_after.8", 1e31),
        change("measured.0.other", 3),
    ],
)
def test_a_section_that_is_none_is_refused_in_one_line(tmp_path: Path, apply: Callable[[dict[str, Any]], Any]) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    bad = apply(section())
    with pytest.raises(UserError, match="domain") as raised:
        write_domain(bundle, bad)
    assert "\n" not in str(raised.value)
    assert Bundle.open(bundle.path).domain is None, "it stays as it was"
    file = bundle.path / "bundle.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "domain": bad}))
    with pytest.raises(UserError, match="domain") as raised:
        Bundle.open(bundle.path)
    assert str(bundle.path) in str(raised.value)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="rights hold nobody back here")
def test_a_bundle_that_may_not_be_written_stays(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    bundle.path.chmod(0o500)
    try:
        with pytest.raises(UserError, match=r"bundle\.json cannot be written"):
            write_domain(bundle, section())
    finally:
        bundle.path.chmod(0o700)


@pytest.mark.parametrize(
    "value",
    [7, [], {}, {"trained_on": "x", "before": 1.0}, {"trained_on": "x", "before": "1", "after": None}]
    + [{"trained_on": text, "before": 1.0, "after": None} for text in ("", 3, "x" * 301)]
    + [{"trained_on": "x", "before": 1.0, "after": after} for after in (math.nan, math.inf, "2", [])],
)
def test_limits_in_a_manifest_are_checked(value: Any) -> None:
    assert not are_limits(value)


def test_limits_that_a_job_records_are_read() -> None:
    assert are_limits(None)
    assert are_limits({"trained_on": "x", "before": 1.0, "after": None})
    assert are_limits({"trained_on": "x", "before": 1, "after": 2.0})
