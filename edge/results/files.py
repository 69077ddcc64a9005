"""Files of ours in folders of others: written whole or not at all, and read only where they can be ours."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge.errors import ResultsNotWritable
from edge.source_file import OPEN_FLAGS

TEMPORARY_PREFIX = ".landmarks-"
OURS_MOST_BYTES = 16 * 2**20  # ours have some kB; a crafted one of some MB takes a hundred times its size in memory

MENDS = {
    errno.EACCES: "let the service's user write there",
    errno.EPERM: "let the service's user write there",
    errno.EROFS: "it is mounted read-only: mount it read-write",
    errno.ENOSPC: "the disk is full: free some space or inodes",
    errno.EDQUOT: "the quota is used up: raise it or free some space",
    errno.ENOENT: "the folder is not there: create it or mount its share",
    errno.ENOTDIR: "a folder of that path is a file: name another results folder",
}


def not_writable(folder: Path, exc: OSError) -> ResultsNotWritable:
    """Return what to raise where the operating system does not let us into a folder."""
    mend = MENDS.get(exc.errno or 0, "check the folder, its disk and its share")
    return ResultsNotWritable(f"{folder}: results cannot be stored there ({exc.strerror}); {mend}")


def make_folder(folder: Path) -> None:
    """Make a results folder and those above it; raise `ResultsNotWritable` when that fails.

    Only for folders below a results folder that is known to be mounted; never beside an image.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise not_writable(folder, exc) from exc


def read_ours(path: Path) -> bytes | None:
    """Return a regular file's bytes; None for a link, a pipe without a writer, and what is too large to be ours."""
    try:
        fd = os.open(path, OPEN_FLAGS)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            return None
        raise
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > OURS_MOST_BYTES:
            return None
        return file.read(OURS_MOST_BYTES)


@contextmanager
def opened_folder(folder: Path) -> Iterator[int]:
    """Hold the folder itself, so that a share mounted over its path meanwhile gets none of our files."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def temporary(folder: int, data: bytes) -> Iterator[str]:
    """Write ``data`` durably under a temporary name; remove that name at the end, unless it was renamed."""
    name = f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o666, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            with suppress(OSError):  # a share without locks: then a start sweep leaves temporaries alone
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(data)
            file.flush()
            if os.fstat(fd).st_size != len(data):
                raise OSError(errno.EIO, "the file is not as long as what was written")
            os.fsync(fd)
            yield name
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def remove_leftovers(folder: Path) -> int:
    """Remove, in a folder and all below it, temporaries whose writer has died; return how many.

    A living writer holds a lock on its temporary, so another process at work in the same folder is not disturbed.
    """
    removed = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.startswith(TEMPORARY_PREFIX):
                with suppress(OSError):
                    removed += _remove_if_abandoned(Path(parent, name))
    return removed


def _remove_if_abandoned(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(fd)
    return True
