"""One finished image as a row of the trends and of their CSV: figures of its result, hashes for plan and beam."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

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
    order: int, name: str, state: str, kind: str | None, when_utc: datetime, result: dict[str, Any] | None
) -> TrendRow:
    """Return the row of a file whose result, if any, was validated."""
    found = result or {}
    entry = found.get("registration") or {}
    reference, shift, half = (entry.get(part) or {} for part in ("reference", "shift_mm", "interval95_mm"))
    timing = found.get("timing_ms") or {}
    return TrendRow(
        ord=order,
        name=name,
        when_utc=when_utc,
        outcome=found.get("status") or state,
        refused_for=kind if state == "refused" or found.get("status") == "refused" else None,
        landmarks=len(found["landmarks"]) if found and found["status"] != "refused" else None,
        registration=entry.get("status"),
        plan=_short(reference.get("plan")),
        beam=_short(reference.get("key")),
        gantry_deg=entry.get("gantry_deg"),
        x_mm=shift.get("x"),
        y_mm=shift.get("y"),
        half_x_mm=half.get("x"),
        half_y_mm=half.get("y"),
        rotation_deg=entry.get("rotation_deg"),
        residual_mm=entry.get("residual_mm"),
        took_ms=round(sum(timing.values()), 1) if timing else None,
    )


def _short(sha256: str | None) -> str | None:
    return sha256[:SHORT] if sha256 else None
