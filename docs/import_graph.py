"""Which module of the package imports which, read from the sources; nothing is imported to find out.

Imports inside functions and under TYPE_CHECKING count like all others, and so does a module of a room that is named in
a text, as those are that are imported lazily.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "faceanon_engine"
ROOMS = ("cli", "demo", "export", "engine", "kernels")
"""The folders beside this one that the package consists of, besides its face; `faceanon_engine/` links to them."""

ENGINE_ROOMS = (
    "errors",
    "choices",
    "system",
    "networks",
    "images",
    "models",
    "datasets",
    "sessions",
    "method",
    "bench",
    "doctor",
    "job",
)
"""The rooms of the engine, lowest first: each may import from those before it."""

Graph = dict[str, set[str]]
"""By each module or room those that it imports, never itself."""


def modules() -> dict[str, Path]:
    """Every module of the package by its full name, with its file; a package is its `__init__.py`."""
    files = {PACKAGE: ROOT / PACKAGE / "__init__.py"}
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            files[".".join((PACKAGE, *parts)).removesuffix(".__init__")] = file
    return files


def imported_names(tree: ast.AST, package: str = "") -> Iterator[tuple[str, str | None]]:
    """Of each import the module it names and the name that it takes out of it, None where it takes the module itself.

    `package` is what relative imports start from.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: 1 - node.level or None] if node.level else []
            module = ".".join([*start, *filter(None, [node.module])])
            yield from ((module, alias.name) for alias in node.names)


def module_graph() -> Graph:
    """Modules by their full names. The version, which the face holds, may be read from anywhere and does not count."""
    files = modules()
    graph: Graph = {}
    for name, file in files.items():
        targets = graph[name] = set()
        for source in filter(Path.exists, (file, file.with_suffix(".pyi"))):
            tree = ast.parse(source.read_text(encoding="utf-8"))
            for module, taken in imported_names(tree, name if file.name == "__init__.py" else name.rpartition(".")[0]):
                if (module, taken) != (PACKAGE, "__version__"):
                    targets.add(f"{module}.{taken}" if f"{module}.{taken}" in files else module)
            texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in files}
            # The package and its rooms are named for other reasons, too: loggers, the place of the demo's files.
            targets |= {text for text in texts if text.count(".") > 1}
        targets &= files.keys() - {name}
    return graph


def room_of(module: str) -> str:
    """The room that a module belongs to, one of the engine's for its modules: "cli", "engine.job", "faceanon_engine".

    Modules that lie in `engine/` itself are rooms of their own.
    """
    parts = module.split(".")[1:]
    return ".".join(parts[:2] if parts[:1] == ["engine"] else parts[:1]) or PACKAGE


def room_graph(graph: Mapping[str, set[str]] | None = None) -> Graph:
    """Rooms as `room_of` names them, each with those that its modules import from."""
    graph = module_graph() if graph is None else graph
    rooms: Graph = {}
    for module, targets in graph.items():
        room = room_of(module)
        rooms.setdefault(room, set()).update({room_of(target) for target in targets} - {room})
    return rooms


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other, each sorted; none in a graph that can be put in an order."""
    below = {node: _reached(graph, node) for node in graph}
    groups = {tuple(sorted(other for other in below[node] if node in below[other])) for node in graph}
    return sorted(list(group) for group in groups if group)


def without_detours(graph: Mapping[str, set[str]]) -> Graph:
    """The fewest edges of a graph without circles from which all others follow: its transitive reduction."""
    below = {node: _reached(graph, node) for node in graph}
    return {
        node: {target for target in targets if not any(target in below[other] for other in targets - {target})}
        for node, targets in graph.items()
    }


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """All that can be reached over at least one edge."""
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached
