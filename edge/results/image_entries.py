"""From what was found in an image to the entries of its result."""

from __future__ import annotations

from typing import Literal

from edge.records import Landmark, PortalImage
from edge.results.document import Geometry, LandmarkEntry


def landmark_entry(landmark: Landmark) -> LandmarkEntry:
    """Return a landmark as it stands in a result, in thousandths of a px and of a mm."""
    x_mm, y_mm = landmark.xy_mm if landmark.xy_mm else (None, None)
    return LandmarkEntry(
        kind=landmark.kind,
        x_px=round(landmark.xy_px[0], 3),
        y_px=round(landmark.xy_px[1], 3),
        x_mm=None if x_mm is None else round(x_mm, 3),
        y_mm=None if y_mm is None else round(y_mm, 3),
        sigma_px=None if landmark.sigma_px is None else round(landmark.sigma_px, 3),
        score=round(landmark.score, 4),
    )


def geometry_entry(image: PortalImage) -> Geometry:
    """Return what a result says of an image's geometry, or why there is none."""
    known = image.geometry
    status: Literal["known", "unknown"] = "unknown" if known is None else "known"
    return Geometry(
        status=status,
        reason=image.geometry_reason,
        sid_mm=known.sid_mm if known else None,
        sad_mm=known.sad_mm if known else None,
        spacing_mm=known.spacing_mm if known else None,
        first_pixel_mm=known.first_pixel_mm if known else None,
        gantry_deg=known.gantry_deg if known else None,
        axes=known.axes if known else None,
        polarity=image.polarity_source,
        sources=dict(known.sources) if known else {},
        warnings=known.warnings if known else (),
    )
