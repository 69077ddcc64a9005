"""Landlock: a process gives up changing files, running programs and reaching others, for good.

As the kernel's Documentation/userspace-api/landlock.rst and include/uapi/linux/landlock.h describe it. No rule allows
anything again, so the second of the three system calls, landlock_add_rule, is not needed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

CREATE_RULESET, RESTRICT_SELF = 444, 446  # the same on every architecture
ASK_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
PR_SET_NO_NEW_PRIVS = 38  # <linux/prctl.h>

SystemCall = Callable[[int, bytes | int | None, int, int], int]  # number and arguments; raises OSError


@dataclass(frozen=True)
class Denied:
    """What can be denied since an ABI version: bits of struct landlock_ruleset_attr."""

    since_abi: int
    what: str
    files: int = 0  # LANDLOCK_ACCESS_FS_*
    network: int = 0  # LANDLOCK_ACCESS_NET_*
    scoped: int = 0  # LANDLOCK_SCOPE_*


DENIED: Final = (
    # EXECUTE, WRITE_FILE, then REMOVE_DIR, REMOVE_FILE and the seven MAKE_*: all but READ_FILE and READ_DIR
    Denied(1, "writing, making, removing and running files", files=0b1_1111_1111_0011),
    Denied(2, "moving files between folders", files=1 << 13),  # REFER; version 1 denies it unasked
    Denied(3, "truncating files", files=1 << 14),  # TRUNCATE
    Denied(4, "TCP", network=0b11),  # BIND_TCP, CONNECT_TCP
    Denied(5, "control of devices", files=1 << 15),  # IOCTL_DEV
    Denied(6, "signals and abstract sockets of others", scoped=0b11),  # ABSTRACT_UNIX_SOCKET, SIGNAL
)
IMPLIED_ABI = 2  # what this version adds is denied by every other, too
NEWEST_ABI = DENIED[-1].since_abi


def system_call(number: int, first: bytes | int | None, second: int, third: int) -> int:
    """Make a system call that has no function in the C library."""
    arguments = [ctypes.c_long(number), ctypes.c_char_p(first) if isinstance(first, bytes) else ctypes.c_void_p(first)]
    answer = ctypes.CDLL(None, use_errno=True).syscall(*arguments, ctypes.c_long(second), ctypes.c_long(third))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def supported_abi(most: int = NEWEST_ABI, call: SystemCall = system_call) -> int:
    """Return the newest version that is known here and offered by the kernel, 0 for none; nothing is restricted."""
    found = _ruleset(most, call)
    if found is None:
        return 0
    abi, ruleset = found
    os.close(ruleset)
    return abi


def forbid_new_privileges() -> None:
    """Have no program that this process runs gain anything by being run, such as by a set-user-ID bit."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")


def confine(most: int = NEWEST_ABI, call: SystemCall = system_call) -> int:
    """Deny this thread, and all that it starts from now on, whatever the kernel can deny; return as `supported_abi`.

    Where Landlock is not there (an older kernel, one without it, a filter of system calls), nothing happens.
    Other threads of the process stay as they are. After `forbid_new_privileges`: the kernel asks for that first.
    """
    found = _ruleset(most, call)
    if found is None:
        return 0
    abi, ruleset = found
    try:
        call(RESTRICT_SELF, ruleset, 0, 0)
    finally:
        os.close(ruleset)
    return abi


def in_words(abi: int) -> str:
    """Return in one line how far the reader is confined by a version, for the log and the check."""
    if abi == 0:
        return "Landlock is not available"
    lacking = [denied.what for denied in DENIED if denied.since_abi > max(abi, IMPLIED_ABI)]
    return f"Landlock ABI {abi}" + (f"; not available against {', '.join(lacking)}" if lacking else "")


def _ruleset(most: int, call: SystemCall) -> tuple[int, int] | None:
    """Return a version and the descriptor of a ruleset of all that it can deny.

    A kernel may claim a version and lack some of it: RHEL 9's 5.14 says 6, without scoped signals. So the ones below
    are tried as well.
    """
    try:
        offered = call(CREATE_RULESET, None, 0, ASK_VERSION)
    except OSError:  # ENOSYS: not in this kernel; EOPNOTSUPP: switched off; EPERM: filtered
        return None
    for abi in range(min(offered, most), 0, -1):
        attributes = _attributes(abi)
        try:
            return abi, call(CREATE_RULESET, attributes, len(attributes), 0)
        except OSError as exc:
            if exc.errno not in {errno.EINVAL, errno.E2BIG}:
                raise
    return None


def _attributes(abi: int) -> bytes:
    """Return struct landlock_ruleset_attr; an older kernel takes its later members where they are zero."""
    taken = [denied for denied in DENIED if denied.since_abi <= abi]
    return struct.pack("=3Q", *(sum(getattr(one, part) for one in taken) for part in ("files", "network", "scoped")))
