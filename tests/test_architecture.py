"""The rooms import one way and in no circle, the folders say what they hold, and starting the program stays cheap."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from docs.import_graph import (
    ENGINE_ROOMS,
    PACKAGE,
    ROOMS,
    ROOT,
    Graph,
    circles,
    imported_names,
    module_graph,
    modules,
    without_detours,
)

# Which rooms each room may import from, besides itself. The package's own face lies on top, beside the command line.
ALLOWED = {
    "kernels": set(),
    "engine": {"kernels"},
    "export": {"kernels", "engine"},
    "demo": {"kernels", "engine"},
    "cli": {"kernels", "engine", "export", "demo"},
    "faceanon_engine": {"engine", "export"},
}
# Folders of tests that mirror no room: what several tests share, parity data, and what runs on a GPU alone.
NO_MIRROR = {"support", "golden", "gpu"}
# They also run alone, from a checkout of which nothing is installed, and find it by themselves.
RUN_ALONE = {"benchmarks/optimise_step.py", "benchmarks/gpu_all.py"}
SOURCES = (PACKAGE, *ROOMS, "tests", "benchmarks", "docs")


def room_of(module: str) -> str:
    """The top room of a module; the face for the package itself."""
    return [*module.split("."), PACKAGE][1]


def engine_room_of(module: str) -> str | None:
    """The room of the engine that a module is in; None outside of the engine and for the engine itself."""
    parts = module.split(".")
    return parts[2] if parts[1:2] == ["engine"] and len(parts) > 2 else None


@cache
def graph() -> Graph:
    return module_graph()


def python_files(*folders: str) -> list[Path]:
    """Python files in these folders of the repository; links are not followed."""
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def packages() -> list[Path]:
    return [file for file in modules().values() if file.name == "__init__.py"]


def test_every_room_is_known() -> None:
    assert {room_of(module) for module in graph()} == ALLOWED.keys()
    assert {engine_room_of(module) for module in graph()} - {None} == set(ENGINE_ROOMS)
    assert len(graph()) > 100


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    inside = [module for module in graph() if room_of(module) == room]
    assert inside
    for module in inside:
        forbidden = {target for target in graph()[module] if room_of(target) not in ALLOWED[room] | {room}}
        assert not forbidden, f"{module} imports {sorted(forbidden)}"


@pytest.mark.parametrize("room", ENGINE_ROOMS)
def test_a_room_of_the_engine_imports_only_what_lies_below_it(room: str) -> None:
    below = set(ENGINE_ROOMS[: ENGINE_ROOMS.index(room) + 1])
    for module, targets in graph().items():
        if engine_room_of(module) == room:
            # The engine's own front is not imported from within it: its rooms are.
            forbidden = {each for each in targets if room_of(each) == "engine" and engine_room_of(each) not in below}
            assert not forbidden, f"{module} imports {sorted(forbidden)}"


def test_what_works_for_a_job_knows_its_settings_alone() -> None:
    job, workers = f"{PACKAGE}.engine.job", f"{PACKAGE}.engine.job.workers"
    inside = [module for module in graph() if f"{module}.".startswith(f"{workers}.")]
    assert len(inside) > 1
    for module in inside:
        of_jobs = {target for target in graph()[module] if f"{target}.".startswith(f"{job}.")}
        above = {target for target in of_jobs if not f"{target}.".startswith(f"{workers}.")} - {f"{job}.settings"}
        assert not above, f"{module} imports {sorted(above)}"


def test_no_modules_import_each_other() -> None:
    assert circles(graph()) == []


def test_a_circle_would_be_seen() -> None:
    square: Graph = {"a": {"b"}, "b": {"c"}, "c": {"d", "a"}, "d": {"e"}, "e": set(), "f": {"a"}}
    assert circles(square) == [["a", "b", "c"]]
    assert circles({**square, "e": {"d"}}) == [["a", "b", "c"], ["d", "e"]]
    assert circles({"a": {"b"}, "b": set()}) == []
    assert without_detours({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_imports_of_every_kind_are_seen() -> None:
    source = (
        "from typing import TYPE_CHECKING\n"
        "import a.b\n"
        "if TYPE_CHECKING:\n    from c.d import e\n"
        "def f():\n    from .g import h\n    from . import i\n    from ..j import k\n"
    )
    assert set(imported_names(ast.parse(source), "top.room")) == {
        ("typing", "TYPE_CHECKING"),
        ("a.b", None),
        ("c.d", "e"),
        ("top.room.g", "h"),
        ("top.room", "i"),
        ("top.j", "k"),
    }


def test_modules_are_named_in_full() -> None:
    for file in python_files(*SOURCES):
        relative = [
            node.lineno
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.level
        ]
        assert not relative, f"{file}, line {relative[0]}: relative imports hide which room is meant"


def bound_names(file: Path) -> set[str]:
    """What a module binds: by an assignment, a definition or an import anywhere in it but inside functions."""
    names: set[str] = set()
    for source in filter(Path.exists, (file, file.with_suffix(".pyi"))):
        waiting: list[ast.AST] = [ast.parse(source.read_text(encoding="utf-8"))]
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
                continue
            if isinstance(node, ast.Import | ast.ImportFrom):
                names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            waiting += ast.iter_child_nodes(node)
    return names


def programs_in(file: Path) -> Iterator[ast.AST]:
    """The file itself, and the programs that it holds as texts and has another process run."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and f"from {PACKAGE}" in node.value:
            try:
                yield ast.parse(node.value)
            except SyntaxError:
                continue


def test_every_import_of_ours_names_what_is_there() -> None:
    files = modules()
    names = {module: bound_names(file) for module, file in files.items()}
    seen = 0
    for file in python_files(*SOURCES):
        for program in programs_in(file):
            for module, taken in imported_names(program):
                if module.partition(".")[0] != PACKAGE:
                    continue
                seen += 1
                assert module in files, f"{file} imports {module}, which is not there"
                there = taken is None or f"{module}.{taken}" in files or taken in names[module]
                assert there, f"{file} imports {taken} from {module}, where it is not"
    assert seen > 500


def test_only_programs_that_run_alone_change_where_imports_are_looked_for() -> None:
    changing = re.compile(r"\bsys\.path(\.\w+\(|\[[^]]*\] *=|\s*\+?=)")
    assert changing.search("sys" + ".path.insert(0, here)")
    assert changing.search("sys" + ".path[:0] = [here]")
    changed = {str(file.relative_to(ROOT)) for file in python_files(*SOURCES) if changing.search(file.read_text())}
    assert changed <= RUN_ALONE


def test_tests_mirror_the_rooms() -> None:
    tested = {file.relative_to(ROOT / "tests").parent for file in (ROOT / "tests").rglob("test_*.py")}
    assert len(tested) > 10
    for folder in tested:
        if not NO_MIRROR & {*folder.parts}:
            assert (ROOT / folder).is_dir(), f"tests/{folder} tests no folder"
    rooms = {file.parent.relative_to(ROOT) for file in packages() if file.is_relative_to(ROOT / "engine")}
    untested = rooms - tested
    assert not untested, f"no tests lie where those of {sorted(map(str, untested))} are looked for"


@pytest.mark.parametrize("file", packages(), ids=lambda file: str(file.parent.relative_to(ROOT)))
def test_a_room_says_in_a_sentence_what_belongs_there(file: Path) -> None:
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert said, f"{file} says nothing"
    first, _, rest = said.partition("\n")
    assert first.endswith("."), f"{file}: the first line is no sentence"
    assert not rest or rest.startswith("\n"), f"{file}: the sentence does not fit a line"


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
