"""Whether the journal has changed since somebody asked, without reading any of it."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

from edge.page.kept import Version, version_of
from edge.service.journal_file import connect_for_reading


class Changes:
    """A counter of the changes to a journal that another process writes; use it from any thread, and close it.

    SQLite's own counter (PRAGMA data_version) tells only one connection what others wrote, so that is kept open. It
    holds no lock between two questions. Where the journal is made anew, or set aside, another connection is opened.
    """

    def __init__(self, journal: Path) -> None:
        self._path = journal
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: int | None = None  # inode that the connection has open
        self._last: tuple[object, ...] | None = None
        self._count = 0

    def version(self) -> int:
        """Return the count: another number wherever anything was written since the last call."""
        with self._lock:
            if (now := self._state()) != self._last:
                self._last = now
                self._count += 1
            return self._count

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._let_go()

    def _state(self) -> tuple[object, ...]:
        # the files besides: who may not share memory with the daemon reads a copy whose counter stands still
        wal = version_of(self._path.with_name(self._path.name + "-wal"))
        main = version_of(self._path)
        return main, wal, self._data_version(main)

    def _data_version(self, main: Version) -> int | None:
        if main is None:
            self._let_go()
            return None
        try:
            if self._connection is None or self._file != main[2]:
                self._let_go()
                self._connection, self._file = connect_for_reading(self._path, any_thread=True), main[2]
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:  # not just now; the files tell
            self._let_go()
            return None

    def _let_go(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = self._file = None
