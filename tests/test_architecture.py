"""The rooms import one way, and starting the program stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Which rooms each room may import from, besides itself. The package's own face lies on top, beside the command line.
ALLOWED = {
    "kernels": set(),
    "engine": {"kernels"},
    "export": {"kernels", "engine"},
    "demo": {"kernels", "engine"},
    "cli": {"kernels", "engine", "export", "demo"},
    "faceanon_engine": {"engine", "export"},
}


def imported_rooms(file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            assert node.level == 0, f"{file}: relative imports hide which room is meant"
        for name in names:
            parts = name.split(".")
            if parts[0] == "faceanon_engine" and len(parts) > 1 and parts[1] in ALLOWED:
                rooms.add(parts[1])
    return rooms


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        forbidden = imported_rooms(file) - ALLOWED[room] - {room}
        assert not forbidden, f"{file.relative_to(ROOT)} imports from {sorted(forbidden)}"


@pytest.mark.parametrize("module", ["faceanon_engine", "faceanon_engine.engine", "faceanon_engine.cli.main"])
def test_starting_does_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd="/", check=False).returncode == 0


def test_help_does_not_load_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from faceanon_engine.cli.main import cli;"
        "r = CliRunner().invoke(cli, ['--help']); assert 'anonymize' in r.output, r.output;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd="/", check=False).returncode == 0
