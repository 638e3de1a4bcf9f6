"""The Python interface: its names are there, documented and typed, and the examples of docs/api.md run."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import faceanon_engine

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "api.md"


@pytest.mark.slow
def test_the_examples_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEANON_HOME", str(tmp_path / "home"))
    (tmp_path / "photos").mkdir()
    for name in ("person-01-a.png", "person-04-a.png"):
        shutil.copy(ROOT / "demo" / "samples" / name, tmp_path / "photos")
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 7
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "[('person-01-a.png', 'anonymize'), ('person-04-a.png', 'anonymize')]" in run.stdout
    assert "2 inputs, 2 done already" in run.stdout
    assert len(list((tmp_path / "anonymized").glob("person-*.png"))) == 2
    assert (tmp_path / "features.npz").is_file()


def test_every_name_is_there_and_says_what_it_is() -> None:
    assert len(set(faceanon_engine.__all__)) == len(faceanon_engine.__all__)
    for name in faceanon_engine.__all__:
        value = getattr(faceanon_engine, name)
        if name == "__version__":
            continue
        assert inspect.getdoc(value), f"{name} has no docstring"
        if inspect.isfunction(value):
            missing = [
                parameter for parameter in inspect.signature(value).parameters.values() if not parameter.annotation
            ]
            assert not missing, f"{name} leaves {missing} untyped"
            assert inspect.signature(value).return_annotation is not inspect.Signature.empty, name


def test_what_the_commands_do_python_does() -> None:
    commands = {
        "anonymize": "anonymize",
        "status": "Manifest",
        "extract": "extract",
        "invert": "invert",
        "pair": "pair",
        "pool": "make_pool",
        "models": "import_bundle",
        "build": "build",
        "bench": "bench",
        "doctor": "examine",
    }
    from faceanon_engine.cli.main import COMMANDS

    assert set(commands) == set(COMMANDS) - {"demo"}
    assert set(commands.values()) <= set(faceanon_engine.__all__)


def test_the_document_shows_names_that_are_there() -> None:
    named = set(re.findall(r"\bfa\.(\w+)", DOCUMENT.read_text(encoding="utf-8")))
    assert named
    assert named <= set(faceanon_engine.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        _ = faceanon_engine.anonymise  # type: ignore[attr-defined]
