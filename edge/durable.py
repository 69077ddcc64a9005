"""What outlasts a power cut: the names in a folder, as `os.fsync` does for the bytes of a file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP}  # some network file systems cannot sync a folder


def sync_names(folder: int) -> None:
    """Have the names in an open folder outlast a power cut; raise `OSError` where they may not."""
    try:
        os.fsync(folder)
    except OSError as exc:
        if exc.errno not in CANNOT_SYNC:
            raise


def sync_folder(folder: Path) -> None:
    """Have the names in a folder outlast a power cut; raise `OSError` where they may not."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_names(fd)
    finally:
        os.close(fd)
