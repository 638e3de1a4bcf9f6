"""The record of a job: `manifest.sqlite` in the job's folder. `docs/manifest.md` describes it for its readers.

One transaction follows every finished batch, after its files have their final names, so that a row that says "done"
has a whole file behind it whatever happens. The database keeps SQLite's rollback journal rather than a write-ahead
log: it survives a kill just as well, it is one file that can be copied between transactions, and it works on network
file systems, which the log's shared memory does not. One process writes (a lock beside it sees to that), any may read.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.files import atomic_file, failures_explained

NAME = "manifest.sqlite"
FORMAT = 1

_SCHEMA = """
create table job (
    key text primary key,
    value text not null                    -- JSON
);
create table inputs (
    path text primary key,                 -- relative to the job's INPUT
    bytes integer,                         -- size and modification time when it was listed
    modified_ns integer,
    faces integer                          -- null until it was looked at
);
create table items (
    input text not null references inputs(path),
    face integer not null,                 -- 0, 1, ... within the input
    state text not null check (state in ('pending', 'done', 'failed')),
    reason text,                           -- a short code, when failed
    message text,                          -- the same for people
    output text unique,                    -- relative to the job's folder
    codes text,                            -- w+ file, when asked for
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

COLUMNS = (
    "input",
    "face",
    "state",
    "reason",
    "message",
    "output",
    "codes",
    "neighbour_id",
    "neighbour_distance",
    "identity_before",
    "identity_after",
    "attribute_before",
    "attribute_after",
    "steps",
    "seconds",
    "preset",
    "bundle",
    "finished_at",
)


@dataclass(frozen=True)
class InputRow:
    """An input as it was when it was listed; faces is None until it was looked at."""

    path: str
    bytes: int | None
    modified_ns: int | None
    faces: int | None = None


@dataclass(frozen=True)
class ItemRow:
    """One output to be: a face of an input. Columns as in the table `items`."""

    input: str
    face: int
    state: str = "pending"
    reason: str | None = None
    message: str | None = None
    output: str | None = None
    codes: str | None = None
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

    @classmethod
    def open(cls, path: Path) -> Manifest:
        """Open the manifest for writing, making it where there is none."""
        with _explained(path):
            if not path.exists() or path.stat().st_size == 0:
                # Whoever reads meanwhile finds none, or one with its tables.
                with (
                    failures_explained(path),
                    atomic_file(path) as temporary,
                    closing(sqlite3.connect(temporary)) as made,
                ):
                    made.executescript(f"begin; {_SCHEMA} pragma user_version = {FORMAT}; commit;")
            connection = sqlite3.connect(path, timeout=60, isolation_level=None)
            try:
                connection.execute("pragma journal_mode = delete")
                connection.execute("pragma synchronous = full")
                version = _version(connection)
                if version != FORMAT:
                    raise _another_version(path, version)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    @classmethod
    def read(cls, file: str | Path) -> Manifest:
        """Open an existing manifest for reading; raises UserError when it is missing or no manifest."""
        path = Path(file)
        if not path.is_file():
            raise UserError(f"no manifest at {path}: is {path.parent} the OUTPUT of a job?")
        with _explained(path):
            # A job that was killed inside a transaction leaves a journal which only a writer may roll back.
            for mode in ("rw", "ro"):
                connection = sqlite3.connect(
                    f"file:{_quoted(path)}?mode={mode}", uri=True, timeout=60, isolation_level=None
                )
                try:
                    version = _version(connection)
                    break
                except sqlite3.OperationalError:
                    connection.close()
                    if mode == "ro":
                        raise
            if version != FORMAT:
                connection.close()
                raise _another_version(path, version)
            connection.execute("pragma query_only = true")
        return cls(path, connection)

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def get(self, key: str) -> Any:
        """The value of a key of the table `job`, None where there is none."""
        with _explained(self.path):
            row = self._connection.execute("select value from job where key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, values: Mapping[str, Any]) -> None:
        """Record values in the table `job`."""
        with self._transaction() as connection:
            connection.executemany(
                "insert or replace into job (key, value) values (?, ?)",
                [(key, json.dumps(value, sort_keys=True)) for key, value in values.items()],
            )

    def inputs(self) -> dict[str, InputRow]:
        """All inputs by path."""
        with _explained(self.path):
            rows = self._connection.execute("select path, bytes, modified_ns, faces from inputs order by path")
            return {row[0]: InputRow(*row) for row in rows}

    def items(self, state: str | None = None) -> list[ItemRow]:
        """All items, or those of one state, in the order of input and face."""
        where = "" if state is None else "where state = ?"
        query = f"select {', '.join(COLUMNS)} from items {where} order by input, face"
        with _explained(self.path):
            return [ItemRow(*row) for row in self._connection.execute(query, () if state is None else (state,))]

    def has_output(self, name: str) -> bool:
        """Whether an item has that output, small and large Latin letters taken for the same."""
        with _explained(self.path):
            query = "select exists (select 1 from items where output = ? collate nocase)"
            return bool(self._connection.execute(query, (name,)).fetchone()[0])

    def counts(self) -> dict[str, int]:
        """Number of items by state; every state has an entry."""
        with _explained(self.path):
            rows = self._connection.execute("select state, count(*) from items group by state").fetchall()
        return {"done": 0, "failed": 0, "pending": 0} | dict(rows)

    def add_inputs(self, inputs: Iterable[InputRow], items: Iterable[ItemRow], forget: Iterable[str] = ()) -> None:
        """Record inputs and their planned items; what was known of the inputs in `forget` is dropped first."""
        with self._transaction() as connection:
            dropped = [(path,) for path in forget]
            connection.executemany("delete from items where input = ?", dropped)
            connection.executemany("delete from inputs where path = ?", dropped)
            connection.executemany(
                "insert into inputs (path, bytes, modified_ns, faces) values (?, ?, ?, ?)",
                [(row.path, row.bytes, row.modified_ns, row.faces) for row in inputs],
            )
            self._insert(connection, items)

    def plan_faces(self, path: str, items: Sequence[ItemRow]) -> None:
        """Record that an input has these faces, before the first of them is written."""
        with self._transaction() as connection:
            connection.execute("delete from items where input = ? and face >= ?", (path, len(items)))
            self._insert(connection, items)
            connection.execute("update inputs set faces = ? where path = ?", (len(items), path))

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
            connection.execute(
                "create table queue (position integer primary key, input text not null unique, process integer)"
            )
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
            select = f"select {', '.join(COLUMNS)} from items where input = ? order by face"
            return claimed, {path: [ItemRow(*row) for row in connection.execute(select, (path,))] for path in members}

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
            f"insert into items ({', '.join(COLUMNS)}) values ({marks}) "
            f"on conflict (input, face) do update set {values}",
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


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("pragma user_version").fetchone()[0])


def _another_version(path: Path, version: int) -> UserError:
    return UserError(f"{path} has format {version}, this version reads {FORMAT}: use another OUTPUT folder")


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(os.fsencode(path.absolute()))  # bytes: a name need not be text


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into one line for the person at the terminal."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "full" in text:
            advice = "free some space and run the same command again"
        elif "locked" in text:
            advice = "another program holds it open for writing: close that and run the same command again"
        elif "not a database" in text or "malformed" in text:
            advice = "the file is damaged: use another OUTPUT folder, or delete it to start over"
        else:
            advice = "check the folder and its permissions"
        raise UserError(f"manifest {path}: {text}: {advice}") from None
