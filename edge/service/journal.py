"""The journal: what became of every file, on local disk. SQLite; the daemon writes, everybody else reads or asks.

A power loss takes no transaction back (WAL, synchronous=FULL). Paths are kept as bytes: a name need not be UTF-8.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from edge.constancy import ConstancyRun
from edge.errors import StateUnusable
from edge.service.journal_file import (
    DAMAGED,
    OPTIONS,
    connect,
    connect_for_reading,
    error_code,
    set_aside,
    transaction,
    translated,
    translating,
)
from edge.service.journal_schema import FINISHED_SQL, LEFT_ALONE_SQL, REFUSED_SQL, SELECT, STEPS, UPSERT
from edge.service.state import is_there
from edge.settle import Signature, State

EVERYWHERE: Mapping[str, bool] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Entry:
    """One file as the journal knows it."""

    order: int  # the file seen first has the lowest
    folder: str  # the drop folder
    path: str
    signature: Signature
    state: State
    failures: int
    crashes: int
    reason: str | None  # why it was refused, or waits
    sha256: str | None  # known from the claim on
    key: str | None  # of its result
    first_seen_utc: datetime
    changed_utc: datetime  # when its state did
    again: bool = False  # a person asked for it: a result that is there does not count
    present: bool = True  # it was there at the last look
    kind: str | None = None  # the class of the error that ``reason`` tells


@dataclass(frozen=True)
class Request:
    """A person's wish that a file be processed again; ``path`` None: every refused image."""

    number: int
    path: str | None


class Journal:
    """An open journal; use it as a context manager."""

    def __init__(self, connection: sqlite3.Connection, path: str, set_aside: Path | None = None) -> None:
        self._connection = connection
        self._path = path
        self.set_aside = set_aside  # where a damaged journal went, when this one was opened in its place

    @classmethod
    def open(cls, path: Path, *, steps: Sequence[str] = STEPS, now_utc: datetime | None = None) -> Self:
        """Open the one writer's journal, made or brought up to date where needed; raise `StateUnusable`, `SpoolFull`.

        One that is damaged is set aside under another name: the results beside the images say what is done.
        """
        try:
            return cls(connect(path, steps), str(path))
        except sqlite3.Error as exc:
            if error_code(exc) not in DAMAGED:
                raise translated(exc, path, opening=True) from exc
        aside = set_aside(path, now_utc or datetime.now(UTC))
        with translating(path, opening=True):
            return cls(connect(path, steps), str(path), aside)

    @classmethod
    def in_memory(cls) -> Self:
        """Open a journal that ends with the process."""
        return cls(connect(":memory:", STEPS), "journal in memory")

    @classmethod
    def open_for_reading(cls, path: Path) -> Self:
        """Open a journal that another process may be writing; raise `StateUnusable` where there is none to read."""
        if not is_there(path):
            raise StateUnusable(f"{path}: there is no journal; it is made when landmarknet-edge watch first runs")
        with translating(path, opening=True):
            connection = connect_for_reading(path)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != len(STEPS):
            connection.close()
            raise StateUnusable(f"{path}: was written by another version (format {version}); start the service anew")
        return cls(connection, str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal; what was recorded stays."""
        with suppress(sqlite3.Error):  # all is on disk already; a full disk must not keep us from ending
            self._connection.close()

    def entries(self, folder: Path) -> dict[str, Entry]:
        """Return all that is known of a drop folder's files, by path."""
        rows = self._read(f"{SELECT} WHERE folder = ?", os.fsencode(folder))
        return {entry.path: entry for entry in map(_entry, rows)}

    def find(self, paths: Iterable[str]) -> dict[str, Entry]:
        """Return what is known of some files, by path."""
        query = f"{SELECT} WHERE path = ?"
        return {entry.path: entry for path in paths for entry in map(_entry, self._read(query, os.fsencode(path)))}

    def last_order(self) -> int:
        """Return the highest order that was ever given; 0: none."""
        rows = self._read("SELECT seq FROM sqlite_sequence WHERE name = 'files'")
        return int(rows[0][0]) if rows else 0

    def record(
        self, changes: Iterable[Entry] = (), *, presence: Mapping[str, bool] = EVERYWHERE, taken: Iterable[Request] = ()
    ) -> None:
        """Record in one transaction: files as they now are, whether they are there, requests that were taken in.

        Raises `SpoolFull` while the disk is full or another program holds the journal; then nothing was recorded.
        """
        with translating(self._path), transaction(self._connection) as run:
            run.executemany(UPSERT, map(_row, changes))
            moved = ((present, os.fsencode(path)) for path, present in presence.items())
            run.executemany("UPDATE files SET present = ? WHERE path = ?", moved)
            run.executemany("DELETE FROM requests WHERE id = ?", ((request.number,) for request in taken))

    def counts(self) -> dict[State, int]:
        """Return how many files stand where, `not_images` apart; those that left their folder only when finished."""
        where = f"WHERE (present OR state IN ({FINISHED_SQL})) AND NOT {LEFT_ALONE_SQL}"
        rows = self._read(f"SELECT state, count(*) FROM files {where} GROUP BY state")  # noqa: S608
        return dict.fromkeys(State, 0) | {State(state): number for state, number in rows}

    def not_images(self) -> int:
        """Return how many files were left alone because they are no images."""
        return int(self._read(f"SELECT count(*) FROM files WHERE {LEFT_ALONE_SQL}")[0][0])  # noqa: S608

    def waiting(self, limit: int = 100) -> list[Entry]:
        """Return the files that are not finished, oldest first."""
        where = f"WHERE present AND state NOT IN ({FINISHED_SQL}) ORDER BY ord LIMIT ?"
        return [_entry(row) for row in self._read(f"{SELECT} {where}", limit)]

    def last_done(self) -> Entry | None:
        """Return the file that was done last."""
        return next(iter(self._latest("state = 'done'")), None)

    def last_refused(self) -> Entry | None:
        """Return the image that was refused last."""
        return next(iter(self._latest(REFUSED_SQL)), None)

    def refused(self, limit: int = 100) -> list[Entry]:
        """Return the refused images, the last one first."""
        return self._latest(REFUSED_SQL, limit)

    def refused_by_reason(self) -> dict[str, int]:
        """Return how many images were refused for what, the most frequent first; without their names and figures."""
        rows = self._read(f"SELECT path, reason FROM files WHERE {REFUSED_SQL}")  # noqa: S608
        return dict(Counter(_sort_of(os.fsdecode(path), reason) for path, reason in rows).most_common())

    def latest(self, limit: int, before: int | None = None) -> list[Entry]:
        """Return the files that changed last, the last one first; ``before`` an order: what comes after it in that row.

        Those that left their folder only when finished; what is left alone, and is no image, never.
        """
        where = f"(present OR state IN ({FINISHED_SQL})) AND NOT {LEFT_ALONE_SQL}"
        if before is None:
            return self._latest(where, limit)
        rows = self._read("SELECT changed_utc FROM files WHERE ord = ?", before)
        if not rows:
            return []
        where += " AND (changed_utc, ord) < (?, ?)"
        query = f"{SELECT} WHERE {where} ORDER BY changed_utc DESC, ord DESC LIMIT ?"
        return [_entry(row) for row in self._read(query, rows[0][0], before, limit)]

    def by_orders(self, orders: Sequence[int]) -> list[Entry]:
        """Return the files of some orders."""
        marks = ", ".join("?" for _ in orders)
        return [_entry(row) for row in self._read(f"{SELECT} WHERE ord IN ({marks})", *orders)]

    def finished(self, limit: int) -> list[Entry]:
        """Return the images that were finished last, the last one first."""
        return self._latest(f"state IN ({FINISHED_SQL}) AND NOT {LEFT_ALONE_SQL}", limit)

    def finished_since(self, since_utc: datetime, most: int = -1) -> list[tuple[int, str]]:
        """Return the order of each image that was finished since then, the first one first, and when, as text.

        Of more than ``most`` the newest. Not the files themselves: there may be tens of thousands, and whoever asks
        again has read most of them.
        """
        where = f"state IN ({FINISHED_SQL}) AND NOT {LEFT_ALONE_SQL} AND changed_utc >= ?"
        query = f"SELECT ord, changed_utc FROM files WHERE {where} ORDER BY changed_utc DESC, ord DESC LIMIT ?"  # noqa: S608
        return self._read(query, _text(since_utc), most)[::-1]

    def last_arrival(self, folder: Path) -> datetime | None:
        """Return when an image of this drop folder last got its result; files that are no images are none."""
        where = f"folder = ? AND (state = 'done' OR ({REFUSED_SQL}))"
        found = self._read(f"SELECT max(changed_utc) FROM files WHERE {where}", os.fsencode(folder))[0][0]  # noqa: S608
        return _moment(found) if found else None

    def requests(self) -> list[Request]:
        """Return what other processes asked for, the oldest first."""
        rows = self._read("SELECT id, path FROM requests ORDER BY id")
        return [Request(number, None if path is None else os.fsdecode(path)) for number, path in rows]

    def add_constancy_run(self, run: ConstancyRun) -> None:
        """Keep a run of the golden images."""
        row = (_text(run.when_utc), run.release, run.passed, run.worst_shift_net_px, run.worst_score_change, run.reason)
        with translating(self._path), transaction(self._connection) as connection:
            connection.execute("INSERT INTO constancy VALUES (?, ?, ?, ?, ?, ?)", row)

    def constancy_runs(self, limit: int = 100) -> list[ConstancyRun]:
        """Return the runs of the golden images, the one recorded last first: a clock may have been wrong for a day."""
        rows = self._read("SELECT * FROM constancy ORDER BY rowid DESC LIMIT ?", limit)
        return [ConstancyRun(_moment(when), release, bool(passed), *rest) for when, release, passed, *rest in rows]

    def forget_older_than(self, days: int, now_utc: datetime | None = None) -> int:
        """Forget finished files that left their folder, and constancy runs, of so many days ago; return how many files.

        A file that is still there is kept: it would be looked into anew after every restart.
        """
        before = _text((now_utc or datetime.now(UTC)) - timedelta(days=days))
        with translating(self._path), transaction(self._connection) as connection:
            connection.execute("DELETE FROM constancy WHERE when_utc < ?", (before,))
            return connection.execute(
                f"DELETE FROM files WHERE NOT present AND state IN ({FINISHED_SQL}) AND changed_utc < ?",  # noqa: S608
                (before,),
            ).rowcount

    def _latest(self, where: str, limit: int = 1) -> list[Entry]:
        query = f"{SELECT} WHERE {where} ORDER BY changed_utc DESC, ord DESC LIMIT ?"
        return [_entry(row) for row in self._read(query, limit)]

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with translating(self._path):
            return self._connection.execute(query, values).fetchall()


def ask_requeue(journal: Path, images: Sequence[Path] | None, now_utc: datetime | None = None) -> None:
    """Ask the daemon of this journal to process ``images`` again, None: all refused ones; it hears at its next sweep.

    Raises `StateUnusable` where there is no journal, `SpoolFull` where it is busy.
    """
    asked_utc = _text(now_utc or datetime.now(UTC))
    paths = [None] if images is None else [os.fsencode(image) for image in images]
    Journal.open_for_reading(journal).close()
    with (
        translating(journal, opening=True),
        closing(sqlite3.connect(f"{journal.absolute().as_uri()}?mode=rw", **OPTIONS, uri=True)) as connection,
        transaction(connection) as run,
    ):
        run.executemany("INSERT INTO requests (path, asked_utc) VALUES (?, ?)", ((path, asked_utc) for path in paths))


def _row(entry: Entry) -> tuple[Any, ...]:
    size_bytes, mtime_ns, inode, ctime_ns = entry.signature
    signed_inode = inode - (1 << 64) if inode >= 1 << 63 else inode  # a share's can have 64 bits; SQLite's have a sign
    return (
        entry.order, os.fsencode(entry.folder), os.fsencode(entry.path), size_bytes, mtime_ns, signed_inode,
        str(entry.state), entry.failures, entry.crashes, entry.reason and _utf8(entry.reason), entry.sha256, entry.key,
        _text(entry.first_seen_utc), _text(entry.changed_utc), entry.again, entry.present, entry.kind,
        ctime_ns,
    )  # fmt: skip


def _entry(row: tuple[Any, ...]) -> Entry:
    order, folder, path, size_bytes, mtime_ns, inode, state, *rest = row
    failures, crashes, reason, sha256, key, first_seen_utc, changed_utc, again, present, kind, ctime_ns = rest
    return Entry(
        order, os.fsdecode(folder), os.fsdecode(path), Signature(size_bytes, mtime_ns, inode % (1 << 64), ctime_ns),
        State(state), failures, crashes, reason, sha256, key, _moment(first_seen_utc), _moment(changed_utc),
        bool(again), bool(present), kind,
    )  # fmt: skip


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")  # of one length: sorts as text


_moment = datetime.fromisoformat  # of what `_text` wrote


def _sort_of(path: str, reason: str | None) -> str:
    """Return a reason without the file's name before it, and without figures and advice behind it."""
    text = (reason or "").removeprefix(f"{path}: ").removeprefix(f"{_utf8(Path(path).name)}: ")
    for end in (" (", "; ", ": "):
        text = text.partition(end)[0]
    return re.sub(r"[0-9][0-9.]*", "#", text) or "no reason given"
