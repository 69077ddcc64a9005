"""Two views of one session, such as AP and lateral: where the anatomy lies in the room, along all three axes.

Room axes are IEC 61217's fixed ones, seen by somebody who stands at the foot of the couch and faces the gantry: x to
the right, y towards the gantry, z up. At a gantry angle g the image's axes lie in the room as (IEC 61217 2.3, 2.6)

    image x = (cos g, 0, -sin g)      image y = (0, 1, 0)      towards the source = (sin g, 0, cos g)

so each view measures ``x cos g - z sin g`` and ``y``; y twice. One view never yields the axis along its beam.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge.registration.register import NORMAL_95, Registration

LEAST_ANGLE_DEG = 60.0  # between the beams; nearer, an error along the common beam grows more than twofold
SAME_COUCH_DEG = 0.5
AGREEMENT_SIGMA = 3.0  # of the difference along y: 1 of 370 right pairs differs by more

Vector3 = tuple[float, float, float]


@dataclass(frozen=True)
class RoomShift:
    """Where the anatomy lies against its plan in the room: detected minus planned, mm; or why that is not told."""

    status: Literal["ok", "withheld"]
    reason: str | None
    shift_mm: Vector3 | None  # (x, y, z) of IEC 61217's fixed system: lateral, longitudinal, vertical
    interval95_mm: Vector3 | None  # shift +- this
    shared_axis_mm: float | None  # first minus second view along y, which both measure
    shared_axis_sigma_mm: float | None  # its standard uncertainty
    gantry_deg: tuple[float | None, float | None]
    support_deg: float | None  # of the couch, for `edge.registration.couch`
    axes: str = "IEC 61217 fixed: +x right and +y towards the gantry for an observer who faces it, +z up"


def room_shift(first: Registration, second: Registration) -> RoomShift:
    """Combine two registrations of one session and one plan. That they are, the caller knows; never raises."""
    gantry = first.gantry_deg, second.gantry_deg
    reason = _unsuited(first, second)
    if reason is None and first.shift_mm and second.shift_mm and gantry[0] is not None and gantry[1] is not None:
        design = np.concatenate([_design(gantry[0]), _design(gantry[1])])
        weight = np.linalg.inv(_both_covariances(first, second))
        covariance = np.linalg.inv(design.T @ weight @ design)
        shift = covariance @ design.T @ weight @ np.array([*first.shift_mm, *second.shift_mm])
        difference, sigma = _shared_axis(first, second)
        interval = NORMAL_95 * np.sqrt(np.diag(covariance))
        return RoomShift("ok", None, _vector(shift), _vector(interval), difference, sigma, gantry, first.support_deg)
    known = first.status == second.status == "ok"
    difference_or_none, sigma_or_none = _shared_axis(first, second) if known else (None, None)
    return RoomShift("withheld", reason, None, None, difference_or_none, sigma_or_none, gantry, first.support_deg)


def _unsuited(first: Registration, second: Registration) -> str | None:
    """Return why two registrations do not make one shift of the room, or None."""
    for one, name in ((first, "first"), (second, "second")):
        if one.status != "ok":
            return f"the {name} view was withheld: {one.reason}"
    if first.gantry_deg is None or second.gantry_deg is None:
        return "the gantry angle of a view is not known, so nor is which axis it shows"
    between = _angle_between(first.gantry_deg, second.gantry_deg, 180.0)
    if between < LEAST_ANGLE_DEG:
        return f"the beams are only {between:.0f} deg apart; two views need at least {LEAST_ANGLE_DEG:.0f} deg"
    if first.support_deg is not None and second.support_deg is not None:
        turned = _angle_between(first.support_deg, second.support_deg, 360.0)
        if turned > SAME_COUCH_DEG:
            return f"the couch was turned by {turned:.1f} deg between the views"
    difference, sigma = _shared_axis(first, second)
    if abs(difference) > AGREEMENT_SIGMA * sigma:
        return (
            f"the views differ by {difference:+.1f} mm along the axis that both measure, more than {AGREEMENT_SIGMA:g} "
            f"times the uncertainty of {sigma:.1f} mm: the patient moved, or one view is wrong"
        )
    return None


def _angle_between(one_deg: float, other_deg: float, period_deg: float) -> float:
    return abs(math.remainder(one_deg - other_deg, period_deg))


def _shared_axis(first: Registration, second: Registration) -> tuple[float, float]:
    y = [one.shift_mm[1] for one in (first, second) if one.shift_mm]
    variance = sum(one.covariance[1][1] for one in (first, second) if one.covariance)
    return y[0] - y[1], math.sqrt(variance)


def _design(gantry_deg: float) -> np.ndarray:
    """Return (2, 3): the image's axes in the room."""
    angle = math.radians(gantry_deg)
    return np.array([[math.cos(angle), 0, -math.sin(angle)], [0, 1, 0]])


def _both_covariances(first: Registration, second: Registration) -> np.ndarray:
    joint = np.zeros((4, 4))
    joint[:2, :2], joint[2:, 2:] = np.array(first.covariance), np.array(second.covariance)
    return joint


def _vector(xyz: np.ndarray) -> Vector3:
    return float(xyz[0]), float(xyz[1]), float(xyz[2])
