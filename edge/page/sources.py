"""What the page shows, as the service left it: journal, results, store. Read only, and threads may ask at once.

A page is asked by people who look away again: what costs more than a glance is kept until it changes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from edge.errors import JournalDamaged, ResultsNotWritable, SpoolFull, StateUnusable
from edge.page.changes import Changes
from edge.page.kept import Kept
from edge.page.trend_rows import TrendRow, trend_row
from edge.results.document import Result
from edge.results.publish import image_name, mirrored_folder, read_result, result_path
from edge.service.installed import Service
from edge.service.journal import Entry, Journal
from edge.service.state import JOURNAL, state_folder
from edge.service.status import Status, gather
from edge.service.surroundings import local_now
from edge.settle import FINISHED, State
from edge.store import Listed, Store

NO_JOURNAL = (StateUnusable, SpoolFull, JournalDamaged)  # not yet, or not just now: the status says which, as an alarm
STATUS_KEPT_S = 1.0
STATUS_WAIT_S = 0.3  # a share that hangs keeps the status for seconds: the last one is shown, with its time
RESULTS_KEPT = 256
ROWS_KEPT = 50_000
WITH_RESULT = (State.PUBLISHED, *FINISHED)


@dataclass(frozen=True)
class Seen:
    """One file as the journal knows it, and where its result lies, if it has one."""

    ord: int
    name: str  # as results carry it: without its folder
    path: Path
    state: State
    kind: str | None  # the class of the error that ``reason`` tells
    reason: str | None
    sha256: str | None
    first_seen_utc: datetime
    changed_utc: datetime
    result_path: Path


class Sources:
    """What one service left to be shown. ``clock`` in seconds, monotonic."""

    def __init__(self, service: Service, clock: Callable[[], float], now: Callable[[], datetime] = local_now) -> None:
        self.service = service
        self.config = service.config
        self.now = now
        self._clock = clock
        self._journal = state_folder(service.config) / JOURNAL
        self._changes = Changes(self._journal)
        self._results = Kept[dict[str, Any] | None](RESULTS_KEPT)
        self._rows = Kept[TrendRow](ROWS_KEPT)
        self._asking = ThreadPoolExecutor(1, "status")
        self._status: Status | None = None
        self._status_s = 0.0
        self._asked: Future[Status] | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the journal."""
        self._asking.shutdown(wait=False, cancel_futures=True)
        self._changes.close()

    def recent(self, limit: int, before: int | None = None) -> tuple[Seen, ...]:
        """Return the files that changed last, the last one first; ``before`` an order: those that changed before it.

        Files that are no images are left out. Without a journal: none.
        """
        return self._seen(lambda journal: journal.latest(limit, before))

    def seen(self, order: int) -> Seen | None:
        """Return the file of an order."""
        return next(iter(self._seen(lambda journal: journal.by_order(order))), None)

    def result(self, seen: Seen) -> dict[str, Any] | None:
        """Return a file's result, if it has one that belongs to it and is whole: what lies there may be anybody's."""
        if seen.state not in WITH_RESULT:
            return None
        return self._results.get(seen.result_path, (seen.name, seen.sha256), lambda: _result(seen))

    def status(self) -> Status:
        """Return how the service stands, at most a second old unless the machine does not answer; see its ``when``.

        Raises `StateUnusable` where this user may not look.
        """
        with self._lock:
            if self._status is not None and self._clock() - self._status_s < STATUS_KEPT_S:
                return self._status
            if self._asked is None:
                self._asked = self._asking.submit(lambda: gather(self.service, self.now()))
            asked, last = self._asked, self._status
        try:
            found = asked.result(None if last is None else STATUS_WAIT_S)
        except TimeoutError:
            if last is None:
                raise
            return last
        finally:
            if asked.done():
                with self._lock:
                    self._asked = None
        with self._lock:
            self._status, self._status_s = found, self._clock()
        return found

    def data_version(self) -> int:
        """Return a number that is another one whenever the journal has changed since."""
        return self._changes.version()

    def trend_rows(self, since: datetime, until_s: float = float("inf")) -> tuple[tuple[TrendRow, ...], int]:
        """Return a row for each result since then, oldest first, and how many could not be read until ``until_s``.

        Rows are kept, so whoever asks again gets more of them.
        """
        rows, unread = [], 0
        for seen in self._seen(lambda journal: journal.finished_since(since)):
            key = (seen.ord, seen.state, seen.changed_utc)
            if self._clock() > until_s and not self._rows.has(seen.result_path, key):
                unread += 1
                continue
            rows.append(self._rows.get(seen.result_path, key, partial(_row, seen)))
        return tuple(rows), unread

    def constancy(self, limit: int) -> Sequence[Any]:
        """Return the runs of the golden images, the last one first."""
        return self._ask(lambda journal: journal.constancy_runs(limit), [])

    def releases(self) -> tuple[Listed, ...]:
        """Return what the store holds; () without a store. Raises `Stop` where the store refuses."""
        config = self.config
        return () if config.store is None else Store(config.store, config.release_key).list()

    def _seen(self, ask: Callable[[Journal], Sequence[Entry]]) -> tuple[Seen, ...]:
        return tuple(map(self._of_entry, self._ask(ask, ())))

    def _ask(self, ask: Callable[[Journal], Any], otherwise: Any) -> Any:
        with suppress(*NO_JOURNAL), Journal.open_for_reading(self._journal) as journal:
            return ask(journal)
        return otherwise

    def _of_entry(self, entry: Entry) -> Seen:
        image, folder = Path(entry.path), Path(entry.folder)
        results_dir = next((one.results_dir for one in self.config.drop_folder if one.path == folder), None)
        return Seen(
            entry.order, image_name(image), image, entry.state, entry.kind, entry.reason, entry.sha256,
            entry.first_seen_utc, entry.changed_utc, result_path(image, mirrored_folder(image, folder, results_dir)),
        )  # fmt: skip


def _result(seen: Seen) -> dict[str, Any] | None:
    document = _document(seen.result_path)
    image = document["image"] if document else {}
    ours = image.get("name") == seen.name and seen.sha256 in (None, image.get("sha256"))
    return document if ours else None


def _row(seen: Seen) -> TrendRow:
    return trend_row(seen.ord, seen.name, seen.state, seen.kind, seen.changed_utc, _result(seen))


def _document(path: Path) -> dict[str, Any] | None:
    """Return a result as its model writes it; None for what is none, or none that can be shown, such as NaN."""
    try:
        document = read_result(path)
        json.dumps(document, allow_nan=False)
        return Result.model_validate(document).model_dump(mode="json", by_alias=True) if document else None
    except (ValueError, OverflowError, RecursionError, ResultsNotWritable):
        return None
