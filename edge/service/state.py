"""The state folder: journal, working copies and audit log, on local disk, held by one daemon at a time."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edge.config import Config
from edge.errors import StateUnusable
from edge.settle import Patience, retry_pause_s

APPLICATION = "landmarknet-edge"
JOURNAL, SPOOL, AUDIT_LOG, LOCK = "journal.sqlite", "spool", "audit.jsonl", "lock"


def state_folder(config: Config, environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the state lies: ``state_dir``, or what systemd or the desktop's convention gives; makes nothing."""
    if config.state_dir is not None:
        return config.state_dir
    if given := environment.get("STATE_DIRECTORY", "").split(":")[0]:  # systemd.exec(5): several are joined by colons
        return Path(given)
    if (home := environment.get("XDG_STATE_HOME", "")).startswith("/"):  # a relative one does not count, says XDG
        return Path(home, APPLICATION)
    try:
        return Path("~/.local/state").expanduser() / APPLICATION
    except RuntimeError as exc:
        raise StateUnusable("this user has no home folder; set state_dir in the configuration") from exc


def is_there(path: Path) -> bool:
    """Tell whether a file of the state is there; raise `StateUnusable` where this user may not look."""
    try:
        return path.exists()
    except PermissionError as exc:
        raise StateUnusable(f"{path.parent}: this user may not look there; ask as root") from exc


@contextmanager
def held(folder: Path) -> Iterator[Path]:
    """Make the state folder where it is missing, and hold it alone; raise `StateUnusable`.

    The lock ends with the process, however that ends.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # names of files may be those of patients
        (folder / SPOOL).mkdir(mode=0o700, exist_ok=True)
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise StateUnusable(
            f"{folder}: cannot hold the state ({exc.strerror}); let the service's user write there, or set state_dir"
        ) from exc
    try:
        _lock(fd, folder)
        yield folder
    finally:
        os.close(fd)


def _lock(fd: int, folder: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise StateUnusable(
            f"{folder}: {holder_of(fd)} serves with this state; stop it, or give each its own state_dir"
        ) from exc
    except OSError as exc:
        raise StateUnusable(f"{folder}: cannot be locked ({exc.strerror}); set state_dir to a local disk") from exc


def holder_of(fd: int, locks: Path = Path("/proc/locks")) -> str:
    """Say which process holds the lock on an open file or folder, as far as the system tells."""
    try:
        process = lock_holder(os.fstat(fd).st_ino, locks.read_text())
    except OSError:
        process = None
    return f"process {process}" if process else "another process"


def lock_holder(inode: int, locks: str) -> int | None:
    """Return the process that holds an exclusive flock on an inode, by the text of proc_locks(5); None: none.

    0 where it lives in another PID namespace. Not by device: file systems with subvolumes show another one there.
    """
    found = re.search(rf"FLOCK +ADVISORY +WRITE +(\d+) +\w+:\w+:{inode} ", locks)
    return int(found[1]) if found else None


@dataclass
class Space:
    """Whether to claim files. Once the disk was full, only when much is free again, and not at once.

    A quota or a busy journal shows no lack of space: there the growing pause keeps it from spinning.
    """

    has_room: Callable[[], bool]  # above a high-water mark
    patience: Patience = field(default_factory=Patience)
    _times: int = 0
    _until_s: float | None = None

    def ran_out(self, now_s: float) -> None:
        """Take in that something could not be written."""
        self._until_s = now_s + retry_pause_s(self._times, self.patience)
        self._times += 1

    def is_there(self, now_s: float) -> bool:
        """Tell whether files may be claimed."""
        if self._until_s is not None and now_s >= self._until_s:
            self._until_s = None if self.has_room() else now_s + self.patience.retry_first_s
        return self._until_s is None

    def sufficed(self) -> None:
        """Take in that a file was claimed and recorded."""
        self._times = 0
