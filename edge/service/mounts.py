"""What kind of file system a folder lies on, and whether other machines write to it, too."""

from __future__ import annotations

import re
from pathlib import Path

SHARES = {"9p", "afs", "ceph", "cifs", "gfs2", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2", "smb3", "smbfs"}


def file_system(path: Path, mounts: str) -> str:
    """Return the kind of file system that a path lies on, such as ext4 or cifs; ``mounts`` is proc(5)'s mountinfo."""
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        fields, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4])
        if path.is_relative_to(point) and len(point) >= len(best):  # the last one of a place lies on top
            best, kind = point, after.split(" ")[0]
    return kind


def is_share(kind: str) -> bool:
    """Tell whether other machines may write to a file system of that kind, unheard by inotify."""
    return kind in SHARES or kind.startswith("fuse")
