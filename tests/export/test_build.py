"""Building from Python: plain values, and an answer that says what became of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.sessions.session import Profile
from faceanon_engine.export import onnx_export
from faceanon_engine.export.build import BuildObserver, Built, Item, build, write_report
from tests.support.small_graph import write_linear
from tests.support.tiny_bundle import write_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle whose graphs are exported at once, all but identity."""

    def export_graph(of: Bundle, graph: str, precision: Any, folder: Path, **_: Any) -> Any:
        if graph == "identity":
            raise UserError("identity misses its tolerance")
        return write_linear(folder, graph=graph, bundle=of.digest)

    monkeypatch.setattr(onnx_export, "export_graph", export_graph)
    monkeypatch.setattr(onnx_export, "trace_bundle", lambda *_, **__: None)
    return write_tiny_bundle(tmp_path / "tiny")


class Ends(BuildObserver):
    def __init__(self) -> None:
        self.ended: list[str] = []

    def end(self, item: Item, built: Built) -> None:
        self.ended.append(item.graph)


def test_everything_asked_for_is_built_or_has_its_error(tmp_path: Path, bundle: Bundle) -> None:
    observer = Ends()
    asked: dict[str, Any] = {"networks": ["mapping", "identity"], "backends": ["onnxruntime"]}
    done = build(bundle.path, **asked, profile=Profile(1, 2, 4), output=tmp_path / "out", observer=observer)
    assert [(each.graph, each.error) for each in done.built] == [
        ("mapping", None),
        ("identity", "identity misses its tolerance"),
    ]
    assert observer.ended == ["mapping", "identity"]
    assert (done.exit_code, [each.graph for each in done.failed]) == (1, ["identity"])
    assert Path(str(done.built[0].path)).is_relative_to(done.folder)
    write_report(tmp_path / "report.json", done)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["bundle"]["digest"], report["request"]["profile"]) == (bundle.digest, {"min": 1, "opt": 2, "max": 4})
    assert [row["graph"] for row in report["built"]] == ["mapping", "identity"]
    with pytest.raises(UserError, match=r"report\.json cannot be written .*: give another --report"):
        write_report(tmp_path / "none" / "report.json", done)


def test_a_dry_run_builds_nothing(tmp_path: Path, bundle: Bundle) -> None:
    done = build(bundle.path, networks=["generator"], backends=["onnxruntime"], output=tmp_path / "out", dry_run=True)
    assert [item.graph for item in done.items] == ["mapping", "synthesis"]
    assert (done.built, done.exit_code, done.folder) == ((), 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_are_checked_before_the_bundle(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown graph 'eyes'"):
        build(tmp_path / "none", networks=["eyes"])
    with pytest.raises(UserError, match="no bundle"):
        build(tmp_path / "none", backends=["onnxruntime"])


@pytest.mark.parametrize("name", ["networks", "backends", "precisions", "targets"])
def test_one_name_is_no_list_of_its_letters(name: str) -> None:
    values: dict[str, Any] = {name: "fp32"}
    with pytest.raises(UserError, match=rf"{name} is 'fp32' alone: give a list, \['fp32'\]"):
        build(**values)
