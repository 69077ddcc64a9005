"""When a file has settled, and what becomes of it: one table. Pure; the clock is the caller's.

A file is settled when its signature stood still over two looks and ``settle_s`` of monotonic time. That says that the
sender paused, not that it finished: whether all pixels are there is the reader's judgement, made when it is processed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import NamedTuple


class Signature(NamedTuple):
    """What tells one version of a file from the next without reading it."""

    size_bytes: int
    mtime_ns: int
    inode: int


def signature_of(status: os.stat_result) -> Signature:
    """Return the signature that a file's status shows."""
    return Signature(status.st_size, status.st_mtime_ns, status.st_ino)


class State(Enum):
    """Where a file stands."""

    SETTLING = auto()  # seen; still changing, or not yet long enough unchanged
    READY = auto()  # to be processed, oldest first
    INCOMPLETE = auto()  # damaged as it is, but the rest may still be arriving
    BACKING_OFF = auto()  # the surroundings failed; to be tried again
    DONE = auto()  # has its result
    IGNORED = auto()  # gets none, unless it changes


class Happening(Enum):
    """What can happen to a file."""

    CHANGED = auto()  # a look found another signature
    QUIET = auto()  # unchanged over two looks and settle_s
    DUE = auto()  # the time it was waiting for has come
    PUBLISHED = auto()
    PASSED_OVER = auto()
    DAMAGED = auto()
    FAILED = auto()


NEXT: dict[tuple[State, Happening], State] = {
    (State.SETTLING, Happening.QUIET): State.READY,
    (State.READY, Happening.PUBLISHED): State.DONE,
    (State.READY, Happening.PASSED_OVER): State.IGNORED,
    (State.READY, Happening.DAMAGED): State.INCOMPLETE,
    (State.READY, Happening.FAILED): State.BACKING_OFF,
    (State.INCOMPLETE, Happening.DUE): State.READY,
    (State.BACKING_OFF, Happening.DUE): State.READY,
    **{(state, Happening.CHANGED): State.SETTLING for state in State},
}


@dataclass(frozen=True)
class Patience:
    """How long to wait for what, in seconds of monotonic time."""

    settle_s: float = 2.0
    incomplete_after_s: float = 300.0
    retry_first_s: float = 1.0
    retry_most_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Tracked:
    """One file as last seen. Times are monotonic seconds."""

    order: int  # the first file ever seen is 0; kept when the file changes
    signature: Signature
    state: State
    unchanged_since_s: float  # the end of the first look at this signature
    due_s: float | None  # when to look at it or take it up again; None: a sweep will tell
    failures: int = 0  # of the surroundings, at this signature
    reopened: bool = False  # it changed since it was first seen here: a result's age proves nothing about it


def first_seen(order: int, signature: Signature, ended_s: float, patience: Patience) -> Tracked:
    """Begin to track a file; ``ended_s`` is when the look at it ended."""
    return Tracked(order, signature, State.SETTLING, ended_s, ended_s + patience.settle_s)


def look(tracked: Tracked, signature: Signature, began_s: float, ended_s: float, patience: Patience) -> Tracked:
    """Take in another look at the file; return ``tracked`` itself when that changes nothing.

    A change counts from the look's end and quiet counts up to its start: a sweep of a slow share can take longer
    than ``settle_s``, and must not settle a file that was seen for an instant.
    """
    if signature != tracked.signature:
        anew = first_seen(tracked.order, signature, ended_s, patience)
        return replace(anew, state=NEXT[tracked.state, Happening.CHANGED], reopened=True)
    if tracked.state is State.SETTLING and began_s >= tracked.unchanged_since_s + patience.settle_s:
        return replace(tracked, state=NEXT[tracked.state, Happening.QUIET], due_s=None)
    return tracked


def happen(tracked: Tracked, happening: Happening, now_s: float, patience: Patience) -> Tracked:
    """Take in what happened to the file; a pair that the table lacks is a KeyError, and a bug."""
    state = NEXT[tracked.state, happening]
    if state is State.INCOMPLETE:
        return replace(tracked, state=state, due_s=final_from_s(tracked, patience))
    if state is State.BACKING_OFF:
        pause_s = retry_pause_s(tracked.failures, patience)
        return replace(tracked, state=state, due_s=now_s + pause_s, failures=tracked.failures + 1)
    return replace(tracked, state=state, due_s=None)


def final_from_s(tracked: Tracked, patience: Patience) -> float:
    """Return the moment from which a damaged file counts as damaged for good, unless it changes."""
    return tracked.unchanged_since_s + patience.incomplete_after_s


def retry_pause_s(failures: int, patience: Patience) -> float:
    """Return the pause after one more failure: doubling, up to ``retry_most_s``, for ever."""
    return min(patience.retry_most_s, patience.retry_first_s * 2.0 ** min(failures, 30))
