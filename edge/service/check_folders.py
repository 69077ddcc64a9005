"""The folders of a configuration: can they be read and written, are they ours, and what do they lie on."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

from edge.config import Config, DropFolderConfig
from edge.errors import EdgeError, StateUnusable
from edge.results.files import MENDS, opened_folder, temporary
from edge.results.owner import Owner, demand_no_other_owner
from edge.service.finding import Finding, Level, fault_of
from edge.service.machine import Machine
from edge.service.mounts import file_system, is_share
from edge.service.spool import HIGH_WATER_BYTES
from edge.service.state import state_folder

SPACE_LITTLE_BYTES = 2_000_000_000  # somebody should look, long before nothing is claimed
LISTING_MENDS = {
    errno.EACCES: "let the service's user read it",
    errno.EPERM: "let the service's user read it",
    errno.ENOENT: "create it or mount its share",
    errno.ENOTDIR: "it is a file: name a folder",
    errno.ESTALE: "mount its share again",
}
GB = 1e9


def check_drop_folder(entry: DropFolderConfig, here: Machine) -> tuple[Finding, ...]:
    """Say whether a drop folder can be listed and held, and its results be written; or that it does not answer."""
    return within(here.answer_s, lambda: tuple(_look_at(entry, here)), no_answer(entry.path))


def check_state(config: Config, here: Machine) -> Iterator[Finding]:
    """Say whether journal and spool can be written, on a disk of this machine, with space left."""
    try:
        folder = state_folder(config)
    except StateUnusable as exc:
        yield fault_of(exc, "set state_dir")
        return
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if there == folder:
        yield from _writable("journal and spool", folder)
    else:
        yield Finding("ok", f"journal and spool in {folder}: is made at the first start")
    if is_share(kind := file_system(there.resolve(), here.mounts())):
        what = f"journal and spool in {folder}: lie on a share ({kind}), which can lose the journal"
        yield Finding("fault", what, "set state_dir to a folder on a disk of this machine")
    left_bytes = here.free_bytes(there)
    level: Level = "fault" if left_bytes < HIGH_WATER_BYTES else "warning" if left_bytes < SPACE_LITTLE_BYTES else "ok"
    mend = None if level == "ok" else "free some space on its disk: without any, no image is taken up"
    yield Finding(level, f"journal and spool in {folder}: {left_bytes / GB:.1f} GB are free", mend)


def within(limit_s: float, ask: Callable[[], Iterable[Finding]], nothing: Finding) -> tuple[Finding, ...]:
    """Return what ``ask`` finds, or ``nothing`` where no answer comes in time: a share can take for ever."""
    try:
        return _asked(ask).result(limit_s)
    except FutureTimeout:
        return (nothing,)


def _asked(ask: Callable[[], Iterable[Finding]]) -> Future[tuple[Finding, ...]]:
    answer: Future[tuple[Finding, ...]] = Future()

    def asking() -> None:
        try:
            answer.set_result(tuple(ask()))
        except BaseException as exc:  # noqa: BLE001 - raised where somebody waits for it
            answer.set_exception(exc)

    threading.Thread(target=asking, daemon=True).start()  # not a pool: its threads are waited for at the end
    return answer


def folder_findings(folder: Path) -> Iterator[Finding]:
    """Yield why a folder cannot be listed; nothing where it can."""
    try:
        with os.scandir(folder) as entries:
            next(entries, None)
    except OSError as exc:
        mend = LISTING_MENDS.get(exc.errno or 0, "check its disk and its share")
        yield Finding("fault", f"drop folder {folder}: cannot be listed ({exc.strerror})", mend)


def no_answer(folder: Path) -> Finding:
    """Return what to say of a folder that keeps one waiting."""
    return Finding("fault", f"drop folder {folder}: does not answer", "see that the server of its share is up")


class Listings:
    """Looks whether folders can be listed; no folder is looked at twice at once: one that hangs keeps its thread.

    Any thread may ask. ``look`` yields why a folder cannot be listed.
    """

    def __init__(self, look: Callable[[Path], Iterable[Finding]] = folder_findings) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._answers: dict[Path, Future[tuple[Finding, ...]]] = {}
        self._late: set[Path] = set()

    def findings(self, folder: Path, limit_s: float) -> tuple[Finding, ...]:
        """Return why a folder cannot be listed; of one that was late before, and still is, at once."""
        with self._lock:
            answer = self._answers.get(folder)
            if answer is None or answer.done():
                answer = self._answers[folder] = _asked(lambda: self._look(folder))
                self._late.discard(folder)
            elif folder in self._late:
                return (no_answer(folder),)
        try:
            return answer.result(limit_s)
        except FutureTimeout:
            with self._lock:
                self._late.add(folder)
            return (no_answer(folder),)


def _look_at(entry: DropFolderConfig, here: Machine) -> Iterator[Finding]:
    unlisted = tuple(folder_findings(entry.path))
    yield from unlisted
    if unlisted:
        return
    kind = file_system(entry.path.resolve(), here.mounts())
    yield Finding("ok", f"drop folder {entry.path}: can be listed, lies on {kind}")
    if entry.events and is_share(kind):
        what = f"drop folder {entry.path}: is a share, and other machines' files there raise no events"
        yield Finding("warning", what, "set events = false for it: it is swept all the same")
    yield from _lockable(entry.path)
    yield from _writable("results", entry.results_dir or entry.path)
    if entry.results_dir is not None:
        yield from _owned_by_another(entry.results_dir, Owner.of(entry.path))


def _owned_by_another(results_dir: Path, ours: Owner) -> Iterator[Finding]:
    try:
        demand_no_other_owner(results_dir, ours)
    except EdgeError as exc:
        yield fault_of(exc, "name another results_dir")


def _lockable(folder: Path) -> Iterator[Finding]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two checks do not disturb one another
    except BlockingIOError:
        yield Finding("ok", f"drop folder {folder}: a daemon serves it just now")
    except OSError as exc:
        what = f"drop folder {folder}: cannot be locked ({exc.strerror}), so a second daemon would not be noticed"
        yield Finding("warning", what, "see that only one service has it in its configuration")
    finally:
        os.close(descriptor)


def _writable(what: str, folder: Path) -> Iterator[Finding]:
    try:
        with opened_folder(folder) as at, temporary(at, b"landmarknet-edge check\n"):
            pass
    except OSError as exc:
        mend = MENDS.get(exc.errno or 0, "check the folder, its disk and its share")
        yield Finding("fault", f"{what} in {folder}: cannot be written ({exc.strerror})", mend)
    else:
        yield Finding("ok", f"{what} in {folder}: can be written")
