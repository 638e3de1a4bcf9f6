"""Results of `bench` for people: tables on a terminal, and the curve of latency against throughput as a picture."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from faceanon_engine.engine.bench import Change, Comparison

WIDE = 128
"""Columns of a terminal that hold every statistic."""
_STATISTICS = ("min", "mean", "p50", "p90", "p95", "p99")
_FEW_STATISTICS = ("p50", "p99")
_STEP = "one optimisation step"
_PARTS = (("host_to_device", "to GPU"), ("compute", "GPU"), ("device_to_host", "from GPU"), ("enqueue", "enqueue"))


def view(result: dict[str, Any], width: int = WIDE) -> RenderableType:
    """All tables of a result, with what it ran on above and what to know about the figures below.

    On terminals narrower than `WIDE` columns some statistics are left to the JSON.
    """
    wide = width >= WIDE
    parts: list[RenderableType] = [Text(line, style="dim") for line in _about(result)]
    for queued in (False, True):
        entries = [entry for entry in result["sessions"] if entry["queued"] == queued]
        if entries:
            title = (
                "networks, queued runs: milliseconds for a batch" if queued else "networks: milliseconds for a batch"
            )
            parts += ["", _sessions(title, entries, wide)]
    if any(entry["compute_ms"] for entry in result["sessions"]):
        parts += ["", _device(result["sessions"])]
    if result["steps"]:
        parts += ["", _steps(result["steps"], wide)]
    lines = [*result["notes"], *_left_out(result["left_out"])]
    if not wide and any(entry["notes"] for entry in [*result["sessions"], *result["steps"]]):
        lines.insert(0, f"~ is not certain: a terminal of {WIDE} columns or --json says why")
    if lines:
        parts += ["", *(Text(line, style="yellow") for line in lines)]
    return Group(*parts)


def _about(result: dict[str, Any]) -> Iterator[str]:
    machine, settings = result["machine"], result["settings"]
    cpu = machine["cpu"]
    threads = machine["threads"]["torch"]
    yield (
        f"bundle: {result['bundle']['name']} {result['bundle']['resolution']} px  device: {result['device']}  "
        f"cpu: {cpu['model']}, {cpu['usable_cores']} of {cpu['cores']} cores, {_count(threads, 'thread')}"
    )
    nothing: dict[str, Any] = {}
    for gpu, now in itertools.zip_longest(machine["gpus"], result["after"]["gpus"], fillvalue=nothing):
        clock = f", {now['sm_clock_mhz']:.0f} MHz" if now.get("sm_clock_mhz") else ""
        yield f"gpu: {gpu.get('name', '?')}, driver {machine['driver']}{clock}"
    versions = "  ".join(f"{name} {version}" for name, version in machine["versions"].items() if name != "numpy")
    yield (
        f"{versions}  Python {machine['python']}  at least {settings['min_seconds']:g} s and "
        f"{_count(settings['min_iterations'], 'run')} a case, in {_count(settings['rounds'], 'round')}"
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _grid(title: str, left: Iterable[str], right: Iterable[str], gap: int = 2) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, gap, 0, 0)
    )
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        # The one without a name is for words: it alone may be broken.
        table.add_column(name, justify="right" if name else "left", no_wrap=bool(name), overflow="fold")
    return table


def _sessions(title: str, entries: list[dict[str, Any]], wide: bool) -> Table:
    statistics = _STATISTICS if wide else _FEW_STATISTICS
    table = _grid(
        title,
        ("network", "backend", "type"),
        ("batch", *statistics, "images/s", "x torch", "MB", ""),
        gap=2 if wide else 1,
    )
    previous = ("", 0)
    for entry in entries:
        same_graph = entry["graph"] == previous[0]
        table.add_row(
            "" if same_graph else entry["graph"],
            entry["backend"],
            entry["precision"],
            "" if (entry["graph"], entry["batch"]) == previous else str(entry["batch"]),
            *(milliseconds(entry["total_ms"][name]) for name in statistics),
            rate(entry["images_per_second"]),
            _speedup(entry),
            _memory(entry),
            _notes(entry, wide),
        )
        previous = (entry["graph"], entry["batch"])
    return table


def _device(entries: list[dict[str, Any]]) -> Table:
    table = _grid(
        "on the GPU: median milliseconds of the parts",
        ("network", "backend", "type"),
        ("batch", *(name for _, name in _PARTS)),
    )
    for entry in entries:
        if entry["compute_ms"]:
            parts = (entry[f"{part}_ms"] for part, _ in _PARTS)
            table.add_row(
                entry["graph"],
                entry["backend"] + (" queued" if entry["queued"] else ""),
                entry["precision"],
                str(entry["batch"]),
                *(milliseconds(part["p50"]) if part else "" for part in parts),
            )
    return table


def _steps(entries: list[dict[str, Any]], wide: bool) -> Table:
    preset, steps = entries[0]["preset"], entries[0]["steps_of_an_image"]
    statistics = ("min", "mean", "p50", "p90", "p99") if wide else ("p50",)
    each = f"images/s at {steps} steps" if wide else "images/s"
    captured = any(entry["captured"] for entry in entries)
    table = _grid(
        f"optimisation, preset {preset}: milliseconds for a step of a batch"
        + (", forward and backward without its CUDA graph" if captured else ""),
        ("type",),
        ("batch", *statistics, "forward", "backward", "p50 an image", each, "MB", ""),
        gap=2 if wide else 1,
    )
    for entry in entries:
        parts = (entry[f"{part}_ms"] for part in ("forward", "backward"))
        table.add_row(
            entry["precision"],
            str(entry["batch"]),
            *(milliseconds(entry["step_ms"][name]) for name in statistics),
            *(milliseconds(part["p50"]) if part else "" for part in parts),
            milliseconds(entry["step_ms_per_image"]),
            rate(entry["images_per_second_of_steps"]),
            _memory(entry),
            _notes(entry, wide),
        )
    return table


def _notes(entry: dict[str, Any], wide: bool) -> Text:
    words = ", ".join(_NOTES[note["kind"]].format(note["value"]) for note in entry["notes"])
    return Text(words if wide or not words else "~", style="yellow")


_NOTES = {
    "runs": "{:.0f} runs",
    "spread": "spread {:.0%}",
    "pace": "pace {:.0%}",
    "host": "host-bound",
    "copies": "copy-bound",
}


def _left_out(entries: list[dict[str, Any]]) -> Iterator[str]:
    """A line for every reason, naming all it is the reason of."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        words = [entry["backend"], entry["precision"], entry["batch"] and f"batch {entry['batch']}"]
        what = " ".join(word for word in words if word)
        by_reason.setdefault((entry["reason"], what), []).append(
            f"{'memory of ' if entry['kind'] == 'memory' else ''}{entry['graph'] or 'optimise'}"
        )
    for (reason, what), graphs in by_reason.items():
        yield f"left out: {what + ' of ' if what else ''}{', '.join(graphs)}: {reason}"


def milliseconds(value: float) -> str:
    """Three figures or more, never an exponent."""
    return (
        f"{value:.0f}"
        if value >= 1000
        else f"{value:.1f}"
        if value >= 100
        else f"{value:.2f}"
        if value >= 10
        else (f"{value:.3f}")
    )


def rate(value: float) -> str:
    """Images a second."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _speedup(entry: dict[str, Any]) -> str:
    speedup = entry["speedup"].get(f"torch {entry['precision']}") or entry["speedup"].get("torch fp32")
    if speedup is None:
        return "1" if entry["backend"] == "torch" else ""
    return f"{speedup['ratio']:.2f}"


def _memory(entry: dict[str, Any]) -> str:
    memory = entry["memory"]
    if memory is None:
        return ""
    count = memory["device_bytes"] if memory["device_bytes"] is not None else memory["host_bytes"]
    return "" if count is None else f"{count / 1e6:.0f}"


def view_comparison(comparison: Comparison, fail_above: float | None, anyway: list[str]) -> RenderableType:
    """Cases whose median changed, largest loss first; `fail_above` is the share that fails the command."""
    table = _grid("compared with the earlier result: median milliseconds", ("case",), ("then", "now", "change", ""))
    for change in comparison.changes:
        table.add_row(
            change.what,
            milliseconds(change.old_ms),
            milliseconds(change.new_ms),
            Text(f"{change.slower_by:+.1%}", style=_colour(change, fail_above)),
            _verdict(change, fail_above),
        )
    lines = [f"other now: {line}" for line in [*anyway, *comparison.versions]]
    for which, names in (("earlier", comparison.only_old), ("new", comparison.only_new)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            lines.append(f"only in the {which} result: {', '.join(names[:3])}{more}")
    return Group(table, *(Text(line, style="yellow") for line in lines))


def _colour(change: Change, fail_above: float | None) -> str:
    if fail_above is not None and change.slower_by > fail_above:
        return "bold red"
    return "" if change.within_noise else "red" if change.slower_by > 0 else "green"


def _verdict(change: Change, fail_above: float | None) -> str:
    words = "slower" if change.slower_by > 0 else "faster"
    if change.within_noise:
        words = f"within noise ({change.noise:.0%})"
    if fail_above is not None and change.slower_by > fail_above:
        words += f", above {fail_above:.0%}"
    return words


def draw(result: dict[str, Any]) -> bytes | None:
    """A PNG of latency against throughput over the batch sizes; None when there is no sweep to draw.

    Raises ImportError without matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    curves = _curves(result)
    if not curves:
        return None
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.7 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    styles = {name: index for index, name in enumerate(dict.fromkeys(n for lines in curves.values() for n in lines))}
    for axis, (graph, lines) in zip(axes.flat, curves.items(), strict=False):
        for name, points in lines.items():
            xs, ys = [point[0] for point in points], [point[1] for point in points]
            (line,) = axis.plot(
                xs, ys, marker="os^Dv<>"[styles[name] % 7], markersize=4, color=f"C{styles[name] % 10}", label=name
            )
            for x, y, batch in points:
                axis.annotate(
                    str(batch),
                    (x, y),
                    (0, 5),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7,
                    color=line.get_color(),
                )
        axis.set_title(graph)
        axis.set_xscale("log")
        axis.set_xlabel("median latency of a batch, ms")
        axis.set_ylabel("image steps/s" if graph == _STEP else "images/s")
        axis.set_ylim(0, 1.15 * max(point[1] for points in lines.values() for point in points))
        axis.margins(x=0.12)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(plain)
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="best")
    for axis in list(axes.flat)[len(curves) :]:
        axis.set_visible(False)
    machine = result["machine"]
    where = (
        ", ".join(gpu["name"] for gpu in machine["gpus"])
        if result["device"].startswith("cuda")
        else (f"{machine['cpu']['model']}, {_count(machine['threads']['torch'], 'thread')}")
    )
    bundle = result["bundle"]
    figure.suptitle(
        f"{bundle['name']} {bundle['resolution']} px on {where}: throughput against latency, by batch size", fontsize=10
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def _curves(result: dict[str, Any]) -> dict[str, dict[str, list[tuple[float, float, int]]]]:
    """Points (median ms, images/s, batch) by graph and line; lines of a single point are no curve."""
    points_of: dict[str, dict[str, list[tuple[float, float, int]]]] = {}
    queued = {entry["graph"]: entry["queued"] for entry in result["sessions"] if entry["queued"]}
    for entry in result["sessions"]:
        if entry["queued"] == queued.get(entry["graph"], False):
            name = f"{entry['backend']} {entry['precision']}"
            point = (entry["total_ms"]["p50"], entry["images_per_second"], entry["batch"])
            points_of.setdefault(entry["graph"], {}).setdefault(name, []).append(point)
    for entry in result["steps"]:
        point = (entry["step_ms"]["p50"], entry["batch"] * 1000 / entry["step_ms"]["mean"], entry["batch"])
        points_of.setdefault(_STEP, {}).setdefault(f"{entry['preset']} {entry['precision']}", []).append(point)
    kept = {
        graph: {n: sorted(points, key=lambda p: p[2]) for n, points in lines.items() if len(points) > 1}
        for graph, lines in points_of.items()
    }
    return {graph: lines for graph, lines in kept.items() if lines}
