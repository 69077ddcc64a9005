"""What a Dask worker keeps from one batch to the next: its engine, in a process of its own, opened when first asked."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distributed import Worker as DaskWorker
from distributed import WorkerPlugin, get_worker

from edge import __version__
from edge.archive.entries import Entry, Told
from edge.archive.one_image import process_entry, refuse_entry
from edge.archive.order import Order, Unfit, demand_in_sight, demand_promised
from edge.errors import Stop
from edge.processes.worker import Worker

IDLE_S = 120.0  # an engine that nobody asks for so long is closed: a command that was killed cannot have it closed


class HeldEngine(WorkerPlugin):
    """A worker that makes results, for one run on one Dask worker. Whoever joins later gets one, too.

    It is opened on the thread of the tasks, which lives as long as the Dask worker: so it ends with that.
    """

    def __init__(self, order: Order, idle_s: float = IDLE_S) -> None:
        self.name = order.name
        self._order = order
        self._idle_s = idle_s

    def setup(self, worker: DaskWorker) -> None:
        """Begin; nothing is opened yet."""
        self._address = worker.address
        self._lock = threading.Lock()
        self._held: Worker | None = None
        self._ended = False
        self._timer: threading.Timer | None = None
        if self._order.embedded and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends its workers

    def teardown(self, worker: DaskWorker) -> None:  # noqa: ARG002 - Dask's signature
        """Close the engine, or have the task that uses it close it after the image in hand."""
        self._ended = True
        self._close_if_unused()

    def open(self) -> tuple[str, ...]:
        """Open the engine and return its warnings; raise `Unfit`."""
        with self._in_use() as worker:
            return worker.describe().warnings

    def process(self, entry: Entry) -> Told:
        """Process one image; raise `Unfit`, `ResultsNotWritable`."""
        config = self._order.config
        with self._in_use() as worker:
            most, registers = config.largest_file_mb * 2**20, config.references is not None
            return process_entry(entry, worker, most, registers=registers)

    def refuse(self, entry: Entry, reason: str) -> Told:
        """Refuse an image unread."""
        with self._in_use() as worker:
            return refuse_entry(entry, reason, worker)

    @contextmanager
    def _in_use(self) -> Iterator[Worker]:
        if self._timer:
            self._timer.cancel()
        with self._lock:
            try:
                yield self._opened()
            finally:
                if self._ended:
                    self._close()
        self._timer = threading.Timer(self._idle_s, self._close_if_unused)
        self._timer.daemon = True
        self._timer.start()

    def _opened(self) -> Worker:
        if self._ended:
            raise Unfit(f"{self._address} was told that the run is over")
        if self._held is None:
            worker = Worker(self._order.config)
            try:
                demand_in_sight(self._order)
                worker.open()
                demand_promised(worker.describe(), self._order.promise)
            except (Unfit, Stop) as exc:
                worker.close()
                raise Unfit(f"the worker {self._address} {_as_said(exc)}") from exc
            self._held = worker
        return self._held

    def _close_if_unused(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._lock.release()

    def _close(self) -> None:
        if self._held:
            self._held.close()
        self._held = None


def _as_said(exc: Exception) -> str:
    return str(exc) if isinstance(exc, Unfit) else f"cannot open the release: {exc}"


def software() -> str:
    """Return the version of this package on a worker."""
    return __version__


def open_engine(run: str) -> tuple[str, ...]:
    """Open the engine on the worker that runs this, and return its warnings."""
    return _held(run).open()


def process_batch(run: str, batch: tuple[Entry, ...]) -> list[Told]:
    """Process a batch on the worker that runs this."""
    return _each(run, batch, lambda held, entry: held.process(entry))


def refuse_batch(run: str, batch: tuple[Entry, ...], reason: str) -> list[Told]:
    """Refuse images that ended every worker that had them in hand."""
    return _each(run, batch, lambda held, entry: held.refuse(entry, reason))


def _each(run: str, batch: tuple[Entry, ...], do: Callable[[HeldEngine, Entry], Told]) -> list[Told]:
    held = _held(run)
    return [do(held, entry) for entry in batch]


def _held(run: str) -> HeldEngine:
    found = get_worker().plugins[run]
    assert isinstance(found, HeldEngine)
    return found
