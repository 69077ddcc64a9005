"""What pictures and objects show of an image besides its landmarks."""

from __future__ import annotations

from edge.records import PortalImage
from edge.registration.alignment import Aligned
from edge.results.dicom_source import DicomSource, planned_source
from edge.results.wording import Alignment


def shown_alignment(aligned: Aligned | None) -> Alignment | None:
    """Return the registration as it is drawn, with its reference's landmarks where that can be used."""
    if aligned is None:
        return None
    return Alignment(aligned.reference.sighting().landmarks if aligned.reference else (), aligned.registration)


def planned_of(aligned: Aligned | None) -> DicomSource | None:
    """Return the planned image as objects refer to it, where the reference kept its UIDs."""
    planned = aligned.reference.planned_image if aligned and aligned.reference else None
    return None if planned is None else planned_source(planned)


def remarks(image: PortalImage) -> tuple[str, ...]:
    """Return what a reader of the report must know of the image."""
    geometry = image.geometry
    told = (f"No millimetres: {image.geometry_reason}",) if geometry is None else geometry.warnings
    return (f"Dose polarity decided by: {image.polarity_source}", *told)
