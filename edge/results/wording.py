"""How the outputs put a registration into words: the same in picture and objects, in ASCII for any character set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.records import Landmark

if TYPE_CHECKING:
    from edge.registration.register import Registration
    from edge.registration.sighting import PlaneLandmark

WARNING = "Research use only: decision support, not a medical device. Model trained on simulated images."
DIRECTION = (
    "The shift is detected minus planned; to undo it the patient moves by the opposite. It is no couch movement."
)


@dataclass(frozen=True)
class Alignment:
    """A reference to be drawn: its landmarks with their ``xy_mm`` in the isocentre plane, and the registration."""

    reference: Sequence[Landmark | PlaneLandmark]
    registration: Registration


def shift_of(registration: Registration | None) -> tuple[float, float] | None:
    """Return the shift (x, y) in mm that may be shown, or None: there is none, or it is withheld."""
    return registration.shift_mm if registration is not None and registration.status == "ok" else None


def shift_line(registration: Registration) -> str:
    """Return the shift with its interval in one line, or why it is withheld."""
    shift = shift_of(registration)
    if shift is None:
        return f"registration withheld: {ascii_text(registration.reason or 'no reason given')}"
    half = registration.interval95_mm
    axes = [
        f"{axis} {signed(value)}" + ("" if half is None else f" +- {half[i]:.1f}") + " mm"
        for i, (axis, value) in enumerate(zip("xy", shift, strict=True))
    ]
    turn = "not given" if registration.rotation_deg is None else f"{signed(registration.rotation_deg)} deg"
    return f"shift from the reference: {', '.join(axes)} (95 %); rotation {turn}"


def short_shift(registration: Registration) -> str:
    """Return the figures alone, in the 64 characters of a DICOM long string."""
    (x, y), half = shift_of(registration) or (0.0, 0.0), registration.interval95_mm
    at_x, at_y = (signed(value) for value in (x, y))
    if half is not None:
        at_x, at_y = f"{at_x} +- {half[0]:.1f}", f"{at_y} +- {half[1]:.1f}"
    turn = "not given" if registration.rotation_deg is None else f"{signed(registration.rotation_deg)} deg"
    return f"x {at_x}, y {at_y} mm, rotation {turn}"


def support_line(registration: Registration) -> str:
    """Return what the shift rests on, in one line: landmarks, residual, and the runner-up."""
    parts = [f"{registration.n_used} landmarks"]
    if registration.residual_mm is not None:
        parts.append(f"residual {registration.residual_mm:.1f} mm")
    if (second := registration.runner_up) is not None:
        x, y = second.shift_mm
        parts.append(f"next best x {signed(x)} mm, y {signed(y)} mm, margin {second.margin:.1f}")
    return "; ".join(parts)


def ascii_text(text: str) -> str:
    """Return a text in letters that every character set of DICOM and every font has."""
    return text.replace("±", "+-").replace("°", " deg").encode("ascii", "replace").decode()


def signed(value: float) -> str:
    """Return a figure in mm or degrees with its sign and one decimal."""
    return f"{round(value, 1) + 0.0:+.1f}"  # + 0.0: a zero has no minus
