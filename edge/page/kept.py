"""What was made of a file, kept until the file is another one; so many of them, the least asked for goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
Version = tuple[int, int, int] | None  # mtime in ns, size, inode; None: there is no such file


class Kept(Generic[T]):
    """Things made of files, ``most`` of them; may be asked by several threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._things: OrderedDict[Hashable, tuple[Version, T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path, key: Hashable, make: Callable[[], T]) -> T:
        """Return what ``make`` gives for a file and a key; asked again only where the file has changed."""
        version = version_of(path)  # before it is read: what changes meanwhile is read again
        with self._lock:
            found = self._things.get((path, key))
            if found is not None and found[0] == version:
                self._things.move_to_end((path, key))
                return found[1]
        made = make()
        with self._lock:
            self._things[path, key] = version, made
            self._things.move_to_end((path, key))
            while len(self._things) > self._most:
                self._things.popitem(last=False)
        return made


def version_of(path: Path) -> Version:
    """Return what tells one version of a file from the next."""
    try:
        status = path.lstat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
