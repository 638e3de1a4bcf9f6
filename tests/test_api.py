"""The Python interface: its names are there, documented and typed, and the examples of docs/api.md run."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
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
    assert len(list((tmp_path / "anonymized" / "release").glob("person-*.png"))) == 2
    assert (tmp_path / "features.npz").is_file()


def test_every_name_is_there_and_says_what_it_is() -> None:
    assert len(set(faceanon_engine.__all__)) == len(faceanon_engine.__all__)
    for name in faceanon_engine.__all__:
        value = getattr(faceanon_engine, name)
        if name == "__version__":
            continue
        assert inspect.getdoc(value), f"{name} has no docstring"


def public_functions() -> dict[str, Callable[..., object]]:
    """The functions that are handed out and the public methods of the classes that are, by their names."""
    functions: dict[str, Callable[..., object]] = {}
    for name in faceanon_engine.__all__:
        value = getattr(faceanon_engine, name)
        if inspect.isfunction(value):
            functions[name] = value
        elif inspect.isclass(value):
            methods = inspect.getmembers(value, lambda member: inspect.isfunction(member) or inspect.ismethod(member))
            functions |= {
                f"{name}.{method}": function
                for method, function in methods
                if not method.startswith("_") and function.__module__.startswith("faceanon_engine.")
            }
    return functions


def test_every_parameter_and_return_is_typed() -> None:
    functions = public_functions()
    assert {"anonymize", "bench", "Falco.anonymize", "Bundle.open"} <= set(functions)
    untyped = []
    for name, function in functions.items():
        signature = inspect.signature(function)
        annotations = {each.name: each.annotation for each in signature.parameters.values() if each.name != "self"}
        annotations["return"] = signature.return_annotation
        untyped += [
            f"{name}: {what}" for what, annotation in annotations.items() if annotation is inspect.Signature.empty
        ]
    assert not untyped


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


def test_an_unknown_name_is_an_attribute_error_that_says_it() -> None:
    with pytest.raises(AttributeError, match="anonymise"):
        _ = faceanon_engine.anonymise  # type: ignore[attr-defined]


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    code = (
        "import sys, faceanon_engine; before = set(sys.modules); faceanon_engine.build;"
        "rooms = ('faceanon_engine.export.build', 'faceanon_engine.engine.bench.bench', 'torch');"
        "print([room in before for room in rooms], 'faceanon_engine.export.build' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, False, False] True"
