"""What lies in a drop folder. A full sweep is the truth; events only tell when to sweep sooner.

Measured (../shared/design/durability.md): of 50,000 files in 8 s inotify never reported 26,821; network shares report
nothing that another machine writes; after an unmount everything looks alive. So events carry no names here.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

from structlog.typing import FilteringBoundLogger
from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver

from edge.errors import FolderUnavailable
from edge.results.publish import OWN_SUFFIXES, RESULT_SUFFIX, is_own_output
from edge.service.state import holder_of
from edge.settle import FINISHED, Signature, Tracked, signature_of

HINTS: list[type[FileSystemEvent]] = [FileClosedEvent, FileCreatedEvent, FileMovedEvent, DirCreatedEvent, DirMovedEvent]


ASKED_MOST = 1000  # finished files a sweep asks for: 10,000 of them must not keep a core busy for 1 % of its time
UNSEEN = "cannot be looked at, so images there are not seen"
UNSEEN_NAME = "is named like our results, so it is not looked at; rename it if it is an image"
OURS = RESULT_SUFFIX.removesuffix("json")  # in the name of a result and of what belongs to it
NO_FILES: Mapping[str, Tracked] = MappingProxyType({})


class Turn(NamedTuple):
    """Which of the finished files a sweep asks for: those whose inode leaves ``number`` when divided by ``parts``."""

    number: int
    parts: int


class Identity(NamedTuple):
    """Which folder a path leads to just now."""

    device: int
    inode: int
    mount_point: str


class HeldFolder:
    """A folder that must stay the one it was: unmounted, another one shows through under the same path.

    With a ``lock`` it must be ours alone, too.
    """

    def __init__(
        self, path: Path, identify: Callable[[Path], Identity] | None = None, lock: FolderLock | None = None
    ) -> None:
        self.path = path
        self._identify = identify or _identify
        self._held: Identity | None = None
        self._lock = lock

    def check(self) -> None:
        """Raise `FolderUnavailable` when the folder is not there, not the one that it was, or another daemon's.

        A folder made anew, or a share mounted again at the same place, is taken up after that one alarm. A path that
        has come to lie on another mount is not: that is a share that went away, or one mounted over the folder.
        """
        try:
            self._demand_the_same()
        except FolderUnavailable:
            self.release()  # or its share could not be unmounted
            raise
        if self._lock:
            self._lock.take()

    def release(self) -> None:
        """Let other daemons have the folder."""
        if self._lock:
            self._lock.release()

    def _demand_the_same(self) -> None:
        found = self._identify(self.path)
        if self._held is None or found == self._held:
            self._held = found
            return
        if found.mount_point != self._held.mount_point:
            raise FolderUnavailable(
                f"{self.path}: now lies on the mount {found.mount_point}, not on {self._held.mount_point} as before; "
                "mount its share again, or start anew if this is meant"
            )
        self._held = found
        raise FolderUnavailable(f"{self.path}: was replaced by another folder of that name; taking that up instead")


class DropFolder:
    """One drop folder: held against other daemons, swept when asked, listened to when inotify can."""

    def __init__(
        self,
        path: Path,
        log: FilteringBoundLogger,
        new_observer: Callable[[], BaseObserver] | None = None,
        *,
        events: bool = True,
    ) -> None:
        self.path = path
        self._lock = FolderLock(path, log)
        self._events = events
        self._held = HeldFolder(path)
        self._log = log.bind(folder=str(path))
        self._new_observer = new_observer or _inotify
        self._observer: BaseObserver | None = None
        self._deaf = False  # as last logged
        self._unseen: set[str] = set()  # subfolders and files, as last logged
        self._hint = threading.Event()
        self._turn = 0
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._ended = True
        self._let_go()

    def sweep(self, files: Mapping[str, Tracked] = NO_FILES) -> dict[str, Signature]:
        """Return every file that may be an image, path to signature, in subfolders too.

        Of many finished ``files`` each sweep asks for some only, unless something was hinted at: names and inodes come
        with the listing, so what is new or was replaced shows at once, and what was written over in place soon.

        Raises `FolderUnavailable` when the folder is gone, another, or served by another daemon. A subfolder that
        cannot be listed is a warning: ``lost+found`` is one for good. A file that is not there any more was not
        deleted as far as we know.
        """
        try:
            self._held.check()
            self._lock.take()
            self._keep_listening()  # before the listing: what arrives during it leaves a hint
        except FolderUnavailable:
            self._let_go()
            raise
        if self._ended:  # while this look hung (`edge.service.looking`): whoever serves the folder now must get it
            self._let_go()
            raise _unlisted(self.path)
        parts = 1 if self._hint.is_set() else 1 + len(files) // ASKED_MOST
        self._hint.clear()
        self._turn += 1
        unseen: set[str] = set()
        found = _walk(str(self.path), unseen, files, Turn(self._turn, parts))
        if str(self.path) in unseen:
            raise _unlisted(self.path)
        for path in sorted(unseen - self._unseen):
            self._log.warning(UNSEEN_NAME if OURS in os.path.basename(path) else UNSEEN, path=path)  # noqa: PTH119 - fast
        self._unseen = unseen
        return found

    def hinted(self) -> bool:
        """Tell whether something arrived since the last sweep began."""
        return self._hint.is_set()

    def _keep_listening(self) -> None:
        # a deleted folder ends its emitter while is_alive() of the observer stays True
        observer = self._observer
        if not self._events:
            return
        if observer and observer.is_alive() and all(emitter.is_alive() for emitter in observer.emitters):
            return
        self._stop_listening()
        try:
            self._observer = _listen(self._new_observer(), _Hint(self._hint), self.path)
        except (OSError, ImportError) as exc:  # all inotify instances or watches in use, or no inotify here
            if not self._deaf:
                self._log.warning("no events from this folder; it is swept only", reason=str(exc))
            self._deaf = True
        else:
            self._deaf = False

    def _let_go(self) -> None:
        self._stop_listening()
        self._lock.release()

    def _stop_listening(self) -> None:
        if self._observer is not None:
            _end(self._observer)
            self._observer = None


class FolderLock:
    """Keeps two daemons off one folder, and off one inside the other's, as far as its file system knows locks.

    All folders above are shared with whoever is no nearer. It ends with the process, however that ends; children do
    not inherit it.
    """

    def __init__(self, path: Path, log: FilteringBoundLogger) -> None:
        self._path = path
        self._log = log.bind(folder=str(path))
        self._fd: int | None = None
        self._above: list[int] = []
        self._unsupported = False  # as last logged

    def take(self) -> None:
        """Hold the folder; raise `FolderUnavailable`, naming the process, when another daemon does.

        Shares may know no locks of folders (NFS wants the file open for writing, which no folder can be): then two
        daemons do the same work twice, with the same results, since publishing again what is there changes nothing.
        """
        if self._fd is not None or self._unsupported:
            return
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise _unlisted(self._path) from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = holder_of(fd)
            os.close(fd)
            raise FolderUnavailable(
                f"{self._path}: is served by {holder} already, or a folder in it is; stop one of the two"
            ) from exc
        except OSError as exc:
            os.close(fd)
            self._unsupported = True
            self._log.warning("cannot be locked, so see that no other daemon serves it", reason=str(exc))
        else:
            self._fd = fd
            self._share_those_above()

    def _share_those_above(self) -> None:
        for folder in self._path.resolve().parents[:-1]:
            try:
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:  # not ours to list, so nobody of this user serves it
                continue
            self._above.append(fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                holder = holder_of(fd)
                self.release()
                raise FolderUnavailable(
                    f"{self._path}: lies in {folder}, which is served by {holder} already; stop one of the two"
                ) from exc
            except OSError:  # no locks there
                pass

    def release(self) -> None:
        """Let the folder go, so that its share can be unmounted."""
        for fd in (*self._above, *([] if self._fd is None else [self._fd])):
            os.close(fd)
        self._above, self._fd, self._unsupported = [], None, False


class _Hint(FileSystemEventHandler):
    def __init__(self, hint: threading.Event) -> None:
        self._hint = hint

    def on_any_event(self, event: FileSystemEvent) -> None:
        name = os.path.basename(os.fsdecode(event.dest_path or event.src_path))  # noqa: PTH119 - may be bytes
        if not (name.startswith(".") or is_own_output(name)):
            self._hint.set()


def results_below(folder: Path) -> set[str]:
    """Return the paths of all JSON results below a folder: one listing, where a question per image takes too long."""
    return {
        f"{parent}/{name}" for parent, _, names in os.walk(folder) for name in names if name.endswith(RESULT_SUFFIX)
    }


def _unlisted(folder: Path) -> FolderUnavailable:
    return FolderUnavailable(f"{folder}: cannot be listed; let the service's user read it, or check its share")


def _inotify() -> BaseObserver:
    # not watchdog's Observer: that falls back to its polling one, which takes an unmounted share for deletions
    from watchdog.observers.inotify import InotifyObserver

    return InotifyObserver()


def _listen(observer: BaseObserver, handler: FileSystemEventHandler, path: Path) -> BaseObserver:
    try:
        observer.schedule(handler, str(path), recursive=True, event_filter=HINTS)
        observer.start()
    except OSError:
        _end(observer)
        raise
    return observer


def _end(observer: BaseObserver) -> None:
    observer.stop()
    if observer.is_alive():
        observer.join()


def _identify(path: Path) -> Identity:
    try:
        status = path.stat()
        mount = path.resolve(strict=True)
    except OSError as exc:
        raise FolderUnavailable(f"{path}: is not there ({exc.strerror}); create it or mount its share") from exc
    while not mount.is_mount():
        mount = mount.parent
    return Identity(status.st_dev, status.st_ino, str(mount))


def _walk(root: str, unseen: set[str], files: Mapping[str, Tracked], turn: Turn) -> dict[str, Signature]:
    """Return the regular files below ``root``; follow no symbolic link, enter no dot folder."""
    found: dict[str, Signature] = {}
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                folders += _list(entries, found, unseen, files, turn)
        except FileNotFoundError:
            if folder == root:
                unseen.add(folder)
        except OSError:
            unseen.add(folder)
    return found


def _list(
    entries: Iterator[os.DirEntry[str]],
    found: dict[str, Signature],
    unseen: set[str],
    files: Mapping[str, Tracked],
    turn: Turn,
) -> list[str]:
    """Add the files of one folder to ``found``, and return its subfolders.

    Of a finished file only the inode is compared, which the listing brings along, unless it is its turn.
    """
    folders, (number, parts) = [], turn
    for entry in entries:
        name = entry.name
        # `is_own_output`, written out: 10,000 images with their results are 30,000 names every few seconds
        if OURS in name or name[0] == ".":
            if not name.endswith(OWN_SUFFIXES) and name[0] != ".":
                unseen.add(entry.path)
            continue
        path = entry.path
        known = files.get(path)
        if known is not None and known.state in FINISHED:
            inode = entry.inode()
            if inode == known.signature.inode and (inode - number) % parts:
                found[path] = known.signature
                continue
        if entry.is_dir(follow_symlinks=False):
            folders.append(path)
        elif (signature := _look_at(entry, unseen)) is not None:
            found[path] = signature
    return folders


def _look_at(entry: os.DirEntry[str], unseen: set[str]) -> Signature | None:
    try:
        if entry.is_file(follow_symlinks=False):
            return signature_of(entry.stat(follow_symlinks=False))
    except FileNotFoundError:
        pass
    except OSError:  # one sick file of a share must not hide its folder
        unseen.add(entry.path)
    return None
