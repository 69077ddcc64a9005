"""What the page shows, as the service left it: journal, results, store. Read only, and threads may ask at once.

A page is asked by people who look away again: what costs more than a glance is kept until it changes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from edge.errors import JournalDamaged, SpoolFull, StateUnusable
from edge.page.changes import Changes
from edge.page.kept import Kept
from edge.page.trend_rows import TrendRow, trend_row
from edge.results.document import Result
from edge.results.files import read_ours
from edge.results.publish import image_name, mirrored_folder, result_path
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
LARGEST_ORDER = 2**63 - 1  # of SQLite
ROWS_MOST, ROWS_AT_ONCE = 50_000, 100
NO_RESULT_KEPT_S = 60.0  # the result of an image may be gone, or its share not mounted just now
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


@dataclass(frozen=True)
class Rows:
    """The rows of the images finished since some time, oldest first."""

    rows: tuple[TrendRow, ...]
    unread: int  # results that are still to be read
    cut: bool  # whether there are more than `ROWS_MOST`: these are the newest


@dataclass(frozen=True, slots=True)
class _KeptRow:
    """A row, for as long as the image is the one finished at ``when``, and not beyond ``until_s``."""

    when: str
    row: TrendRow
    until_s: float


class Sources:
    """What one service left to be shown. ``clock`` in seconds, monotonic."""

    def __init__(
        self,
        service: Service,
        clock: Callable[[], float],
        now: Callable[[], datetime] = local_now,
        ask: Callable[[Service, datetime], Status] = gather,
    ) -> None:
        self.service = service
        self.config = service.config
        self.now = now
        self._clock, self._gather = clock, ask
        self._journal = state_folder(service.config) / JOURNAL
        self._changes = Changes(self._journal)
        self._results = Kept[dict[str, Any] | None](RESULTS_KEPT)
        self._rows: dict[int, _KeptRow] = {}  # by order
        self._rows_lock = threading.Lock()
        self._pool = ThreadPoolExecutor(2, "sources")  # one for the status, one for results that are read meanwhile
        self._reading: Future[object] | None = None
        self._status: Status | None = None
        self._status_s = 0.0
        self._asked: Future[Status] | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the journal."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._changes.close()

    def recent(self, limit: int, before: int | None = None) -> tuple[Seen, ...]:
        """Return the files that changed last, the last one first; ``before`` an order: those that changed before it.

        Files that are no images are left out. Without a journal: none.
        """
        return self._seen(lambda journal: journal.latest(limit, before))

    def finished(self, limit: int) -> tuple[Seen, ...]:
        """Return the images that were finished last, the last one first, however many files wait."""
        return self._seen(lambda journal: journal.finished(limit))

    def seen(self, order: int) -> Seen | None:
        """Return the file of an order."""
        if order > LARGEST_ORDER:
            return None
        return next(iter(self._seen(lambda journal: journal.by_orders([order]))), None)

    def result(self, seen: Seen) -> dict[str, Any] | None:
        """Return a file's result, if it has one that belongs to it and is whole: what lies there may be anybody's."""
        if seen.state not in WITH_RESULT:
            return None
        with suppress(OSError):  # not just now: asked again
            return self._results.get(seen.result_path, (seen.name, seen.sha256), lambda: _result(seen))
        return None

    def status(self) -> Status:
        """Return how the service stands, at most a second old unless the machine does not answer; see its ``when``.

        Raises `StateUnusable` where this user may not look.
        """
        with self._lock:
            if self._status is not None and self._clock() - self._status_s < STATUS_KEPT_S:
                return self._status
            if self._asked is None or self._asked.done():  # an answer that nobody fetched is not kept for the next
                self._asked = self._pool.submit(self._ask_status)
            asked, last = self._asked, self._status
        try:
            return asked.result(None if last is None else STATUS_WAIT_S)
        except TimeoutError:
            if last is None:
                raise
            return last

    def data_version(self) -> int:
        """Return a number that is another one whenever the journal has changed since."""
        return self._changes.version()

    def trend_rows(self, since: datetime, until_s: float = float("inf")) -> Rows:
        """Return a row for each image finished since then, as far as they were read until ``until_s``.

        Rows are kept and the newest are read first, so whoever asks again gets the rest.
        """
        newest = self._ask(lambda journal: journal.finished_since(since, ROWS_MOST + 1), [])
        wanted = dict(newest[-ROWS_MOST:])
        missing = self._missing(reversed(wanted), wanted)
        for start in range(0, len(missing), ROWS_AT_ONCE):
            if self._clock() > until_s:
                self._read_on(since)
                break
            self._read_rows(missing[start : start + ROWS_AT_ONCE], wanted)
        kept = [(when, self._rows.get(order)) for order, when in wanted.items()]
        rows = tuple(one.row for when, one in kept if one is not None and one.when == when)
        return Rows(rows, len(wanted) - len(rows), len(newest) > ROWS_MOST)

    def constancy(self, limit: int) -> Sequence[Any]:
        """Return the runs of the golden images, the last one first."""
        return self._ask(lambda journal: journal.constancy_runs(limit), [])

    def releases(self) -> tuple[Listed, ...]:
        """Return what the store holds; () without a store. Raises `Stop` where the store refuses."""
        config = self.config
        return () if config.store is None else Store(config.store, config.release_key).list()

    def _ask_status(self) -> Status:
        begun_s = self._clock()
        found = self._gather(self.service, self.now())
        with self._lock:
            self._status, self._status_s = found, begun_s
        return found

    def _read_on(self, since: datetime) -> None:
        """Have the rest read meanwhile, one reading at a time."""
        with self._lock:
            if self._reading is None or self._reading.done():
                self._reading = self._pool.submit(self.trend_rows, since)

    def _missing(self, orders: Iterable[int], wanted: Mapping[int, str]) -> list[int]:
        now_s, kept = self._clock(), self._rows
        return [
            order
            for order in orders
            if (one := kept.get(order)) is None or one.when != wanted[order] or one.until_s <= now_s
        ]

    def _read_rows(self, orders: Sequence[int], wanted: Mapping[int, str]) -> None:
        with self._rows_lock:  # two who ask at once would read everything twice
            missing = self._missing(orders, wanted)
            for seen in self._seen(lambda journal: journal.by_orders(missing)):
                with suppress(OSError):  # not just now: it counts as unread
                    self._rows[seen.ord] = self._row(seen, wanted[seen.ord])
            others = (order for order in self._rows if order not in wanted)
            for order in list(islice(others, max(0, len(self._rows) - ROWS_MOST))):
                del self._rows[order]

    def _row(self, seen: Seen, when: str) -> _KeptRow:
        result = _result_of(seen)
        row = trend_row(seen.ord, seen.name, seen.state, seen.kind, seen.changed_utc, result)
        return _KeptRow(when, row, float("inf") if result else self._clock() + NO_RESULT_KEPT_S)

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
    """Return a result as its model writes it; None for what is none, or none that can be shown, such as NaN."""
    found = _result_of(seen)
    if found is None:
        return None
    document = found.model_dump(mode="json", by_alias=True)
    try:
        json.dumps(document, allow_nan=False)
    except ValueError:
        return None
    return document


def _result_of(seen: Seen) -> Result | None:
    """Return what lies where a file's result belongs, if it is of that very file.

    Raises `OSError` where that cannot be said just now, as of a share whose server is away.
    """
    try:
        data = read_ours(seen.result_path)
        found = Result.model_validate_json(data) if data else None
    except (FileNotFoundError, NotADirectoryError, ValueError):  # gone; no result of ours
        return None
    ours = found is not None and found.image.name == seen.name and seen.sha256 in (None, found.image.sha256)
    return found if ours else None
