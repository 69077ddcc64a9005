"""What the view of one image says, in words and numbers: a result's JSON to what the template shows.

Nothing is computed here that the result does not say, but for pixels of millimetres and back, by its own geometry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from edge.contract import KindContract
from edge.geometry import (
    GANTRY_UNTRUSTED,
    ISOCENTRE_UNCERTAIN,
    POSITION_CONVENTION_ASSUMED,
    RECEPTOR_TRANSLATION_ASSUMED,
    SID_BELOW_SAD,
    ImageGeometry,
)
from edge.page.scene import Kind, geometry_of, kinds_of, scene
from edge.registration.reference import Reference
from edge.results import wording
from edge.results.document import Geometry, LandmarkEntry, RegistrationEntry, Result, Vector
from edge.results.wording import DIRECTION

OUTPUT_NAMES: Final = {
    ".landmarks.png": "overlay",
    ".landmarks.sr.dcm": "structured report",
    ".landmarks.pr.dcm": "presentation state",
    ".landmarks.reg.dcm": "spatial registration",
}
WARNING_WORDS: Final = {
    ISOCENTRE_UNCERTAIN: "Lengths can be trusted, places relative to the isocentre cannot: 4.3 mm off were seen.",
    SID_BELOW_SAD: "The receptor is nearer to the source than the isocentre.",
    POSITION_CONVENTION_ASSUMED: "Whether RTImagePosition means a pixel's centre or corner was assumed: half a pixel.",
    GANTRY_UNTRUSTED: "GantryAngle says 0, which some exports always write, so it is not believed.",
    RECEPTOR_TRANSLATION_ASSUMED: "The receptor's translation was taken as zero: 1.3 mm of sag were seen.",
}
GEOMETRY_NAMES: Final = (
    ("sid_mm", "Source to receptor", "mm"),
    ("sad_mm", "Source to isocentre", "mm"),
    ("spacing_mm", "Pixel spacing at the receptor (row, column)", "mm"),
    ("first_pixel_mm", "First pixel at the receptor (x, y)", "mm"),
    ("gantry_deg", "Gantry angle", "°"),
)
ONLY_SOURCES: Final = {
    "receptor_translation_mm": "Receptor translation",
    "support_deg": "Couch angle",
}
NO_COUCH_MOVE = (
    "One view says nothing about the axis along its beam, so it asks for no couch move. Two registered views of one "
    "session do: landmarknet-edge two-views"
)


@dataclass(frozen=True)
class Row:
    """One named value. ``source`` says where it came from; ``whole`` is the value where it is shown cut short."""

    name: str
    value: str
    source: str = ""
    whole: str = ""


@dataclass(frozen=True)
class LandmarkRow:
    """One landmark's numbers as they are shown."""

    kind: Kind
    x_px: str
    y_px: str
    x_mm: str
    y_mm: str
    sigma: str
    score: str


@dataclass(frozen=True)
class Line:
    """A line: how many points it has, and between which rows."""

    kind: Kind
    told: str
    rows: tuple[LandmarkRow, ...]


@dataclass(frozen=True)
class Axis:
    """A shift along one axis of the image."""

    axis: str
    value: str  # signed, mm
    interval: str
    where: str  # where the anatomy lies
    undo: str  # where the patient would have to go


@dataclass(frozen=True)
class RegistrationView:
    """A registration in words."""

    reason: str | None  # why it is withheld; None: it is not
    axes: tuple[Axis, ...]
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    reference: tuple[Row, ...]
    reference_note: str | None  # why its landmarks are not drawn
    direction: str = DIRECTION
    couch: str = NO_COUCH_MOVE


@dataclass(frozen=True)
class ResultView:
    """All that is shown of a result that this version understands."""

    status: str
    reason: str | None
    landmarks: tuple[LandmarkRow, ...]
    lines: tuple[Line, ...]
    geometry: tuple[Row, ...]
    geometry_reason: str | None
    geometry_axes: str | None
    geometry_warnings: tuple[Row, ...]
    registration: RegistrationView | None
    provenance: tuple[Row, ...]
    engine_warnings: tuple[str, ...]
    timing: tuple[Row, ...]
    outputs: tuple[Row, ...]
    output_notes: tuple[str, ...]
    kinds: tuple[Kind, ...]
    scene: Mapping[str, Any] = field(default_factory=dict)  # what the viewer draws, JSON


@np.errstate(all="ignore")  # a crafted geometry overflows: the scene tells
def result_view(
    result: Result, kinds: Sequence[KindContract], reference: Reference | str | None, couch: str
) -> ResultView:
    """Return what is shown of a result. ``kinds`` are those that this version knows, ``couch`` the name of its scale.

    ``reference``: the one that the result was made with, or why its landmarks cannot be drawn; None: there was none.
    """
    geometry, known = geometry_of(result.geometry), kinds_of(result, kinds)
    rows = [(entry, _landmark(entry, known[entry.kind], geometry)) for entry in result.landmarks]
    return ResultView(
        status=result.status,
        reason=result.reason,
        landmarks=tuple(row for _, row in rows if not row.kind.is_line),
        lines=tuple(_lines(rows, known.values())),
        geometry=_geometry_rows(result),
        geometry_reason=None if result.geometry is None else result.geometry.reason,
        geometry_axes=None if result.geometry is None else result.geometry.axes,
        geometry_warnings=_geometry_warnings(result.geometry),
        registration=_registration(result.registration, reference, couch),
        provenance=_provenance(result),
        engine_warnings=result.provenance.engine_warnings,
        timing=tuple(Row(name, f"{value:.1f} ms") for name, value in result.timing_ms.items()),
        outputs=tuple(Row(output_kind(one.name), one.name, whole=one.sha256) for one in result.outputs),
        output_notes=result.output_notes,
        kinds=tuple(known.values()),
        scene=scene(result, list(known.values()), geometry, reference),
    )


def output_kind(name: str) -> str:
    """Return what an output is, by its name."""
    return next((what for suffix, what in OUTPUT_NAMES.items() if name.endswith(suffix)), "another file")


def _landmark(entry: LandmarkEntry, kind: Kind, geometry: ImageGeometry | None) -> LandmarkRow:
    return LandmarkRow(
        kind=kind,
        x_px=f"{entry.x_px:.1f}",
        y_px=f"{entry.y_px:.1f}",
        x_mm=signed(entry.x_mm),
        y_mm=signed(entry.y_mm),
        sigma=_sigma(entry.sigma_px, geometry),
        score=f"{entry.score:.2f}",
    )


def _sigma(sigma_px: float | None, geometry: ImageGeometry | None) -> str:
    if sigma_px is None:
        return "–"
    if geometry is None:
        return f"{sigma_px:.1f} px"
    mm_per_px = float(np.sqrt(np.prod(geometry.mm_per_px_at_isocentre)))
    return f"{sigma_px * mm_per_px:.1f} mm"


def _lines(rows: Sequence[tuple[LandmarkEntry, LandmarkRow]], kinds: Iterable[Kind]) -> Iterable[Line]:
    for kind in kinds:
        mine = [(entry, row) for entry, row in rows if row.kind == kind]
        if kind.is_line and mine:
            first, last = mine[0][0], mine[-1][0]
            told = f"{len(mine)} points, from row {first.y_px:.0f} to row {last.y_px:.0f}"
            yield Line(kind, told, tuple(row for _, row in mine))


def _geometry_rows(result: Result) -> tuple[Row, ...]:
    entry = result.geometry
    if entry is None:
        return ()
    rows = [
        Row(name, _lengths(value, unit), _source(entry, key))
        for key, name, unit in GEOMETRY_NAMES
        if (value := getattr(entry, key)) is not None or key in entry.sources
    ]
    rows += [
        Row(name, _of_registration(result, key), _source(entry, key))
        for key, name in ONLY_SOURCES.items()
        if key in entry.sources
    ]
    others = entry.sources.keys() - {key for key, _, _ in GEOMETRY_NAMES} - ONLY_SOURCES.keys()
    rows += [Row(key, "", entry.sources[key]) for key in sorted(others)]
    return (*rows, Row("Bright means more dose", "", entry.polarity))


def _source(entry: Geometry, key: str) -> str:
    return entry.sources.get(key, "not said")


def _of_registration(result: Result, key: str) -> str:
    """Return a number that only a registration carries."""
    value = None if result.registration is None else getattr(result.registration, key, None)
    return "" if value is None else f"{value:.1f}°"


def _lengths(value: float | tuple[float, ...] | None, unit: str) -> str:
    if value is None:
        return "not known"
    numbers = ", ".join(f"{one:g}" for one in (value if isinstance(value, tuple) else (value,)))
    return f"{numbers}{unit}" if unit == "°" else f"{numbers} {unit}"


def _geometry_warnings(entry: Geometry | None) -> tuple[Row, ...]:
    return tuple(Row(one, WARNING_WORDS.get(one, "")) for one in (entry.warnings if entry else ()))


def _registration(
    entry: RegistrationEntry | None, reference: Reference | str | None, couch: str
) -> RegistrationView | None:
    if entry is None:
        return None
    withheld = entry.status != "ok" or entry.shift_mm is None
    return RegistrationView(
        reason=(entry.reason or "no reason given") if withheld else None,
        axes=() if withheld or entry.shift_mm is None else _axes(entry.shift_mm, entry.interval95_mm),
        rows=_registration_rows(entry, couch, withheld=withheld),
        warnings=entry.warnings,
        reference=_reference_rows(entry),
        reference_note=reference if isinstance(reference, str) else None,
    )


def _axes(shift: Vector, interval: Vector | None) -> tuple[Axis, ...]:
    words = {"x": ("right", "left"), "y": ("up", "down")}
    return tuple(
        Axis(
            axis=axis,
            value=signed(value := getattr(shift, axis)),
            interval="" if interval is None else f"± {getattr(interval, axis):.1f}",
            where=direction(value, *words[axis]),
            undo=direction(-value, *words[axis]),
        )
        for axis in "xy"
    )


def direction(value: float, positive: str, negative: str) -> str:
    """Return a length of a shift with where it leads, such as "2.6 mm left"; none where it rounds to nothing."""
    shown = round(value, 1)
    return f"{abs(shown):.1f} mm {positive if shown > 0 else negative}" if shown else "none"


def _registration_rows(entry: RegistrationEntry, couch: str, *, withheld: bool) -> tuple[Row, ...]:
    turn = "not given: the landmarks do not fix it" if entry.rotation_deg is None else f"{signed(entry.rotation_deg)}°"
    second = entry.runner_up
    residual = "not known" if entry.residual_mm is None else f"{entry.residual_mm:.1f} mm root mean square"
    shift_rows = (
        Row("Rotation, counter-clockwise", turn),
        Row("Landmarks that agree", f"{entry.n_used}, lines not counted"),
        Row("Residual", residual),
        Row("Runner-up", _runner_up(second.shift_mm, second.margin) if second else "nothing else is possible"),
    )
    return (
        *(() if withheld else shift_rows),
        Row("Landmarks that do not", ", ".join(one.replace("_", " ") for one in entry.outliers) or "none"),
        Row("Gantry angle", _angle(entry.gantry_deg)),
        Row("Couch angle", _angle(entry.support_deg)),
        Row("Couch scale", couch),
    )


def _runner_up(shift: Vector, margin: float) -> str:
    return f"x {signed(shift.x)} mm, y {signed(shift.y)} mm, less likely by {margin:.1f} nats"


def _angle(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1f}°"


def _reference_rows(entry: RegistrationEntry) -> tuple[Row, ...]:
    used = entry.reference
    if used is None:
        return ()
    found_by = f"network, release {used.release or 'not known'}" if used.landmarks_from == "network" else "a person"
    return (
        Row("Landmarks by", found_by),
        Row("Signed", "a person answers for them" if used.signed_off else "by nobody"),
        _hash("Key of plan, beam and patient", used.key),
        _hash("Course (plan and patient)", used.plan),
        _hash("Reference file", used.sha256),
    )


def _provenance(result: Result) -> tuple[Row, ...]:
    made, image = result.provenance, result.image
    size = f"{image.columns} x {image.rows} px" if image.rows and image.columns else "not known"
    return (
        Row("Software", made.software),
        Row("Release", made.release),
        Row("Engine", " ".join(made.backend.get(key, "") for key in ("flavour", "version")).strip() or "not known"),
        Row("Device", made.backend.get("device", "not known")),
        Row("Precision delivered", made.backend.get("precision", "not known")),
        *(Row(key.replace("_", " "), text) for key, text in made.backend.items() if key not in SHOWN_OF_BACKEND),
        _hash("Model", made.model_sha256),
        _hash("Checkpoint", made.checkpoint_sha256),
        _hash("Calibration set", made.calibration_set_sha256, "none was used"),
        _hash("Contract", made.contract_sha256),
        _hash("Signed manifest", made.manifest_sha256, "none: not of a store"),
        _hash("Settings", made.settings_sha256),
        _hash("Configuration", made.config_sha256),
        _hash("Key of the result", made.key),
        Row("Image", f"{size}, {image.modality or 'no modality'}"),
        _hash("Image file", image.sha256),
        Row("SOP instance", image.sop_instance_uid or "not known"),
    )


SHOWN_OF_BACKEND = {"flavour", "version", "device", "precision"}


def _hash(name: str, sha256: str | None, none: str = "not known") -> Row:
    return Row(name, none) if sha256 is None else Row(name, sha256[:12], whole=sha256)


def signed(value: float | None) -> str:
    """Return a number with its sign and one decimal; a dash where it is not known."""
    return "–" if value is None else wording.signed(value).replace("-", "−")
