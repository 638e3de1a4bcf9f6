"""`faceanon-engine models`: bundles of networks, from the official checkpoints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from faceanon_engine.cli import options
from faceanon_engine.cli.console import add_row, error_console, output_console, print_json, say
from faceanon_engine.engine.choices import ROLES
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.write import write_bundle

if TYPE_CHECKING:
    from faceanon_engine.engine.models.write import NetworkToWrite


@click.group()
def models() -> None:
    """Import, fetch, list and verify bundles: the four networks of the method in one directory."""


@models.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name of the new bundle.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    metavar="ROLE=FILE",
    help=f"Take this network from that one of FILES, where several hold it ({', '.join(ROLES)}).",
)
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True, help="Stored as."
)
@click.option("--licence-note", default="", help="Terms of the files, kept in the bundle.")
@click.option("--url", "urls", multiple=True, metavar="FILE=URL", help="Where that file is from, kept in the bundle.")
@click.option("--force", is_flag=True, help="Replace a bundle of that name.")
@options.as_json
@options.log_level
def import_(
    files: tuple[Path, ...],
    name: str,
    roles: tuple[str, ...],
    dtype: str,
    licence_note: str,
    urls: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Make a bundle of official checkpoint FILES, recognised by what they hold. Nothing in them is executed.

    e4e's file holds an inverter and a generator; a generator of its own file goes before that one.
    """
    from faceanon_engine.engine.models.bundle import DEMO, MANIFEST
    from faceanon_engine.engine.models.checkpoints.reading import read_checkpoint
    from faceanon_engine.engine.models.official import OFFICIAL
    from faceanon_engine.engine.models.write import NetworkToWrite
    from faceanon_engine.engine.system.digests import sha256_of
    from faceanon_engine.engine.system.home import home

    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or name == DEMO:
        raise UserError(f"{name!r} cannot name a bundle: use letters, digits, '-', '.' and '_', and not {DEMO!r}")
    target = home().bundles / name
    if (target / MANIFEST).exists() and not force:
        raise UserError(f"bundle {name!r} exists in {target}: choose another name, or replace it with --force")
    chosen = _assigned("--role", roles, files, of_file=False)
    unknown = [role for role in chosen if role not in ROLES]
    if unknown:
        raise UserError(f"--role {unknown[0]}: a bundle holds {', '.join(ROLES)}")
    origins = _assigned("--url", urls, files, of_file=True)
    official = {file.name: file for file in OFFICIAL}
    found: dict[str, list[tuple[Path, NetworkToWrite]]] = {}
    for file in files:
        say(error_console(), f"reading {file}")
        networks = read_checkpoint(file)
        checksum = sha256_of(file)
        published = official.get(file.name)
        for network in networks:
            source = {
                "format": network.source_format,
                "file": file.name,
                "sha256": checksum,
                "url": origins.get(str(file)) or (published.addresses[0].url if published else ""),
                "licence": licence_note or (published.licence if published else "not stated"),
            }
            entry = file, NetworkToWrite(network.role, network.config, network.state_dict, source)
            found.setdefault(network.role, []).append(entry)
    networks_to_write = [_choose(role, offers, chosen.get(role)) for role, offers in found.items()]
    for role, file_name in chosen.items():
        if role not in found:
            raise UserError(f"--role {role}={file_name}: none of the files holds a {role}")
    bundle = write_bundle(target, name, networks_to_write, dtype=dtype)
    if as_json:
        print_json(
            {"name": bundle.name, "path": str(bundle.path), "digest": bundle.digest, "networks": bundle.networks}
        )
        return
    for role in ROLES:
        origin = bundle.networks[role]["source"]
        say(output_console(), f"{role}: {origin['file']} ({origin['format']})")
    say(output_console(), f"bundle {name}: {bundle.path} ({bundle.digest[:12]})")


def _assigned(option: str, values: tuple[str, ...], files: tuple[Path, ...], *, of_file: bool) -> dict[str, str]:
    """Left to right side of each A=B; one of the sides, the left when `of_file`, has to be one of the files."""
    given = {str(file): str(file) for file in files} | {file.name: str(file) for file in files}
    pairs: dict[str, str] = {}
    for value in values:
        left, equals, right = value.partition("=")
        file = left if of_file else right
        if not equals or not left or not right:
            raise UserError(f"{option} {value!r}: write {'FILE=URL' if of_file else 'ROLE=FILE'}")
        if file not in given:
            raise UserError(f"{option} {value!r}: {file} is not among the files to import")
        if of_file:
            pairs[given[left]] = right
        else:
            pairs[left] = given[right]
    return pairs


def _choose(role: str, offers: list[tuple[Path, NetworkToWrite]], file: str | None) -> NetworkToWrite:
    """The network meant: of the file named, otherwise the only one, not counting the generator inside e4e's file."""
    if file is not None:
        offers = [offer for offer in offers if str(offer[0]) == file]
        if not offers:
            raise UserError(f"--role {role}={file}: that file holds no {role}")
    elif role == "generator" and any(network.source["format"] != "e4e" for _, network in offers):
        offers = [offer for offer in offers if offer[1].source["format"] != "e4e"]
    if len(offers) > 1:
        names = " and ".join(str(path) for path, _ in offers)
        raise UserError(f"{names} both hold the {role}: leave one of them out, or choose with --role {role}=FILE")
    return offers[0][1]


@models.command("list")
@options.as_json
@options.log_level
def list_(as_json: bool) -> None:
    """List the bundles: installed ones and the demo's."""
    from faceanon_engine.engine.models.bundle import DEMO, Bundle, demo_path, installed

    rows: list[dict[str, Any]] = []
    for name, path in [*installed().items(), (DEMO, demo_path())]:
        row: dict[str, Any] = {"name": name, "path": str(path)}
        try:
            bundle = Bundle.open(path)
        except UserError as error:
            row["problem"] = str(error)
        else:
            row["digest"] = bundle.digest
            row["resolution"] = bundle.resolution
            row["bytes"] = sum(bundle.networks[role]["bytes"] for role in ROLES)
            row["networks"] = {role: bundle.networks[role]["source"] for role in ROLES}
        rows.append(row)
    if as_json:
        print_json({"bundles": rows})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("bundle", "pixels", "MB", "digest", "generator from", "path"):
        table.add_column(column, overflow="fold")
    for row in rows:
        if "problem" in row:
            add_row(table, row["name"], "", "", "damaged", row["problem"], row["path"])
        else:
            origin = row["networks"]["generator"].get("format", "")
            size = f"{row['bytes'] / 1e6:.1f}"
            add_row(table, row["name"], str(row["resolution"]), size, row["digest"][:12], origin, row["path"])
    output_console().print(table)


@models.command()
@click.argument("bundle", required=False)
@options.as_json
@options.log_level
def verify(bundle: str | None, as_json: bool) -> int:
    """Check every file of BUNDLE (name or directory) against its sha256; exit code 1 when one is damaged."""
    from faceanon_engine.engine.models.bundle import Bundle

    opened = Bundle.open(bundle, check_files=False)
    problems = opened.verify()
    if as_json:
        print_json({"name": opened.name, "path": str(opened.path), "digest": opened.digest, "problems": problems})
    else:
        for problem in problems:
            say(output_console(), f"damaged: {problem}")
        if not problems:
            say(output_console(), f"{opened.name}: all files are as recorded")
    return 1 if problems else 0


@models.command()
@click.argument("names", nargs=-1)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("checkpoints"),
    show_default=True,
    metavar="FOLDER",
    help="Where they are put.",
)
@options.as_json
@options.log_level
def fetch(names: tuple[str, ...], folder: Path, as_json: bool) -> int:
    """Download the official files (those needed, or those NAMED) into a folder.

    Goes on with what an interrupted download left. Says which files have to be placed by hand, and exits with 2 then.
    """
    from faceanon_engine.engine.models.download import fetch_official
    from faceanon_engine.engine.models.official import OFFICIAL

    known = {file.name: file for file in OFFICIAL}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"unknown file {unknown[0]!r}: known are {', '.join(known)}")
    messages = error_console()
    rows: list[dict[str, str]] = []
    missing = 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    for name in names or tuple(file.name for file in OFFICIAL if not file.optional):
        file, target = known[name], folder / name
        row = {"file": name, "holds": file.holds, "path": str(target), "licence": file.licence}
        said = ""
        if target.is_file():
            row["state"] = "there"
            said = f"is there already, {target}"
        else:
            try:
                with Progress(*columns, console=messages, disable=not messages.is_terminal) as progress:
                    task = progress.add_task(name, total=None)

                    def report(
                        done: float, total: float | None, what: str = "", bar: Any = progress, number: Any = task
                    ) -> None:
                        bar.update(number, completed=done, total=total)

                    fetched = fetch_official(file, folder, progress=report)
                row |= {"state": "fetched", "sha256": fetched.sha256, "url": fetched.url}
                said = f"fetched to {target}, sha256 {fetched.sha256}"
            except UserError as error:
                missing += 1
                said = f"missing: {error}; or get it from {file.page} and place it at {target}"
                row |= {"state": "missing", "page": file.page, "problem": said}
        rows.append(row)
        if not as_json:
            say(output_console(), f"{name} ({file.holds}): {said}")
    if as_json:
        print_json({"files": rows})
    return 2 if missing else 0
