"""The daemon: looks at the drop folders, has each settled file processed once, oldest first, one per step.

Every step of a file is in the journal before the next one is taken. A death of this process is held against no file:
it neither parses nor infers, so whatever ends it was not the file in hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Self

from structlog.typing import FilteringBoundLogger

from edge.config import Config, DropFolderConfig
from edge.errors import BadConfig, EdgeError, SpoolFull
from edge.service.attempt import Attempts
from edge.service.dropfolder import FolderLock, HeldFolder
from edge.service.duties import Duties
from edge.service.looking import Looking
from edge.service.state import Space
from edge.service.surroundings import Process, Surroundings
from edge.service.sweeping import sweep
from edge.service.tracking import Served, Tracking
from edge.settle import Patience, State

FOUND_MOST = 500  # files a step takes off the queue because their results are there: one transaction for all


def demand_drop_folders(config: Config) -> None:
    """Raise `BadConfig` when there is nothing to watch."""
    if not config.drop_folder:
        raise BadConfig("no drop folder is set: name one on the command line, or write [[drop_folder]] with its path")


@contextmanager
def _held_results(entry: DropFolderConfig, log: FilteringBoundLogger) -> Iterator[HeldFolder | None]:
    """Hold the results folder against other daemons, too; where it lies in its drop folder that is held already."""
    if entry.results_dir is None:
        yield None
        return
    nested = entry.results_dir.is_relative_to(entry.path) or entry.path.is_relative_to(entry.results_dir)
    results = HeldFolder(entry.results_dir, lock=None if nested else FolderLock(entry.results_dir, log))
    try:
        yield results
    finally:
        results.release()


class Daemon:
    """The state between two steps. All times in seconds are of ``around.clock``, which must be monotonic."""

    def __init__(self, config: Config, process: Process, log: FilteringBoundLogger, around: Surroundings) -> None:
        demand_drop_folders(config)
        self._config = config
        self._log = log
        self._around = around
        self._clock = around.clock
        self._patience = Patience()
        self._space = Space(around.has_room, self._patience)  # for working copies
        self._recording = Space(lambda: True, self._patience)  # a journal has little to write, so it is just tried
        self._tracking = Tracking(around)
        most_bytes = config.largest_file_mb * 2**20
        self._attempts = Attempts(process, self._tracking, around, self._space, self._recording, most_bytes, log)
        self._duties = Duties(config, around, log)
        self._tried = self._tried_before = 0
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._tracking.served.extend(self._begin(entry) for entry in self._config.drop_folder)
        return self

    def _begin(self, entry: DropFolderConfig) -> Served:
        config = self._config
        folder = self._open.enter_context(self._around.open_folder(entry, self._log))
        results = self._open.enter_context(_held_results(entry, self._log))
        patience = Patience(entry.settle_s or config.settle_s, entry.incomplete_after_s or config.incomplete_after_s)
        return Served(
            folder, Looking(folder), results, entry, patience, entry.sweep_s or config.sweep_s, self._around.now()
        )

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        with suppress(EdgeError):  # what is not recorded now settles anew
            self._attempts.record()
        self._open.close()

    def step(self) -> float:
        """Sweep what is due, look again at what is due, process at most one file; return how long to sleep, in s."""
        try:
            pause_s = self._step()
        except SpoolFull as exc:  # journal or audit log; what was to be written is kept
            self._attempts.process.rest()
            if self._recording.is_there(self._clock()):  # a sweep asks the journal every second meanwhile
                self._log.error("paused: what happens cannot be recorded", reason=str(exc))
                self._recording.ran_out(self._clock())
            return self._patience.retry_first_s
        if pause_s > 0:
            self._attempts.process.rest()
        return pause_s

    def _step(self) -> float:
        for index, served in enumerate(self._tracking.served):
            if self._sweep_due_s(served) <= self._clock():
                sweep(self._tracking, index, self._around, self._log)
        self._tracking.wake_the_due()
        self._duties.do(self._tracking)
        if self._recording.is_there(self._clock()):
            self._attempts.record()
        if self._may_work():
            self._work()
            self._attempts.record()
        return self._pause_s()

    def _pause_s(self) -> float:
        ready, now_s = self._tracking.has_ready(), self._clock()
        if ready and self._may_work():
            return 0.0
        due_s = [self._sweep_due_s(served) for served in self._tracking.served]
        due_s += [] if (next_s := self._tracking.next_due_s()) is None else [next_s]
        due_s += [now_s + self._patience.retry_first_s] if ready else []  # paused: is there room by now?
        return max(0.0, min(due_s) - now_s)

    def at_rest(self) -> bool:
        """Tell whether every file known is settled and has been tried, or cannot be just now."""
        counts = self._tracking.counts
        return not counts[State.SEEN] and not (counts[State.STABLE] and self._may_work())

    def unfinished(self) -> int:
        """Return how many files wait to be tried again, an unavailable drop folder counted as one."""
        return self._tracking.unfinished() + sum(not served.available for served in self._tracking.served)

    def progressed(self) -> bool:
        """Tell whether every folder was looked at and, where files were ready and may be tried, one was, since last."""
        tried, self._tried_before = self._tried > self._tried_before, self._tried
        swept = all(served.swept_s is not None for served in self._tracking.served)
        return swept and (tried or not self._tracking.has_ready() or not self._may_work())

    def status(self) -> str:
        """Return one line for a person, without names of files."""
        counts, not_images = self._tracking.counts_of_images(), self._tracking.not_images
        parts = [f"{self.unfinished()} waiting, {counts.get(State.DONE, 0)} done, {counts[State.REFUSED]} refused"]
        parts += [f"not images: {not_images}"] if not_images else []
        unavailable = [served.folder.path for served in self._tracking.served if served.available is False]
        parts += [f"UNAVAILABLE: {path}" for path in unavailable]
        parts += ["PAUSED: golden images drifted"] if self._duties.drifted else []
        parts += ["PAUSED: no space for working copies"] if not self._space.is_there(self._clock()) else []
        parts += ["PAUSED: the journal cannot be written"] if not self._recording.is_there(self._clock()) else []
        return "; ".join(parts)

    def _sweep_due_s(self, served: Served) -> float:
        if served.swept_s is None:
            return self._clock()
        pause_s = served.sweep_s
        if served.folder.hinted():
            pause_s = min(pause_s, served.patience.settle_s / 2)  # a burst of events must not become one of sweeps
        return served.swept_s + pause_s

    def _may_work(self) -> bool:
        now_s = self._clock()
        return self._duties.drifted is None and self._recording.is_there(now_s) and self._space.is_there(now_s)

    def _work(self) -> None:
        """Take files off the queue, the one first seen first, until one took an image's time."""
        found = 0
        while self._tracking.has_ready() and found < FOUND_MOST:
            if (file := self._tracking.next_ready()) is None:
                continue
            self._tried += 1
            if self._attempts.attempt(*file):
                break
            found += 1
