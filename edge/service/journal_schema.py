"""The tables of the journal, and what brings an older journal up to date."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from edge.errors import NotAnImage, StateUnusable
from edge.settle import FINISHED

# Each step brings a journal from the version that is its index to the next one. Steps are added, never altered.
STEPS: tuple[str, ...] = (
    """
    CREATE TABLE files (
        ord INTEGER PRIMARY KEY AUTOINCREMENT, folder BLOB NOT NULL, path BLOB NOT NULL UNIQUE,
        size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
        state TEXT NOT NULL, failures INTEGER NOT NULL, crashes INTEGER NOT NULL,
        reason TEXT, sha256 TEXT, key TEXT, first_seen_utc TEXT NOT NULL, changed_utc TEXT NOT NULL,
        again INTEGER NOT NULL, present INTEGER NOT NULL
    );
    CREATE INDEX files_by_folder ON files (folder);
    CREATE INDEX files_by_state ON files (state, changed_utc);
    CREATE TABLE constancy (
        when_utc TEXT NOT NULL, release TEXT NOT NULL, passed INTEGER NOT NULL,
        worst_shift_net_px REAL NOT NULL, worst_score_change REAL NOT NULL, reason TEXT
    );
    CREATE TABLE requests (id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB, asked_utc TEXT NOT NULL);
    """,
    "ALTER TABLE files ADD COLUMN kind TEXT",
    "ALTER TABLE files ADD COLUMN ctime_ns INTEGER",
)

COLUMNS = (
    "ord, folder, path, size_bytes, mtime_ns, inode, state, failures, crashes, reason, sha256, key, "
    "first_seen_utc, changed_utc, again, present, kind, ctime_ns"
)
KEPT = {"path", "first_seen_utc"}  # where a file has its row already
VALUES = ", ".join("?" for _ in COLUMNS.split(", "))
UPSERT = (
    f"INSERT INTO files ({COLUMNS}) VALUES ({VALUES}) ON CONFLICT (path) DO UPDATE SET "  # noqa: S608
    + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS.split(", ") if name not in KEPT)
)
SELECT = f"SELECT {COLUMNS} FROM files"  # noqa: S608
FINISHED_SQL = ", ".join(f"'{state}'" for state in FINISHED)
# a drop folder may hold thousands of CT slices: they are left alone, and nobody who asks what was refused means them
LEFT_ALONE_SQL = f"(state = 'refused' AND kind IS '{NotAnImage.__name__}')"
REFUSED_SQL = f"state = 'refused' AND kind IS NOT '{NotAnImage.__name__}'"


def upgrade(connection: sqlite3.Connection, path: Path | str, steps: Sequence[str]) -> None:
    """Take an open journal through the steps that it lacks; raise `StateUnusable` for one of a newer version."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(steps):
        raise StateUnusable(
            f"{path}: was written by a newer version (format {version}, this one knows {len(steps)}); install that "
            "version again, or move the journal away: the results beside the images say what is done"
        )
    for number, step in enumerate(steps[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT")
