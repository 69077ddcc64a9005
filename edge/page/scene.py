"""What the viewer draws over an image: a result's places, how each kind looks, and pixels to millimetres and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.contract import KindContract
from edge.geometry import ImageGeometry
from edge.pixel_checks import MAX_SIDE_PX
from edge.registration.reference import Reference
from edge.results.document import Geometry, Result
from edge.results.overlay import COLOURS, MARKS
from edge.results.overlay_alignment import RADIUS95_SIGMA, planned_px
from edge.results.registration_entry import registration_of
from edge.results.wording import Alignment


@dataclass(frozen=True)
class Kind:
    """How a kind of landmark is drawn, as in the overlay."""

    kind: str
    label: str
    mark: str
    colour: str  # CSS
    is_line: bool


def kinds_of(result: Result, kinds: Sequence[KindContract]) -> dict[str, Kind]:
    """Return how each kind is drawn: known ones as in the overlay, others of another release after them, as points."""
    lines = {promise.kind for promise in kinds if promise.shape == "line"}
    names = dict.fromkeys([*(promise.kind for promise in kinds), *(one.kind for one in result.landmarks)])
    return {
        name: Kind(
            name,
            name.replace("_", " "),
            MARKS[index % len(MARKS)],
            "#{:02x}{:02x}{:02x}".format(*COLOURS[index % len(COLOURS)]),
            name in lines,
        )
        for index, name in enumerate(names)
    }


def geometry_of(entry: Geometry | None) -> ImageGeometry | None:
    """Return the geometry of a result; None where it has no millimetres."""
    if entry is None or entry.status != "known":
        return None
    lengths = entry.sid_mm, entry.sad_mm
    if None in lengths or not all(lengths) or not entry.spacing_mm or not all(entry.spacing_mm):
        return None
    if entry.first_pixel_mm is None or entry.sid_mm is None or entry.sad_mm is None:
        return None
    return ImageGeometry(
        sid_mm=entry.sid_mm,
        sad_mm=entry.sad_mm,
        spacing_mm=entry.spacing_mm,
        first_pixel_mm=entry.first_pixel_mm,
        gantry_deg=entry.gantry_deg,
        axes=entry.axes or "",
        sources=entry.sources,
        warnings=entry.warnings,
    )


def scene(
    result: Result, kinds: Sequence[Kind], geometry: ImageGeometry | None, reference: Reference | str | None
) -> dict[str, Any]:
    """Return what the viewer draws over an image: places in detector px, (0, 0) the centre of the top-left pixel."""
    index = {kind.kind: number for number, kind in enumerate(kinds)}
    return {
        "rows": result.image.rows,
        "columns": result.image.columns,
        "kinds": [
            {"kind": k.kind, "label": k.label, "mark": k.mark, "colour": k.colour, "line": k.is_line} for k in kinds
        ],
        "landmarks": [
            {
                "kind": index[one.kind],
                "x": one.x_px,
                "y": one.y_px,
                "score": one.score,
                "radius95": None if one.sigma_px is None else one.sigma_px * RADIUS95_SIGMA,
            }
            for one in result.landmarks
        ],
        "reference": _planned(result, kinds, geometry, reference),
        "shift": _arrow(result, geometry),
        "mm": _millimetres(geometry),
    }


def _planned(
    result: Result, kinds: Sequence[Kind], geometry: ImageGeometry | None, reference: Reference | str | None
) -> list[dict[str, Any]]:
    """Return the reference's places that lie on the image, kind by kind."""
    rows, columns = result.image.rows, result.image.columns
    if not isinstance(reference, Reference) or result.registration is None or rows is None or columns is None:
        return []
    if max(rows, columns) > MAX_SIDE_PX:  # a crafted result: no such image is read
        return []
    alignment = Alignment(reference.sighting().landmarks, registration_of(result.registration))
    lines = {kind.kind for kind in kinds if kind.is_line} | {o.kind for o in reference.landmarks if o.shape == "line"}
    places = planned_px(alignment, geometry, (rows, columns))
    return [
        {"label": kind.replace("_", " "), "line": kind in lines, "places": xy.round(3).tolist()}
        for kind, xy in places.items()
    ]


def _arrow(result: Result, geometry: ImageGeometry | None) -> list[list[float]] | None:
    """Return where the arrow of the shift begins, at the isocentre, and ends."""
    registration = result.registration
    if geometry is None or registration is None or registration.status != "ok" or registration.shift_mm is None:
        return None
    ends = np.array([(0.0, 0.0), (registration.shift_mm.x, registration.shift_mm.y)])
    return [[float(x), float(y)] for x, y in geometry.to_pixels(ends).round(3)]


def _millimetres(geometry: ImageGeometry | None) -> dict[str, list[float]] | None:
    """Return where pixel (0, 0) lies in the isocentre plane, and the step of a pixel to the right and down, mm."""
    if geometry is None:
        return None
    first, next_px = geometry.to_isoplane(np.array([(0.0, 0.0), (1.0, 1.0)]))
    return {"first": first.tolist(), "step": (next_px - first).tolist()}
