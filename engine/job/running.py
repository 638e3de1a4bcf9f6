"""One run of a job, or one process's part of it: from the inputs that are left to results that are recorded.

Inputs are decoded and aligned a little ahead by threads, faces are gathered into batches across images, a worker
anonymizes them, results are written under their final names by threads, and only then recorded.
"""

from __future__ import annotations

import io
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.datasets.folder import left_out
from faceanon_engine.engine.datasets.reader import Reader, ahead, thread_count, threads
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError, UserError
from faceanon_engine.engine.images.align import Face
from faceanon_engine.engine.images.decode import read_image
from faceanon_engine.engine.images.encode import encode
from faceanon_engine.engine.job.folder import CONTACT_SHEET_NAME, NAMES_LOCK_NAME, remove
from faceanon_engine.engine.job.manifest import InputRow, ItemRow, Manifest
from faceanon_engine.engine.job.names import OutputNames, codes_name, foreign_file, known_names
from faceanon_engine.engine.job.report import Failure, JobObserver, JobResult
from faceanon_engine.engine.job.rows import all_done, by_input, failed, has_changed, is_done, is_lost, now, stamp
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.job.workers.worker import Worker
from faceanon_engine.engine.system.devices import device_names
from faceanon_engine.engine.system.files import write_result
from faceanon_engine.engine.system.locks import locked
from faceanon_engine.engine.system.memory import is_out_of_memory

logger = logging.getLogger(__name__)

CLAIMED_TOGETHER = 4
"""Inputs that a process of several claims at once: few, so that all end at about the same time."""
MOST_UNWRITTEN = 64
"""Results that may wait for a thread to encode and write them."""


@dataclass
class _Face:
    """A face on its way through a batch."""

    row: ItemRow
    sample: Sample
    face: Face


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


class Run:
    """One run over one folder, with its manifest open and locked."""

    def __init__(
        self,
        settings: JobSettings,
        files: Sequence[Sample],
        worker: Worker,
        manifest: Manifest,
        observer: JobObserver,
    ) -> None:
        self.settings = settings
        self.files = files
        self.worker = worker
        self.manifest = manifest
        self.observer = observer
        self.output = settings.output
        self.bundle_digest = str(worker.identity().get("bundle"))
        self.preset = settings.resolved_preset
        self.names: OutputNames
        self.rows: dict[str, list[ItemRow]] = {}
        self.waiting: dict[str, int] = {}
        """Faces of each input that are neither done nor failed yet."""
        self.spoiled: set[str] = set()
        """Inputs of which something failed."""
        self.written: deque[list[tuple[ItemRow, Future[None] | None]]] = deque()
        """Results whose files are being written, in the order in which they finished; None where there is no file."""
        self.loaded = False
        self.reader: Reader
        self.share: Callable[[Sequence[Sample]], None] | None = None
        """Gives the inputs to several processes instead of this one."""
        self.lock_names: Callable[[], Any] | None = None
        """What keeps others from choosing names meanwhile, where there are others."""

    def run(self, started: float) -> JobResult:
        todo = self._list_inputs()
        lost = [row for file in todo for row in self.rows[file.key] if is_lost(self.output, row)]
        done_before = self.manifest.counts()["done"] - len(lost)
        about = self.worker.about()
        if self.share is not None:
            about = {**about, "device": ", ".join(device_names(self.settings.devices))}
        self.observer.started(about, len(self.files), len(self.files) - len(todo))
        for note in left_out(self.settings.input):
            self.observer.note(note)
        if todo and self.share is not None:
            self.share(todo)
            self.rows = by_input(self.manifest.items())
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
        by_path = {file.key: file for file in self.files}
        self.rows = by_input(self.manifest.items())
        self.names = known_names(self.settings, self.files, self.rows)
        self.names.given_by_others = self.manifest.has_output
        self.lock_names = lambda: locked(self.output / NAMES_LOCK_NAME)

        def claimed() -> Iterator[Sample]:
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
            self.worker.load(self.observer.progress)
            self.reader = Reader(self.settings.align, self.worker.resolution)
            self.loaded = True

    # -- what is to be done ------------------------------------------------------------------------------------

    def _list_inputs(self) -> list[Sample]:
        """Bring the manifest up to date with the inputs; return those that are not done."""
        known = self.manifest.inputs()
        self.rows = by_input(self.manifest.items())
        paths = {file.key: file for file in self.files}
        changed = [path for path, file in paths.items() if has_changed(known.get(path), file)]
        for path in changed:
            # The input is another picture than the one that was anonymized: its results are of no use.
            logger.info("%s has changed since it was listed: done again", path)
            self._unlink(self.rows.pop(path, []))
            del known[path]
        self.names = known_names(self.settings, self.files, self.rows)
        new_inputs: list[InputRow] = []
        new_items: list[ItemRow] = []
        todo: list[Sample] = []
        for file in self.files:
            path = file.key
            if path not in known:
                new_inputs.append(InputRow(path, *stamp(file)))
                self.rows[path] = [self._planned(path, 0)]
                new_items += self.rows[path]
            elif all_done(self.output, known[path], self.rows.get(path, [])):
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
                    remove(self.output / name)

    def _vanished(self) -> list[ItemRow]:
        """What an earlier run listed and did not finish, and is not among the inputs any more."""
        present = {file.key for file in self.files}
        return [
            failed(row, "missing", "it is no longer there")
            for path, rows in self.rows.items()
            if path not in present
            for row in rows
            if row.state != "done"
        ]

    def _planned(self, path: str, face: int) -> ItemRow:
        """A new pending row, or a failed one where a file that is not ours has the name."""
        output = self.names.choose(path, face)
        problem = foreign_file(self.output, output)
        if not problem and self.settings.save_codes:
            problem = foreign_file(self.output, codes_name(output))
        if problem:
            return ItemRow(path, face, state="failed", reason="output-exists", message=problem)
        return ItemRow(path, face, output=output)

    # -- from files to faces -----------------------------------------------------------------------------------

    def _faces(self, executor: ThreadPoolExecutor, todo: Iterable[Sample], count: int) -> Iterator[_Face]:
        """Faces that are still to be done, in the order of the inputs; failures are recorded on the way."""
        for file, future in ahead(executor, self.reader.read, todo, count):
            path = file.key
            try:
                sample = future.result()
            except InputError as error:
                self._fail_input(path, error.reason, error.message)
                continue
            rows = self._rows_of(path, len(sample.faces))
            pending = [row for row in rows if not is_done(self.output, row) and row.output is not None]
            self.waiting[path] = len(pending)
            if any(row.state == "failed" and row.output is None for row in rows):
                self.spoiled.add(path)
            if not pending:
                self.observer.input_finished(path, path in self.spoiled)
            for row in pending:
                yield _Face(row, sample, sample.faces[row.face])

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
        rows = [row if is_done(self.output, row) else failed(row, reason, message) for row in self.rows[path]]
        self.rows[path] = rows
        self.manifest.plan_faces(path, rows)
        self.observer.input_finished(path, failed=True)

    # -- from faces to files -----------------------------------------------------------------------------------

    def _anonymize(self, todo: Iterable[Sample]) -> None:
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
                yield face.face.pixels

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
            np.stack([face.face.pixels for face in part]), lambda step: self.observer.batch(len(part), step, steps)
        )

    def _write(self, executor: ThreadPoolExecutor, part: list[_Face], result: Any) -> None:
        """Let threads give the results their final names; `_record_written` records them in one transaction then."""
        finished: list[tuple[ItemRow, Future[None] | None]] = []
        for number, face in enumerate(part):
            if not result.finite[number]:
                row = failed(face.row, "not-finite", "the optimisation left the range of numbers")
                finished.append((row, None))
                continue
            assert face.row.output is not None
            codes = codes_name(face.row.output) if self.settings.save_codes else None
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
                finished_at=now(),
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
        encoded = encode(result.images[number], self.settings.resolved_format, self.settings.resolved_quality)
        if codes is not None:
            stream = io.BytesIO()
            np.save(stream, np.asarray(result.codes[number], np.float32))
            write_result(self.output / codes, stream.getvalue())
        write_result(self.output / output, encoded)

    def _fail(self, face: _Face, reason: str, message: str) -> None:
        logger.info("%s: %s: %s", face.row.input, reason, message)
        self._record([failed(face.row, reason, message)])

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
        from faceanon_engine.engine.images.sheet import SheetRow, draw

        path = self.output / CONTACT_SHEET_NAME
        order = {file.key: file for file in self.files}
        shown = [row for file in order for row in self.rows.get(file, []) if row.state == "done"]
        shown = shown[: self.settings.contact_sheet]
        ours = self.manifest.get("contact_sheet")  # what it shows, None when this job has not made one
        if not shown:
            if ours is not None:
                remove(path)
                self.manifest.put({"contact_sheet": None})
            return None
        content = [[row.input, row.face, row.finished_at] for row in shown]
        if path.exists() and ours == content:
            return path
        problem = foreign_file(self.output, CONTACT_SHEET_NAME) if ours is None else None
        if problem:
            self.observer.note(problem)
            return None
        self.manifest.put({"contact_sheet": []})  # ours from now on, also when it is killed on the way
        self._load()
        prepared: dict[str, Sample] = {}
        sheet: list[SheetRow] = []
        for row in shown:
            try:
                if row.input not in prepared:
                    prepared = {row.input: self.reader.read(order[row.input])}
                original = prepared[row.input].faces[row.face].pixels
                result = read_image(self.output / str(row.output)).pixels
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
        write_result(path, encode(draw(sheet, title), "png", 95))
        self.manifest.put({"contact_sheet": content})
        return path


def _split(faces: list[_Face], size: int) -> list[list[_Face]]:
    return [faces[start : start + size] for start in range(0, len(faces), size)]
