"""What the daemon does about an error: one table."""

from __future__ import annotations

from enum import Enum

from structlog.typing import FilteringBoundLogger

from edge.errors import (
    DamagedImage,
    EdgeError,
    NotAnImage,
    ReaderDied,
    Refused,
    SpoolFull,
    Stop,
    TryAgain,
    WorkerDied,
)
from edge.settle import Happening


class Action(Enum):
    """What the daemon does about an error: what then happens to the file, or None where the daemon ends."""

    IGNORE = Happening.REFUSED  # until the file changes
    WAIT = Happening.DAMAGED  # for the rest of it, for incomplete_after_s
    BACK_OFF = Happening.FAILED  # for ever, 1 s doubling to 5 min
    CRASHED = Happening.CRASHED  # likewise, but after the second one the file is refused
    PAUSE = Happening.PUT_BACK  # nothing is claimed until there is space
    END = None


ACTIONS: dict[type[EdgeError], Action] = {
    Refused: Action.IGNORE,
    DamagedImage: Action.WAIT,
    TryAgain: Action.BACK_OFF,
    ReaderDied: Action.CRASHED,
    WorkerDied: Action.CRASHED,
    SpoolFull: Action.PAUSE,
    Stop: Action.END,
}


def action_for(kind: type[EdgeError]) -> Action:
    """Return the action for an error: that of its nearest ancestor in `ACTIONS`."""
    return next(ACTIONS[ancestor] for ancestor in kind.__mro__ if ancestor in ACTIONS)


def log_error(log: FilteringBoundLogger, exc: EdgeError, action: Action) -> None:
    """Write the line about a file that an error kept from its result."""
    kind = type(exc).__name__
    if isinstance(exc, NotAnImage):
        log.debug("not an image", reason=str(exc))  # a drop folder may hold thousands of CT slices
    elif action is Action.WAIT:
        log.info("incomplete, waiting for the rest", reason=str(exc))
    elif action is Action.PAUSE:
        log.error("paused: no space", error=kind, reason=str(exc))
    else:
        log.warning("refused" if action is Action.IGNORE else "to be tried again", error=kind, reason=str(exc))
