"""The list of commands is true."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from faceanon_engine.cli.main import COMMANDS, cli


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
