"""Versions of what is installed, and of ourselves, installed or not."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

import faceanon_engine
from faceanon_engine.engine.system.packages import is_importable, our_version, version_of, versions_of


def test_the_first_that_is_installed_counts() -> None:
    assert version_of("no-such-distribution", "numpy", "pillow") == metadata.version("numpy")
    assert version_of("no-such-distribution") is None
    assert version_of() is None


def test_ours_is_known_also_where_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", nothing)
    assert version_of("numpy") is None
    assert version_of("numpy", "faceanon-engine") == our_version() == faceanon_engine.__version__


def test_what_is_not_installed_is_left_out() -> None:
    versions = versions_of(["numpy", "no-such-distribution", "faceanon-engine"])
    assert versions == {"numpy": metadata.version("numpy"), "faceanon-engine": faceanon_engine.__version__}


def test_a_module_is_looked_for_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "explosive_module.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert is_importable("explosive_module")
    assert "explosive_module" not in sys.modules
    assert not is_importable("no_such_module")
    assert not is_importable("no_such_module.inside"), "its parent is not there"


def test_a_module_that_was_made_unimportable_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert not is_importable("numpy")
    module = type(sys)("without_a_spec")
    monkeypatch.setitem(sys.modules, "without_a_spec", module)
    assert not is_importable("without_a_spec"), "find_spec raises ValueError for it"
