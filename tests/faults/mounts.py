"""File systems to be broken: a loop-mounted one that loses its power, small ones in memory that fill up."""

import fcntl
import os
import shutil
import struct
import subprocess
import time
from contextlib import suppress
from pathlib import Path

FS_IOC_SHUTDOWN = 0x8004587D  # <linux/fs.h>; xfstests' godown
NO_LOG_FLUSH = 2
SIZE_MB = 1024  # 500 losses leave 1,500 results of 0.3 MB; XFS wants 300
UNMOUNT_S = 60.0
SEARCHED = os.environ["PATH"] + ":/usr/sbin:/sbin"


class PoweredDisk:
    """A file system in a file, whose power can be taken away."""

    def __init__(self, kind: str, image: Path, at: Path) -> None:
        self._image, self.at = image, at
        with image.open("wb") as file:
            file.truncate(SIZE_MB * 2**20)
        make = shutil.which(f"mkfs.{kind}", path=SEARCHED)
        assert make
        subprocess.run([make, "-q", str(image)], check=True, capture_output=True)
        at.mkdir()

    def mount(self) -> None:
        """Attach it; what its journal holds is replayed."""
        subprocess.run(["mount", "-o", "loop", str(self._image), str(self.at)], check=True, capture_output=True)

    def lose_power(self) -> None:
        """Let nothing more reach the disk, not even what the file system has in its log."""
        fd = os.open(self.at, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def unmount(self) -> None:
        """Detach it; whoever used it is ended already, but the kernel may need a while on a busy machine."""
        began_s = time.monotonic()
        while subprocess.run(["umount", str(self.at)], check=False, capture_output=True).returncode:
            assert time.monotonic() < began_s + UNMOUNT_S, f"{self.at} cannot be unmounted; {users_of(self.at)} use it"
            time.sleep(0.05)


def users_of(folder: Path) -> list[str]:
    """Return the command lines of the processes that have a file below a folder open."""
    users = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # one that ended meanwhile
            if any(link.readlink().is_relative_to(folder) for link in (process / "cwd", *(process / "fd").iterdir())):
                users.append((process / "cmdline").read_text().replace("\0", " "))
    return users


def why_no_loop(folder: Path) -> str | None:
    """Say why no file system in a file can be mounted here; None: it can."""
    try:
        disk = PoweredDisk("ext4", folder / "probe.img", folder / "probe")
        disk.mount()
    except (OSError, subprocess.CalledProcessError, AssertionError) as exc:
        return f"no file system can be loop-mounted here ({exc})"
    disk.unmount()
    return None


def fill(folder: Path, leave_bytes: int = 0) -> Path:
    """Take all space of a file system but ``leave_bytes``; return the file that takes it."""
    ballast = folder / ".ballast"
    status = os.statvfs(folder)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(status.f_bavail * status.f_frsize - leave_bytes, 1))
    return ballast
