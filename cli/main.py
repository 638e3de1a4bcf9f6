"""`faceanon-engine`: the commands, each loaded only when it is called."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

import click

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system import keep_freed_memory, our_version

logger = logging.getLogger(__name__)

_PATIENCE = 10.0
"""Seconds that an interrupted program has to put itself in order before another signal ends it where it is."""

# Threads of OpenMP wait by spinning unless told otherwise, before torch is loaded. With another busy process on the
# machine that made a step of small networks on two cores a hundred times slower (3.7 s instead of 40 ms).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Name: (module, attribute, help). The help stands here so that listing commands loads none of them.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "anonymize": (
        "faceanon_engine.cli.anonymize",
        "anonymize",
        "Turn a folder of face images into other people's, same attributes.",
    ),
    "status": ("faceanon_engine.cli.status", "status", "What happened to every image of a job."),
    "extract": ("faceanon_engine.cli.stages", "extract", "Attribute and identity features of images, to a file."),
    "invert": ("faceanon_engine.cli.stages", "invert", "Latent codes w+ of images, to a file."),
    "pair": ("faceanon_engine.cli.stages", "pair", "The nearest generated faces of images, to a file."),
    "pool": ("faceanon_engine.cli.pool", "pool", "Make and list pools of generated faces."),
    "models": ("faceanon_engine.cli.models", "models", "Import, fetch, list and verify bundles of networks."),
    "build": ("faceanon_engine.cli.build", "build", "Export the networks and build engines of them, ahead of time."),
    "bench": ("faceanon_engine.cli.bench", "bench", "What the networks and the optimisation cost on this machine."),
    "doctor": ("faceanon_engine.cli.doctor", "doctor", "What this machine can do."),
    "demo": ("faceanon_engine.cli.demo", "demo", "Draw synthetic people to try things on."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        # A reduced installation may lack rooms, such as the demo: what is listed can be called.
        return [name for name, (module, _, _) in COMMANDS.items() if importlib.util.find_spec(module) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][2]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(our_version(), prog_name="faceanon-engine")
def cli() -> None:
    """Anonymize data sets of face images: other people's faces, the same attributes."""


def main() -> None:
    """Run the command line and exit: 0 done, 1 some inputs failed or are left, 2 usage or environment, 130 interrupted.

    The first signal to end interrupts what is going on, which then puts itself in order; those that follow change
    nothing, however many there are, unless that takes longer than `_PATIENCE`.
    """
    interruptions = Interruptions()
    try:
        try:
            interruptions.listen()
            code = _run()
        finally:
            interruptions.ignore()  # what is left is to say how it ended, and to go
    except KeyboardInterrupt:
        with contextlib.suppress(SystemExit):
            _leave("interrupted: nothing is half-written; run the same command again to go on", 130)
        # All is in order. Left to itself, Python ends by a signal where the interruption passed through text that is
        # executed, as that of dataclasses is, and says more where another one comes.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(130)
    sys.exit(code)


class Interruptions:
    """What signals do that ask the program to end: Ctrl-C, termination, a terminal that closes."""

    def __init__(self) -> None:
        self._signals = [
            each
            for each in (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP"))
            # One that whoever started us had ignored stays so.
            if each is not None and signal.getsignal(each) in (signal.SIG_DFL, signal.default_int_handler)
        ]
        self._first: float | None = None

    def listen(self) -> None:
        """From now on the first signal raises KeyboardInterrupt in the main thread."""
        for each in self._signals:
            signal.signal(each, self._interrupt)

    def ignore(self) -> None:
        """From now on signals change nothing."""
        for each in self._signals:
            signal.signal(each, signal.SIG_IGN)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self._first is None:
            self._first = time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - self._first > _PATIENCE:
            # It hangs. A job survives this as it survives a kill; its processes end as their line to us does.
            os._exit(130)


def _run() -> int:
    """Run the command line; the exit code. Raises KeyboardInterrupt, and SystemExit once it has said what was wrong."""
    try:
        keep_freed_memory()
        _prepare_streams()
        code = cli.main(prog_name="faceanon-engine", standalone_mode=False)
    except UserError as error:
        _leave(f"error: {error}", 2)
    except click.exceptions.NoArgsIsHelpError as error:
        _leave(error.format_message(), 2)
    except click.UsageError as error:
        context = error.ctx
        hint = f" (see '{context.command_path} --help')" if context is not None else ""
        _leave(f"error: {error.format_message()}{hint}", 2)
    except click.ClickException as error:
        _leave(f"error: {error.format_message()}", 2)
    except click.Abort as error:
        if not isinstance(error.__cause__, EOFError):
            raise KeyboardInterrupt from None
        # click takes the end of any file for one that was typed.
        _mistake(error.__cause__)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        logger.debug("unexpected error", exc_info=True)
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        _leave(f"error: {where}{error.strerror or error}: free space there, or mend its rights", 2)
    except Exception as error:
        from faceanon_engine.engine.system import is_out_of_memory

        if is_out_of_memory(error):
            _leave("error: memory ran out: use a smaller --batch-size, other networks, or a machine with more", 2)
        _mistake(error)
    return code if isinstance(code, int) else 0


def _mistake(error: BaseException) -> NoReturn:
    logger.debug("unexpected error", exc_info=error)
    _leave(
        f"error: unexpected {type(error).__name__}: {error}: this is a mistake in the program; "
        "'--log-level debug' shows where",
        2,
    )


def _prepare_streams() -> None:
    """Let everything be said: a path may hold what the terminal's encoding lacks, or bytes that are no text in any."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever called
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _leave(message: str, code: int) -> NoReturn:
    """Say on stderr in one line why the program ends, with --json also on stdout, and exit."""
    import json

    from faceanon_engine.engine.system.printable import printable, shortened

    if not message.startswith("Usage"):
        message = shortened(printable(" ".join(message.split())), 1000)
    print(message, file=sys.stderr)
    if "--json" in sys.argv[1:]:  # looked up there, as the arguments may be what is wrong
        with contextlib.suppress(OSError):
            print(json.dumps({"error": message.removeprefix("error: "), "exit_code": code}), flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
