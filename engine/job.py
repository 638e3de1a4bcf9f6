"""A job: a folder in which a set of images becomes a set of other people, and which can be stopped at any moment.

Inputs are decoded and aligned a little ahead by threads, faces are gathered into batches across images, a worker
anonymizes them, results are written under their final names, and only then recorded. What an earlier run recorded
as done is left alone.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine import images as image_files
from faceanon_engine.engine.config import JobSettings
from faceanon_engine.engine.devices import device_names, share_among
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.files import TEMPORARY_PATTERN, write_result
from faceanon_engine.engine.images import InputError, InputFile
from faceanon_engine.engine.manifest import NAME as MANIFEST_NAME
from faceanon_engine.engine.manifest import InputRow, ItemRow, Manifest
from faceanon_engine.engine.printable import readable
from faceanon_engine.engine.reader import Reader, ahead, thread_count, threads
from faceanon_engine.engine.worker import FalcoWorker, Worker

logger = logging.getLogger(__name__)

CONTACT_SHEET_NAME = "contact-sheet.png"
LOCK_NAME = ".faceanon.lock"
NAMES_LOCK_NAME = ".faceanon-names.lock"
PROCESS_LOCK_PATTERN = ".faceanon-process-*.lock"
CLAIMED_TOGETHER = 4
"""Inputs that a process of several claims at once: few, so that all end at about the same time."""
MOST_UNWRITTEN = 64
"""Results that may wait for a thread to encode and write them."""
_EXTENSIONS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_CODES_ENDING = ".w_plus.npy"
_LONGEST_NAME = 255
"""Bytes that a file's or folder's name may have on the usual file systems."""

WorkerFactory = Callable[[JobSettings, Mapping[str, Any], int], Worker]


class Observer:
    """What a job tells while it runs; every method may be overridden, none needs to be."""

    def started(self, about: Mapping[str, str], inputs: int, already: int) -> None:
        """The job begins; `already` inputs need nothing any more."""

    def pool(self, done: int, total: int) -> None:
        """Faces of the pool that are made."""

    def batch(self, size: int, step: int, steps: int) -> None:
        """A batch of that size has done so many steps."""

    def input_finished(self, path: str, failed: bool) -> None:
        """Every face of this input is done or failed."""

    def note(self, message: str) -> None:
        """Something the person may want to know."""


@dataclass(frozen=True)
class Failure:
    """An input, or one face of it, that was not anonymized."""

    input: str
    face: int
    reason: str
    message: str


@dataclass(frozen=True)
class JobResult:
    """What became of a job. Counts are of items: faces, and inputs without any."""

    output: Path
    manifest: Path
    contact_sheet: Path | None
    inputs: int
    done: int
    failed: int
    pending: int
    """Items that wait: listed by an earlier run and left out of this one by its limit."""
    done_before: int
    """Of `done`, those that an earlier run had finished and that were still there."""
    seconds: float
    about: Mapping[str, str]
    failures: tuple[Failure, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 when everything is done, 1 when something failed."""
        return 1 if self.failed else 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        values = asdict(self) | {"exit_code": self.exit_code}
        values.update(output=str(self.output), manifest=str(self.manifest))
        values["contact_sheet"] = None if self.contact_sheet is None else str(self.contact_sheet)
        return values


@dataclass(frozen=True)
class PlannedItem:
    """What a dry run says of one face, or of an input without any."""

    input: str
    face: int
    action: str
    """anonymize, keep (done already) or fail."""
    output: str | None
    reason: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class JobPlan:
    """What a job would do."""

    output: Path
    about: Mapping[str, str]
    items: tuple[PlannedItem, ...]
    left_out: tuple[str, ...] = ()
    """What of the input folder is no input, in a line a reason."""

    @property
    def exit_code(self) -> int:
        """1 when some inputs would fail."""
        return 1 if any(item.action == "fail" for item in self.items) else 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self) | {"output": str(self.output), "exit_code": self.exit_code}


@dataclass
class _Face:
    """A face on its way through a batch."""

    row: ItemRow
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Trouble:
    """What is kept of an exception of the worker's: not itself, whose frames hold the batch's memory."""

    memory: bool
    text: str

    @classmethod
    def of(cls, error: Exception) -> _Trouble:
        logger.debug("the worker failed", exc_info=error)
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return cls(is_out_of_memory(error), text)


@dataclass
class _Names:
    """Output names, no two alike even where case does not count; first come, first served."""

    extension: str
    taken: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    given_by_others: Callable[[str], bool] = lambda name: False
    """Whether another process has given the name since, where several share a job."""

    def reserve(self, path: str) -> None:
        self.taken.add(path.casefold())

    def add_folders(self, path: str) -> None:
        self.folders.update(str(parent).casefold() for parent in PurePosixPath(path).parents)

    def choose(self, path: str, face: int = 0) -> str:
        """A free name for a face of an input: a.jpg gives a.png, or a.jpg.png when a.png is taken.

        Where that is longer than file systems allow, the input's own name is cut.
        """
        source = PurePosixPath(path)
        folder = PurePosixPath(*(_cut(part, _LONGEST_NAME) for part in source.parent.parts))
        mark = f"-face{face}" if face else ""
        candidates = [(source.stem, mark), (source.name, mark)]
        number = 2
        while True:
            for stem, ending in candidates:
                room = _LONGEST_NAME - len(ending) - len(_CODES_ENDING)  # the longest of what takes the place of .png
                name = str(folder / f"{_cut(stem, room)}{ending}{self.extension}")
                known = name.casefold() in self.taken or name.casefold() in self.folders
                if not known and not self.given_by_others(name):
                    self.reserve(name)
                    return name
            candidates = [(source.name, f"-{number}{mark}")]
            number += 1


def run(
    settings: JobSettings, *, observer: Observer | None = None, make_worker: WorkerFactory | None = None
) -> JobResult:
    """Do the job, or what is left of it.

    Raises UserError for what the person can mend: a missing input or bundle, a folder that cannot be written, a full
    disk, another run on the same output, settings that differ from an earlier run's. Whatever was finished stays.
    """
    started = time.monotonic()
    observer = observer or Observer()
    files = _find(settings)
    devices = device_names(settings.devices)
    if devices:
        settings = replace(settings, device=devices[0])
    recorded = _recorded(settings.output)
    worker = (make_worker or FalcoWorker)(settings, recorded, len(files))
    identity = _identity(settings, worker)
    _refuse_changes(settings.output, recorded, identity)
    output = settings.output
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output folder {output} cannot be made: {error.strerror or error}") from None
    with _locked(output, wait_for_orphans=True), Manifest.create(output / MANIFEST_NAME) as manifest:
        _refuse_changes(output, manifest.get("settings") or {}, identity)
        manifest.put({"settings": identity, "version": _version()})
        _remove_temporaries(output)
        job = _Job(settings, files, worker, manifest, observer)
        if devices:
            job.share = lambda todo: share_among(
                devices, settings, todo, manifest, observer, make_worker or FalcoWorker
            )
        return job.run(started)


def take_part(
    settings: JobSettings, process: int, manifest: Manifest, observer: Observer, make_worker: WorkerFactory
) -> None:
    """Do what one of several processes of a job does: claim inputs until there are none.

    The process that planned the job waits for it, holds the lock, and has recorded settings and inputs.
    """
    files = _find(settings)
    worker = make_worker(settings, manifest.get("settings") or {}, len(files))
    job = _Job(settings, files, worker, manifest, observer)
    job.take_part(process)


def plan(settings: JobSettings, *, make_worker: WorkerFactory | None = None) -> JobPlan:
    """Validate everything, every input included, and say what `run` would do; writes nothing."""
    files = _find(settings)
    recorded = _recorded(settings.output)
    worker = (make_worker or FalcoWorker)(settings, recorded, len(files))
    _refuse_changes(settings.output, recorded, _identity(settings, worker))
    _refuse_unwritable(settings.output)
    worker.check()
    known: dict[str, list[ItemRow]] = {}
    inputs: dict[str, InputRow] = {}
    if (settings.output / MANIFEST_NAME).exists():
        with Manifest.read(settings.output / MANIFEST_NAME) as manifest:
            inputs, known = manifest.inputs(), _by_input(manifest.items())
    names = _names(settings, files, known)
    items: list[PlannedItem] = []
    reader = Reader(settings.align, worker.resolution)

    def count(file: InputFile) -> int:
        return len(reader.faces_of(file))

    with threads() as executor:
        todo = []
        for file in files:
            path = readable(file.relative)
            rows = known.get(path, [])
            if path in inputs and not _changed(inputs[path], file) and _all_done(settings.output, inputs[path], rows):
                items.extend(PlannedItem(path, row.face, "keep", row.output) for row in rows)
            else:
                todo.append(file)
        for file, future in ahead(executor, count, todo, 2 * thread_count()):
            path = readable(file.relative)
            outputs = [row.output for row in known.get(path, []) if row.output is not None]
            try:
                faces = future.result()
            except InputError as error:
                items.append(PlannedItem(path, 0, "fail", None, error.reason, error.message))
                continue
            for face in range(faces):
                output = outputs[face] if face < len(outputs) else names.choose(path, face)
                problem = None if face < len(outputs) else _foreign_file(settings.output, output)
                items.append(
                    PlannedItem(path, face, "fail", None, "output-exists", problem)
                    if problem
                    else PlannedItem(path, face, "anonymize", output)
                )
    items.sort(key=lambda item: (item.input, item.face))
    return JobPlan(settings.output, worker.about(), tuple(items), image_files.left_out(settings.input))


class _Job:
    """One run over one folder, with its manifest open and locked."""

    def __init__(
        self,
        settings: JobSettings,
        files: Sequence[InputFile],
        worker: Worker,
        manifest: Manifest,
        observer: Observer,
    ) -> None:
        self.settings = settings
        self.files = files
        self.worker = worker
        self.manifest = manifest
        self.observer = observer
        self.output = settings.output
        self.bundle_digest = str(worker.identity().get("bundle"))
        self.preset = settings.resolved_preset
        self.names: _Names
        self.rows: dict[str, list[ItemRow]] = {}
        self.waiting: dict[str, int] = {}
        """Faces of each input that are neither done nor failed yet."""
        self.spoiled: set[str] = set()
        """Inputs of which something failed."""
        self.written: deque[list[tuple[ItemRow, Future[None] | None]]] = deque()
        """Results whose files are being written, in the order in which they finished; None where there is no file."""
        self.loaded = False
        self.reader: Reader
        self.share: Callable[[Sequence[InputFile]], None] | None = None
        """Gives the inputs to several processes instead of this one."""
        self.lock_names: Callable[[], Any] | None = None
        """What keeps others from choosing names meanwhile, where there are others."""

    def run(self, started: float) -> JobResult:
        todo = self._list_inputs()
        lost = [row for file in todo for row in self.rows[readable(file.relative)] if _is_lost(self.output, row)]
        done_before = self.manifest.counts()["done"] - len(lost)
        about = self.worker.about()
        if self.share is not None:
            about = {**about, "device": ", ".join(device_names(self.settings.devices))}
        self.observer.started(about, len(self.files), len(self.files) - len(todo))
        for note in image_files.left_out(self.settings.input):
            self.observer.note(note)
        if todo and self.share is not None:
            self.share(todo)
            self.rows = _by_input(self.manifest.items())
        elif todo:
            self._load()
            self._anonymize(todo)
        sheet = self._contact_sheet()
        counts = self.manifest.counts()
        failures = tuple(
            Failure(row.input, row.face, row.reason or "", row.message or "") for row in self.manifest.items("failed")
        )
        return JobResult(
            output=self.output,
            manifest=self.manifest.path,
            contact_sheet=sheet,
            inputs=len(self.files),
            done=counts["done"],
            failed=counts["failed"],
            pending=counts["pending"],
            done_before=done_before,
            seconds=time.monotonic() - started,
            about=about,
            failures=failures,
        )

    def take_part(self, process: int) -> None:
        """Anonymize inputs that this process claims, a few at a time, until there are no more."""
        from filelock import FileLock

        by_path = {readable(file.relative): file for file in self.files}
        self.rows = _by_input(self.manifest.items())
        self.names = _names(self.settings, self.files, self.rows)
        self.names.given_by_others = self.manifest.has_output
        self.lock_names = lambda: FileLock(self.output / NAMES_LOCK_NAME)

        def claimed() -> Iterator[InputFile]:
            while found := self.manifest.claim(process, CLAIMED_TOGETHER):
                self.rows.update(found)
                for path in found:
                    if path in by_path:
                        yield by_path[path]
                    else:
                        self.manifest.leave_queue(path)  # it vanished since it was listed: the next run says so

        self._load()
        self._anonymize(claimed())

    def _load(self) -> None:
        if not self.loaded:
            self.worker.load(self.observer.pool)
            self.reader = Reader(self.settings.align, self.worker.resolution)
            self.loaded = True

    # -- what is to be done ------------------------------------------------------------------------------------

    def _list_inputs(self) -> list[InputFile]:
        """Bring the manifest up to date with the inputs; return those that are not done."""
        known = self.manifest.inputs()
        self.rows = _by_input(self.manifest.items())
        changed = [readable(file.relative) for file in self.files if _changed(known.get(readable(file.relative)), file)]
        for path in changed:
            # The input is another picture than the one that was anonymized: its results are of no use.
            logger.info("%s has changed since it was listed: done again", path)
            self._unlink(self.rows.pop(path, []))
            del known[path]
        self.names = _names(self.settings, self.files, self.rows)
        new_inputs: list[InputRow] = []
        new_items: list[ItemRow] = []
        todo: list[InputFile] = []
        for file in self.files:
            path = readable(file.relative)
            if path not in known:
                new_inputs.append(InputRow(path, *_stamp(file)))
                self.rows[path] = [self._planned(path, 0)]
                new_items += self.rows[path]
            elif _all_done(self.output, known[path], self.rows.get(path, [])):
                continue
            elif any(row.output is None for row in self.rows[path]):
                # Another file had its name: perhaps it was moved away since.
                self.rows[path] = [self._planned(path, row.face) if not row.output else row for row in self.rows[path]]
                new_items += self.rows[path]
            todo.append(file)
        if self.settings.limit is None:
            new_items += self._vanished()
        self.manifest.list_inputs(new_inputs, new_items, forget=changed)
        return todo

    def _unlink(self, rows: Iterable[ItemRow]) -> None:
        """Delete results that belong to no row any more."""
        for row in rows:
            for name in (row.output, row.codes):
                if name is not None:
                    _remove(self.output / name)

    def _vanished(self) -> list[ItemRow]:
        """What an earlier run listed and did not finish, and is not among the inputs any more."""
        present = {readable(file.relative) for file in self.files}
        return [
            _failed(row, "missing", "it is no longer there")
            for path, rows in self.rows.items()
            if path not in present
            for row in rows
            if row.state != "done"
        ]

    def _planned(self, path: str, face: int) -> ItemRow:
        """A new pending row, or a failed one where a file that is not ours has the name."""
        output = self.names.choose(path, face)
        problem = _foreign_file(self.output, output)
        if not problem and self.settings.save_codes:
            problem = _foreign_file(self.output, _codes_name(output))
        if problem:
            return ItemRow(path, face, state="failed", reason="output-exists", message=problem)
        return ItemRow(path, face, output=output)

    # -- from files to faces -----------------------------------------------------------------------------------

    def _faces(self, executor: ThreadPoolExecutor, todo: Iterable[InputFile], count: int) -> Iterator[_Face]:
        """Faces that are still to be done, in the order of the inputs; failures are recorded on the way."""
        for file, future in ahead(executor, self.reader.faces_of, todo, count):
            path = readable(file.relative)
            try:
                pixels = future.result()
            except InputError as error:
                self._fail_input(path, error.reason, error.message)
                continue
            rows = self._rows_of(path, len(pixels))
            pending = [row for row in rows if not _is_done(self.output, row) and row.output is not None]
            self.waiting[path] = len(pending)
            if any(row.state == "failed" and row.output is None for row in rows):
                self.spoiled.add(path)
            if not pending:
                self.observer.input_finished(path, path in self.spoiled)
            for row in pending:
                yield _Face(row, pixels[row.face])

    def _rows_of(self, path: str, count: int) -> list[ItemRow]:
        """The rows of an input with so many faces; new ones are recorded before anything of them is written."""
        rows = self.rows[path]
        if len(rows) == count:
            return rows
        with self.lock_names() if self.lock_names is not None else nullcontext():
            gone, rows = rows[count:], rows[:count] + [self._planned(path, face) for face in range(len(rows), count)]
            self._unlink(gone)
            self.manifest.plan_faces(path, rows)
        self.rows[path] = rows
        return rows

    def _fail_input(self, path: str, reason: str, message: str) -> None:
        logger.info("%s: %s: %s", path, reason, message)
        rows = [row if _is_done(self.output, row) else _failed(row, reason, message) for row in self.rows[path]]
        self.rows[path] = rows
        self.manifest.plan_faces(path, rows)
        self.observer.input_finished(path, failed=True)

    # -- from faces to files -----------------------------------------------------------------------------------

    def _anonymize(self, todo: Iterable[InputFile]) -> None:
        size = self.settings.batch_size or self.worker.choose_batch_size()
        logger.info("up to %d faces are optimised together", size)
        with threads() as executor:
            faces = self._faces(executor, todo, size + thread_count())
            left: int | None = size
            try:
                while left is not None:
                    left = self._stream(executor, faces, left)
                self._record_written(wait=True)
            except BaseException:
                executor.shutdown(wait=True, cancel_futures=True)
                self._record_what_was_written()
                raise

    def _stream(self, executor: ThreadPoolExecutor, faces: Iterator[_Face], size: int) -> int | None:
        """Anonymize faces as they come; None when all are done, or the size to go on with after a failure."""
        under_way: dict[int, _Face] = {}
        steps = self.settings.resolved_steps

        def originals() -> Iterator[npt.NDArray[np.uint8]]:
            for number, face in enumerate(faces):
                under_way[number] = face
                yield face.pixels

        def on_step(together: int, step: int) -> None:
            self.observer.batch(together, step, steps)
            self._record_written()

        results = self.worker.stream(originals(), size, on_step)
        while True:
            try:
                group = next(results, None)
            except (UserError, InputError):
                raise
            except Exception as error:
                if not under_way:
                    raise
                trouble = _Trouble.of(error)
            else:
                if group is None:
                    return None
                numbers, result = group
                self._write(executor, [under_way.pop(number) for number in numbers], result)
                continue
            # Out here the exception is gone, and with it what its frames held in memory.
            del results
            waiting = list(under_way.values())
            size = min(size, len(waiting))
            parts = self._after(trouble, waiting, size)
            if trouble.memory and parts:
                size = len(parts[0])
            for part in parts:
                size = min(size, self._batch(executor, part, len(part)))
            return size

    def _batch(self, executor: ThreadPoolExecutor, faces: list[_Face], size: int) -> int:
        """Anonymize, write and record some faces after a failure; return the batch size to go on with."""
        queue = deque([faces])
        while queue:
            part = queue.popleft()
            if len(part) > size:
                queue.extendleft(reversed(_split(part, size)))
                continue
            try:
                result = self._call(part)
            except (UserError, InputError):
                raise
            except Exception as error:
                trouble = _Trouble.of(error)
            else:
                self._write(executor, part, result)
                continue
            parts = self._after(trouble, part, len(part))
            if trouble.memory and parts:
                size = len(parts[0])
            queue.extendleft(reversed(parts))
        return size

    def _after(self, trouble: _Trouble, part: list[_Face], size: int) -> list[list[_Face]]:
        """Smaller parts to try instead of one that failed; a face that failed alone is recorded as failed."""
        self.worker.release_memory()
        if len(part) == 1:
            if trouble.memory:
                self._fail(part[0], "out-of-memory", "one image does not fit into memory")
            else:
                self._fail(part[0], "unexpected", trouble.text)
            return []
        if trouble.memory:
            smaller = max(1, size // 2)
            self.observer.note(f"out of memory with {size} images at once: going on with {smaller}")
            return _split(part, smaller)
        self.observer.note("a batch failed: its images are tried one by one")
        return _split(part, 1)

    def _call(self, part: list[_Face]) -> Any:
        steps = self.settings.resolved_steps
        self.observer.batch(len(part), 0, steps)
        return self.worker.anonymize(
            np.stack([face.pixels for face in part]), lambda step: self.observer.batch(len(part), step, steps)
        )

    def _write(self, executor: ThreadPoolExecutor, part: list[_Face], result: Any) -> None:
        """Let threads give the results their final names; `_record_written` records them in one transaction then."""
        finished: list[tuple[ItemRow, Future[None] | None]] = []
        for number, face in enumerate(part):
            if not result.finite[number]:
                row = _failed(face.row, "not-finite", "the optimisation left the range of numbers")
                finished.append((row, None))
                continue
            assert face.row.output is not None
            codes = _codes_name(face.row.output) if self.settings.save_codes else None
            row = ItemRow(
                input=face.row.input,
                face=face.row.face,
                state="done",
                output=face.row.output,
                codes=codes,
                neighbour_id=int(result.neighbour_id[number]),
                neighbour_distance=float(result.neighbour_distance[number]),
                identity_before=float(result.identity_before[number]),
                identity_after=float(result.identity_after[number]),
                attribute_before=float(result.attribute_before[number]),
                attribute_after=float(result.attribute_after[number]),
                steps=int(result.steps[number]),
                seconds=float(result.seconds[number]),
                preset=self.preset.name,
                bundle=self.bundle_digest,
                finished_at=_now(),
            )
            finished.append((row, executor.submit(self._write_one, face.row.output, codes, result, number)))
        self.written.append(finished)
        self._record_written()

    def _record_written(self, *, wait: bool = False) -> None:
        """Record results whose files are there, in their order; wait for all when asked, and when many are left."""
        while self.written:
            writes = [write for _, write in self.written[0] if write is not None]
            # What waits to be written is held in memory.
            many = sum(map(len, self.written)) > MOST_UNWRITTEN and len(self.written) > 1
            if not (wait or many) and not all(write.done() for write in writes):
                return
            for write in writes:
                write.result()
            self._record([row for row, _ in self.written[0]])
            self.written.popleft()

    def _record_what_was_written(self) -> None:
        """Record, as the job stops, the results whose files lie there, so that they are not made again.

        Those that could not be written, and those that were not begun, stay pending. What the job stops for matters
        more than a manifest that cannot be written either.
        """
        rows = [
            row
            for finished in self.written
            for row, write in finished
            if write is None or not (write.cancelled() or write.exception())
        ]
        self.written.clear()
        try:
            self._record(rows)
        except UserError as error:
            logger.debug("%d results are written and not recorded: %s", len(rows), error)

    def _write_one(self, output: str, codes: str | None, result: Any, number: int) -> None:
        encoded = image_files.encode(
            result.images[number], self.settings.resolved_format, self.settings.resolved_quality
        )
        if codes is not None:
            stream = io.BytesIO()
            np.save(stream, np.asarray(result.codes[number], np.float32))
            write_result(self.output / codes, stream.getvalue())
        write_result(self.output / output, encoded)

    def _fail(self, face: _Face, reason: str, message: str) -> None:
        logger.info("%s: %s: %s", face.row.input, reason, message)
        self._record([_failed(face.row, reason, message)])

    def _record(self, finished: list[ItemRow]) -> None:
        self.manifest.finish(finished, faces={row.input: len(self.rows[row.input]) for row in finished})
        for row in finished:
            rows = self.rows[row.input]
            rows[row.face] = row
            if row.state == "failed":
                self.spoiled.add(row.input)
            self.waiting[row.input] -= 1
            if not self.waiting[row.input]:
                self.observer.input_finished(row.input, row.input in self.spoiled)

    # -- the contact sheet -------------------------------------------------------------------------------------

    def _contact_sheet(self) -> Path | None:
        """Draw the first results; nothing is opened again when the sheet already shows them.

        A sheet of an earlier run is taken away when none is wanted: it shows originals.
        """
        from faceanon_engine.engine.contact_sheet import SheetRow, draw

        path = self.output / CONTACT_SHEET_NAME
        order = {readable(file.relative): file for file in self.files}
        shown = [row for file in order for row in self.rows.get(file, []) if row.state == "done"]
        shown = shown[: self.settings.contact_sheet]
        ours = self.manifest.get("contact_sheet")  # what it shows, None when this job has not made one
        if not shown:
            if ours is not None:
                _remove(path)
                self.manifest.put({"contact_sheet": None})
            return None
        content = [[row.input, row.face, row.finished_at] for row in shown]
        if path.exists() and ours == content:
            return path
        problem = _foreign_file(self.output, CONTACT_SHEET_NAME) if ours is None else None
        if problem:
            self.observer.note(problem)
            return None
        self.manifest.put({"contact_sheet": []})  # ours from now on, also when it is killed on the way
        self._load()
        prepared: dict[str, list[npt.NDArray[np.uint8]]] = {}
        sheet: list[SheetRow] = []
        for row in shown:
            try:
                if row.input not in prepared:
                    prepared = {row.input: self.reader.faces_of(order[row.input])}
                original = prepared[row.input][row.face]
                result = image_files.read_image(self.output / str(row.output)).pixels
            except (InputError, IndexError):
                continue  # taken away since it was anonymized: the sheet shows the others
            inversion, neighbour = self.worker.intermediates(original[None], [int(row.neighbour_id or 0)])
            sheet.append(
                SheetRow(
                    original=original,
                    neighbour=neighbour[0],
                    inversion=inversion[0],
                    anonymized=result,
                    label=row.input if row.face == 0 else f"{row.input} face {row.face}",
                    identity_before=row.identity_before or 0.0,
                    identity_after=row.identity_after or 0.0,
                    neighbour_distance=row.neighbour_distance or 0.0,
                )
            )
        if not sheet:
            return None
        title = f"{self.settings.preset}, margin {self.settings.margin:g}, {self.settings.resolved_steps} steps"
        write_result(path, image_files.encode(draw(sheet, title), "png", 95))
        self.manifest.put({"contact_sheet": content})
        return path


def _failed(row: ItemRow, reason: str, message: str) -> ItemRow:
    """The row of a face that could not be anonymized; what an earlier result said of it is forgotten."""
    return ItemRow(
        row.input, row.face, state="failed", reason=reason, message=message, output=row.output, finished_at=_now()
    )


def _codes_name(output: str) -> str:
    return str(PurePosixPath(output).with_suffix(_CODES_ENDING))


def _cut(name: str, most: int) -> str:
    """The beginning of a name that has at most so many bytes."""
    return name.encode()[:most].decode(errors="ignore")


def _split(faces: list[_Face], size: int) -> list[list[_Face]]:
    return [faces[start : start + size] for start in range(0, len(faces), size)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, PyTorch or CUDA says that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _find(settings: JobSettings) -> list[InputFile]:
    """The inputs, within the limit; raises UserError when there are none or when they and the output overlap."""
    source, output = _real(settings.input), _real(settings.output)
    if os.path.exists(output) and not output.is_dir():
        raise UserError(f"output {settings.output} is a file: give a folder")
    if os.path.isdir(source):
        if source == output:
            raise UserError(f"INPUT and OUTPUT are the same folder {settings.input}: originals are never overwritten")
        if source in output.parents:
            raise UserError(
                f"OUTPUT {settings.output} lies inside INPUT {settings.input}: results would become inputs of the "
                "next run; give a folder outside"
            )
    if output in source.parents and os.path.isdir(source):
        raise UserError(f"INPUT {settings.input} lies inside OUTPUT {settings.output}: give a folder outside of it")
    found = list(image_files.find_inputs(settings.input))
    if not found:
        raise UserError(f"no images in {settings.input}: give a folder of images, an image, or a text file of paths")
    return found[: settings.limit]


def _real(path: Path) -> Path:
    """The path without links; unlike `resolve`, one that leads round in a circle stays as it is."""
    return Path(os.path.realpath(path))


def _identity(settings: JobSettings, worker: Worker) -> dict[str, Any]:
    """What must not change between two runs on one output."""
    lossy = settings.resolved_format != "png"
    return {
        "input": str(_real(settings.input)),
        "preset": settings.preset,
        "margin": settings.margin,
        "steps": settings.resolved_steps,
        "align": settings.align,
        "format": settings.resolved_format,
        "quality": settings.resolved_quality if lossy else None,
        "save_codes": settings.save_codes,
        "metric": settings.metric,
        "truncation": settings.truncation,
        "seed": settings.seed,
        **worker.identity(),
    }


def _recorded(output: Path) -> dict[str, Any]:
    """The settings of an earlier run on this output; empty when there was none."""
    path = output / MANIFEST_NAME
    if not os.path.exists(path) or path.stat().st_size == 0:
        return {}
    with Manifest.read(path) as manifest:
        found: dict[str, Any] = manifest.get("settings") or {}
        return found


def _refuse_changes(output: Path, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if not recorded:
        return
    changes = [
        f"{key.replace('_', '-')} was {_short(recorded.get(key))}, now {_short(value)}"
        for key, value in wanted.items()
        if recorded.get(key) != value
    ]
    if changes:
        raise UserError(
            f"{output} was begun with other settings ({'; '.join(changes)}): "
            "give the earlier ones to go on, or another OUTPUT folder"
        )


def _short(value: Any) -> str:
    text = "unset" if value is None else str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


def _refuse_unwritable(output: Path) -> None:
    place = output
    while not os.path.exists(place):
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"output folder {output} cannot be written: no permission in {place}")


@contextmanager
def _locked(output: Path, *, wait_for_orphans: bool = False) -> Iterator[None]:
    """Hold the output folder; a lock of a killed process is released by the system.

    The processes of a run that was killed end themselves a moment later: they are waited for when asked.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(output / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another run is working on {output}: wait for it, or give another OUTPUT folder") from None
    except OSError as error:
        raise UserError(f"output folder {output} cannot be written: {error.strerror or error}") from None
    try:
        for path in output.glob(PROCESS_LOCK_PATTERN) if wait_for_orphans else ():
            try:
                with FileLock(path, timeout=30):
                    pass
            except Timeout:
                raise UserError(f"a process of an earlier run still works on {output}: end it first") from None
            path.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be removed ({error.strerror or error}): check the folder's rights") from None


def _remove_temporaries(output: Path) -> None:
    """Delete what a killed run left half-written; only names that `appearing_whole` gives are touched."""
    for path in output.rglob(TEMPORARY_PATTERN):
        if path.is_file():
            logger.info("removing the unfinished %s", path)
            _remove(path)


def _names(settings: JobSettings, files: Iterable[InputFile], rows: Mapping[str, list[ItemRow]]) -> _Names:
    names = _Names(_EXTENSIONS[settings.resolved_format])
    for reserved in (MANIFEST_NAME, CONTACT_SHEET_NAME, LOCK_NAME, NAMES_LOCK_NAME):
        names.reserve(reserved)
    for file in files:
        names.add_folders(readable(file.relative))
    for known in rows.values():
        for row in known:
            if row.output is not None:
                names.reserve(row.output)
    return names


def _by_input(items: Iterable[ItemRow]) -> dict[str, list[ItemRow]]:
    grouped: dict[str, list[ItemRow]] = {}
    for item in items:
        grouped.setdefault(item.input, []).append(item)
    return grouped


def _stamp(file: InputFile) -> tuple[int | None, int | None]:
    """Size and modification time, by which a changed input is recognised."""
    try:
        status = file.path.stat()
    except OSError:
        return None, None
    return status.st_size, status.st_mtime_ns


def _changed(known: InputRow | None, file: InputFile) -> bool:
    return known is not None and (known.bytes, known.modified_ns) != _stamp(file)


def _is_done(output: Path, row: ItemRow) -> bool:
    return (
        row.state == "done"
        and row.output is not None
        and all((output / name).is_file() for name in (row.output, row.codes) if name is not None)
    )


def _is_lost(output: Path, row: ItemRow) -> bool:
    return row.state == "done" and not _is_done(output, row)


def _all_done(output: Path, known: InputRow, rows: Sequence[ItemRow]) -> bool:
    return known.faces is not None and len(rows) == known.faces and all(_is_done(output, row) for row in rows)


def _foreign_file(output: Path, name: str | None) -> str | None:
    """What is wrong when a file that this job did not plan already has the name."""
    if name is not None and os.path.exists(output / name):
        return f"{name} is already in the output folder and was not made by this job: move it away"
    return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"faceanon-engine {version('faceanon-engine')}, Python {sys.version.split()[0]}"
    except PackageNotFoundError:
        return "faceanon-engine"
