"""The rooms' faces: what each hands out, and that being asked for nothing loads nothing."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import faceanon_engine

PACKAGE = Path(faceanon_engine.__file__).parent
ENGINE = PACKAGE / "engine"
ROOMS = sorted(
    ".".join(file.parent.relative_to(PACKAGE.parent).parts)
    for file in ENGINE.rglob("__init__.py")
    if file.parent != ENGINE
)


def folder_of(room: str) -> Path:
    return PACKAGE.parent.joinpath(*room.split("."))


def names_in(stub: Path) -> list[str]:
    """The names that a face's stub hands out, sorted."""
    imports = [node for node in ast.parse(stub.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    return sorted(alias.asname or alias.name for node in imports for alias in node.names)


def test_every_room_has_a_face() -> None:
    assert len(ROOMS) == 11
    for room in ROOMS:
        assert (folder_of(room) / "__init__.pyi").is_file(), f"{room} hands out nothing"


def test_importing_the_faces_loads_neither_torch_nor_what_lies_behind_them() -> None:
    code = f"import sys, {', '.join(ROOMS)}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "torch" not in loaded
    ours = {name for name in loaded if name.startswith("faceanon_engine.engine.")}
    assert ours == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_face_hands_out_what_its_stub_says(room: str) -> None:
    face, names = importlib.import_module(room), names_in(folder_of(room) / "__init__.pyi")
    assert sorted(face.__all__) == names
    for name in names:
        assert getattr(face, name) is not None, f"{room} has no {name}"


@pytest.mark.parametrize("room", ROOMS)
def test_no_name_hides_a_module_of_its_room(room: str) -> None:
    folder = folder_of(room)
    modules = {file.stem for file in folder.glob("*.py")} | {file.parent.name for file in folder.glob("*/__init__.py")}
    assert not modules & set(names_in(folder / "__init__.pyi"))
