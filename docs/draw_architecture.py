"""Draws docs/architecture.svg: the rooms as floors, and which imports from which, as the sources have it today.

`python -m docs.draw_architecture` draws it anew; `--png FILE` also writes it as pixels, to look at.

An arrow says that a room imports from another. What follows from other arrows is left out: whoever may import from a
room may import from all that lies below it. The data are written into the picture's metadata, and a test compares them
with the sources.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from docs.import_graph import ENGINE_ROOMS, PACKAGE, ROOT, Graph, modules, room_graph, room_of, without_detours

PICTURE = ROOT / "docs" / "architecture.svg"
# All rooms, lowest first, for the direction of arrows: one that points up is a fault, which a test finds.
ORDER = ("kernels", *(f"engine.{room}" for room in ENGINE_ROOMS), "demo", "export", PACKAGE, "cli")
COLOURS = {"engine": "#dcebf7", "kernels": "#e4e0f0", "demo": "#fbe9d0", "export": "#dff0dc", "cli": "#f4d9dc"}
OTHER_COLOUR = "#f4f1c9"
WIDTH, HEIGHT = 2.35, 0.92
"""Of a room's box, in inches."""
FLOOR, COLUMN, GAP = 1.42, 2.6, 0.7
"""From floor to floor, from room to room, and what an arrow takes that passes between rooms."""

Place = tuple[float, float]


def arrows() -> Graph:
    """The fewest arrows between rooms from which all imports follow."""
    rooms = room_graph()
    down = {
        room: {target for target in rooms[room] if ORDER.index(target) < ORDER.index(room)}
        for room in ORDER
        if room in rooms
    }
    return without_detours(down)


def sentences() -> dict[str, str]:
    """What each room says of itself in the first line of its file."""
    files = {
        room_of(module): file for module, file in reversed(modules().items())
    }  # a package comes before its modules
    return {
        room: (ast.get_docstring(ast.parse(files[room].read_text(encoding="utf-8"))) or "").partition("\n")[0]
        for room in ORDER
        if room in files
    }


def data() -> list[str]:
    """What the picture shows, a line a room."""
    below = arrows()
    return [f"{room}: {said} Imports from {sorted(below[room])}." for room, said in sentences().items()]


def data_of(picture: Path) -> list[str]:
    """The data that a picture was drawn from."""
    tag = "{http://purl.org/dc/elements/1.1/}description"
    element = ElementTree.parse(picture).find(f".//{tag}")
    return [] if element is None else (element.text or "").splitlines()


def floors(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """How high each room lies: above everything that it imports from, as low as that allows."""
    heights: dict[str, int] = {}
    for room in graph:  # lowest first
        heights[room] = 1 + max((heights[target] for target in graph[room]), default=-1)
    return heights


def places(graph: Mapping[str, set[str]]) -> tuple[dict[str, Place], dict[tuple[str, str], list[Place]]]:
    """Where the rooms' middles lie, and the points that each arrow passes, between the rooms of floors it crosses.

    As Sugiyama, Tagawa and Toda draw layered graphs (1981): an arrow over several floors has a node on each.
    """
    heights = floors(graph)
    levels: list[list[str]] = [[] for _ in range(max(heights.values()) + 1)]
    for room, height in heights.items():
        levels[height].append(room)
    edges = [(room, target) for room in graph for target in sorted(graph[room])]
    paths: dict[tuple[str, str], list[str]] = {}
    for room, target in edges:
        passed = [f"{room}>{target}@{height}" for height in range(heights[room] - 1, heights[target], -1)]
        for height, point in zip(range(heights[room] - 1, heights[target], -1), passed, strict=True):
            levels[height].append(point)
        paths[room, target] = [room, *passed, target]
    neighbours: dict[str, list[str]] = {node: [] for level in levels for node in level}
    for path in paths.values():
        for upper, lower in itertools.pairwise(path):
            neighbours[upper].append(lower)
            neighbours[lower].append(upper)
    best = min(_orders(levels, neighbours), key=lambda order: _crossings(order, neighbours))
    across = _across(best, neighbours)
    at = {node: (across[node], FLOOR * height) for height, level in enumerate(best) for node in level}
    return {room: at[room] for room in graph}, {edge: [at[node] for node in path] for edge, path in paths.items()}


def _orders(levels: Sequence[Sequence[str]], neighbours: Mapping[str, Sequence[str]]) -> list[list[list[str]]]:
    """Orders of each floor's nodes, each the last one with nodes moved to the mean place of those they are tied to."""
    order = [list(level) for level in levels]
    orders = [order]
    for sweep in range(24):
        order = [list(level) for level in order]
        heights = range(len(order)) if sweep % 2 else range(len(order) - 1, -1, -1)
        for height in heights:
            rank = {node: index / max(1, len(level) - 1) for level in order for index, node in enumerate(level)}
            order[height].sort(
                key=lambda node: (
                    sum(rank[other] for other in neighbours[node]) / len(neighbours[node])
                    if neighbours[node]
                    else rank[node]
                )
            )
        orders.append(order)
    return orders


def _crossings(order: Sequence[Sequence[str]], neighbours: Mapping[str, Sequence[str]]) -> int:
    crossings = 0
    for upper, lower in itertools.pairwise(reversed(order)):
        rank = {node: index for index, node in enumerate(lower)}
        ties = [(index, rank[other]) for index, node in enumerate(upper) for other in neighbours[node] if other in rank]
        crossings += sum((a - c) * (b - d) < 0 for (a, b), (c, d) in itertools.combinations(ties, 2))
    return crossings


def _across(order: Sequence[Sequence[str]], neighbours: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """How far to the right each node lies: near those it is tied to, at a distance from its neighbours on the floor."""

    def wide(node: str) -> float:
        return COLUMN if ">" not in node else GAP

    across: dict[str, float] = {}
    for level in order:
        place = -sum(wide(node) for node in level) / 2
        for node in level:
            across[node] = place + wide(node) / 2
            place += wide(node)
    for _ in range(60):
        for level in order:
            wanted = [
                sum(across[other] for other in neighbours[node]) / len(neighbours[node]) if neighbours[node] else 0.0
                for node in level
            ]
            # Pushed apart from the left and from the right; the mean of both keeps the distances.
            left, right = list(wanted), list(wanted)
            for index in range(1, len(level)):
                least = left[index - 1] + (wide(level[index - 1]) + wide(level[index])) / 2
                left[index] = max(left[index], least)
            for index in range(len(level) - 2, -1, -1):
                most = right[index + 1] - (wide(level[index + 1]) + wide(level[index])) / 2
                right[index] = min(right[index], most)
            across |= {node: (left[index] + right[index]) / 2 for index, node in enumerate(level)}
    return across


def draw() -> Any:
    """The picture as a figure of matplotlib."""
    from matplotlib import pyplot
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from matplotlib.path import Path as Outline

    graph, said = arrows(), sentences()
    at, paths = places(graph)
    ys = [y for _, y in at.values()]
    # Arrows may pass beside the outermost boxes.
    beside = [x for points in paths.values() for x, _ in points[1:-1]]
    left = min([x - WIDTH / 2 for x, _ in at.values()] + beside) - 0.3
    right = max([x + WIDTH / 2 for x, _ in at.values()] + beside) + 0.3
    size = (right - left, max(ys) - min(ys) + HEIGHT + 0.6)
    figure = pyplot.figure(figsize=size)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(left, right)
    axes.set_ylim(min(ys) - HEIGHT / 2 - 0.3, max(ys) + HEIGHT / 2 + 0.3)
    axes.axis("off")
    for room, (x, y) in at.items():
        colour = COLOURS.get(room.partition(".")[0], OTHER_COLOUR)
        corner = (x - WIDTH / 2, y - HEIGHT / 2)
        box = FancyBboxPatch(corner, WIDTH, HEIGHT, "round,pad=0,rounding_size=0.08", fc=colour, ec="#5a6570", lw=0.9)
        axes.add_patch(box)
        axes.text(x, y + HEIGHT / 2 - 0.18, room.replace(".", "/"), ha="center", va="center", size=11, weight="bold")
        lines = textwrap.wrap(said[room].replace("`", ""), 34, max_lines=4, placeholder=" ...")
        axes.text(x, y - 0.12, "\n".join(lines), ha="center", va="center", size=7.4, color="#333333", linespacing=1.15)
    for (room, target), points in paths.items():
        begin = _edge(points[0], points[1], -HEIGHT / 2, len(graph[room]))
        above = sum(target in targets for targets in graph.values())
        end = _edge(points[-1], points[-2], HEIGHT / 2, above)
        vertices, codes = [begin], [Outline.MOVETO]
        # Straight down past the boxes of a floor that it crosses, and bent between the floors alone.
        passed = [(x, y + side * HEIGHT / 2) for x, y in points[1:-1] for side in (1, -1)]
        for (x1, y1), (x2, y2) in itertools.pairwise([begin, *passed, end]):
            vertices += [(x1, (y1 + y2) / 2), (x2, (y1 + y2) / 2), (x2, y2)]
            codes += [Outline.CURVE4] * 3
        arrow = FancyArrowPatch(path=Outline(vertices, codes), arrowstyle="-|>", mutation_scale=9, lw=1.0, ec="#44505c")
        arrow.set_facecolor("#44505c")
        axes.add_patch(arrow)
    return figure


def _edge(place: Place, towards: Place, up: float, ties: int) -> Place:
    """Where an arrow touches a box: at its upper or lower side, to the side that it comes from or goes to."""
    shift = 0.0 if ties == 1 else max(-0.4, min(0.4, (towards[0] - place[0]) / (2 * COLUMN)))
    return place[0] + shift * WIDTH, place[1] + up


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--png", type=Path, help="also write it here as pixels")
    options = parser.parse_args(arguments)
    import matplotlib

    matplotlib.use("agg")
    # The same bytes for the same imports: a change of the picture is a change of theirs.
    matplotlib.rcParams["svg.hashsalt"] = "architecture"
    figure = draw()
    figure.savefig(PICTURE, metadata={"Title": "Rooms", "Description": "\n".join(data()), "Date": None})
    if options.png:
        figure.savefig(options.png, dpi=110)


if __name__ == "__main__":
    main()
