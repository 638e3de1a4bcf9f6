"""`build` from the command line, on networks small enough to export in a test."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from faceanon_engine.cli.main import cli
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.method import capacity
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.sessions import opening
from faceanon_engine.engine.sessions.cache import EngineCache
from faceanon_engine.engine.sessions.graphs import GRAPHS
from faceanon_engine.engine.sessions.session import Profile
from faceanon_engine.engine.system.cuda_driver import Gpu, gpus
from faceanon_engine.export import build as building
from faceanon_engine.export.build import Request, graphs_of, plan
from tests.support.small_graph import write_linear
from tests.support.tiny_bundle import write_tiny_bundle

without_gpu = pytest.mark.skipif(bool(gpus()), reason="there is a GPU here, which changes what can be built")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def call(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FACEANON_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "faceanon_engine.cli.main", "build", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)


@without_gpu
def test_graphs_and_engines_are_built_reported_and_kept(tmp_path: Path, bundle: Bundle) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    options = ("--bundle", bundle.path, "--networks", "mapping", "--precision", "fp32,fp16", "--target", "sm_89,sm_120")
    first = call(tmp_path, *options)
    assert first.returncode == 0, first.stderr
    report = json.loads((tmp_path / "build-report.json").read_text())
    assert report["bundle"]["digest"] == bundle.digest
    assert report["machine"]["versions"]["torch"]
    assert report["machine"]["cpu"]["usable_cores"] >= 1
    rows = report["built"]
    places = [("onnxruntime", None), ("tensorrt-rtx", "sm_89"), ("tensorrt-rtx", "sm_120")]
    expected = [("mapping", precision, *place) for precision in ("fp32", "fp16") for place in places]
    assert [(row["graph"], row["precision"], row["backend"], row["architecture"]) for row in rows] == expected
    for row in rows:
        assert Path(row["path"]).stat().st_size == row["bytes"] > 0
        assert (row["reused"], row["error"]) == (False, None)
        assert 0 < row["mean_error"] <= row["maximum_error"] < {"fp32": 1e-4, "fp16": 0.2}[row["precision"]]
        ran = row["backend"] == "onnxruntime"
        assert (row["throughput"] is not None) is ran
        assert (row["not_run"] is None) is ran
    for word in ("mapping", "fp16", "sm_120", "images/s", "there is no GPU here", "6 built, 0 failed"):
        assert word in first.stdout
    again = call(tmp_path, *options, "--json")
    assert again.returncode == 0, again.stderr
    assert all(row["reused"] for row in json.loads(again.stdout)["built"])
    shown = call(tmp_path, "--inspect", rows[1]["path"])
    assert shown.returncode == 0, shown.stderr
    assert "architecture: sm_89" in shown.stdout
    assert "matrix_multiply" in shown.stdout


def test_what_cannot_be_built_is_a_row_with_a_reason_and_the_others_are_built(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from faceanon_engine.export import onnx_export

    exported: list[str] = []

    def export_graph(of: Bundle, graph: str, precision: Any, folder: Path, **_: Any) -> Any:
        exported.append(graph)
        if graph == "identity":
            raise UserError("identity in fp32 misses its tolerance first at body.3: 0.5 where 0.1 is asked for")
        return write_linear(folder, graph=graph, bundle=of.digest)

    monkeypatch.setattr(onnx_export, "export_graph", export_graph)
    monkeypatch.setattr(onnx_export, "trace_bundle", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    names = ("--networks", "mapping,identity,inverter", "--backend", "onnxruntime", "--output", str(tmp_path / "out"))
    run = CliRunner().invoke(cli, ["build", "--bundle", str(bundle.path), *names])
    assert run.exit_code == 1, run.output
    assert exported == ["mapping", "inverter", "identity"]
    assert "failed: identity in fp32 misses its tolerance first at body.3" in run.output
    assert "2 built, 1 failed" in run.output
    rows = json.loads((tmp_path / "build-report.json").read_text())["built"]
    assert [row["error"] is None for row in rows] == [True, True, False]
    assert EngineCache(tmp_path / "out").find_graph(bundle.digest, "mapping", "fp32") is not None


@without_gpu
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--networks", "eyes"), "unknown graph 'eyes': use one of mapping"),
        (("--backend", "tensorrt"), "tensorrt "),
        (("--backend", "torch"), "nothing to build for backend 'torch'"),
        (("--backend", "onnx"), "unknown backend 'onnx'"),
        (("--precision", "int8"), "unknown precision 'int8': use one of fp32, fp16, bf16"),
        (("--batch", "8,4,2"), "batch profile 8,4,2"),
        (("--batch", "many"), "batch 'many': give one number"),
        (("--backend", "onnxruntime", "--target", "sm_89"), "--target names GPUs and nothing is built for any"),
        (("--report", "no/such/folder.json", "--backend", "onnxruntime"), "the folder of no/such/folder.json"),
        (("--report", ".", "--backend", "onnxruntime"), ". is a folder: give --report the name of a file"),
        (("--batch", "1,8,99999999999999999999"), "at most 65536 images at once"),
        (("--inspect", "nothing.plan"), "nothing.plan is not there"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    tmp_path: Path, bundle: Bundle, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(cli, ["build", "--bundle", str(bundle.path), *arguments])
    assert isinstance(run.exception, UserError)
    assert message in str(run.exception)
    assert "\n" not in str(run.exception)
    assert not (tmp_path / "build-report.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--precision", ","), "give at least one name"),
        (("--workspace", "nan"), "is no number"),
        (("--workspace", "1e30"), "is not in the range"),
    ],
)
def test_a_wrong_option_is_told(bundle: Bundle, arguments: tuple[str, ...], words: str) -> None:
    run = CliRunner().invoke(cli, ["build", "--bundle", str(bundle.path), *arguments])
    assert run.exit_code == 2
    assert words in run.output


def test_what_was_built_is_shown_though_the_report_cannot_be_written(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from faceanon_engine.export import onnx_export

    def export_graph(of: Bundle, graph: str, precision: Any, folder: Path, **_: Any) -> Any:
        return write_linear(folder, graph=graph, bundle=of.digest)

    def full(*_: Any) -> None:
        raise UserError("build-report.json cannot be written (No space left on device): give another --report")

    monkeypatch.setattr(onnx_export, "export_graph", export_graph)
    monkeypatch.setattr(onnx_export, "trace_bundle", lambda *_, **__: None)
    monkeypatch.setattr(building, "write_report", full)
    monkeypatch.chdir(tmp_path)
    names = ("--networks", "mapping", "--backend", "onnxruntime", "--output", str(tmp_path / "out"))
    run = CliRunner().invoke(cli, ["build", "--bundle", str(bundle.path), *names])
    assert isinstance(run.exception, UserError)
    assert "1 built, 0 failed" in run.output


def test_a_trial_takes_no_more_images_than_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opening.open_artifact(write_linear(tmp_path))
    monkeypatch.setattr(capacity, "would_not_fit", lambda needed: None if needed <= 10 * 2**20 else "too much")

    class Peak:
        growth = 2**20

    monkeypatch.setattr(building, "resident_peak", lambda: contextlib.nullcontext(Peak()))
    assert [building._fitting(session, count) for count in (1, 8, 64, 1000)] == [1, 8, 8, 7]


def test_a_dry_run_lists_and_builds_nothing(tmp_path: Path, bundle: Bundle) -> None:
    arguments = ["build", "--bundle", str(bundle.path), "--backend", "onnxruntime", "--dry-run"]
    run = CliRunner().invoke(cli, [*arguments, "--output", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert run.output.count("would build: ") == len(GRAPHS)
    assert not (tmp_path / "out").exists()
    run = CliRunner().invoke(cli, [*arguments, "--json"])
    assert [item["graph"] for item in json.loads(run.stdout)["would_build"]] == list(GRAPHS)


def test_networks_are_named_by_graph_or_by_role() -> None:
    assert graphs_of([]) == list(GRAPHS)
    assert graphs_of(["attribute_encoder", "mapping"]) == ["mapping", "attributes", "attribute_tokens"]
    assert graphs_of(["generator"]) == ["mapping", "synthesis"]


@without_gpu
def test_without_names_everything_that_can_be_built_here_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_buildable", lambda backend, _gpu: backend == "onnxruntime")
    assert {item.backend for item in plan(Request())} == {"onnxruntime"}
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    monkeypatch.undo()
    items = plan(Request(networks=["identity"], targets=["sm_86"]))
    assert [(item.backend, item.architecture) for item in items] == [("onnxruntime", None), ("tensorrt-rtx", "sm_86")]


def test_what_nobody_foresaw_is_a_row_too_and_the_report_is_kept(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from faceanon_engine.export import onnx_export

    def export_graph(of: Bundle, graph: str, precision: Any, folder: Path, **_: Any) -> Any:
        if graph == "identity":
            raise RuntimeError("a library is not what it was\nand more")
        return write_linear(folder, graph=graph, bundle=of.digest)

    def run_it(*_: Any, **__: Any) -> Any:
        raise RuntimeError("cuMemcpyHtoDAsync_v2 failed with CUDA_ERROR_INVALID_CONTEXT")

    monkeypatch.setattr(onnx_export, "export_graph", export_graph)
    monkeypatch.setattr(onnx_export, "trace_bundle", lambda *_, **__: None)
    monkeypatch.setattr(building, "open_artifact", run_it)
    request = Request(networks=["mapping", "identity"], backends=["onnxruntime"])
    mapping, identity = building.run(bundle, request, plan(request), EngineCache(tmp_path))
    assert identity.error == ("unexpected RuntimeError: a library is not what it was; '--log-level debug' shows where")
    assert mapping.error is None
    assert mapping.path is not None
    assert mapping.not_run is not None
    assert "CUDA_ERROR_INVALID_CONTEXT" in mapping.not_run


def test_an_engine_that_gives_no_numbers_is_a_failure(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = EngineCache(tmp_path)
    write_linear(cache.graphs_folder(bundle.digest), bundle=bundle.digest)
    ran = {"maximum_error": float("nan"), "mean_error": float("nan"), "measured_on": "tensorrt 10 on cuda:0"}
    monkeypatch.setattr(building, "_try", lambda *_: ran)
    request = Request(networks=["mapping"], backends=["onnxruntime"])
    (built,) = building.run(bundle, request, plan(request), cache)
    assert built.error is not None
    assert "mapping fp32 onnxruntime gives values that are not finite, tensorrt 10 on cuda:0" in built.error


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [("sm_80+sm_89", None), ("portable", None), ("sm_120", "it is for sm_120, here is sm_89")],
)
def test_the_engine_that_was_built_is_the_one_that_is_tried(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, architecture: str, reason: str | None
) -> None:
    cache, artifact = EngineCache(tmp_path), write_linear(tmp_path, bundle=bundle.digest)
    wanted = opening.Wanted("mapping", "tensorrt-rtx", "fp32", "cpu", Profile(1, 2, 4))
    key = opening.engine_key(artifact, wanted, "1.0", architecture)
    tried = []

    def open_engine(path: Path, artifact: Any, *, device: str) -> Any:
        tried.append((path, device))
        return opening.open_artifact(artifact)

    monkeypatch.setattr(building, "gpus", lambda: (Gpu(0, "a GPU", (8, 9), 2**34),))
    monkeypatch.setattr(building, "why_not", lambda *_: None)
    monkeypatch.setattr(building, "open_engine", open_engine)
    monkeypatch.setattr(building, "_errors", lambda *_: {"maximum_error": 0.5})
    entry = cache.ensure(key, lambda: (b"engine", {"seconds": 1.0}))
    item = building.Item("mapping", "fp32", "tensorrt-rtx", architecture)
    figures = building._try(bundle, item, Request(profile=Profile(1, 2, 4)), artifact, entry)
    assert figures.get("not_run") == reason
    assert tried == ([] if reason else [(entry.path, "cuda:0")])
    assert reason or (figures["maximum_error"], figures["throughput_batch"]) == (0.5, 2)
