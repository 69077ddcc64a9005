"""Which beam of which plan a file belongs to, as a hash: identifiers themselves go no further than this file.

An RT Image names its plan in ReferencedRTPlanSequence (PS3.3 C.8.8.2) and the beam in ReferencedBeamNumber. An RT Plan
names the images that were planned for a beam in ReferencedReferenceImageSequence (PS3.3 C.8.8.14).
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from edge.dicom_image import MAX_ITEMS
from edge.geometry import decimal

RT_IMAGE_CLASS = "1.2.840.10008.5.1.4.1.1.481.1"
RT_PLAN_CLASS = "1.2.840.10008.5.1.4.1.1.481.5"
MAX_PLAN_BYTES = 64 * 2**20  # real plans have 0.01 to 5 MB
_ITEM_TAG = b"\xfe\xff\x00\xe0"
_KEYWORDS = [
    *("SOPClassUID", "SOPInstanceUID", "PatientID", "ReferencedRTPlanSequence", "ReferencedBeamNumber"),
    *("BeamSequence",),
]


@dataclass(frozen=True)
class PlannedBeam:
    """One beam of a plan, told apart from all others, without saying whose."""

    key: str  # `beam_key`
    plan: str  # `plan_key`
    number: int
    gantry_deg: float | None  # of the first control point
    support_deg: float | None
    images: tuple[str, ...]  # `image_key` of the reference images of the beam


def beam_key(plan_uid: str, beam_number: int, patient_id: str) -> str:
    """Return the SHA-256 that stands for a beam. The plan's UID makes it unguessable; another patient's never match."""
    return hashlib.sha256("\n".join(("beam", plan_uid, str(beam_number), patient_id)).encode()).hexdigest()


def plan_key(plan_uid: str, patient_id: str) -> str:
    """Return the SHA-256 that stands for a plan."""
    return hashlib.sha256("\n".join(("plan", plan_uid, patient_id)).encode()).hexdigest()


def image_key(sop_instance_uid: str) -> str:
    """Return the SHA-256 that stands for an image."""
    return hashlib.sha256(f"image\n{sop_instance_uid}".encode()).hexdigest()


def beam_of_image(data: bytes) -> str | None:
    """Return the `beam_key` of an RT Image file's bytes, or None where it names no plan and beam, or is none.

    Parses what a stranger wrote, so it belongs where images are read; raises nothing but MemoryError.
    """
    named = _named_beam(data)
    return None if named is None else beam_key(*named)


def plan_of_image(data: bytes) -> str | None:
    """Return the `plan_key` of an RT Image file's bytes, or None; otherwise as `beam_of_image`."""
    named = _named_beam(data)
    return None if named is None else plan_key(named[0], named[2])


def _named_beam(data: bytes) -> tuple[str, int, str] | None:
    """Return the plan's UID, the beam's number and the patient's ID."""
    dataset = _header(data)
    if dataset is None or _text(dataset, "SOPClassUID") != RT_IMAGE_CLASS:
        return None
    plans = _items(dataset, "ReferencedRTPlanSequence")
    number = _integer(dataset, "ReferencedBeamNumber")
    plan_uid = _text(plans[0], "ReferencedSOPInstanceUID") if len(plans) == 1 else ""
    return (plan_uid, number, _text(dataset, "PatientID")) if plan_uid and number is not None else None


def beams_of_plan(data: bytes) -> tuple[PlannedBeam, ...]:
    """Return the beams of an RT Plan file's bytes; none where it is no RT Plan. Raises nothing but MemoryError."""
    dataset = _header(data) if len(data) <= MAX_PLAN_BYTES else None
    if dataset is None or _text(dataset, "SOPClassUID") != RT_PLAN_CLASS:
        return ()
    plan_uid, patient_id = _text(dataset, "SOPInstanceUID"), _text(dataset, "PatientID")
    numbered = [(_integer(beam, "BeamNumber"), beam) for beam in _items(dataset, "BeamSequence")]
    return tuple(
        _beam(plan_uid, patient_id, number, beam) for number, beam in numbered if plan_uid and number is not None
    )


def _beam(plan_uid: str, patient_id: str, number: int, beam: Dataset) -> PlannedBeam:
    points = _items(beam, "ControlPointSequence")
    images = (_text(one, "ReferencedSOPInstanceUID") for one in _items(beam, "ReferencedReferenceImageSequence"))
    return PlannedBeam(
        key=beam_key(plan_uid, number, patient_id),
        plan=plan_key(plan_uid, patient_id),
        number=number,
        gantry_deg=decimal(_text(points[0], "GantryAngle")) if points else None,
        support_deg=decimal(_text(points[0], "PatientSupportAngle")) if points else None,
        images=tuple(image_key(uid) for uid in images if uid),
    )


def _header(data: bytes) -> Dataset | None:
    if data.count(_ITEM_TAG) > MAX_ITEMS:
        return None
    with warnings.catch_warnings():  # pydicom warns of odd files that are good enough
        warnings.simplefilter("ignore")
        try:
            return dcmread(io.BytesIO(data), force=True, stop_before_pixels=True, specific_tags=_KEYWORDS)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - hostile files raise anything; such a file belongs to no beam
            return None


def _value(dataset: Dataset, keyword: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dataset.get(keyword)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - values are parsed on access
            return None


def _text(dataset: Dataset, keyword: str) -> str:
    value = _value(dataset, keyword)
    return "" if value is None else str(value).strip(" \0")


def _integer(dataset: Dataset, keyword: str) -> int | None:
    value = decimal(_text(dataset, keyword))
    return None if value is None or value != int(value) else int(value)


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    value = _value(dataset, keyword)
    return [one for one in value if isinstance(one, Dataset)] if isinstance(value, (list, tuple)) or value else []
