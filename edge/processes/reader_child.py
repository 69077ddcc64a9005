"""The process that parses files from outside, one at a time, under limits. `edge.processes.reader_process` starts it.

It imports neither network nor device nor configuration: whoever takes it over through a file finds nothing there.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any

from edge.errors import DamagedImage, EdgeError
from edge.portal_image import read_portal_image
from edge.processes import landlock
from edge.processes.child import Message, Parent
from edge.processes.shared_pixels import PixelWriter
from edge.records import PortalImage

OPEN_FILES = 32  # the socket, the shared memory twice, the image, and what a decoder opens when it is first imported
SPARE_BYTES = 64 * 2**20  # with less than this above what the reader itself takes, it could read nothing
CLONE_NEWPID = 0x20000000  # <linux/sched.h>
CAPABILITIES = struct.pack("=Ii", 0x20080522, 0)  # capset(2): the header, version 3, of this process
OVERRIDE, READ_SEARCH = 1 << 1, 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def main(
    parent: Parent,
    memory_mb: int,
    cpu_s: float,
    file_bytes: int,
    pixels: int,
    landlock_abi: int = landlock.NEWEST_ABI,
) -> None:
    """Answer requests until the parent is gone: a portal image, or the name and message of an error.

    ``pixels``: the descriptor of the `SharedPixels` into which an image's go.
    ``landlock_abi``: the newest version of Landlock to make use of, 0 for none.
    """
    writer = PixelWriter(pixels)
    own_bytes = address_space_bytes()
    if memory_mb * 2**20 < own_bytes + SPARE_BYTES:
        parent.answer({"error": "BadConfig", "message": _too_little(memory_mb, own_bytes)})
        return
    take_limits(memory_mb * 2**20)
    give_up_processes()
    landlock.forbid_new_privileges()
    landlock.confine(landlock_abi)
    parent.answer({"ready": True, "address_space_bytes": own_bytes})
    for request in parent.requests():
        grant_cpu(cpu_s)
        parent.answer(_answered(request, memory_mb, file_bytes, writer))


def take_limits(address_space: int) -> None:
    """Take away what reading does not need: memory, core files, writing, many open files. For good."""
    sys.dont_write_bytecode = True
    most = {
        resource.RLIMIT_AS: address_space,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES,
    }
    for kind, limit in most.items():
        lower = _at_most(limit, resource.getrlimit(kind)[1])
        resource.setrlimit(kind, (lower, lower))


def give_up_processes() -> None:
    """Take away forking, which would leave behind what nobody ends. For good.

    The kernel counts the processes of every user but root. For root the first process of a new PID namespace ends at
    once, and there is none after it (pid_namespaces(7)); the powers that lead back out of it are given up.
    """
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        if libc.unshare(CLONE_NEWPID) == 0:  # a container may keep root from it: what is forked there ends with it
            _fork_the_first()
        _give_up_capabilities(libc)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # last: the root of a rootless container is counted, too


def _fork_the_first() -> None:
    if (first := os.fork()) == 0:
        os._exit(0)
    os.waitpid(first, 0)


def _give_up_capabilities(libc: ctypes.CDLL) -> None:
    """Keep of root's powers only what reads the files of others."""
    now = ctypes.create_string_buffer(24)  # effective, permitted, inheritable, 32 bits each; then bits 32 and up
    if libc.capget(CAPABILITIES, now) == 0:
        permitted = struct.unpack("=6I", now.raw)[1]
        kept = permitted & READ_SEARCH or permitted & OVERRIDE
        libc.capset(CAPABILITIES, struct.pack("=6I", kept, kept, 0, 0, 0, 0))


def grant_cpu(seconds: float) -> None:
    """Allow so much more computing; past it the kernel sends SIGXCPU."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]  # stays as it is: lowered, it could not be raised again
    soft = _at_most(ceil(usage.ru_utime + usage.ru_stime + seconds), hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _at_most(wanted: int, hard: int) -> int:
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def address_space_bytes() -> int:
    """Return what this process takes of what RLIMIT_AS counts."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _answered(request: Message, memory_mb: int, file_bytes: int, writer: PixelWriter) -> dict[str, Any]:
    name = request.header["name"]
    try:
        image = _read(Path(request.header["path"]), name, file_bytes)
        writer.put(image.pixels)
    except (EdgeError, MemoryError) as exc:
        return _said(exc, name, memory_mb)
    return described(image)


def _read(path: Path, name: str, file_bytes: int) -> PortalImage:
    try:
        return read_portal_image(path, file_bytes, name=name)
    except (EdgeError, MemoryError):
        raise
    except Exception as exc:  # the reader promises that there is none; a hostile file may prove it wrong
        raise DamagedImage(f"{name}: cannot be decoded ({type(exc).__name__}); send it again") from exc


def described(image: PortalImage) -> dict[str, Any]:
    """Return all of a portal image but its pixels."""
    geometry = image.geometry
    return {
        "identity": asdict(image.identity),
        "polarity_source": image.polarity_source,
        "geometry": vars(geometry) | {"sources": dict(geometry.sources)} if geometry else None,
        "geometry_reason": image.geometry_reason,
        "rescale": asdict(image.rescale),
        "beam": image.beam,
    }


def _said(exc: EdgeError | MemoryError, name: str, memory_mb: int) -> dict[str, str]:
    cause: BaseException | None = exc
    while cause:  # a decoder wraps what its memory failed for
        if isinstance(cause, MemoryError):
            message = f"{name}: took more than {memory_mb} MiB to read; export it anew, or raise read_memory_mb"
            return {"error": "ReaderDied", "message": message}
        cause = cause.__cause__ or cause.__context__
    return {"error": type(exc).__name__, "message": str(exc)}


def _too_little(memory_mb: int, own_bytes: int) -> str:
    least_mb = ceil((own_bytes + SPARE_BYTES) / 2**20)
    return f"read_memory_mb is {memory_mb}, and the reader needs {least_mb} for itself and the smallest image: raise it"


if __name__ == "__main__":
    main(Parent(sys.argv[1:]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]))
