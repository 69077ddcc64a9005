"""The journal as a file of SQLite's: opened, checked, set aside where it is damaged; its errors in our words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from edge.errors import EdgeError, JournalDamaged, SpoolFull, StateUnusable
from edge.service.journal_schema import upgrade
from edge.service.state import is_there

BUSY_S = 10.0  # how long to wait for another program that holds the journal
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
FOR_NOW = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR}
FOR_NOW |= {sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL}
OPTIONS: dict[str, Any] = {"timeout": BUSY_S, "isolation_level": None}  # None: transactions are begun by us alone


def connect(path: Path | str, steps: Sequence[str]) -> sqlite3.Connection:
    """Open the one writer's journal, checked and up to date; raise `StateUnusable`, and SQLite's errors as they are."""
    connection = sqlite3.connect(path, **OPTIONS)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _check(connection)
        upgrade(connection, path, steps)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        damage = sqlite3.DatabaseError(found)
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damage


def connect_for_reading(path: Path, *, any_thread: bool = False) -> sqlite3.Connection:
    """Open a journal that another process may be writing; raise SQLite's errors as they are.

    With ``any_thread`` the caller sees to it that one thread at a time uses the connection.
    """
    # who may not write beside the journal cannot share its memory with the daemon; without a daemon it stands still
    still = "&immutable=1" if not is_there(path.with_name(path.name + "-wal")) else ""
    address = f"{path.absolute().as_uri()}?mode=ro"
    for one in (address, address + still):
        connection = sqlite3.connect(one, **OPTIONS, uri=True, check_same_thread=not any_thread)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as exc:
            connection.close()
            if one == address + still or error_code(exc) not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
                raise
        else:
            break
    return connection


def set_aside(path: Path, now_utc: datetime) -> Path:
    """Give a damaged journal another name; its log belongs to it, and would be played into the new one."""
    aside = path.with_name(f"{path.stem}.damaged-{now_utc:%Y%m%dT%H%M%S.%fZ}{path.suffix}")
    try:
        for ending in ("-shm", "-wal", ""):
            with suppress(FileNotFoundError):
                path.with_name(path.name + ending).rename(aside.with_name(aside.name + ending))
    except OSError as exc:
        raise StateUnusable(f"{path}: is damaged and cannot be set aside ({exc.strerror}); move it away") from exc
    return aside


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Have all of the block recorded, durably, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled back already
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translating(path: Path | str, *, opening: bool = False) -> Iterator[None]:
    """Raise SQLite's errors in the block as ours."""
    try:
        yield
    except sqlite3.Error as exc:
        raise translated(exc, path, opening=opening) from exc


def translated(exc: sqlite3.Error, path: Path | str, *, opening: bool = False) -> EdgeError:
    """Return an error of SQLite's as ours: of space, of damage, or of what only a person mends."""
    if error_code(exc) in FOR_NOW and not (opening and error_code(exc) == sqlite3.SQLITE_CANTOPEN):
        return SpoolFull(f"{path}: cannot be written just now ({exc}); free some space on its disk; it is tried again")
    if error_code(exc) in DAMAGED:
        kind: type[EdgeError] = StateUnusable if opening else JournalDamaged
        return kind(f"{path}: is damaged ({exc}); start the service anew: it sets the journal aside")
    return StateUnusable(f"{path}: cannot be used ({exc}); let the service's user write there, on a local disk")


def error_code(exc: sqlite3.Error) -> int:
    """Return SQLite's primary error code; its extended ones add bits above."""
    return int(getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF
