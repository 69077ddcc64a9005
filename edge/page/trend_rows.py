"""One finished image as a row of the trends and of their CSV: figures of its result, hashes for plan and beam."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from edge.results.document import Result

SHORT = 10  # hex digits of a hash that are shown: enough to tell the courses of a clinic apart


@dataclass(frozen=True, slots=True)
class TrendRow:
    """A finished image. Without a result, or a registration, those figures are None."""

    ord: int
    name: str
    when_utc: datetime  # when its state last changed
    outcome: str  # ok, no_landmarks, refused; of the journal where no result could be read: done
    refused_for: str | None  # the class of the error
    landmarks: int | None
    registration: str | None  # ok or withheld
    plan: str | None  # short hash over plan and patient: a course; None: the reference does not know it
    beam: str | None  # short hash over plan, beam and patient
    gantry_deg: float | None
    x_mm: float | None  # detected minus planned, isocentre plane, +x right in the image
    y_mm: float | None  # +y up in the image
    half_x_mm: float | None  # of the 95 % interval
    half_y_mm: float | None
    rotation_deg: float | None
    residual_mm: float | None
    took_ms: float | None  # all stages

    @property
    def course(self) -> str | None:
        """The plan, or where the reference does not know it, the beam."""
        return self.plan or self.beam


def trend_row(
    order: int, name: str, state: str, kind: str | None, when_utc: datetime, result: Result | None
) -> TrendRow:
    """Return the row of a file; ``result`` None: none could be read."""
    outcome = result.status if result else state
    refused = "refused" in (state, outcome)
    entry = result.registration if result else None
    reference, shift, half = (entry.reference, entry.shift_mm, entry.interval95_mm) if entry else (None, None, None)
    return TrendRow(
        ord=order,
        name=name,
        when_utc=when_utc,
        outcome=outcome,
        refused_for=kind if refused else None,
        landmarks=len(result.landmarks) if result and not refused else None,
        registration=entry.status if entry else None,
        plan=_short(reference.plan if reference else None),
        beam=_short(reference.key if reference else None),
        gantry_deg=_finite(entry.gantry_deg if entry else None),
        x_mm=_finite(shift.x if shift else None),
        y_mm=_finite(shift.y if shift else None),
        half_x_mm=_finite(half.x if half else None),
        half_y_mm=_finite(half.y if half else None),
        rotation_deg=_finite(entry.rotation_deg if entry else None),
        residual_mm=_finite(entry.residual_mm if entry else None),
        took_ms=_finite(sum(result.timing_ms.values()) if result and result.timing_ms else None),
    )


def _short(sha256: str | None) -> str | None:
    return sha256[:SHORT] if sha256 else None


def _finite(figure: float | None) -> float | None:
    return round(figure, 3) if figure is not None and math.isfinite(figure) else None
