"""`faceanon-engine models`: bundles of networks, from the official checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
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
from faceanon_engine.cli.console import (
    NoteObserver,
    ProgressObserver,
    add_row,
    error_console,
    output_console,
    print_json,
    say,
)
from faceanon_engine.engine.choices import ROLES, STORED_DTYPES, StoredDtype
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.method.preset import PRESETS
from faceanon_engine.engine.models.domain import LIMIT, MEASURES
from faceanon_engine.engine.system import Observer


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
@click.option("--dtype", type=click.Choice(STORED_DTYPES), default="float32", show_default=True, help="Stored as.")
@click.option("--licence-note", default="", help="Terms of the files, kept in the bundle.")
@click.option("--url", "urls", multiple=True, metavar="FILE=URL", help="Where that file is from, kept in the bundle.")
@click.option("--force", is_flag=True, help="Replace a bundle of that name.")
@options.as_json
@options.log_level
def import_(
    files: tuple[Path, ...],
    name: str,
    roles: tuple[str, ...],
    dtype: StoredDtype,
    licence_note: str,
    urls: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Make a bundle of official checkpoint FILES, recognised by what they hold. Nothing in them is executed.

    What is something else than a network of the method is named, with what to do.

    e4e's file holds an inverter and a generator; a generator of its own file goes before that one.
    """
    from faceanon_engine.engine.models import import_bundle

    bundle = import_bundle(
        files,
        name,
        roles=_pairs("--role", roles, "ROLE=FILE"),
        urls=_pairs("--url", urls, "FILE=URL"),
        dtype=dtype,
        licence_note=licence_note,
        force=force,
        observer=NoteObserver(error_console()),
    )
    if as_json:
        print_json(
            {"name": bundle.name, "path": str(bundle.path), "digest": bundle.digest, "networks": bundle.networks}
        )
        return
    for role in ROLES:
        origin = bundle.networks[role]["source"]
        say(output_console(), f"{role}: {origin['file']} ({origin['format']})")
    say(output_console(), f"bundle {name}: {bundle.path} ({bundle.digest[:12]})")


def _pairs(option: str, values: tuple[str, ...], form: str) -> dict[str, str]:
    """Left to right side of each A=B; raises UserError for what is none."""
    pairs: dict[str, str] = {}
    for value in values:
        left, equals, right = value.partition("=")
        if not equals or not left or not right:
            raise UserError(f"{option} {value!r}: write {form}")
        pairs[left] = right
    return pairs


@models.command("list")
@options.as_json
@options.log_level
def list_(as_json: bool) -> None:
    """List the bundles: installed ones and the demo's, and what is wrong with those that cannot be used."""
    from faceanon_engine.engine.models import Bundle, demo_path, installed_bundles
    from faceanon_engine.engine.models.bundle import DEMO

    rows: list[dict[str, Any]] = []
    for name, path in [*installed_bundles().items(), (DEMO, demo_path())]:
        row: dict[str, Any] = {"name": name, "path": str(path)}
        try:
            bundle = Bundle.open(path)
        except UserError as error:
            row["problem"] = str(error)
        else:
            row["digest"] = bundle.digest
            row["resolution"] = bundle.resolution
            row["trained_on"] = (bundle.domain or {}).get("trained_on")
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
        if "problem" not in row:
            origin = row["networks"]["generator"].get("format", "")[:60]
            size = f"{row['bytes'] / 1e6:.1f}"
            add_row(table, row["name"], str(row["resolution"]), size, row["digest"][:12], origin, row["path"])
    output_console().print(table)
    for row in rows:
        if "problem" in row:
            say(output_console(), f"damaged: {row['name']}: {row['problem']}")


@models.command()
@click.argument("bundle")
@click.argument("faces", type=click.Path(path_type=Path))
@click.option(
    "--trained-on", required=True, metavar="TEXT", help="What the networks know, in words: photographs of FFHQ, say."
)
@click.option(
    "--optimise",
    "optimised",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    metavar="N",
    help="So many of the faces to the end, by every preset; 0 measures before the first step alone.",
)
@click.option(
    "--preset",
    "presets",
    multiple=True,
    type=click.Choice(sorted(PRESETS)),
    help="Measure this preset; may be given several times.  [default: all]",
)
@options.align
@options.min_face
@options.limit
@options.device
@options.backend
@options.precision
@options.as_json
@options.log_level
def calibrate(
    bundle: str,
    faces: Path,
    trained_on: str,
    optimised: int,
    presets: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure how the faces in FACES score, which the networks of BUNDLE know, and write it into BUNDLE.

    FACES are some hundreds of the kind that the networks were trained on, and which they have not seen. Jobs are then
    told when their faces lie outside of that. Results do not change.
    """
    from faceanon_engine.engine.job import job_settings
    from faceanon_engine.engine.job.calibrate import calibrate as measure
    from faceanon_engine.export.prepare import prepare_for

    settings = job_settings(faces, "", {"bundle": bundle, **flags})
    with ProgressObserver(error_console(), "measuring") as observer:
        section = measure(
            settings,
            trained_on,
            optimised=optimised,
            presets=presets or tuple(PRESETS),
            observer=observer,
            prepare=prepare_for(settings.backend, observer.note),
        )
    if as_json:
        print_json({"bundle": bundle, "domain": section})
        return
    for entry in section["measured"]:
        limits = ", ".join(
            f"{name.replace('_', ' ')} {entry[name][LIMIT]:.1f}" for name in MEASURES if entry.get(name) is not None
        )
        say(output_console(), f"{entry['preset']}: 99 of 100 of {entry['faces']} known faces have at most {limits}")


@models.command()
@click.argument("bundle", required=False)
@options.as_json
@options.log_level
def verify(bundle: str | None, as_json: bool) -> int:
    """Check every file of BUNDLE (name or directory) against its sha256; exit code 1 when one is damaged."""
    from faceanon_engine.engine.models import Bundle

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
    from faceanon_engine.engine.models import obtain, official_files

    messages = error_console()
    rows: list[dict[str, str]] = []
    missing = 0
    for file in official_files(names):
        with _DownloadObserver(messages, file.name) as observer:
            obtained = obtain(file, folder, progress=observer.progress)
        row = {"file": file.name, "holds": file.holds, "path": str(obtained.path), "licence": file.licence}
        if obtained.fetched is not None:
            stated = obtained.fetched.stated
            said = f"fetched to {obtained.path}, sha256 {obtained.fetched.sha256}"
            if not stated:
                said += " (its publisher states none to compare with: importing it checks what it holds)"
            row |= {"state": "fetched", "sha256": obtained.fetched.sha256, "url": obtained.fetched.url}
            row["verified"] = "its publisher's sha256" if stated else "its length"
        elif obtained.problem is not None:
            missing += 1
            said = f"missing: {obtained.problem}; or get it from {file.page} and place it at {obtained.path}"
            row |= {"state": "missing", "page": file.page, "problem": said}
        else:
            said = f"is there already, {obtained.path}"
            row["state"] = "there"
        rows.append(row)
        if not as_json:
            say(output_console(), f"{file.name} ({file.holds}): {said}")
    if as_json:
        print_json({"files": rows})
    return 2 if missing else 0


class _DownloadObserver(Observer):
    """A bar for one file on a terminal, from the beginning of its download on."""

    def __init__(self, console: Console, name: str) -> None:
        self._name = name
        self._task: TaskID | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> _DownloadObserver:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def progress(self, done: float, total: float | None, what: str = "") -> None:
        if self._task is None:
            self._task = self._bar.add_task(self._name, total=total)
        self._bar.update(self._task, completed=done, total=total)
