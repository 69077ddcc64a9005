"""The daemon: looks at the drop folders, has each settled file processed once, oldest first, one per step.

What it knows lives in memory. After a restart the JSON results beside the images say what is done.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol, Self

from structlog.typing import FilteringBoundLogger

from edge.config import Config
from edge.dropfolder import DropFolder, HeldFolder
from edge.errors import (
    BadConfig,
    DamagedImage,
    EdgeError,
    FolderUnavailable,
    NotAnImage,
    Refused,
    Stop,
    TryAgain,
)
from edge.results.document import Result
from edge.results.publish import image_name, is_done, make_folder, mirrored_folder, remove_leftovers, result_path
from edge.settle import (
    Happening,
    Patience,
    Signature,
    State,
    Tracked,
    final_from_s,
    first_seen,
    happen,
    look,
    signature_of,
)

EAR_S = 0.2  # the longest sleep: so late is an event or a wish to stop heard


class Process(Protocol):
    """Make and publish the result of one image: the seam to the pipeline."""

    def __call__(self, image: Path, results_dir: Path | None, *, final: bool) -> Result:
        """Publish the result of ``image`` beside it, or in the existing folder ``results_dir``, and return it.

        A refusal that writes its reason is published and returned like any result, but for one case: while ``final``
        is False the rest of the file may still be arriving, so `DamagedImage` is raised and nothing is published.
        Everything else that goes wrong is raised as an `EdgeError`.
        """


class Action(Enum):
    """What the daemon does about an error: what then happens to the file, or None where the daemon ends."""

    IGNORE = Happening.PASSED_OVER  # until the file changes
    WAIT = Happening.DAMAGED  # for the rest of it, for incomplete_after_s
    BACK_OFF = Happening.FAILED  # for ever, 1 s doubling to 5 min
    END = None


ACTIONS: dict[type[EdgeError], Action] = {
    Refused: Action.IGNORE,
    DamagedImage: Action.WAIT,
    TryAgain: Action.BACK_OFF,
    Stop: Action.END,
}


def action_for(kind: type[EdgeError]) -> Action:
    """Return the action for an error: that of its nearest ancestor in `ACTIONS`."""
    return next(ACTIONS[ancestor] for ancestor in kind.__mro__ if ancestor in ACTIONS)


def watch(
    config: Config,
    process: Process,
    *,
    stop: threading.Event,
    log: FilteringBoundLogger,
    once: bool = False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Serve the drop folders until ``stop`` is set, within one image, or a `Stop` is raised.

    With ``once``, return when every file that is there is settled and has been tried. Returns how many files wait to
    be tried again, an unavailable drop folder counted as one.
    """
    if not config.drop_folder:
        raise BadConfig("no drop folder is set: name one on the command line, or write [[drop_folder]] with its path")
    with Daemon(config, process, log, clock) as daemon:
        while not stop.is_set():
            pause_s = daemon.step()
            if pause_s > 0 and once and daemon.at_rest():
                break
            if pause_s > 0:
                sleep(min(pause_s, EAR_S))  # not stop.wait(): a signal handler may need the lock of ``stop``
        log.info("stopped", once=once, waiting=daemon.unfinished())
        return daemon.unfinished()


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Give an event that SIGTERM and SIGINT set; in the main thread only. Signals after the first change nothing."""
    stop = threading.Event()
    signals = signal.SIGTERM, signal.SIGINT

    def ask(_number: int, _frame: FrameType | None) -> None:
        for number in signals:  # or a second signal would interrupt set() in the same thread, and wait for its lock
            signal.signal(number, signal.SIG_IGN)
        stop.set()

    before = [signal.signal(number, ask) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


@dataclass
class _Served:
    """One drop folder and what is known of its files."""

    folder: DropFolder
    results: HeldFolder | None
    files: dict[str, Tracked] = field(default_factory=dict)
    available: bool | None = None  # None: not yet swept
    swept_s: float | None = None


class Daemon:
    """The state between two steps. All times are seconds of ``clock``, which must be monotonic."""

    def __init__(
        self,
        config: Config,
        process: Process,
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        open_folder: Callable[[Path, FilteringBoundLogger], DropFolder] = DropFolder,
    ) -> None:
        self._config = config
        self._patience = Patience(config.settle_s, config.incomplete_after_s)
        self._process = process
        self._log = log
        self._clock = clock
        self._open_folder = open_folder
        self._order = count()
        self._served: list[_Served] = []
        self._ready: list[tuple[int, int, str]] = []  # heaps of (order | due_s, index of the folder, path);
        self._due: list[tuple[float, int, str]] = []  # an entry that the file's state has left behind is void
        self._open = ExitStack()

    def __enter__(self) -> Self:
        for entry in self._config.drop_folder:
            folder = self._open.enter_context(self._open_folder(entry.path, self._log))
            self._served.append(_Served(folder, HeldFolder(entry.results_dir) if entry.results_dir else None))
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._open.close()

    def step(self) -> float:
        """Sweep what is due, look again at what is due, process at most one file; return how long to sleep, in s."""
        for index, served in enumerate(self._served):
            if self._sweep_due_s(served) <= self._clock():
                self._sweep(index, served)
        self._wake_the_due()
        self._work()
        if self._ready:
            return 0.0
        due_s = [self._sweep_due_s(served) for served in self._served] + [due_s for due_s, _, _ in self._due[:1]]
        return max(0.0, min(due_s) - self._clock())

    def at_rest(self) -> bool:
        """Tell whether every file known is settled and has been tried."""
        states = {tracked.state for served in self._served for tracked in served.files.values()}
        return not states & {State.SETTLING, State.READY}

    def unfinished(self) -> int:
        """Return how many files wait to be tried again, an unavailable drop folder counted as one."""
        waiting = {State.SETTLING, State.READY, State.INCOMPLETE, State.BACKING_OFF}
        files = sum(tracked.state in waiting for served in self._served for tracked in served.files.values())
        return files + sum(not served.available for served in self._served)

    def _sweep_due_s(self, served: _Served) -> float:
        if served.swept_s is None:
            return self._clock()
        pause_s = self._config.sweep_s
        if served.folder.hinted():
            pause_s = min(pause_s, self._config.settle_s / 2)  # a burst of events must not become a burst of sweeps
        return served.swept_s + pause_s

    def _sweep(self, index: int, served: _Served) -> None:
        began_s = self._clock()
        try:
            found = served.folder.sweep()
        except FolderUnavailable as exc:
            if served.available is not False:
                self._log.error("drop folder unavailable", folder=str(served.folder.path), reason=str(exc))
            # forgetting is safe: when the files show up again, they settle anew and their results say what is done
            served.files.clear()
            served.available, served.swept_s = False, self._clock()
            return
        ended_s = self._clock()
        if not served.available:
            self._begin(served, len(found))
        for path in served.files.keys() - found.keys():
            del served.files[path]
        for path in sorted(found.keys() - served.files.keys(), key=lambda path: (found[path].mtime_ns, path)):
            self._keep(index, path, first_seen(next(self._order), found[path], ended_s, self._patience))
        for path, signature in found.items():
            self._take_in(index, path, signature, began_s, ended_s)
        served.available, served.swept_s = True, ended_s

    def _begin(self, served: _Served, files: int) -> None:
        folders = [served.folder.path] + ([served.results.path] if served.results else [])
        removed = sum(remove_leftovers(folder) for folder in folders)
        self._log.info("watching", folder=str(served.folder.path), files=files, leftovers_removed=removed)

    def _take_in(self, index: int, path: str, signature: Signature, began_s: float, ended_s: float) -> None:
        tracked = self._served[index].files[path]
        if (looked := look(tracked, signature, began_s, ended_s, self._patience)) is not tracked:
            self._keep(index, path, looked)

    def _keep(self, index: int, path: str, tracked: Tracked) -> None:
        self._served[index].files[path] = tracked
        if tracked.state is State.READY:
            heappush(self._ready, (tracked.order, index, path))
        if tracked.due_s is not None:
            heappush(self._due, (tracked.due_s, index, path))

    def _look_again(self, index: int, path: str) -> None:
        began_s = self._clock()
        try:
            signature = signature_of(Path(path).lstat())
        except FileNotFoundError:
            del self._served[index].files[path]
        except OSError:
            pass  # the next sweep tells
        else:
            self._take_in(index, path, signature, began_s, self._clock())

    def _wake_the_due(self) -> None:
        while self._due and self._due[0][0] <= self._clock():
            due_s, index, path = heappop(self._due)
            tracked = self._served[index].files.get(path)
            if tracked is None or tracked.due_s != due_s:
                continue
            if tracked.state is State.SETTLING:
                self._look_again(index, path)
            else:
                self._keep(index, path, happen(tracked, Happening.DUE, self._clock(), self._patience))

    def _work(self) -> None:
        """Process the ready file that was first seen first, if there is one."""
        while self._ready:
            _, index, path = heappop(self._ready)
            files = self._served[index].files
            if path in files and files[path].state is State.READY:
                self._look_again(index, path)
            if path in files and files[path].state is State.READY:
                self._keep(index, path, self._attempt(self._served[index], Path(path), files[path]))
                return

    def _attempt(self, served: _Served, image: Path, tracked: Tracked) -> Tracked:
        final = self._clock() >= final_from_s(tracked, self._patience)
        log = self._log.bind(image=image_name(image), folder=str(image.parent))
        try:
            happening = self._process_unless_done(served, image, tracked, log, final=final)
        except EdgeError as exc:
            action = action_for(type(exc))
            if action is Action.WAIT and final:
                action = Action.IGNORE
            if action is Action.END:
                raise
            happening = action.value
            _report(log, exc, action)
        except Exception:  # a fault of ours on one file must not keep all the others waiting
            happening = Happening.FAILED
            log.exception("unforeseen fault, to be tried again; please report it")
        return happen(tracked, happening, self._clock(), self._patience)

    def _process_unless_done(
        self, served: _Served, image: Path, tracked: Tracked, log: FilteringBoundLogger, *, final: bool
    ) -> Happening:
        results_dir = None
        if served.results:
            served.results.check()
            results_dir = mirrored_folder(image, served.folder.path, served.results.path)
        if is_done(image, result_path(image, results_dir), trust_times=not tracked.reopened):
            log.debug("has its result")
            return Happening.PUBLISHED
        if results_dir:
            make_folder(results_dir)
        result = self._process(image, results_dir, final=final)
        if result.status == "refused":
            log.warning("refused", reason=result.reason)
        else:
            log.info("result published", status=result.status, landmarks=len(result.landmarks))
        return Happening.PUBLISHED


def _report(log: FilteringBoundLogger, exc: EdgeError, action: Action) -> None:
    kind = type(exc).__name__
    if isinstance(exc, NotAnImage):
        log.debug("not an image", reason=str(exc))  # a drop folder may hold thousands of CT slices
    elif action is Action.WAIT:
        log.info("incomplete, waiting for the rest", reason=str(exc))
    else:
        log.warning(
            {Action.IGNORE: "refused", Action.BACK_OFF: "to be tried again"}[action], error=kind, reason=str(exc)
        )
