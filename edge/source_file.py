"""A file that belongs to somebody else: opened without following a link, hashed in pieces, told from its next version.

The name in a message is the caller's: a working copy lies under another one than the image that it is of.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import FileTooLarge, ImageUnreadable, NotAnImage
from edge.settle import Signature, signature_of

# O_NONBLOCK: a named pipe must not hold us until somebody writes to it
OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
PIECE_BYTES = 2**20


def nothing() -> None:
    """Do nothing about progress."""


@contextmanager
def opened(path: Path, name: str) -> Iterator[tuple[int, Signature]]:
    """Give an open regular file and its signature; raise `NotAnImage` for anything else, `ImageUnreadable`."""
    try:
        source = os.open(path, OPEN_FLAGS)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise NotAnImage(f"{name}: is a symbolic link, so it is left alone") from exc
        raise _unreadable(name, exc) from exc
    try:
        yield source, _signature_of_regular(source, name)
    finally:
        os.close(source)


def signature(path: Path, name: str) -> Signature:
    """Return the signature of a regular file; raise `NotAnImage` for anything else, `ImageUnreadable`."""
    with opened(path, name) as (_, found):
        return found


def demand_not_too_large(name: str, found: Signature, most_bytes: int) -> None:
    """Raise `FileTooLarge` for a file that is not even to be hashed: a sparse one of 1 TB keeps us for an hour."""
    if found.size_bytes > most_bytes:
        raise FileTooLarge(
            f"{name}: has {found.size_bytes} bytes, the limit is {most_bytes}; a portal image has a few million: "
            "check what was exported"
        )


def demand_unchanged(path: Path, before: Signature, name: str) -> None:
    """Raise `ImageUnreadable` if the file is no longer the one that it was.

    A result of its former self would be younger than the new bytes, and look like theirs.
    """
    try:
        now = signature_of(path.lstat())
    except OSError as exc:
        raise _unreadable(name, exc) from exc
    if now != before:
        raise _changed(name)


def pieces(source: int, path: Path, before: Signature, name: str) -> Iterator[bytes]:
    """Yield the file's bytes, no more than it had at first: one that grows without end must not keep us.

    Raises `ImageUnreadable`, at the end also where the file, or what its name leads to, is another by then.
    """
    left = before.size_bytes
    try:
        while left and (piece := os.read(source, min(PIECE_BYTES, left))):
            left -= len(piece)
            yield piece
        if left or signature_of(os.fstat(source)) != before:
            raise _changed(name)
    except OSError as exc:
        raise _unreadable(name, exc) from exc
    demand_unchanged(path, before, name)


def hash_file(path: Path, name: str, progress: Callable[[], None] = nothing) -> str:
    """Return the SHA-256 of a regular file; ``progress`` hears of each piece. Raises `NotAnImage`, `ImageUnreadable`.

    A file of any size: ask `demand_not_too_large` first.
    """
    digest = hashlib.sha256()
    with opened(path, name) as (source, before):
        for piece in pieces(source, path, before, name):
            digest.update(piece)
            progress()
    return digest.hexdigest()


def _signature_of_regular(source: int, name: str) -> Signature:
    try:
        status = os.fstat(source)
    except OSError as exc:
        raise _unreadable(name, exc) from exc
    if not stat.S_ISREG(status.st_mode):
        raise NotAnImage(f"{name}: is not a regular file, so it is left alone")
    return signature_of(status)


def _unreadable(name: str, exc: OSError) -> ImageUnreadable:
    return ImageUnreadable(f"{name}: cannot be read just now ({exc.strerror}); it is tried again")


def _changed(name: str) -> ImageUnreadable:
    return ImageUnreadable(f"{name}: changed while it was read; it is tried again")
