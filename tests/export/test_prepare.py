"""Graphs get into the cache in one way, each once, whoever asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.sessions.cache import EngineCache
from faceanon_engine.engine.sessions.graphs import Artifact
from faceanon_engine.engine.sessions.opening import Wanted
from faceanon_engine.export import build, onnx_export, prepare
from tests.support.small_graph import write_linear


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is traced and exported from now on, in its order, by stand-ins that do neither."""
    calls: list[Any] = []

    def trace_bundle(_: Bundle, graph: str, **__: Any) -> str:
        calls.append(f"trace {graph}")
        return f"the trace of {graph}"

    def export_graph(of: Bundle, graph: str, precision: Any, folder: Path, *, traced: Any, **_: Any) -> Artifact:
        calls.append((graph, precision, traced))
        return write_linear(folder, graph=graph, bundle=of.digest)

    monkeypatch.setattr(onnx_export, "trace_bundle", trace_bundle)
    monkeypatch.setattr(onnx_export, "export_graph", export_graph)
    return calls


def test_a_build_traces_a_graph_once_for_all_its_precisions(tiny: Bundle, calls: list[Any], tmp_path: Path) -> None:
    request = build.Request(networks=["mapping", "identity"], backends=["onnxruntime"], precisions=["fp32", "fp16"])
    graphs = build._Graphs(tiny, request, EngineCache(tmp_path))
    wanted = [(item.graph, item.precision) for item in build.plan(request)]
    made = [graphs.artifact(*each) for each in wanted + wanted]
    assert calls == [
        "trace mapping",
        ("mapping", "fp32", "the trace of mapping"),
        ("mapping", "fp16", "the trace of mapping"),
        "trace identity",
        ("identity", "fp32", "the trace of identity"),
        ("identity", "fp16", "the trace of identity"),
    ]
    assert all(seconds > 0 for _, seconds in made)


def test_what_lies_in_the_cache_is_neither_traced_nor_exported(tiny: Bundle, calls: list[Any], tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    wanted = Wanted("mapping", "onnxruntime", "fp32", "cpu")
    made = prepare.prepare_graph(tiny, wanted, cache)
    assert calls == [("mapping", "fp32", None)], "for one precision nothing is kept of the trace"
    again = build._Graphs(tiny, build.Request(), cache).artifact("mapping", "fp32")
    assert again == (made, 0.0)
    assert len(calls) == 1
    prepare.prepare_graph(tiny, wanted, cache, force=True)
    assert len(calls) == 2


def test_without_an_exporter_what_is_missing_is_said(
    tiny: Bundle, calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "why_not_prepared", lambda: "exporting needs onnx: pip install it")
    graphs = build._Graphs(tiny, build.Request(), EngineCache(tmp_path))
    for _ in range(2):
        with pytest.raises(UserError, match="exporting needs onnx"):
            graphs.artifact("mapping", "fp32")
    assert not calls
