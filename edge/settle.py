"""When a file has settled, and what becomes of it: one table. Pure; the clock is the caller's.

A file is settled when its signature stood still over two looks and ``settle_s`` of monotonic time. That says that the
sender paused, not that it finished: whether all pixels are there is the reader's judgement, made when it is processed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import NamedTuple, Protocol

CRASHES_MOST = 2  # of reader or worker with one version of a file in hand: then it is refused unread


MOST_NS = 2**63 - 1


class Signature(NamedTuple):
    """What tells one version of a file from the next without reading it."""

    size_bytes: int
    mtime_ns: int
    inode: int
    ctime_ns: int | None = None  # nobody can set it: bytes put in place with their old mtime show. None: not known


def signature_of(status: os.stat_result) -> Signature:
    """Return the signature that a file's status shows; a time beyond the year 2262 counts as the last one before it.

    The journal keeps 64 bits: one file with a wild date must not end the daemon.
    """
    return Signature(status.st_size, _within(status.st_mtime_ns), status.st_ino, _within(status.st_ctime_ns))


def _within(time_ns: int) -> int:
    return max(-MOST_NS, min(time_ns, MOST_NS))


class State(StrEnum):
    """Where a file stands. The values stand in the journal: they are never changed."""

    SEEN = "seen"  # still changing, or not yet long enough unchanged
    STABLE = "stable"  # to be processed, oldest first
    CLAIMED = "claimed"  # a working copy is made, its hash is known
    INFERRED = "inferred"  # its result is made, not yet published
    PUBLISHED = "published"  # its result lies in its place
    DONE = "done"  # and is audited: nothing is left to do
    INCOMPLETE = "incomplete"  # damaged as it is, but the rest may still be arriving
    RETRY_WAIT = "retry_wait"  # the surroundings failed; to be tried again
    REFUSED = "refused"  # gets no landmarks, unless it changes


class Happening(Enum):
    """What can happen to a file."""

    CHANGED = auto()  # a look found another signature
    QUIET = auto()  # unchanged over two looks and settle_s
    DUE = auto()  # the time it was waiting for has come
    CLAIMED = auto()
    INFERRED = auto()
    PUBLISHED = auto()
    COMMITTED = auto()  # published and audited, or its result was found
    DAMAGED = auto()
    FAILED = auto()  # the surroundings
    CRASHED = auto()  # reader or worker, with this file in hand
    PUT_BACK = auto()  # not its fault, and nobody's turn now: no space for working copies
    REFUSED = auto()
    RESTARTED = auto()  # the daemon, or the folder came back
    REQUEUED = auto()  # a person asked for it


IN_HAND = (State.STABLE, State.CLAIMED, State.INFERRED, State.PUBLISHED)
FINISHED = (State.DONE, State.REFUSED)

NEXT: dict[tuple[State, Happening], State] = {
    (State.SEEN, Happening.QUIET): State.STABLE,
    (State.STABLE, Happening.CLAIMED): State.CLAIMED,
    (State.CLAIMED, Happening.INFERRED): State.INFERRED,
    (State.INFERRED, Happening.PUBLISHED): State.PUBLISHED,
    (State.CLAIMED, Happening.PUBLISHED): State.PUBLISHED,  # a refusal
    (State.STABLE, Happening.PUBLISHED): State.PUBLISHED,  # a refusal unread, or by a process that tells no more
    (State.PUBLISHED, Happening.COMMITTED): State.DONE,
    (State.STABLE, Happening.COMMITTED): State.DONE,  # its result was there
    (State.INCOMPLETE, Happening.DUE): State.STABLE,
    (State.RETRY_WAIT, Happening.DUE): State.STABLE,
    **{(state, Happening.DAMAGED): State.INCOMPLETE for state in IN_HAND},
    **{(state, Happening.FAILED): State.RETRY_WAIT for state in IN_HAND},
    **{(state, Happening.CRASHED): State.RETRY_WAIT for state in IN_HAND},
    **{(state, Happening.PUT_BACK): State.STABLE for state in IN_HAND},
    **{(state, Happening.REFUSED): State.REFUSED for state in IN_HAND},
    **{(state, Happening.CHANGED): State.SEEN for state in State},
    **{(state, Happening.REQUEUED): State.SEEN for state in State},
    **{(state, Happening.RESTARTED): state if state in FINISHED else State.SEEN for state in State},
}


class Tell(Protocol):
    """Hear what happens to the file in hand, as it happens."""

    def __call__(self, happening: Happening, **facts: str) -> None:
        """Take in CLAIMED (with ``sha256``), INFERRED (with ``key``) or PUBLISHED (a refusal: with its ``kind``)."""


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

    order: int  # the journal's: the file seen first has the lowest; kept when the file changes
    signature: Signature
    state: State
    unchanged_since_s: float  # the end of the first look at this signature
    due_s: float | None  # when to look at it or take it up again; None: a sweep will tell
    failures: int = 0  # of the surroundings, at this signature
    crashes: int = 0  # of reader or worker, at this signature
    doubted: bool = False  # it changed, or a crash came between: a result's age proves nothing about it
    again: bool = False  # a person asked for it: a result that is there does not count
    reason: str | None = None  # why it was refused, or waits
    kind: str | None = None  # the class of that error
    sha256: str | None = None  # while it is in hand
    key: str | None = None


def first_seen(order: int, signature: Signature, ended_s: float, patience: Patience) -> Tracked:
    """Begin to track a file; ``ended_s`` is when the look at it ended."""
    return Tracked(order, signature, State.SEEN, ended_s, ended_s + patience.settle_s)


def look(tracked: Tracked, signature: Signature, began_s: float, ended_s: float, patience: Patience) -> Tracked:
    """Take in another look at the file; return ``tracked`` itself when that changes nothing.

    A change counts from the look's end and quiet counts up to its start: a sweep of a slow share can take longer
    than ``settle_s``, and must not settle a file that was seen for an instant.
    """
    if signature != tracked.signature:
        anew = first_seen(tracked.order, signature, ended_s, patience)
        return replace(anew, state=NEXT[tracked.state, Happening.CHANGED], doubted=True, again=tracked.again)
    if tracked.state is State.SEEN and began_s >= tracked.unchanged_since_s + patience.settle_s:
        return replace(tracked, state=NEXT[tracked.state, Happening.QUIET], due_s=None)
    return tracked


def happen(
    tracked: Tracked,
    happening: Happening,
    now_s: float,
    patience: Patience,
    reason: str | None = None,
    kind: str | None = None,
) -> Tracked:
    """Take in what happened to the file, why, and the class of the error; an unknown pair is a KeyError, and a bug."""
    state = NEXT[tracked.state, happening]
    told = replace(tracked, state=state, due_s=None, reason=reason, kind=kind)
    if state is State.SEEN:
        return _begin_anew(told, happening, now_s, patience)
    if state is State.INCOMPLETE:
        return replace(told, due_s=final_from_s(tracked, patience))
    if state is State.RETRY_WAIT:
        crashed = happening is Happening.CRASHED
        told = replace(told, failures=tracked.failures + (not crashed), crashes=tracked.crashes + crashed)
        return replace(told, due_s=now_s + retry_pause_s(tracked.failures + tracked.crashes, patience))
    return replace(told, again=tracked.again and state not in FINISHED)


def _begin_anew(tracked: Tracked, happening: Happening, now_s: float, patience: Patience) -> Tracked:
    """Let a file settle once more; what is held against this version of it stays, unless a person forgives it."""
    anew = replace(first_seen(tracked.order, tracked.signature, now_s, patience), doubted=True)
    if happening is Happening.REQUEUED:
        return replace(anew, again=True)
    return replace(
        anew,
        failures=tracked.failures,
        crashes=tracked.crashes,
        again=tracked.again,
        reason=tracked.reason,
        kind=tracked.kind,
    )


def final_from_s(tracked: Tracked, patience: Patience) -> float:
    """Return the moment from which a damaged file counts as damaged for good, unless it changes."""
    return tracked.unchanged_since_s + patience.incomplete_after_s


def retry_pause_s(failures: int, patience: Patience) -> float:
    """Return the pause after one more failure: doubling, up to ``retry_most_s``, for ever."""
    return min(patience.retry_most_s, patience.retry_first_s * 2.0 ** min(failures, 30))
