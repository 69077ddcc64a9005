"""What lies in a drop folder. A full sweep is the truth; events only tell when to sweep sooner.

Measured (../shared/design/durability.md): of 50,000 files in 8 s inotify never reported 26,821; network shares report
nothing that another machine writes; after an unmount everything looks alive. So events carry no names here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
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
from edge.results.publish import is_own_output
from edge.settle import Signature, signature_of

HINTS: list[type[FileSystemEvent]] = [FileClosedEvent, FileCreatedEvent, FileMovedEvent, DirCreatedEvent, DirMovedEvent]


class Identity(NamedTuple):
    """Which folder a path leads to just now."""

    device: int
    inode: int
    mount_point: str


class HeldFolder:
    """A folder that must stay the one it was: unmounted, another one shows through under the same path."""

    def __init__(self, path: Path, identify: Callable[[Path], Identity] | None = None) -> None:
        self.path = path
        self._identify = identify or _identify
        self._held: Identity | None = None

    def check(self) -> None:
        """Raise `FolderUnavailable` when the folder is not there or not the one that it was.

        A folder made anew, or a share mounted again at the same place, is taken up after that one alarm. A path that
        has come to lie on another mount is not: that is a share that went away, or one mounted over the folder.
        """
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
    """One drop folder: swept when asked, listened to when inotify can."""

    def __init__(
        self, path: Path, log: FilteringBoundLogger, new_observer: Callable[[], BaseObserver] | None = None
    ) -> None:
        self.path = path
        self._held = HeldFolder(path)
        self._log = log.bind(folder=str(path))
        self._new_observer = new_observer or _inotify
        self._observer: BaseObserver | None = None
        self._deaf = False  # as last logged
        self._unseen: set[str] = set()  # subfolders and files, as last logged
        self._hint = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._stop_listening()

    def sweep(self) -> dict[str, Signature]:
        """Return every file that may be an image, path to signature, in subfolders too.

        Raises `FolderUnavailable` when the folder is gone or another. A subfolder that cannot be listed is a warning:
        ``lost+found`` is one for good. A file that is not there any more was not deleted as far as we know.
        """
        try:
            self._held.check()
        except FolderUnavailable:
            self._stop_listening()
            raise
        self._keep_listening()  # before the listing: what arrives during it leaves a hint
        self._hint.clear()
        unseen: set[str] = set()
        found = dict(_walk(str(self.path), unseen))
        if str(self.path) in unseen:
            raise FolderUnavailable(
                f"{self.path}: cannot be listed; let the service's user read it, or check its share"
            )
        for path in sorted(unseen - self._unseen):
            self._log.warning("cannot be looked at, so images there are not seen", path=path)
        self._unseen = unseen
        return found

    def hinted(self) -> bool:
        """Tell whether something arrived since the last sweep began."""
        return self._hint.is_set()

    def _keep_listening(self) -> None:
        # a deleted folder ends its emitter while is_alive() of the observer stays True
        observer = self._observer
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

    def _stop_listening(self) -> None:
        if self._observer is not None:
            _end(self._observer)
            self._observer = None


class _Hint(FileSystemEventHandler):
    def __init__(self, hint: threading.Event) -> None:
        self._hint = hint

    def on_any_event(self, event: FileSystemEvent) -> None:
        name = os.path.basename(os.fsdecode(event.dest_path or event.src_path))  # noqa: PTH119 - may be bytes
        if not (name.startswith(".") or is_own_output(name)):
            self._hint.set()


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


def _walk(root: str, unseen: set[str]) -> Iterator[tuple[str, Signature]]:
    """Yield the regular files below ``root``; follow no symbolic link, enter no dot folder."""
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or is_own_output(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif (signature := _look_at(entry, unseen)) is not None:
                        yield entry.path, signature
        except FileNotFoundError:
            if folder == root:
                unseen.add(folder)
        except OSError:
            unseen.add(folder)


def _look_at(entry: os.DirEntry[str], unseen: set[str]) -> Signature | None:
    try:
        if entry.is_file(follow_symlinks=False):
            return signature_of(entry.stat(follow_symlinks=False))
    except FileNotFoundError:
        pass
    except OSError:  # one sick file of a share must not hide its folder
        unseen.add(entry.path)
    return None
