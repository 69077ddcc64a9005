"""The claim: a file is copied into our own spool, hashed on the way, and read only there.

What is judged is then one thing that nobody changes, and a share that hangs or lies does so here and nowhere else.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edge.errors import SpoolFull, StateUnusable
from edge.results.publish import image_name
from edge.settle import Signature
from edge.source_file import demand_not_too_large, nothing, opened, pieces

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
    name = image_name(image)
    with ExitStack() as held:
        with opened(image, name) as (source, before):
            demand_not_too_large(name, before, most_bytes)
            if _free_bytes(spool) < before.size_bytes + keep_free_bytes:
                raise _full(spool)
            copy, file = _created(spool)
            held.callback(_remove, copy)
            with os.fdopen(file, "wb", buffering=0) as target:
                digest = hashlib.sha256()
                for piece in pieces(source, image, before, name):
                    digest.update(piece)
                    _write(target.fileno(), piece, spool)
                    progress()
        # the file itself is closed: a claim that waits for its turn holds up nobody who unmounts the share
        yield Claimed(copy, digest.hexdigest(), before)


def _remove(copy: Path) -> None:
    with suppress(OSError):  # a start removes what stays
        copy.unlink()


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
