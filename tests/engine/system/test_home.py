"""Where things are kept: below $FACEANON_HOME where it is set, otherwise where the system keeps such things."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from faceanon_engine.engine.system.home import VARIABLE, Home, home


def test_all_lies_below_the_folder_that_the_variable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEANON_HOME", str(tmp_path))
    assert home() == Home(tmp_path / "bundles", tmp_path / "pools", tmp_path / "engines", tmp_path / "kernels")
    assert list(tmp_path.iterdir()) == [], "asking makes nothing"


@pytest.mark.parametrize("value", [None, ""])
def test_without_it_what_can_be_made_again_lies_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    monkeypatch.setattr(platformdirs, "user_data_dir", lambda name: str(tmp_path / "data" / name))
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    data, cache = tmp_path / "data" / "faceanon-engine", tmp_path / "cache" / "faceanon-engine"
    assert home() == Home(data / "bundles", cache / "pools", cache / "engines", cache / "kernels")
