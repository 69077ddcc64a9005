"""Registrations by hand: a reference made of a planned image, one image against one reference, two views together.

Nothing is published here. What these functions are given was named by a person; what is wrong with it is a `Refused`
of an image, or a `BadReference`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from edge.config import CouchConfig
from edge.detect import detect
from edge.engines import Engine
from edge.errors import BadReference
from edge.geometry import with_gantry_evidence
from edge.planned_beam import PlannedBeam, beam_of_image, beams_of_plan, image_key, plan_of_image
from edge.portal_image import read_portal_image
from edge.records import Landmark, PortalImage
from edge.registration.alignment import Aligned, align, with_plan
from edge.registration.couch import IEC61217, CouchMove, CouchScale, couch_move
from edge.registration.reference import PlannedImage, Reference, parse_reference, reference_from_sighting
from edge.registration.register import Rules
from edge.registration.sighting import sighting
from edge.registration.two_views import RoomShift, Vector3, room_shift
from edge.results.dicom_source import read_source
from edge.results.document import RegistrationEntry, Result
from edge.results.publish import RESULT_SUFFIX
from edge.results.registration_entry import registration_of

TWO_VIEWS_SCHEMA: Final = "landmarknet-edge/two-views/1"


@dataclass(frozen=True)
class Seen:
    """An image with what a release found in it."""

    image: PortalImage
    landmarks: tuple[Landmark, ...]


def see(path: Path, engine: Engine) -> Seen:
    """Read an image and find its landmarks."""
    image = read_portal_image(path)
    return Seen(image, detect(image, engine.backend, engine.contract).landmarks)


def register_files(image: Path, reference: Path, engine: Engine, rules: Rules = Rules()) -> Aligned:
    """Register an image with a reference: a JSON file of one, or a planned image."""
    known = reference_of(reference, engine)
    pictured = with_plan(read_portal_image(image), known)
    landmarks = detect(pictured, engine.backend, engine.contract).landmarks
    return align(pictured, landmarks, engine.contract.kinds, known, engine.contract.release, rules)


def reference_of(path: Path, engine: Engine) -> Reference:
    """Return the reference of a JSON file, or the one that a planned image makes; its key may be its own hash."""
    if path.name.endswith(".json"):
        return reference_of_json(path)
    return reference_of_image(path, engine, may_lack_beam=True)


def reference_of_json(path: Path) -> Reference:
    """Return the reference of a JSON file."""
    return parse_reference(_read(path), path.name)


def reference_of_image(
    path: Path,
    engine: Engine,
    *,
    plan: Path | None = None,
    may_lack_beam: bool = False,
    keep_uids: bool = False,
) -> Reference:
    """Make a reference of a planned image: its beam by the RT Plan that refers to it, or by what it says itself.

    With ``may_lack_beam`` an image that names no beam goes by its file's hash. The gantry and couch angles are the
    plan's where there is one. ``keep_uids`` lets DICOM objects refer to the image.
    """
    seen, data = see(path, engine), path.read_bytes()
    uid = seen.image.identity.sop_instance_uid
    beam = None if plan is None else _beam_of(plan, uid, path.name)
    shown = sighting(_as_planned(seen.image, beam), seen.landmarks, engine.contract.kinds)
    if isinstance(shown, str):
        raise BadReference(f"{path.name}: has no millimetres ({shown}), so it cannot be a reference; export it anew")
    if beam:
        shown = replace(shown, support_deg=beam.support_deg if shown.support_deg is None else shown.support_deg)
    own = seen.image.identity.sha256 if may_lack_beam else None
    chosen = (beam.key if beam else None) or beam_of_image(data) or own
    if chosen is None:
        raise BadReference(f"{path.name}: names no plan and beam; name its RT Plan with --plan, or give --by-rule")
    return reference_from_sighting(
        chosen,
        shown,
        release=engine.contract.release,
        image=None if uid is None else image_key(uid),
        plan=beam.plan if beam else plan_of_image(data),
        planned_image=_planned(data, seen.image) if keep_uids else None,
    )


def _as_planned(image: PortalImage, beam: PlannedBeam | None) -> PortalImage:
    """Return the image at its beam's gantry angle: a planned image that states another one is not that beam's."""
    geometry = image.geometry
    if beam is None or beam.gantry_deg is None or geometry is None:
        return image
    confirmed = with_gantry_evidence(geometry, geometry.gantry_deg, beam.gantry_deg)
    if geometry.gantry_deg is not None and confirmed.gantry_deg is None:
        raise BadReference(
            f"{image.identity.name}: states gantry {geometry.gantry_deg:g} deg, its plan's beam {beam.gantry_deg:g}; "
            "check which image belongs to the beam"
        )
    planned = with_gantry_evidence(geometry, beam.gantry_deg, beam.gantry_deg)
    return replace(image, geometry=planned)


def _beam_of(plan: Path, sop_instance_uid: str | None, name: str) -> PlannedBeam:
    beams = beams_of_plan(_read(plan))
    if not beams:
        raise BadReference(f"{plan.name}: is no RT Plan with beams; name the plan that the image belongs to")
    wanted = None if sop_instance_uid is None else image_key(sop_instance_uid)
    mine = [beam for beam in beams if wanted in beam.images]
    if len(mine) != 1:
        raise BadReference(
            f"{plan.name}: {len(mine) or 'no'} of its beams refer{'s' * (len(mine) == 1)} to {name} in "
            "ReferencedReferenceImageSequence; name the plan that the image belongs to"
        )
    return mine[0]


def _planned(data: bytes, image: PortalImage) -> PlannedImage:
    source = read_source(data, image.identity.name, image.pixels.shape)
    if isinstance(source, str):
        raise BadReference(f"{source}; leave --with-uids out")
    return PlannedImage(
        sop_class_uid=source.sop_class_uid,
        sop_instance_uid=source.sop_instance_uid,
        study_instance_uid=source.study_instance_uid,
        series_instance_uid=source.series_instance_uid,
        rows=source.rows,
        columns=source.columns,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise BadReference(f"{path}: cannot be read ({exc.strerror})") from exc


@dataclass(frozen=True)
class TwoViews:
    """Two registrations as one shift of the room, and the couch's move against it, or why there is none."""

    room: RoomShift
    move: CouchMove | str
    remark: str | None  # what could not be checked

    def to_json(self) -> dict[str, Any]:
        """Return it as the command prints it."""
        room, move = self.room, self.move
        return {
            "schema": TWO_VIEWS_SCHEMA,
            "status": room.status,
            "reason": room.reason,
            "shift_mm": _xyz(room.shift_mm),
            "interval95_mm": _xyz(room.interval95_mm),
            "shared_axis_mm": _rounded(room.shared_axis_mm),
            "shared_axis_sigma_mm": _rounded(room.shared_axis_sigma_mm),
            "gantry_deg": list(room.gantry_deg),
            "support_deg": room.support_deg,
            "axes": room.axes,
            "couch_move": None if isinstance(move, str) else {k: _rounded(v) for k, v in asdict(move).items()},
            "couch_reason": move if isinstance(move, str) else None,
            "remark": self.remark,
        }


def two_views(first: Path, second: Path, couch: CouchConfig | None) -> TwoViews:
    """Combine the registrations of two results of one session; raise `BadReference` where they cannot be meant.

    That both images are of one session, whoever names them knows; that they are of one plan is checked.
    """
    one, other = _registered(first), _registered(second)
    plans = {entry.reference.plan for entry in (one, other) if entry.reference and entry.reference.plan}
    if len(plans) > 1:
        raise BadReference(f"{first.name} and {second.name}: are of two plans or patients; name two views of one")
    both_known = all(entry.reference and entry.reference.plan for entry in (one, other))
    room = room_shift(registration_of(one), registration_of(other))
    remark = None if both_known else "that both views are of one plan could not be checked"
    return TwoViews(room, couch_move(room, couch_scale(couch)), remark)


def couch_scale(couch: CouchConfig | None) -> CouchScale:
    """Return the scale of this room's couch."""
    if couch is None:
        return IEC61217
    return CouchScale(couch.name, couch.lateral, couch.longitudinal, couch.vertical, "tried here", is_standard=False)


def _registered(path: Path) -> RegistrationEntry:
    try:
        result = Result.model_validate_json(_read(path))
    except ValidationError as exc:
        raise BadReference(f"{path.name}: is no result of this version; name an X{RESULT_SUFFIX}") from exc
    if result.registration is None:
        raise BadReference(f"{path.name}: holds no registration: its image had no reference; add one, and process it")
    return result.registration


def _xyz(mm: Vector3 | None) -> dict[str, float | None] | None:
    return None if mm is None else dict(zip("xyz", map(_rounded, mm), strict=True))


def _rounded(value: Any) -> Any:
    return round(value, 3) + 0.0 if isinstance(value, float) else value
