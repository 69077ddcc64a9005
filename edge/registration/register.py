"""Where the anatomy of an image lies against its plan, in the isocentre plane: a shift, perhaps a rotation, or neither.

Sign: ``shift_mm`` is detected minus planned, in the axes of the IMAGE. (+5, 0) says that the anatomy lies 5 mm too far
to the right in the image. To undo it the PATIENT is moved by the opposite, here 5 mm to the left in the image
(docs/geometry.md; `two_views` and `couch` beside this file go from there to the room and the couch). The rotation is
positive counter-clockwise as seen in the image, about the isocentre. Nothing is said about the axis along the beam.

The interval covers how well landmarks are located and what one view cannot tell (`rigid_fit`, `PARALLAX`). It does not
cover organs that move against the bones, or a reference whose own landmarks are wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge.geometry import ISOCENTRE_UNCERTAIN
from edge.registration.rigid_fit import ANY_ROTATION_SIGMA_DEG, SETUP_ROTATION_SIGMA_DEG, Fit, Pairs, fit_rigid, squares
from edge.registration.row_alignment import Explanation, Marks, doubted, elsewhere, explanations, marks
from edge.registration.sighting import PlaneLandmark, Sighting

# Of the shift: what lies 70 mm behind the isocentre plane, as spinous processes do in an AP image, moves by 7 % less in
# the image at a source-axis distance of 1 m. Seen from the side the landmarks lie near the plane.
PARALLAX, PARALLAX_LATERAL = 0.07, 0.03
_ROUNDS_OF_DOUBT = 3
NORMAL_95 = 1.959964  # standard deviations to either side
Vector = tuple[float, float]


@dataclass(frozen=True)
class Rules:
    """When a registration is withheld. The defaults and what they cost: docs/adr/0013."""

    margin: float = 9.0  # nats between the best alignment and the best elsewhere
    fewest_points: int = 2  # besides lines: one alone is checked by nothing
    widest_interval_mm: float = 5.0  # to either side
    largest_shift_mm: float = 30.0
    rotation_sigma_deg: float = 1.0  # a rotation known worse is not given
    same_view_deg: float = 2.0  # gantry and couch angles of image and reference
    inflation: float = 9.0  # the squared residuals over what their uncertainties allow: 3 in sigma


@dataclass(frozen=True)
class RunnerUp:
    """The best alignment elsewhere, such as one vertebra off."""

    shift_mm: Vector
    margin: float  # how much less likely, nats


@dataclass(frozen=True)
class Registration:
    """A shift with its uncertainty, or the reason why it is withheld; then there are no numbers of a shift."""

    status: Literal["ok", "withheld"]
    reason: str | None
    shift_mm: Vector | None  # detected minus planned, (x, y) of the image
    rotation_deg: float | None  # counter-clockwise in the image; None: the landmarks do not fix it
    interval95_mm: Vector | None  # the 95 % interval of the shift is shift +- this
    covariance: tuple[tuple[float, float], tuple[float, float]] | None  # of the shift, mm^2
    axes: str
    n_used: int  # points, lines not counted
    residual_mm: float | None  # root mean square over points and axes
    runner_up: RunnerUp | None  # None: nothing else is possible
    outliers: tuple[str, ...] = ()  # detected, but not where the others say
    warnings: tuple[str, ...] = ()
    gantry_deg: float | None = None
    support_deg: float | None = None


class _Withheld(Exception):
    """The text says why."""


def register(reference: Sighting | str, detected: Sighting | str, rules: Rules = Rules()) -> Registration:
    """Register an image's landmarks with those of its reference; a text in place of either is why there are none.

    Never raises; what speaks against a result is its reason for being withheld.
    """
    if isinstance(reference, str):
        return _withheld(f"the reference cannot be used: {reference}", detected)
    if isinstance(detected, str):
        return _withheld(f"the image has no millimetres: {detected}", detected)
    try:
        _demand_one_view(reference, detected, rules)
        return _register(reference, detected, rules)
    except _Withheld as exc:
        return _withheld(str(exc), detected)


def _register(reference: Sighting, detected: Sighting, rules: Rules) -> Registration:
    planned, found = marks(reference.landmarks), marks(detected.landmarks)
    options = explanations(planned, found, detected.window_mm)
    if not options:
        raise _Withheld(_nothing_common(reference, detected))
    best = options[0]
    runner_up = _runner_up(best, options[1:], planned)
    if runner_up and runner_up.margin < rules.margin:
        raise _Withheld(
            f"another alignment fits nearly as well (margin {runner_up.margin:.1f}, needed {rules.margin:g}): "
            "the row of spinous processes may be one vertebra off, or landmarks contradict each other"
        )
    if len(best.matches) < rules.fewest_points:
        raise _Withheld(f"only {len(best.matches)} landmark agrees with the reference, so nothing checks it")
    if not any(planned.points[i].shape == "point" for i, _ in best.matches):
        raise _Withheld("no landmark that is the only one of its kind tells with which vertebra the row begins")
    fit, with_rotation = _final_fit(best, planned, rules)
    inflation = _inflation(fit, best.pairs, with_rotation=with_rotation)
    if inflation > rules.inflation:
        raise _Withheld("the landmarks disagree by more than three times their stated uncertainties")
    covariance = fit.covariance[:2, :2] * inflation + np.diag((_parallax(detected) * fit.shift_mm) ** 2)
    interval = NORMAL_95 * np.sqrt(np.diag(covariance))
    _demand_useful(fit.shift_mm, interval, rules)
    return Registration(
        status="ok",
        reason=None,
        shift_mm=_vector(fit.shift_mm),
        rotation_deg=math.degrees(fit.rotation_rad) if with_rotation else None,
        interval95_mm=_vector(interval),
        covariance=(_vector(covariance[0]), _vector(covariance[1])),
        axes=detected.axes,
        n_used=len(best.matches),
        residual_mm=_residual_mm(fit, best),
        runner_up=runner_up,
        outliers=_outliers(best, planned, found),
        warnings=_warnings(reference, detected, inflation),
        gantry_deg=detected.gantry_deg,
        support_deg=detected.support_deg,
    )


def _demand_one_view(reference: Sighting, detected: Sighting, rules: Rules) -> None:
    for sight, name in ((reference, "the reference"), (detected, "the image")):
        if ISOCENTRE_UNCERTAIN in sight.warnings:
            raise _Withheld(f"where the isocentre lies in {name} is uncertain, so no shift can be told")
    for what, one, other in (
        ("gantry", reference.gantry_deg, detected.gantry_deg),
        ("couch", reference.support_deg, detected.support_deg),
    ):
        if one is not None and other is not None and abs(math.remainder(one - other, 360)) > rules.same_view_deg:
            raise _Withheld(
                f"the reference is of another {what} angle ({one:.1f} deg) than the image ({other:.1f} deg)"
            )


def _nothing_common(reference: Sighting, detected: Sighting) -> str:
    for sight, name in ((reference, "the reference"), (detected, "the image")):
        if not any(one.shape != "line" and one.sigma_mm is not None for one in sight.landmarks):
            return f"{name} has no landmark of a known uncertainty, apart from lines"
    return "no landmark of the image is near one of the same kind in the reference"


def _runner_up(best: Explanation, others: tuple[Explanation, ...], planned: Marks) -> RunnerUp | None:
    other = elsewhere(best, others, planned)
    return None if other is None else RunnerUp(_vector(other.fit.shift_mm), round(other.cost - best.cost, 3))


def _final_fit(best: Explanation, planned: Marks, rules: Rules) -> tuple[Fit, bool]:
    """Fit with a free rotation where the landmarks fix it, else with what setups do; return which."""
    pairs, fit = best.pairs, best.fit
    for _ in range(_ROUNDS_OF_DOUBT):
        pairs = doubted(best, planned, fit)
        fit = fit_rigid(pairs, SETUP_ROTATION_SIGMA_DEG)
    free = fit_rigid(pairs, ANY_ROTATION_SIGMA_DEG)
    if len(best.matches) > 1 and math.degrees(math.sqrt(free.covariance[2, 2])) <= rules.rotation_sigma_deg:
        return free, True
    return fit, False


def _inflation(fit: Fit, pairs: Pairs, *, with_rotation: bool) -> float:
    """Return the factor by which variances must grow, 1 unless the residuals are too large for chance (1 in 100).

    The ratio of Birge (Phys. Rev. 40, 1932, 207), but only on evidence: with few landmarks it is mostly noise.
    """
    points = ~pairs.across.any(axis=1)
    freedom = 2 * int(points.sum()) - (3 if with_rotation else 2)
    if freedom < 1:
        return 1.0
    total = float(squares(fit, pairs)[points].sum())
    return total / freedom if total > _chi_square(freedom, 2.326) else 1.0


def _parallax(detected: Sighting) -> float:
    lateral = detected.gantry_deg is not None and abs(math.sin(math.radians(detected.gantry_deg))) > math.sin(
        math.pi / 4
    )
    return PARALLAX_LATERAL if lateral else PARALLAX


def _chi_square(freedom: int, deviate: float) -> float:
    """Return chi square's quantile at a normal deviate, within 1 % (Wilson and Hilferty, PNAS 17, 1931, 684)."""
    return freedom * (1 - 2 / (9 * freedom) + deviate * math.sqrt(2 / (9 * freedom))) ** 3


def _demand_useful(shift_mm: np.ndarray, interval_mm: np.ndarray, rules: Rules) -> None:
    if np.linalg.norm(shift_mm) > rules.largest_shift_mm:
        raise _Withheld(
            f"the shift would be larger than {rules.largest_shift_mm:g} mm: check that image and reference belong "
            "together"
        )
    for axis, half in zip("xy", interval_mm, strict=True):
        if half > rules.widest_interval_mm:
            raise _Withheld(f"the shift along {axis} is known only to +-{half:.0f} mm")


def _residual_mm(fit: Fit, best: Explanation) -> float:
    count = len(best.matches)
    missing = best.pairs.detected_mm[:count] - fit.apply(best.pairs.reference_mm[:count])
    return float(np.sqrt(np.mean(missing**2)))


def _outliers(best: Explanation, planned: Marks, found: Marks) -> tuple[str, ...]:
    matched = {j for _, j in best.matches}
    known = {one.kind for one in planned.points}
    points = [_named(one) for j, one in enumerate(found.points) if j not in matched and one.kind in known]
    lines = sorted((planned.lines.keys() & found.lines.keys()) - set(best.lines))
    return (*points, *lines)


def _named(one: PlaneLandmark) -> str:
    return f"{one.kind} at ({one.xy_mm[0]:.1f}, {one.xy_mm[1]:.1f}) mm"


def _warnings(reference: Sighting, detected: Sighting, inflation: float) -> tuple[str, ...]:
    told = [f"image: {warning}" for warning in detected.warnings]
    told += [f"reference: {warning}" for warning in reference.warnings]
    if reference.gantry_deg is None or detected.gantry_deg is None:
        told.append("that image and reference are of one gantry angle could not be checked")
    if inflation > 1:
        told.append(
            f"residuals exceed the stated uncertainties; the interval is {math.sqrt(inflation):.1f} times wider"
        )
    return tuple(told)


def _withheld(reason: str, detected: Sighting | str) -> Registration:
    seen = None if isinstance(detected, str) else detected
    return Registration(
        status="withheld",
        reason=reason,
        shift_mm=None,
        rotation_deg=None,
        interval95_mm=None,
        covariance=None,
        axes=seen.axes if seen else "",
        n_used=0,
        residual_mm=None,
        runner_up=None,
        gantry_deg=seen.gantry_deg if seen else None,
        support_deg=seen.support_deg if seen else None,
    )


def _vector(xy: np.ndarray) -> Vector:
    return float(xy[0]), float(xy[1])
