"""One line of ``landmarknet-edge check``: what is so, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge.errors import EdgeError

Level = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """One line of the check. ``mend`` is None only where all is well."""

    level: Level
    what: str
    mend: str | None = None


def fault_of(exc: EdgeError, otherwise: str) -> Finding:
    """Return an error of ours as a finding; ``otherwise`` mends it where its message does not say what does."""
    what, _, mend = str(exc).rpartition("; ")  # our messages say what happened, and then what to do
    return Finding("fault", what or mend, mend if what else otherwise)
