"""Results of benchmarks: every committed one keeps to the schema and says which code it is of."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from benchmarks.result import (
    KEPT_SAMPLES,
    RESULTS,
    ROOT,
    UNKNOWN,
    commit,
    leave_out,
    new_result,
    new_row,
    read,
    table,
    timing,
    write,
)

COMMITTED = sorted(RESULTS.glob("*.json"))
each_result = pytest.mark.parametrize("path", COMMITTED, ids=[path.stem for path in COMMITTED])


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = read(ROOT / "benchmarks" / "result.schema.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"git does not answer: {done.stderr}")
    return done.stdout.strip()


def made() -> dict[str, Any]:
    """A result with one of everything."""
    result = new_result("optimise_step", "how long it takes", resolution=1024)
    result["rows"].append(new_row({"batch": 1}, timings={"step": timing([1.0, 2.0, 3.0])}, ratio=1.5))
    result["values"]["rate"] = 7.0
    leave_out(result, "batch 1024", MemoryError("out of memory"))
    return result


@each_result
def test_a_committed_result_keeps_to_the_schema(path: Path, validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(read(path))


@each_result
def test_a_committed_result_names_its_script_and_a_commit_that_exists(path: Path) -> None:
    result = read(path)
    module = result["what"]["script"].replace(".", "/")
    assert (ROOT / f"{module}.py").is_file()
    if result["commit"] == UNKNOWN:
        return
    if git(ROOT, "rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("this clone has not the whole history")
    name = result["commit"].removesuffix("-dirty")
    assert git(ROOT, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") == name


def test_results_are_there() -> None:
    assert len(COMMITTED) >= 12


def test_a_new_result_keeps_to_the_schema_and_names_the_code_and_the_machine(
    validator: jsonschema.Draft202012Validator, tmp_path: Path
) -> None:
    result = made()
    path = tmp_path / "folder" / "result.json"
    write(path, result)
    assert read(path) == result
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    validator.validate(result)
    assert result["commit"] == commit(ROOT)
    assert result["versions"]["torch"]
    assert result["machine"]["cpu"]["usable_cores"] >= 1
    assert result["left_out"] == [{"what": "batch 1024", "why": "MemoryError: out of memory"}]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r.update(more=1),
        lambda r: r.pop("commit"),
        lambda r: r.update(commit="abc"),
        lambda r: r["what"].update(script="elsewhere"),
        lambda r: r["rows"][0]["timings"]["step"].pop("median"),
        lambda r: r["rows"][0]["timings"]["step"].pop("p95"),
        lambda r: r["rows"][0]["timings"]["step"].pop("unit"),
        lambda r: r["rows"][0].update(case={}),
        lambda r: r["machine"].pop("cpu"),
        lambda r: r.update(rows=[], values={}, left_out=[]),
    ],
)
def test_the_schema_refuses_what_is_not_described(
    spoil: Callable[[dict[str, Any]], object], validator: jsonschema.Draft202012Validator
) -> None:
    result = made()
    spoil(result)
    assert not validator.is_valid(result)


def test_a_timing_has_median_percentiles_and_samples() -> None:
    timed = timing([4.0, 1.0, 2.0, 3.0])
    assert (timed["unit"], timed["count"], timed["median"], timed["min"], timed["max"]) == ("s", 4, 2.5, 1.0, 4.0)
    assert timed["samples"] == [4.0, 1.0, 2.0, 3.0]
    assert timed["p90"] == pytest.approx(3.7)
    many = timing([float(number) for number in range(1000)])
    assert many["count"] == 1000
    assert len(many["samples"]) <= KEPT_SAMPLES
    with pytest.raises(ValueError, match="no samples"):
        timing([])


def test_the_commit_says_when_the_code_was_changed_and_not_when_a_result_was(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    for file in (tmp_path / "code.py", results / "one.json"):
        file.write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "code")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(tmp_path) == head
    (results / "one.json").write_text("2")
    (tmp_path / "notes.txt").write_text("of no commit")
    assert commit(tmp_path) == head
    (tmp_path / "code.py").write_text("2")
    assert commit(tmp_path) == f"{head}-dirty"


def test_the_commit_is_unknown_where_git_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path) == UNKNOWN
    monkeypatch.setenv("PATH", "")
    assert commit(ROOT) == UNKNOWN


def test_the_table_has_cases_medians_and_the_values_asked_for() -> None:
    rows = [
        new_row({"loop": "plain"}, timings={"step": timing([2.0])}, ratio=1.0, secret=3),
        new_row({"loop": "engine"}, ratio=[4.00001, 5.0]),
    ]
    header, plain, engine = (line.split() for line in table(rows, ["ratio"]).splitlines())
    assert header == ["loop", "step", "[s]", "ratio"]
    assert plain == ["plain", "2", "1"]
    assert engine == ["engine", "-", "4", "5"]


def test_the_readme_has_a_line_for_every_script_and_every_result() -> None:
    lines = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").splitlines()
    scripts = [path.stem for path in (ROOT / "benchmarks").glob("*.py") if "def main()" in path.read_text("utf-8")]
    assert len(scripts) >= 13
    for script in scripts:
        assert [line for line in lines if line.startswith("| ") and f"python -m benchmarks.{script}" in line], script
    for path in COMMITTED:
        assert [line for line in lines if line.startswith(f"| [{path.stem}](results/{path.name})")], path.name


def test_documents_name_commands_that_are_there() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("demo/*/README.md")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "python benchmarks/" not in text, page
        for words in text.split("python -m benchmarks.")[1:]:
            name = words.split()[0].strip("`,.;:)")
            assert name == "NAME" or (ROOT / "benchmarks" / f"{name}.py").is_file(), (page, name)


def test_what_bench_measured_is_embedded_as_it_is() -> None:
    from benchmarks.bench_command import kept

    measured = read(RESULTS / "bench-cpu-spinning.json")["values"]["bench"]
    result = kept(json.loads(json.dumps(measured)))
    assert result["values"]["bench"] == measured
    assert (result["seconds"], result["what"]["parameters"]) == (28.2, {"command": measured["command"]})
