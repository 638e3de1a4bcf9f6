"""`faceanon-engine anonymize`: the main job."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from faceanon_engine.cli import options
from faceanon_engine.cli.console import ProgressObserver, error_console, output_console, print_about, print_json, say
from faceanon_engine.engine.system.printable import counted

DOES_NOT_KNOW = "do not use these results, use networks that know such faces (docs/models.md)"


@click.command()
@click.argument("input", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@options.job_options
@click.option("--dry-run", is_flag=True, help="Validate everything and list what would be done; write nothing.")
@options.as_json
@options.log_level
@click.pass_context
def anonymize(context: click.Context, input: Path, output: Path, dry_run: bool, as_json: bool, **flags: Any) -> None:
    """Turn the faces of INPUT into other people's with the same attributes.

    INPUT is a folder of images (recursive), one image, or a text file of paths. Results, and nothing else, go to
    OUTPUT/release; the manifest of what happened to every image and a contact sheet to OUTPUT/private. Stopped at any
    moment and run again, it goes on where it was.

    Exit code: 0 done, 1 some inputs failed or are left, 2 usage or environment, 130 interrupted.
    """
    from faceanon_engine.engine.job import plan_job, run_job
    from faceanon_engine.export.prepare import worker_factory

    settings = options.settings_of(context, input, output, flags)
    messages = error_console()
    if dry_run:
        plan = plan_job(settings)
        print_about(messages, plan.about)
        if as_json:
            print_json(plan.to_json())
        else:
            _print_plan(plan)
        context.exit(plan.exit_code)
    with ProgressObserver(messages) as observer:
        result = run_job(settings, observer=observer, make_worker=worker_factory(settings.backend, observer.note))
    if as_json:
        print_json(result.to_json())
    else:
        _print_result(result)
    context.exit(result.exit_code)


def _print_plan(plan: Any) -> None:
    console = output_console()
    verbs = {
        "anonymize": "would anonymize",
        "keep": "is done",
        "redact": "would redact",
        "skip": "would skip",
        "leave": "would keep",
        "give back": "would give back",
        "fail": "would fail",
    }
    for item in plan.items:
        ending = f"({item.message})" if item.message else f"-> {item.output}"
        face = f" face {item.face}" if item.face else ""
        say(console, f"{verbs[item.action]}: {item.input}{face} {ending}")
    counts = {action: sum(item.action == action for item in plan.items) for action in verbs}
    for note in plan.left_out:
        say(console, note)
    say(
        console,
        f"{counted(counts['anonymize'], 'face')} to do, {counts['keep']} done already, "
        f"{counted(counts['fail'], 'input')} that would fail; "
        f"nothing was written to {plan.output}",
    )


def _print_result(result: Any) -> None:
    console = output_console()
    new = result.done - result.done_before
    say(
        console,
        f"{counted(new, 'face')} anonymized in {result.seconds:.1f} s, {result.done} in all, {result.failed} failed: "
        f"{result.release}",
    )
    faces = result.faces
    if result.photos is not None or faces.redacted or faces.skipped or faces.kept:
        say(console, str(faces))
    for counts in (result.photos, result.boxes):
        if counts is not None:
            say(console, str(counts))
    if result.left:
        say(console, f"{counted(result.left, 'input')} left: run the same command again")
    if result.domain is not None and result.domain.verdict == "outside":
        say(console, f"{'refused' if result.strict else 'warning'}: {result.domain}: {DOES_NOT_KNOW}")
    if result.contact_sheet is not None:
        say(console, f"contact sheet (shows originals): {result.contact_sheet}")
    shown = result.failures[:10]
    for failure in shown:
        say(console, f"failed: {failure.input}: {failure.reason}: {failure.message}")
    if len(result.failures) > len(shown):
        say(console, f"and {len(result.failures) - len(shown)} more")
    if result.failures:
        say(console, f"all of them: faceanon-engine status {shlex.quote(str(result.output))} --failed")
