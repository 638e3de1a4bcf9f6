"""`bench` from the command to the files: the result keeps to its schema, and a regression fails the command."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from faceanon_engine.cli.main import cli
from faceanon_engine.engine.bench.plan import MODES
from faceanon_engine.engine.errors import UserError
from tests.support.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).resolve().parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("bench-*.json"))
QUICK = ["--seconds", "0", "--iterations", "1", "--warmup", "0", "--rounds", "1"]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads((ROOT / "docs" / "bench.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACEANON_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    return write_tiny_bundle(folder / "tiny").path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def measured(folder: Path, bundle: Path) -> Path:
    """A result with sessions, steps and memory."""
    path = folder / "results" / "all.json"
    asked = ("--bundle", bundle, "--backend", "torch", "--networks", "identity", "--batch", "1,2", *QUICK)
    done = run("all", *asked, "--output", path)
    assert done.exit_code == 0, done.output
    return path


def content(path: Path) -> dict[str, Any]:
    result = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(result, dict)
    return result


def test_a_result_keeps_to_its_schema(measured: Path, validator: jsonschema.Draft202012Validator) -> None:
    result = content(measured)
    validator.validate(result)
    assert [(entry["graph"], entry["batch"]) for entry in result["sessions"]] == [
        ("identity", 1),
        ("identity", 2),
    ]
    assert [entry["batch"] for entry in result["steps"]] == [1, 2]
    assert all(entry["memory"] for entry in [*result["sessions"], *result["steps"]])
    assert result["bundle"]["name"] == "tiny"
    assert result["machine"]["cpu"]["usable_cores"] >= 1
    assert not [name for name in os.listdir(measured.parent) if name.startswith(".")]


def test_the_schema_refuses_what_is_not_described(measured: Path, validator: jsonschema.Draft202012Validator) -> None:
    for spoil in (
        lambda r: r.update(more=1),
        lambda r: r["sessions"][0].pop("total_ms"),
        lambda r: r["sessions"][0]["total_ms"].update(p75=1),
        lambda r: r.update(schema_version=2),
        lambda r: r["steps"][0].update(batch=0),
    ):
        result = content(measured)
        spoil(result)
        assert not validator.is_valid(result)


def test_the_schema_knows_all_modes(validator: jsonschema.Draft202012Validator) -> None:
    assert validator.schema["properties"]["mode"]["enum"] == list(MODES)


@pytest.mark.parametrize("path", RESULTS, ids=[path.name for path in RESULTS])
def test_committed_results_keep_to_the_schema(path: Path, validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(content(path)["values"]["bench"])


def test_the_curve_is_a_picture(measured: Path) -> None:
    with Image.open(measured.with_suffix(".png")) as picture:
        assert picture.width > picture.height > 300
        # Something is drawn: two lines of one point each would be left out.
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20


def test_an_earlier_result_is_shown_again_without_measuring(measured: Path) -> None:
    shown = run("--from", measured)
    assert shown.exit_code == 0, shown.output
    for word in ("identity", "torch", "images/s", "p99", "forward", "preset falco"):
        assert word in shown.output


def test_json_goes_to_stdout_alone(measured: Path, validator: jsonschema.Draft202012Validator) -> None:
    shown = run("--from", measured, "--json")
    validator.validate(json.loads(shown.stdout))


def test_latency_is_of_single_images_and_knows_no_steps(bundle: Path) -> None:
    done = run(
        "latency", "--bundle", bundle, "--backend", "torch", "--networks", "mapping", "--no-memory", "--json", *QUICK
    )
    result = json.loads(done.stdout)
    assert [entry["batch"] for entry in result["sessions"]] == [1]
    assert result["steps"] == []
    assert result["sessions"][0]["memory"] is None


def test_a_backend_that_cannot_run_is_left_out_with_a_reason(bundle: Path) -> None:
    done = run("latency", "--bundle", bundle, "--device", "cpu", "--backend", "torch,tensorrt", "--networks", "mapping",
               "--no-memory", *QUICK)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "left out: tensorrt fp32 of mapping: " in done.output


def test_a_processor_is_not_asked_for_what_only_gpus_run(bundle: Path) -> None:
    done = run(
        "latency", "--bundle", bundle, "--device", "cpu", "--networks", "mapping", "--no-memory", "--json", *QUICK
    )
    result = json.loads(done.stdout)
    assert "torch" in {entry["backend"] for entry in result["sessions"]}
    assert not [entry for entry in result["left_out"] if "tensorrt" in entry["backend"]]


def test_when_nothing_can_be_measured_the_reason_is_an_error(bundle: Path) -> None:
    done = run(
        "latency", "--bundle", bundle, "--device", "cpu", "--backend", "tensorrt", "--networks", "mapping", *QUICK
    )
    assert isinstance(done.exception, UserError)
    assert "nothing could be measured" in str(done.exception)


def slower(path: Path, share: float, to: Path) -> Path:
    """The result with all medians of sessions longer by that share."""
    result = content(path)
    for entry in result["sessions"]:
        entry["total_ms"]["p50"] *= 1 + share
        entry["round_medians_ms"] = [entry["total_ms"]["p50"]]
    to.write_text(json.dumps(result), encoding="utf-8")
    return to


@pytest.mark.parametrize(
    ("grown", "limit", "code"), [(0.5, 20, 1), (0.5, 60, 0), (-0.5, 20, 0), (0.0, 0, 0), (0.5, None, 0)]
)
def test_a_regression_fails_the_command_where_it_is_asked_to(
    measured: Path, tmp_path: Path, grown: float, limit: float | None, code: int
) -> None:
    new = slower(measured, grown, tmp_path / "new.json")
    limits = [] if limit is None else ["--fail-above", str(limit)]
    done = CliRunner().invoke(
        cli, ["bench", "--from", str(new), "--compare", str(measured), *limits], standalone_mode=False
    )
    assert done.exception is None
    assert done.return_value == code
    assert f"{grown:+.1%}" in done.output
    assert ("above 20%" in done.output) == (code == 1)


def other_machine(path: Path, to: Path) -> Path:
    result = content(path)
    result["machine"]["cpu"]["model"] = "Another 9000"
    to.write_text(json.dumps(result), encoding="utf-8")
    return to


def test_another_machines_result_is_not_compared_silently(measured: Path, tmp_path: Path) -> None:
    other = other_machine(measured, tmp_path / "other.json")
    done = run("--from", measured, "--compare", other)
    assert isinstance(done.exception, UserError)
    assert "Another 9000" in str(done.exception)
    assert "--compare-anyway" in str(done.exception)
    done = run("--from", measured, "--compare", other, "--compare-anyway")
    assert done.exit_code == 0
    assert "Another 9000" in done.output


def test_a_comparison_that_will_be_refused_is_refused_before_measuring(
    measured: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: Any, **__: Any) -> None:
        raise AssertionError("it was measured")

    monkeypatch.setattr("faceanon_engine.engine.bench.run.run_plan", measure)
    other = other_machine(measured, tmp_path / "other.json")
    done = run("--bundle", bundle, "--device", "cpu", "--compare", other)
    assert isinstance(done.exception, UserError)
    assert "Another 9000" in str(done.exception)
    assert isinstance(run("--bundle", bundle, "--device", "cpu", "--compare", measured).exception, AssertionError)


def test_results_without_a_common_case_cannot_be_compared(measured: Path, tmp_path: Path) -> None:
    result = content(measured)
    result["sessions"], result["steps"] = result["sessions"][:1], []
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(result))
    new.write_text(json.dumps(result | {"sessions": content(measured)["sessions"][1:]}))
    assert "no case in common" in str(run("--from", new, "--compare", old).exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fail-above", "5"], "needs --compare"),
        (["--fail-above", "nan"], "is no number"),
        (["--warmup", "nan"], "is no number"),
        (["--seconds", "inf"], "is not in the range"),
        (["--networks", "nose"], "nose is unknown"),
        (["--backend", "torch,abacus"], "abacus is unknown"),
        (["--batch", "8,1000000"], "whole numbers of 1 to 65536"),
        (["--batch", "1,0"], "whole numbers of 1 to 65536"),
        (["--batch", "many"], "whole numbers of 1 to 65536"),
        (["fastest"], "'fastest' is not one of"),
    ],
)
def test_a_wrong_option_is_told(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert words in done.output


def test_a_wrong_file_costs_no_measuring(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for arguments, words in (
        (["--output", tmp_path / "result.txt"], "does not end in .json"),
        (["--output", tmp_path / "file" / "result.json"], "cannot be written"),
        (["--compare", tmp_path / "none.json"], "cannot be read"),
        (["--threads", 100_000], "ask for fewer"),
    ):
        done = run("--bundle", bundle, *arguments)
        assert isinstance(done.exception, UserError)
        assert words in str(done.exception)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r["sessions"][0]["total_ms"].update(p50=0),
        lambda r: r["sessions"][0]["total_ms"].update(p50=float("nan")),
        lambda r: r["sessions"][0].pop("memory"),
        lambda r: r["sessions"][0].update(notes=[{"kind": "unheard of", "value": 1}]),
        lambda r: r["machine"].pop("versions"),
        lambda r: r.pop("device"),
        lambda r: r.pop("after"),
        lambda r: r.update(sessions=None),
        lambda r: r.update(schema_version="1"),
    ],
)
@pytest.mark.parametrize("option", ["--from", "--compare"])
def test_a_part_of_a_result_is_told_from_a_result(measured: Path, tmp_path: Path, spoil: Any, option: str) -> None:
    result = content(measured)
    spoil(result)
    (tmp_path / "spoilt.json").write_text(json.dumps(result), encoding="utf-8")
    more = [] if option == "--from" else ["--from", measured]
    done = run(*more, option, tmp_path / "spoilt.json")
    assert isinstance(done.exception, UserError)
    assert "spoilt.json" in str(done.exception)


def test_what_was_measured_is_shown_though_it_cannot_be_written(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("faceanon_engine.engine.system.write_atomic", full)
    done = run("--from", measured, "--output", tmp_path / "copy.json")
    assert isinstance(done.exception, UserError)
    assert "copy.json cannot be written (No space left on device)" in str(done.exception)
    assert "networks: milliseconds for a batch" in done.output
