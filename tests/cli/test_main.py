"""The list of commands is true."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from faceanon_engine.cli.main import COMMANDS, cli
from faceanon_engine.engine.job.settings import JobSettings


def test_the_main_job_and_its_stages_are_listed() -> None:
    listed = cli.list_commands(click.Context(cli))
    assert {"anonymize", "status", "extract", "invert", "pair", "pool"} <= set(listed) <= set(COMMANDS)


@pytest.mark.parametrize("name", cli.list_commands(click.Context(cli)))
def test_every_listed_command_can_be_called(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    run = CliRunner().invoke(cli, [name, "--help"])
    assert run.exit_code == 0, run.output
    assert "Usage" in run.output


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize(("path", "command"), [pytest.param(*named, id=" ".join(named[0])) for named in _commands(cli)])
def test_every_command_takes_the_log_level_that_errors_advise_and_explains_its_options(
    path: tuple[str, ...], command: click.Command
) -> None:
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert "--log-level" in {name for option in options for name in option.opts}
    assert [option.name for option in options if not option.help] == []


def test_every_setting_of_a_job_has_an_option_with_its_default() -> None:
    command = cli.get_command(click.Context(cli), "anonymize")
    assert command is not None
    options = {parameter.name: parameter for parameter in command.params}
    for field in fields(JobSettings):
        if field.name in ("input", "output"):
            continue
        value = options[field.name].get_default(click.Context(command))
        assert value == field.default, field.name


@pytest.mark.parametrize("name", ["anonymize", "extract", "invert", "pair"])
def test_the_fastest_backend_can_be_asked_for(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    backend = next(parameter for parameter in command.params if parameter.name == "backend")
    assert isinstance(backend.type, click.Choice)
    assert list(backend.type.choices) == ["auto", "torch", "onnxruntime", "tensorrt", "tensorrt-rtx"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full device stands in for a full disk")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_results_that_cannot_be_written_are_one_line_and_exit_code_2(more: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "faceanon_engine.cli.main", "models", "list", *more]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (run.returncode, run.stderr.count("\n")) == (2, 1), run.stderr
    assert "No space left" in run.stderr
    assert "mistake" not in run.stderr


def test_closed_outputs_are_no_mistake() -> None:
    command = f"{sys.executable} -m faceanon_engine.cli.main models list"
    assert subprocess.run(["sh", "-c", f"{command} >&- 2>&-"], check=False).returncode == 0
    assert subprocess.run(["sh", "-c", f"{command} --json >&-"], check=False).returncode == 0


ENDINGS = """
import sys, time
from faceanon_engine.cli import main as command_line

def ends(**_):
    match sys.argv.pop():
        case "hang":
            try:
                print("begun", flush=True)
                time.sleep(60)
            finally:
                print("cleaning", flush=True)
                time.sleep(60)
        case "text":
            exec("print('begun', flush=True)\\nwhile True: time.sleep(0.01)")
        case "late":
            try:
                print("begun", flush=True)
                time.sleep(60)
            finally:
                time.sleep(0.5)

command_line._PATIENCE = 0.3
command_line.cli.main = ends
command_line.main()
"""

AT_AN_END = """
import click
from faceanon_engine.cli.main import cli, main

@click.command()
def read():
    raise EOFError("No data left in file")

cli.get_command = lambda *_: read
main()
"""


def begin(ending: str, folder: Path) -> subprocess.Popen[str]:
    (folder / "endings.py").write_text(ENDINGS)
    return subprocess.Popen(
        [sys.executable, "-m", "endings", ending],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_a_file_that_ends_too_early_is_not_taken_for_ctrl_c() -> None:
    """click takes any EOFError for one at a prompt."""
    done = subprocess.run([sys.executable, "-c", AT_AN_END, "read"], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "unexpected EOFError: No data left in file" in done.stderr.splitlines()[-1]


def test_signals_after_the_first_let_it_put_itself_in_order(tmp_path: Path) -> None:
    with begin("late", tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        for _ in range(4):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "interrupted: nothing is half-written; run the same command again to go on\n"


def test_code_that_is_executed_as_text_ends_with_the_same_code(tmp_path: Path) -> None:
    """Where the interruption passes through such text, Python would end by SIGINT whatever becomes of it."""
    with begin("text", tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.startswith("interrupted: ")


def test_a_program_that_hangs_when_interrupted_is_ended_by_a_later_signal(tmp_path: Path) -> None:
    with begin("hang", tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "cleaning\n"
        time.sleep(0.4)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "")


@pytest.mark.parametrize("arguments", [("--config", "laughs.yaml"), ("--device", "x" * 100_000), ("--no" * 25_000,)])
def test_whatever_is_given_the_refusal_is_one_short_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    nested = [f"&a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (tmp_path / "laughs.yaml").write_text("margin:\n - &a0 [x]\n - " + "\n - ".join(nested))
    run = subprocess.run(
        [sys.executable, "-m", "faceanon_engine.cli.main", "anonymize", "in", "out", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1
    assert len(run.stderr) < 1100
    assert not (tmp_path / "out").exists()
