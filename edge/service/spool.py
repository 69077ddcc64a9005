"""The claim: a file is copied into our own spool, hashed on the way, and read only there.

What is judged is then one thing that nobody changes, and a share that hangs or lies does so here and nowhere else.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edge.errors import FileTooLarge, ImageUnreadable, NotAnImage, SpoolFull, StateUnusable
from edge.results.publish import image_name
from edge.settle import Signature, signature_of

PIECE_BYTES = 2**20
SUFFIX = ".copy"
KEEP_FREE_BYTES = 32 * 2**20  # for the journal, which lies on the same disk
HIGH_WATER_BYTES = 256 * 2**20  # after a full disk nothing is claimed below this: or each file would fail in turn
FOR_GOOD = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR}  # only a person mends these


@dataclass(frozen=True)
class Claimed:
    """A file as it was when it was claimed."""

    copy: Path
    sha256: str
    signature: Signature


def nothing() -> None:
    """Do nothing about progress."""


def clear_spool(spool: Path) -> int:
    """Make the spool, remove what an earlier process left in it, and return how many that were."""
    try:
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        leftovers = [path for path in spool.iterdir() if path.name.endswith(SUFFIX)]
        for path in leftovers:
            path.unlink()
    except OSError as exc:
        raise _unusable(spool, exc) from exc
    return len(leftovers)


def free_bytes(spool: Path) -> int:
    """Return how much the disk of the spool still holds for us."""
    try:
        return _free_bytes(spool)
    except SpoolFull as exc:
        raise StateUnusable(str(exc)) from exc


def has_room(spool: Path, high_water_bytes: int = HIGH_WATER_BYTES) -> bool:
    """Tell whether claiming may begin again after a `SpoolFull`."""
    try:
        return _free_bytes(spool) >= high_water_bytes
    except SpoolFull:
        return False


def _free_bytes(spool: Path) -> int:
    try:
        status = os.statvfs(spool)
    except OSError as exc:
        raise _not_stored(spool, exc) from exc
    return status.f_bavail * status.f_frsize


@contextmanager
def claimed(
    image: Path,
    spool: Path,
    most_bytes: int,
    progress: Callable[[], None] = nothing,
    keep_free_bytes: int = KEEP_FREE_BYTES,
) -> Iterator[Claimed]:
    """Copy ``image`` into ``spool``, hashing it, for as long as the block runs. ``progress`` hears of each piece.

    Raises `NotAnImage` for what is no regular file, `FileTooLarge` for what is too large (unread), `SpoolFull`,
    and `ImageUnreadable` where the source cannot be read or changes meanwhile.
    """
    with _source(image) as source:
        before = _regular(source, image)
        demand_not_too_large(image, before, most_bytes)
        if _free_bytes(spool) < before.size_bytes + keep_free_bytes:
            raise _full(spool)
        copy, file = _created(spool)
        try:
            with os.fdopen(file, "wb", buffering=0) as target:
                digest = hashlib.sha256()
                for piece in _pieces(source, image, before):
                    digest.update(piece)
                    _write(target.fileno(), piece, spool)
                    progress()
            yield Claimed(copy, digest.hexdigest(), before)
        finally:
            with suppress(OSError):  # a start removes what stays
                copy.unlink()


def demand_not_too_large(image: Path, signature: Signature, most_bytes: int) -> None:
    """Raise `FileTooLarge` for a file that is not even to be hashed: a sparse one of 1 TB keeps us for an hour."""
    if signature.size_bytes > most_bytes:
        raise FileTooLarge(
            f"{image_name(image)}: has {signature.size_bytes} bytes, the limit is {most_bytes}; a portal image has a "
            "few million: check what was exported"
        )


def hash_file(image: Path, progress: Callable[[], None] = nothing) -> str:
    """Return the SHA-256 of a file, for the refusal of one that is not claimed."""
    digest = hashlib.sha256()
    with _source(image) as source:
        for piece in _pieces(source, image, _regular(source, image)):
            digest.update(piece)
            progress()
    return digest.hexdigest()


def demand_unchanged(image: Path, before: Signature) -> None:
    """Raise `ImageUnreadable` if the file is no longer the one that was claimed.

    A result of its former self would be younger than the new bytes, and look like theirs.
    """
    try:
        now = signature_of(image.lstat())
    except OSError as exc:
        raise _unreadable(image, exc) from exc
    if now != before:
        raise _changed(image)


@contextmanager
def _source(image: Path) -> Iterator[int]:
    try:
        # O_NONBLOCK: a named pipe must not hold us until somebody writes to it
        descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise NotAnImage(f"{image_name(image)}: is a symbolic link, so it is left alone") from exc
        raise _unreadable(image, exc) from exc
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _regular(source: int, image: Path) -> Signature:
    try:
        status = os.fstat(source)
    except OSError as exc:
        raise _unreadable(image, exc) from exc
    if not stat.S_ISREG(status.st_mode):
        raise NotAnImage(f"{image_name(image)}: is not a regular file, so it is left alone")
    return signature_of(status)


def _pieces(source: int, image: Path, before: Signature) -> Iterator[bytes]:
    """Yield the file's bytes, no more than it had at first: one that grows without end must not keep us."""
    left = before.size_bytes
    try:
        while left and (piece := os.read(source, min(PIECE_BYTES, left))):
            left -= len(piece)
            yield piece
        if left or signature_of(os.fstat(source)) != before:
            raise _changed(image)
    except OSError as exc:
        raise _unreadable(image, exc) from exc
    demand_unchanged(image, before)  # by its name: another file may have taken its place


def _created(spool: Path) -> tuple[Path, int]:
    path = spool / f"{secrets.token_hex(8)}{SUFFIX}"
    try:
        return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise _not_stored(spool, exc) from exc


def _write(target: int, piece: bytes, spool: Path) -> None:
    rest = memoryview(piece)
    try:
        while rest:
            rest = rest[os.write(target, rest) :]
    except OSError as exc:
        raise _not_stored(spool, exc) from exc


def _not_stored(spool: Path, exc: OSError) -> SpoolFull | StateUnusable:
    if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
        return _full(spool)
    if exc.errno in FOR_GOOD:
        return _unusable(spool, exc)
    return SpoolFull(  # as journal and audit log do: a disk may ail, or files run out, for a moment; a stop is for good
        f"{spool}: working copies cannot be stored there just now ({exc.strerror}); it is tried again; check its "
        "disk if it stays so"
    )


def _full(spool: Path) -> SpoolFull:
    return SpoolFull(f"{spool}: has no space left for working copies; free some, then images are taken up again")


def _unusable(spool: Path, exc: OSError) -> StateUnusable:
    return StateUnusable(
        f"{spool}: working copies cannot be stored there ({exc.strerror}); let the service's user write there, or "
        "name another state_dir"
    )


def _unreadable(image: Path, exc: OSError) -> ImageUnreadable:
    return ImageUnreadable(f"{image_name(image)}: cannot be read just now ({exc.strerror}); it is tried again")


def _changed(image: Path) -> ImageUnreadable:
    return ImageUnreadable(f"{image_name(image)}: changed while it was read; it is tried again")
