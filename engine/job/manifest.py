"""The record of a job: `private/manifest.sqlite` in the job's folder. `docs/manifest.md` describes it for its readers.

One transaction follows every finished batch, after its files have their final names, so that a row that says "done"
has a whole file behind it whatever happens. The database keeps SQLite's rollback journal rather than a write-ahead
log: it survives a kill just as well, it is one file that can be copied between transactions, and it works on network
file systems, which the log's shared memory does not. One process writes (a lock beside it sees to that), any may read.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.columns import (
    INPUT_COLUMNS,
    ITEM_COLUMNS,
    JOB_CHECKS,
    STATES,
    wrong_input,
    wrong_item,
)
from faceanon_engine.engine.job.layout import JobFolder, kept_private, released
from faceanon_engine.engine.system.below import first_link
from faceanon_engine.engine.system.files import atomic_file, failures_explained
from faceanon_engine.engine.system.printable import printable, shortened

logger = logging.getLogger(__name__)

FORMAT = 3
_WORD_AFTER = 1.0
"""Seconds that another program may hold the file until the person is told that it is waited for."""
_READER_PATIENCE = 10.0
_WRITER_PATIENCE = 60.0
_COMMENT = re.compile(r"--[^\n]*")
_LONGEST_VALUE = 32 * 1024 * 1024
"""Bytes of a value, or of a row, that SQLite reads: what a contact sheet of 100,000 faces shows takes a third."""
_DAMAGED = "the file is damaged: use another OUTPUT folder, or delete it to start over"
_SIGNS_OF_DAMAGE = ("not a database", "malformed", "unsupported file format", "Could not decode")
_ENDS_IN_ANOTHER_JOURNAL = bytes.fromhex("d9d505f920a163d7")
"""The end of a journal that names a journal of several databases, which SQLite deletes at the roll-back."""

_SCHEMA = """
create table job (
    key text primary key,
    value text not null                    -- JSON
);
create table inputs (
    path text primary key,                 -- relative to the job's INPUT
    bytes integer,                         -- size and modification time when it was listed
    modified_ns integer,
    faces integer,                         -- null until it was looked at
    pictures integer,                      -- in the file, where there are several: the first was read
    boxes integer,                         -- faces that --boxes says are in it
    boxes_found integer,                   -- of those, how many the detector found by itself
    state text check (state in ('pending', 'done', 'failed', 'withheld')),  -- of a photo that is given back
    reason text,                           -- a short code, when failed or withheld
    message text,                          -- the same for people
    output text unique                     -- a photo, relative to release/
);
create table items (
    input text not null references inputs(path),
    face integer not null,                 -- 0, 1, ... within the input
    state text not null check (state in ('pending', 'done', 'failed', 'kept', 'redacted', 'skipped')),
    reason text,                           -- a short code, when failed, redacted or skipped
    message text,                          -- the same for people
    output text unique,                    -- relative to release/
    crop text unique,                      -- the new face of a photo, relative to private/
    codes text,                            -- w+ file, when asked for, relative to private/
    frame text,                            -- JSON: where the face lies in its photograph
    neighbour_id integer,                  -- row of the pool
    neighbour_distance real,
    identity_before real,                  -- cosine with the original at step 0
    identity_after real,                   -- cosine with the original in the result
    attribute_before real,                 -- attribute loss at step 0
    attribute_after real,
    steps integer,
    seconds real,
    preset text,
    bundle text,                           -- digest
    finished_at text,                      -- UTC, ISO 8601
    primary key (input, face)
);
create index items_state on items(state);
"""

_QUEUE = "create table queue (position integer primary key, input text not null unique, process integer)"

COLUMNS = tuple(ITEM_COLUMNS.checks)
_ITEMS = ", ".join(COLUMNS)
_INPUTS = ", ".join(INPUT_COLUMNS.checks)


@dataclass(frozen=True)
class InputRow:
    """An input as it was when it was listed; faces is None until it was looked at, state where no photo is given back.

    Columns as in the table `inputs`.
    """

    path: str
    bytes: int | None
    modified_ns: int | None
    faces: int | None = None
    pictures: int | None = None
    boxes: int | None = None
    boxes_found: int | None = None
    state: str | None = None
    reason: str | None = None
    message: str | None = None
    output: str | None = None


@dataclass(frozen=True)
class ItemRow:
    """One output to be: a face of an input. Columns as in the table `items`."""

    input: str
    face: int
    state: str = "pending"
    reason: str | None = None
    message: str | None = None
    output: str | None = None
    crop: str | None = None
    codes: str | None = None
    frame: str | None = None
    neighbour_id: int | None = None
    neighbour_distance: float | None = None
    identity_before: float | None = None
    identity_after: float | None = None
    attribute_before: float | None = None
    attribute_after: float | None = None
    steps: int | None = None
    seconds: float | None = None
    preset: str | None = None
    bundle: str | None = None
    finished_at: str | None = None


class Manifest:
    """An open manifest. Every method that writes is one transaction; all raise UserError when the file fails them."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        folder = JobFolder(path.parent.parent)
        self._root = folder.root if folder.manifest == path else None
        """The job's folder; None for a manifest that was copied elsewhere."""
        self._without_links: set[str] = set()
        """Folders in it to which no link leads."""

    @classmethod
    def open(cls, path: Path) -> Manifest:
        """Open the manifest for writing, making it where there is none."""
        with _explained(path):
            _refuse_planted(path)
            if not path.exists() or path.stat().st_size == 0:
                # Whoever reads meanwhile finds none, or one with its tables.
                with (
                    failures_explained(path),
                    atomic_file(path, private=True) as temporary,
                    closing(sqlite3.connect(temporary)) as made,
                ):
                    made.executescript(f"begin; {_SCHEMA} pragma user_version = {FORMAT}; commit;")
            connection = _connected(path, "rw", _WRITER_PATIENCE)
            try:
                connection.execute("commit")
                connection.execute("pragma journal_mode = delete")
                connection.execute("pragma synchronous = full")
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    @classmethod
    def read(cls, file: str | Path, *, snapshot: bool = False) -> Manifest:
        """Open an existing manifest for reading; raises UserError when it is missing or no manifest.

        snapshot: all that is read is of one moment. A job that writes waits until it is closed: close it soon.
        """
        path = Path(file)
        if not os.path.isfile(path):
            raise UserError(f"no manifest at {path}: give the OUTPUT of a job, and check the rights of its private/")
        with _explained(path):
            _refuse_planted(path)
            try:
                # A job that was killed inside a transaction leaves a journal which only a writer may roll back.
                connection = _connected(path, "rw", _READER_PATIENCE)
            except sqlite3.OperationalError as error:
                if _is_busy(error):
                    raise
                connection = _connected(path, "ro", _READER_PATIENCE)
            connection.execute("pragma query_only = true")
            if not snapshot:
                connection.execute("commit")
        return cls(path, connection)

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def get(self, key: str) -> Any:
        """The value of a key of the table `job`, None where there is none; raises UserError for one it cannot have."""
        with _explained(self.path):
            row = self._connection.execute("select value from job where key = ?", (key,)).fetchone()
        if row is None:
            return None
        try:
            if not isinstance(row[0], str):
                raise ValueError
            value = json.loads(row[0])
        except (ValueError, RecursionError):
            raise self._refused("job", key, row[0]) from None
        if not JOB_CHECKS.get(key, lambda _: True)(value):
            raise self._refused("job", key, row[0])
        return value

    def settings(self) -> dict[str, Any]:
        """The settings of the last run; empty before the first."""
        return self.get("settings") or {}

    def put(self, values: Mapping[str, Any]) -> None:
        """Record values in the table `job`."""
        with self._transaction() as connection:
            connection.executemany(
                "insert or replace into job (key, value) values (?, ?)",
                [(key, json.dumps(value, sort_keys=True)) for key, value in values.items()],
            )

    def inputs(self) -> dict[str, InputRow]:
        """All inputs by path; raises UserError for values that they cannot have."""
        known: dict[str, InputRow] = {}
        with _explained(self.path):
            for values in self._connection.execute(f"select {_INPUTS} from inputs order by path"):
                column = INPUT_COLUMNS.wrong(values)
                if column is None:
                    row = InputRow(*values)
                    column = wrong_input(row.state, row.reason, row.output, row.faces)
                if column is not None:
                    raise self._refused("inputs", column, values[list(INPUT_COLUMNS.checks).index(column)])
                if self._root is not None and row.output is not None:
                    self._refuse_link(self._root, released(row.output))
                known[values[0]] = row
        return known

    def items(self, state: str | None = None) -> list[ItemRow]:
        """All items, or those of one state, in the order of input and face.

        Raises UserError for values that they cannot have, and where a link is in a result's place.
        """
        where = "" if state is None else "where state = ?"
        query = f"select {_ITEMS} from items {where} order by input, face"
        with _explained(self.path):
            rows = [self._item(values) for values in self._connection.execute(query, () if state is None else (state,))]
        if state is None:
            self._refuse_gaps(rows)
        return rows

    def has_output(self, name: str) -> bool:
        """Whether an item has that output, small and large Latin letters taken for the same."""
        with _explained(self.path):
            query = (
                "select exists (select 1 from items where output = ?1 collate nocase) "
                "or exists (select 1 from inputs where output = ?1 collate nocase)"
            )
            return bool(self._connection.execute(query, (name,)).fetchone()[0])

    def counts(self) -> dict[str, int]:
        """Number of items by state; done, failed and pending have an entry where there are none, too."""
        with _explained(self.path):
            rows = self._connection.execute("select state, count(*) from items group by state").fetchall()
        for state, _ in rows:
            if state not in STATES:
                raise self._refused("items", "state", state)
        return {"done": 0, "failed": 0, "pending": 0} | dict(rows)

    def add_inputs(self, inputs: Iterable[InputRow], items: Iterable[ItemRow], forget: Iterable[str] = ()) -> None:
        """Record inputs and their planned items; what was known of the inputs in `forget` is dropped first."""
        with self._transaction() as connection:
            dropped = [(path,) for path in forget]
            connection.executemany("delete from items where input = ?", dropped)
            connection.executemany("delete from inputs where path = ?", dropped)
            marks = ", ".join("?" * len(INPUT_COLUMNS.checks))
            values = ", ".join(f"{column} = excluded.{column}" for column in INPUT_COLUMNS.checks)
            connection.executemany(
                f"insert into inputs ({_INPUTS}) values ({marks}) on conflict (path) do update set {values}",
                [tuple(getattr(row, column) for column in INPUT_COLUMNS.checks) for row in inputs],
            )
            self._insert(connection, items)

    def plan_faces(self, path: str, items: Sequence[ItemRow], about: Mapping[str, int | None] | None = None) -> None:
        """Record that an input has these faces, before the first of them is written.

        about: other columns of the input: pictures, boxes, boxes_found.
        """
        with self._transaction() as connection:
            connection.execute("delete from items where input = ? and face >= ?", (path, len(items)))
            self._insert(connection, items)
            connection.execute("update inputs set faces = ? where path = ?", (len(items), path))
            for column, value in (about or {}).items():
                connection.execute(f"update inputs set {column} = ? where path = ?", (value, path))

    def settle_photo(self, path: str, state: str, reason: str | None = None, message: str | None = None) -> None:
        """Record what became of a photograph that was to be given back."""
        with self._transaction() as connection:
            update = "update inputs set state = ?, reason = ?, message = ? where path = ?"
            connection.execute(update, (state, reason, message, path))

    def finish(self, items: Sequence[ItemRow], faces: Mapping[str, int] | None = None) -> None:
        """Record results, done or failed, and the number of faces of inputs that were looked at."""
        with self._transaction() as connection:
            self._insert(connection, items)
            connection.executemany(
                "update inputs set faces = ? where path = ?", [(count, path) for path, count in (faces or {}).items()]
            )

    # -- the queue of a run that several processes share --------------------------------------------------------

    def fill_queue(self, paths: Iterable[str]) -> None:
        """Make these inputs the ones that processes may claim, in this order; what was queued before is forgotten."""
        with self._transaction() as connection:
            connection.execute("drop table if exists queue")
            connection.execute(_QUEUE)
            connection.executemany("insert into queue (input) values (?)", [(path,) for path in paths])

    def claim(self, process: int, group: Callable[[str], Sequence[str]]) -> tuple[list[str], dict[str, list[ItemRow]]]:
        """The first input that nobody has, and those of its group that nobody has: they are this process's from now on.

        group: the inputs that belong with one, itself among them, in their order. Gives what is claimed, nothing when
        there is nothing left, and the items of the whole group.
        """
        with self._transaction() as connection:
            first = connection.execute("select input from queue where process is null order by position").fetchone()
            if first is None:
                return [], {}
            members = group(first[0])
            free = {row[0] for row in connection.execute("select input from queue where process is null")}
            claimed = [path for path in members if path in free]
            connection.executemany(
                "update queue set process = ? where input = ?", [(process, path) for path in claimed]
            )
            select = f"select {_ITEMS} from items where input = ? order by face"
            items = {path: [self._item(row) for row in connection.execute(select, (path,))] for path in members}
            for rows in items.values():
                self._refuse_gaps(rows)
            return claimed, items

    def leave_queue(self, path: str) -> None:
        """An input is done or failed."""
        with self._transaction() as connection:
            connection.execute("delete from queue where input = ?", (path,))

    def release(self, process: int) -> None:
        """Let others claim what a process has claimed and not finished."""
        with self._transaction() as connection:
            connection.execute("update queue set process = null where process = ?", (process,))

    def queued(self) -> int:
        """Number of inputs that are not finished, claimed or not."""
        with _explained(self.path):
            return int(self._connection.execute("select count(*) from queue").fetchone()[0])

    @staticmethod
    def _insert(connection: sqlite3.Connection, items: Iterable[ItemRow]) -> None:
        marks = ", ".join("?" * len(COLUMNS))
        values = ", ".join(f"{column} = excluded.{column}" for column in COLUMNS)
        # Not "insert or replace", which would drop another item silently where two had one output.
        connection.executemany(
            f"insert into items ({_ITEMS}) values ({marks}) on conflict (input, face) do update set {values}",
            [tuple(getattr(item, column) for column in COLUMNS) for item in items],
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _explained(self.path):
            self._connection.execute("begin immediate")
            try:
                yield self._connection
                self._connection.execute("commit")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("rollback")
                raise

    def _item(self, values: tuple[Any, ...]) -> ItemRow:
        column = ITEM_COLUMNS.wrong(values)
        if column is None:
            row = ItemRow(*values)
            column = wrong_item(row.output, row.crop, row.codes, row.state, row.reason)
        if column is not None:
            raise self._refused("items", column, values[COLUMNS.index(column)])
        if self._root is not None:
            if row.output is not None:
                self._refuse_link(self._root, released(row.output))
            for name in (row.crop, row.codes):
                if name is not None:
                    self._refuse_link(self._root, kept_private(name))
        return row

    def _refuse_gaps(self, rows: Iterable[ItemRow]) -> None:
        """Raise UserError where the faces of an input, in the order of the rows, are not 0, 1, ..."""
        before: ItemRow | None = None
        for row in rows:
            if row.face != (0 if before is None or before.input != row.input else before.face + 1):
                raise self._refused("items", "face", row.face)
            before = row

    def _refuse_link(self, root: Path, name: str) -> None:
        folder = name.rpartition("/")[0]
        link = None if folder in self._without_links else first_link(root, folder)
        if link is None:
            self._without_links.add(folder)
            link = root / name if os.path.islink(f"{root}/{name}") else None
        if link is not None:
            raise UserError(f"{link} is a symbolic link where a job's result should be: move it away")

    def _refused(self, table: str, column: str, value: object) -> UserError:
        text = (
            repr(value) if isinstance(value, (int, float, str, bytes)) and len(str(value)) < 100 else "too long a value"
        )
        return UserError(
            f"manifest {self.path}: {column} in the table {table} cannot be {text}: the file is damaged, or another "
            "program changed it: use another OUTPUT folder"
        )


def _connected(path: Path, mode: str, patience: float) -> sqlite3.Connection:
    """A connection in a transaction that reads, to a file that has the tables of a manifest and nothing else.

    Another program that holds the file is waited for, once. Raises sqlite3.Error, and UserError for other tables.
    """
    uri = f"file:{_quoted(path)}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=min(_WORD_AFTER, patience), isolation_level=None)
    try:
        # What SQLite offers against files that are meant to harm.
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        for pragma in ("trusted_schema = off", "cell_size_check = on", "mmap_size = 0"):
            connection.execute(f"pragma {pragma}")
        connection.execute("begin")
        try:
            version = _version(connection)
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
            logger.warning("%s is busy, another program writes it: waiting", path)
            connection.execute(f"pragma busy_timeout = {int(1000 * patience)}")
            version = _version(connection)
        connection.execute(f"pragma busy_timeout = {int(1000 * patience)}")
        if version != FORMAT:
            raise _another_version(path, version)
        if connection.execute("pragma quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("database disk image is malformed")
        _refuse_other_tables(path, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("pragma user_version").fetchone()[0])


def _another_version(path: Path, version: int) -> UserError:
    if 0 < version < FORMAT:
        return UserError(
            f"{path} is of an earlier version (format {version}, this one reads {FORMAT}): use another OUTPUT"
        )
    return UserError(f"{path} has format {version}, this version reads {FORMAT}: use another OUTPUT folder")


def _refuse_other_tables(path: Path, connection: sqlite3.Connection) -> None:
    """Raise UserError where the schema is not ours to the word: triggers and views run when others would write or read.

    The queue may be there or not.
    """
    found = _schema(connection)
    if found != _our_schema(False) and found != _our_schema(True):
        strange = sorted({str(name) for _, name, _, _ in (found - _our_schema(True)) | (_our_schema(False) - found)})
        raise UserError(
            f"manifest {path} has other tables than a job's ({', '.join(strange)[:100]}): use another OUTPUT folder"
        )


def _schema(connection: sqlite3.Connection) -> frozenset[tuple[str, ...]]:
    # More rows than a manifest has are as wrong as others.
    rows = connection.execute("select type, name, tbl_name, sql from sqlite_master limit 100").fetchall()
    return frozenset(tuple(" ".join(_COMMENT.sub("", str(value)).split()) for value in row) for row in rows)


@functools.cache
def _our_schema(queue: bool) -> frozenset[tuple[str, ...]]:
    with closing(sqlite3.connect(":memory:")) as made:
        made.executescript(_SCHEMA + (_QUEUE if queue else ""))
        return _schema(made)


def _refuse_planted(path: Path) -> None:
    """Raise UserError for files beside a manifest by which SQLite would write or delete elsewhere."""
    for ending in ("", "-journal", "-wal", "-shm"):
        place = path.with_name(path.name + ending)
        if os.path.islink(place):
            raise UserError(f"{place} is a symbolic link, and may lead out of the job's folder: use another OUTPUT")
        if ending and os.path.exists(place) and not os.path.isfile(place):
            raise UserError(f"{place} is no file: delete it, or use another OUTPUT folder")
    try:
        with open(path.with_name(path.name + "-journal"), "rb") as journal:
            if journal.seek(0, os.SEEK_END) >= len(_ENDS_IN_ANOTHER_JOURNAL):
                journal.seek(-len(_ENDS_IN_ANOTHER_JOURNAL), os.SEEK_END)
                if journal.read() == _ENDS_IN_ANOTHER_JOURNAL:
                    raise UserError(f"{journal.name} is no journal of a job's: delete it, or use another OUTPUT folder")
    except OSError:
        pass  # most often there is none


def _is_busy(error: sqlite3.Error) -> bool:
    # Of errors that Python raises itself, as for text that is none, there is no code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(os.fsencode(path.absolute()))  # bytes: a name need not be text


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into one line for the person at the terminal."""
    try:
        yield
    except UnicodeDecodeError:  # in what SQLite says of names in a damaged schema
        raise UserError(f"manifest {path} is no manifest: {_DAMAGED}") from None
    except sqlite3.Error as error:
        text = shortened(printable(" ".join(str(error).split())))
        if "full" in text:
            advice = "free some space and run the same command again"
        elif "locked" in text:
            advice = "another program holds it open for writing: close that and run the same command again"
        elif isinstance(error, sqlite3.DataError) or any(sign in text for sign in _SIGNS_OF_DAMAGE):
            advice = _DAMAGED
        else:
            advice = "check the folder and its permissions"
        raise UserError(f"manifest {path}: {text}: {advice}") from None
