"""A share that passes everything through to a folder, until a control file says how it is sick. By FUSE.

Run it with the folder, the mount point and the control file: ok, EIO, ESTALE, EHOSTDOWN, empty or hang.
"""

import errno
import os
import sys
import time
from pathlib import Path

import mfusepy

SOURCE, CONTROL = sys.argv[1], Path(sys.argv[3])
STAT = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_ino")
TIMES = ("st_mtime", "st_atime", "st_ctime")


def health() -> str:
    try:
        return CONTROL.read_text().strip()
    except OSError:
        return "ok"


def ail() -> None:
    """Do what a sick share does instead of answering."""
    while health() == "hang":
        time.sleep(0.05)
    if (how := health()) in errno.errorcode.values():
        raise mfusepy.FuseOSError(getattr(errno, how))


class Share(mfusepy.Operations):
    """Passes through; ``fh`` is a file descriptor of ours."""

    use_ns = True

    def getattr(self, path, fh=None):
        if path != "/":
            ail()
        try:
            status = os.lstat(SOURCE + path)
        except OSError as exc:
            raise mfusepy.FuseOSError(exc.errno) from exc
        return {key: getattr(status, key) for key in STAT} | {key: getattr(status, f"{key}_ns") for key in TIMES}

    def readdir(self, path, fh):
        ail()
        return [".", "..", *([] if health() == "empty" else (entry.name for entry in Path(SOURCE + path).iterdir()))]

    def open(self, path, flags):
        ail()
        return os.open(SOURCE + path, flags)

    def create(self, path, mode, fi=None):
        ail()
        return os.open(SOURCE + path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path, size, offset, fh):
        ail()
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        ail()
        return os.pwrite(fh, data, offset)

    def fsync(self, path, datasync, fh):
        ail()
        os.fsync(fh)

    def release(self, path, fh):
        os.close(fh)

    def rename(self, old, new, flags=0):
        ail()
        Path(SOURCE + old).rename(SOURCE + new)

    def unlink(self, path):
        ail()
        Path(SOURCE + path).unlink()

    def truncate(self, path, length, fh=None):
        os.truncate(SOURCE + path, length)


if __name__ == "__main__":
    mfusepy.FUSE(Share(), sys.argv[2], foreground=True, nothreads=False)
