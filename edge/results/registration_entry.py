"""A registration in the JSON result, and back: two results make one shift of the room."""

from __future__ import annotations

from edge.registration.alignment import Aligned
from edge.registration.reference import Reference
from edge.registration.register import Registration, RunnerUp
from edge.results.document import ReferenceEntry, RegistrationEntry, RunnerUpEntry, Vector


def registration_entry(aligned: Aligned) -> RegistrationEntry:
    """Return what the JSON result says of a registration: millimetres and degrees to three decimals."""
    made, second = aligned.registration, aligned.registration.runner_up
    return RegistrationEntry(
        status=made.status,
        reason=made.reason,
        reference=None if aligned.reference is None else _reference(aligned.reference),
        shift_mm=_vector(made.shift_mm),
        rotation_deg=_rounded(made.rotation_deg),
        interval95_mm=_vector(made.interval95_mm),
        covariance_mm2=_matrix(made),
        axes=made.axes,
        n_used=made.n_used,
        residual_mm=_rounded(made.residual_mm),
        runner_up=None
        if second is None
        else RunnerUpEntry(shift_mm=_required(second.shift_mm), margin=round(second.margin, 3)),
        outliers=made.outliers,
        warnings=made.warnings,
        gantry_deg=made.gantry_deg,
        support_deg=made.support_deg,
    )


def registration_of(entry: RegistrationEntry) -> Registration:
    """Return the registration that a JSON result tells of."""
    second = entry.runner_up
    return Registration(
        status=entry.status,
        reason=entry.reason,
        shift_mm=_pair(entry.shift_mm),
        rotation_deg=entry.rotation_deg,
        interval95_mm=_pair(entry.interval95_mm),
        covariance=entry.covariance_mm2,
        axes=entry.axes,
        n_used=entry.n_used,
        residual_mm=entry.residual_mm,
        runner_up=None if second is None else RunnerUp((second.shift_mm.x, second.shift_mm.y), second.margin),
        outliers=entry.outliers,
        warnings=entry.warnings,
        gantry_deg=entry.gantry_deg,
        support_deg=entry.support_deg,
    )


def _reference(reference: Reference) -> ReferenceEntry:
    return ReferenceEntry(
        key=reference.key,
        plan=reference.plan,
        sha256=reference.sha256(),
        landmarks_from=reference.landmarks_from,
        release=reference.release,
        signed_off=reference.signed_off_by is not None,
    )


def _matrix(made: Registration) -> tuple[tuple[float, float], tuple[float, float]] | None:
    if made.covariance is None:
        return None
    (a, b), (c, d) = made.covariance
    return (round(a, 6), round(b, 6)), (round(c, 6), round(d, 6))


def _required(xy: tuple[float, float]) -> Vector:
    return Vector(x=round(xy[0], 3) + 0.0, y=round(xy[1], 3) + 0.0)  # + 0.0: a zero has no minus


def _vector(xy: tuple[float, float] | None) -> Vector | None:
    return None if xy is None else _required(xy)


def _pair(vector: Vector | None) -> tuple[float, float] | None:
    return None if vector is None else (vector.x, vector.y)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3) + 0.0
