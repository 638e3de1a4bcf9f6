"""`faceanon-engine doctor`: what this machine can do."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from faceanon_engine.cli import options
from faceanon_engine.cli.console import add_row, output_console, print_json


@click.command()
@options.as_json
@options.log_level
def doctor(as_json: bool) -> None:
    """Say what this machine can do: devices, backends that really work and why others do not, bundles, space."""
    from faceanon_engine.engine.doctor import examine

    machine = examine()
    if as_json:
        print_json(machine)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column()
    table.add_column(overflow="fold")
    cpu = machine["cpu"]
    cores = f"{cpu['cores']} cores"
    if cpu["usable"] not in (None, cpu["cores"]):
        cores += f", {cpu['usable']} of them usable by this process"
    add_row(
        table,
        "version",
        "",
        f"faceanon-engine {machine['faceanon_engine']}, Python {machine['python']}, {machine['system']}",
    )
    add_row(table, "cpu", "", cores)
    add_row(table, "driver", *_mark(machine["driver"]))
    for gpu in machine["gpus"]:
        room = f"{_gigabytes(gpu['free'])} of {_gigabytes(gpu['total'])} free"
        add_row(table, "gpu", "yes", f"{gpu['name']}, compute capability {gpu['capability']}, {room}")
    for kind in ("packages", "backends"):
        for name, entry in machine[kind].items():
            add_row(table, f"{kind[:-1]} {name}", *_mark(entry))
    add_row(table, "exporting", *_mark(machine["exporting"]))
    add_row(table, "fused kernels", *_mark(machine["fused_kernels"]))
    for device, entry in machine["auto"].items():
        add_row(table, f"--backend auto on {device}", *_mark(entry))
    add_row(table, "face detector", *_mark(machine["detector"]))
    for bundle in machine["bundles"]:
        detail = f"{bundle['pixels']} px" if bundle["works"] else bundle["reason"]
        add_row(table, f"bundle {bundle['name']}", "yes" if bundle["works"] else "no", detail)
    for kind in ("memory", "disk"):
        entry = machine[kind]
        where = f" at {entry['path']}" if "path" in entry else ""
        add_row(table, kind, "", f"{_gigabytes(entry['free'])} of {_gigabytes(entry['total'])} free{where}")
    output_console().print(table)


def _mark(entry: dict[str, Any]) -> tuple[str, str]:
    return ("yes", entry["version"]) if entry["works"] else ("no", entry["reason"])


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
