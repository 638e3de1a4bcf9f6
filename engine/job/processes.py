"""Several devices, one process each, on one job: the manifest is the queue from which they claim their inputs.

The process that was called plans the job, holds the lock on the folder, and waits; the others claim inputs, a few at a
time, and do with them what a job on one device does. When one of them ends before its time, what it had claimed goes
back to the others. When the first one is killed, the others notice and end, too.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.manifest import Manifest
from faceanon_engine.engine.job.report import JobObserver
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.system.cores import usable_cores
from faceanon_engine.engine.system.locks import locked

logger = logging.getLogger(__name__)

Part = Callable[[JobSettings, int, Manifest, JobObserver], None]
"""What a process does: with settings of its device, its number, and its own manifest; goes by pickle."""


def share_among(
    devices: Sequence[str],
    settings: JobSettings,
    inputs: Sequence[str],
    manifest: Manifest,
    observer: JobObserver,
    part: Part,
) -> int:
    """Have the inputs with these keys done by one process a device, each of which runs `part`; how many are left.

    Some are left where all processes died, which the observer was told. Raises UserError where they ended for what
    the person can mend.
    """
    manifest.fill_queue(inputs)
    left: Sequence[str] = devices
    while True:
        troubles = _Round(left, settings, manifest, observer, part).run()
        unfinished = manifest.queued()
        left = [name for number, name in enumerate(left) if number not in troubles]
        if not unfinished or (not left and all(trouble.died for trouble in troubles.values())):
            return unfinished
        if not left or not troubles:
            reason = "; ".join(trouble.text for trouble in troubles.values()) or "no process claimed them"
            raise UserError(f"{unfinished} inputs are left: {reason}: mend that and run the same command again")


@dataclass(frozen=True)
class _Trouble:
    """Why a process ended before its time; `died` where that is nothing that the person can mend."""

    text: str
    died: bool


class _Round:
    """Processes that were started together, until the last of them has ended."""

    def __init__(
        self,
        devices: Sequence[str],
        settings: JobSettings,
        manifest: Manifest,
        observer: JobObserver,
        part: Part,
    ) -> None:
        self._devices = devices
        self._settings = settings
        self._manifest = manifest
        self._observer = observer
        self._part = part
        self._troubles: dict[int, _Trouble] = {}

    def run(self) -> Mapping[int, _Trouble]:
        """What went wrong, by the number of the device."""
        context = multiprocessing.get_context("spawn")  # a fork would inherit the GPU's state and threads' locks
        processes: dict[int, SpawnProcess] = {}
        lines: dict[int, Connection] = {}
        try:
            for number, name in enumerate(self._devices):
                ours, theirs = context.Pipe()
                arguments = (self._settings, name, number, len(self._devices), theirs, self._part)
                process = context.Process(target=_process, args=arguments, name=f"faceanon-{name}")
                try:
                    with theirs, _interrupts_left_to_us():
                        process.start()
                except OSError as error:
                    ours.close()
                    self._trouble(number, f"its process cannot be started ({error.strerror or error})", died=True)
                    continue
                processes[number], lines[number] = process, ours
            while lines:
                for line in wait(list(lines.values()), timeout=1.0):
                    number = next(number for number, each in lines.items() if each is line)
                    try:
                        self._hear(number, lines[number].recv())
                    except (EOFError, OSError):
                        lines.pop(number).close()
                        self._ended(number, processes[number])
        finally:
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                process.join()
            for line in lines.values():
                line.close()
            folder = self._settings.folder
            for path in (folder.names_lock, *map(folder.process_lock, processes)):
                path.unlink(missing_ok=True)
        return self._troubles

    def _hear(self, number: int, message: tuple[Any, ...]) -> None:
        kind, *values = message
        if kind == "trouble":
            self._trouble(number, *values)
        elif kind == "note":
            self._observer.note(f"{self._devices[number]}: {values[0]}")
        else:
            getattr(self._observer, kind)(*values)

    def _ended(self, number: int, process: SpawnProcess) -> None:
        process.join()
        if process.exitcode and number not in self._troubles:
            self._trouble(number, f"its process ended with code {process.exitcode}", died=True)
        if number in self._troubles:
            self._manifest.release(number)

    def _trouble(self, number: int, text: str, died: bool) -> None:
        self._troubles[number] = _Trouble(f"{self._devices[number]}: {text}", died)
        others = len(self._troubles) < len(self._devices)
        self._observer.note(self._troubles[number].text + (": the others go on with its inputs" if others else ""))


def _process(settings: JobSettings, device: str, number: int, count: int, line: Connection, part: Part) -> None:
    """What the process of one device does; it ends when the other end of the line is closed."""
    threading.Thread(target=_end_with_parent, args=(line,), daemon=True).start()
    try:
        if device == "cpu":
            # Read when Torch is loaded, which it is not yet: the processes share the cores.
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
        lock = locked(settings.folder.process_lock(number), private=True)
        with lock, Manifest.open(settings.folder.manifest) as manifest:
            observer = _Telling(line.send, manifest)
            part(replace(settings, device=device, devices=None), number, manifest, observer)
    except Exception as error:
        logger.debug("the process of %s failed", device, exc_info=True)
        is_told = isinstance(error, UserError)
        text = str(error) if is_told else f"{type(error).__name__}: {error}"
        line.send(("trouble", " ".join(text.split())[:500], not is_told))


@contextmanager
def _interrupts_left_to_us() -> Iterator[None]:
    """Processes started meanwhile ignore Ctrl-C, which a terminal sends to all: the first one ends the others."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with_parent(line: Connection) -> None:
    """Nothing is ever sent down this line: it speaks only by being closed, which a killed process does, too."""
    try:
        line.recv()
    except (EOFError, OSError):
        os._exit(3)


class _Telling(JobObserver):
    """Passes on what it is told, and takes what is finished out of the queue."""

    def __init__(self, send: Callable[[tuple[Any, ...]], None], manifest: Manifest) -> None:
        self._send = send
        self._manifest = manifest

    def progress(self, done: float, total: float | None, what: str = "") -> None:
        self._send(("progress", done, total, what))

    def batch(self, size: int, step: int, steps: int) -> None:
        self._send(("batch", size, step, steps))

    def input_finished(self, path: str, failed: bool) -> None:
        self._manifest.leave_queue(path)
        self._send(("input_finished", path, failed))

    def note(self, message: str) -> None:
        self._send(("note", message))
