"""`faceanon-engine models`: bundles of networks, from the official checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from faceanon_engine.cli import options
from faceanon_engine.cli.console import error_console, output_console, print_json
from faceanon_engine.engine.errors import UserError

_ROLES = ("generator", "inverter", "identity_encoder", "attribute_encoder")


@click.group()
def models() -> None:
    """Import, fetch, list and verify bundles: the four networks of the method in one directory."""


@models.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name of the new bundle.")
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True, help="Stored as."
)
@click.option("--licence-note", default="", help="Terms of the files, kept in the bundle.")
@click.option("--force", is_flag=True, help="Replace a bundle of that name.")
@options.as_json
def import_(files: tuple[Path, ...], name: str, dtype: str, licence_note: str, force: bool, as_json: bool) -> None:
    """Make a bundle of official checkpoint FILES, recognised by what they hold. Nothing in them is executed.

    e4e's file holds an inverter and a generator; a generator of its own file goes before that one.
    """
    from faceanon_engine.engine.bundle import DEMO, MANIFEST, Bundle, NetworkToWrite, bundles_root, sha256_of
    from faceanon_engine.engine.checkpoints import read_checkpoint
    from faceanon_engine.engine.fetch import OFFICIAL

    if Path(name).name != name or name.startswith(".") or name == DEMO:
        raise UserError(f"{name!r} cannot name a bundle: use letters, digits, '-' and '_', and not {DEMO!r}")
    target = bundles_root() / name
    if (target / MANIFEST).exists() and not force:
        raise UserError(f"bundle {name!r} exists in {target}: choose another name, or replace it with --force")
    known = {file.name: file for file in OFFICIAL}
    found: dict[str, tuple[Path, NetworkToWrite]] = {}
    for file in files:
        error_console().print(f"reading {file}", markup=False)
        networks = read_checkpoint(file)
        checksum = sha256_of(file)
        for network in networks:
            official = known.get(file.name)
            source = {
                "format": network.source_format,
                "file": file.name,
                "sha256": checksum,
                "url": (official.url or official.page) if official else "",
                "licence": licence_note or (official.licence if official else "not stated"),
            }
            entry = file, NetworkToWrite(network.role, network.config, network.state_dict, source)
            before = found.get(network.role)
            if before is not None and "e4e" not in (network.source_format, before[1].source["format"]):
                raise UserError(f"{before[0]} and {file} both hold the {network.role}: leave one of them out")
            if before is None or before[1].source["format"] == "e4e":
                found[network.role] = entry
    bundle = Bundle.write(target, name, [network for _, network in found.values()], dtype=dtype)
    if as_json:
        print_json({"name": bundle.name, "path": str(bundle.path), "digest": bundle.digest})
    else:
        output_console().print(f"bundle {name}: {bundle.path} ({bundle.digest[:12]})", markup=False, soft_wrap=True)


@models.command("list")
@options.as_json
def list_(as_json: bool) -> None:
    """List the bundles: installed ones and the demo's."""
    from faceanon_engine.engine.bundle import DEMO, Bundle, demo_path, installed

    rows: list[dict[str, Any]] = []
    for name, path in [*installed().items(), (DEMO, demo_path())]:
        row: dict[str, Any] = {"name": name, "path": str(path)}
        try:
            bundle = Bundle.open(path)
        except UserError as error:
            row["problem"] = str(error)
        else:
            row["digest"] = bundle.digest
            row["resolution"] = bundle.networks["generator"]["config"]["resolution"]
            row["bytes"] = sum(bundle.networks[role]["bytes"] for role in _ROLES)
            row["networks"] = {role: bundle.networks[role]["source"] for role in _ROLES}
        rows.append(row)
    if as_json:
        print_json({"bundles": rows})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("bundle", "pixels", "MB", "digest", "generator from", "path"):
        table.add_column(column, overflow="fold")
    for row in rows:
        if "problem" in row:
            table.add_row(row["name"], "", "", "damaged", row["problem"], row["path"])
        else:
            origin = row["networks"]["generator"].get("format", "")
            size = f"{row['bytes'] / 1e6:.1f}"
            table.add_row(row["name"], str(row["resolution"]), size, row["digest"][:12], origin, row["path"])
    output_console().print(table)


@models.command()
@click.argument("bundle", required=False)
@options.as_json
def verify(bundle: str | None, as_json: bool) -> int:
    """Check every file of BUNDLE (name or directory) against its sha256; exit code 1 when one is damaged."""
    from faceanon_engine.engine.bundle import Bundle

    opened = Bundle.open(bundle)
    problems = opened.verify()
    if as_json:
        print_json({"name": opened.name, "path": str(opened.path), "digest": opened.digest, "problems": problems})
    else:
        for problem in problems:
            output_console().print(f"damaged: {problem}", markup=False, soft_wrap=True)
        if not problems:
            output_console().print(f"{opened.name}: all files are as recorded", markup=False)
    return 1 if problems else 0


@models.command()
@click.argument("names", nargs=-1)
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=Path("checkpoints"), show_default=True)
@options.as_json
def fetch(names: tuple[str, ...], folder: Path, as_json: bool) -> int:
    """Download the official files (all, or those NAMED) into a folder; says which ones have to be placed by hand."""
    from faceanon_engine.engine.fetch import OFFICIAL
    from faceanon_engine.engine.fetch import fetch as download

    known = {file.name: file for file in OFFICIAL}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"unknown file {unknown[0]!r}: known are {', '.join(known)}")
    messages = error_console()
    rows, missing = [], 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    for name in names or tuple(known):
        file, target = known[name], folder / name
        row = {"file": name, "holds": file.holds, "path": str(target), "licence": file.licence}
        problem = ""
        if target.exists():
            row["state"] = "there"
        elif file.url is None:
            problem = f"{name} is offered on a page, not by a direct address: get it from {file.page}"
        else:
            try:
                with Progress(*columns, console=messages, disable=not messages.is_terminal) as progress:
                    task = progress.add_task(name, total=None)

                    def report(done: int, total: int | None, bar: Progress = progress, number: TaskID = task) -> None:
                        bar.update(number, completed=done, total=total)

                    row["sha256"] = download(file.url, target, sha256=file.sha256, progress=report)
                row["state"] = "fetched"
            except UserError as error:
                problem = str(error)
        if problem:
            missing += 1
            row["state"], row["problem"] = "missing", f"{problem}; place it at {target}"
        rows.append(row)
        if not as_json:
            output_console().print(
                f"{name} ({file.holds}): {row.get('problem', row['state'])}", markup=False, soft_wrap=True
            )
    if as_json:
        print_json({"files": rows})
    return 2 if missing else 0
