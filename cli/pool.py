"""`faceanon-engine pool`: the pools of generated faces that originals are paired with."""

from __future__ import annotations

from typing import Any

import click

from faceanon_engine.cli import options
from faceanon_engine.cli.console import ProgressObserver, error_console, output_console, print_about, print_json, say


@click.group()
def pool() -> None:
    """Make and list pools of generated faces. A job makes its own where none fits."""


@pool.command()
@options.bundle
@click.option(
    "--size",
    type=click.IntRange(min=1),
    metavar="N",
    required=True,
    help="Number of faces; more than the originals (the paper's: 60000).",
)
@options.truncation
@options.seed
@options.preset
@options.device
@options.backend
@options.precision
@options.batch_size
@options.as_json
@options.log_level
def create(size: int, as_json: bool, **flags: Any) -> None:
    """Make a pool, or go on with one whose making was interrupted."""
    from faceanon_engine.engine.job import job_settings
    from faceanon_engine.engine.job.stages import OpenedStages
    from faceanon_engine.engine.method import PoolSpec
    from faceanon_engine.export.prepare import prepare_for

    settings = job_settings("", "", flags)
    messages = error_console()
    with (
        ProgressObserver(messages) as observer,
        OpenedStages.open(settings, prepare_for(settings.backend, observer.note)) as opened,
    ):
        print_about(messages, opened.about())
        made = opened.pool(PoolSpec(opened.bundle.digest, size, settings.truncation, settings.seed), observer)
    if as_json:
        print_json({"path": str(made.path), "size": made.size, "digest": made.digest})
    else:
        say(output_console(), f"{made.size} faces: {made.path}")


@pool.command("list")
@options.as_json
@options.log_level
def list_(as_json: bool) -> None:
    """List the finished pools."""
    from faceanon_engine.engine.method import list_pools
    from faceanon_engine.engine.system.home import home

    pools = list_pools()
    if as_json:
        print_json(
            {
                "pools": [
                    {
                        "path": str(each.path),
                        "bundle": each.spec.bundle,
                        "size": each.size,
                        "truncation": each.spec.truncation_psi,
                        "seed": each.spec.seed,
                    }
                    for each in pools
                ]
            }
        )
        return
    console = output_console()
    if not pools:
        say(console, f"no pools in {home().pools}")
    for each in pools:
        say(
            console,
            f"{each.size} faces, truncation {each.spec.truncation_psi:g}, seed {each.spec.seed}, "
            f"bundle {each.spec.bundle[:12]}: {each.path}",
        )
