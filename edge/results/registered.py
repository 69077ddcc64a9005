"""What the outputs read of a registration, and how they put it into words. Plain ASCII, for any character set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

WARNING = "Research use only: decision support, not a medical device. Model trained on simulated images."
DIRECTION = (
    "The shift is detected minus planned; to undo it the patient moves by the opposite. It is no couch movement."
)


class RunnerUp(Protocol):
    """The best alignment elsewhere, such as one vertebra off; its margin in nats."""

    @property
    def shift_mm(self) -> tuple[float, float]: ...

    @property
    def margin(self) -> float: ...


class Registered(Protocol):
    """The part of `edge.registration.Registration` that is shown. Millimetres lie in the isocentre plane.

    ``shift_mm`` (x, y) is detected minus planned, ``rotation_deg`` counterclockwise in the image about the isocentre:
    detected = rotated planned + shift. ``interval95_mm`` is half the width of the 95 % interval per axis.
    """

    @property
    def status(self) -> str: ...  # "ok" or "withheld"

    @property
    def reason(self) -> str | None: ...

    @property
    def shift_mm(self) -> tuple[float, float] | None: ...

    @property
    def rotation_deg(self) -> float | None: ...

    @property
    def interval95_mm(self) -> tuple[float, float] | None: ...

    @property
    def axes(self) -> str | None: ...

    @property
    def n_used(self) -> int: ...

    @property
    def residual_mm(self) -> float | None: ...

    @property
    def runner_up(self) -> RunnerUp | None: ...

    @property
    def outliers(self) -> tuple[str, ...]: ...

    @property
    def warnings(self) -> tuple[str, ...]: ...


class Planned(Protocol):
    """A landmark of a reference: a `Landmark` or a `PlaneLandmark`."""

    @property
    def kind(self) -> str: ...

    @property
    def xy_mm(self) -> tuple[float, float] | None: ...


@dataclass(frozen=True)
class Alignment:
    """A reference to be drawn: its landmarks with their ``xy_mm`` in the isocentre plane, and the registration."""

    reference: Sequence[Planned]
    registration: Registered


def shift_of(registration: Registered | None) -> tuple[float, float] | None:
    """Return the shift (x, y) in mm that may be shown, or None: there is none, or it is withheld."""
    return registration.shift_mm if registration is not None and registration.status == "ok" else None


def shift_line(registration: Registered) -> str:
    """Return the shift with its interval in one line, or why it is withheld."""
    shift = shift_of(registration)
    if shift is None:
        return f"registration withheld: {ascii_text(registration.reason or 'no reason given')}"
    half = registration.interval95_mm
    axes = [
        f"{axis} {value:+.1f}" + ("" if half is None else f" +- {half[i]:.1f}") + " mm"
        for i, (axis, value) in enumerate(zip("xy", shift, strict=True))
    ]
    turn = "not given" if registration.rotation_deg is None else f"{registration.rotation_deg:+.1f} deg"
    return f"shift from the reference: {', '.join(axes)} (95 %); rotation {turn}"


def short_shift(registration: Registered) -> str:
    """Return the figures alone, in the 64 characters of a DICOM long string."""
    (x, y), half = shift_of(registration) or (0.0, 0.0), registration.interval95_mm
    at_x, at_y = (f"{value:+.1f}" for value in (x, y))
    if half is not None:
        at_x, at_y = f"{at_x} +- {half[0]:.1f}", f"{at_y} +- {half[1]:.1f}"
    turn = "not given" if registration.rotation_deg is None else f"{registration.rotation_deg:+.1f} deg"
    return f"x {at_x}, y {at_y} mm, rotation {turn}"


def support_line(registration: Registered) -> str:
    """Return what the shift rests on, in one line: landmarks, residual, and the runner-up."""
    parts = [f"{registration.n_used} landmarks"]
    if registration.residual_mm is not None:
        parts.append(f"residual {registration.residual_mm:.1f} mm")
    if (second := registration.runner_up) is not None:
        x, y = second.shift_mm
        parts.append(f"next best x {x:+.1f} mm, y {y:+.1f} mm, margin {second.margin:.1f}")
    return "; ".join(parts)


def ascii_text(text: str) -> str:
    """Return a text in letters that every character set of DICOM and every font has."""
    return text.replace("±", "+-").replace("°", " deg").encode("ascii", "replace").decode()
