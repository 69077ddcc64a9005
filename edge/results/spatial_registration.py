"""The shift as a DICOM Spatial Registration object (PS3.3 A.39.1): what moves this image onto its reference.

One view fixes two translations and one rotation in the isocentre plane, and no patient axis. So neither frame of
reference here is the patient's: each stands for the isocentre plane as one image sees it, x right and y up in the
image (IEC 61217 X-ray image receptor), origin at the isocentre, z towards the source. No program that follows the
patient's frame of reference can take such a matrix for a couch shift by mistake.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from highdicom import SOPClass
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, SpatialRegistrationStorage

from edge.registration.register import Registration
from edge.results.dicom_common import Making, finished
from edge.results.dicom_source import DicomSource
from edge.results.wording import shift_of, short_shift

PURPOSE = "spatial registration"
LABEL = "REGISTRATION"  # CS: 16 characters
FIDUCIAL_ALIGNMENT = Code("125022", "DCM", "Fiducial Alignment")  # PS3.16 CID 7100
DESCRIPTION = "Isocentre plane, image axes, not the patient's; research use"  # LO: 64 characters
PLANE = "Isocentre plane as the image sees it: x right, y up, in mm"
IDENTITY = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))

Matrix = tuple[tuple[float, ...], ...]


def spatial_registration(
    source: DicomSource, reference: DicomSource | None, making: Making, registration: Registration
) -> bytes | str:
    """Return the bytes of a registration object, or the reason why there is none.

    It has two items (PS3.3 C.20.2): the reference with the identity, and the image ``source`` with the matrix that
    takes its points to the reference's. There is none for a withheld registration, nor without the reference's file.
    """
    if shift_of(registration) is None:
        return f"no registration object, since the registration is withheld: {registration.reason}"
    if reference is None:
        return "no registration object, since the file of the reference image is not at hand"
    if reference.sop_instance_uid == source.sop_instance_uid:
        return "no registration object, since the image is its own reference"
    made = SOPClass(
        study_instance_uid=source.study_instance_uid,
        sop_class_uid=SpatialRegistrationStorage,
        modality="REG",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description="LandmarkNet Edge registration: research use only",
        content_date=making.made_at.date(),
        content_time=making.made_at.time(),
        **making.series(PURPOSE),
        **making.equipment,
    )
    made.Laterality = None  # PS3.3 C.7.3.1, type 2C: nobody told us of a paired part of the body
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = _frame_uid(making, reference), None
    made.ContentLabel, made.ContentDescription = LABEL, DESCRIPTION
    made.ContentCreatorName = None
    made.RegistrationSequence = [
        _item(making, reference, IDENTITY, PLANE),
        _item(making, source, image_to_reference(registration), short_shift(registration)),
    ]
    _refer(made, source, [source, reference])
    return finished(made, source, making, PURPOSE)


def image_to_reference(registration: Registration) -> Matrix:
    """Return the rigid 4x4 matrix, mm, that takes a point of the image's isocentre plane to the reference's.

    The registration is image = R(rotation) reference + shift, so this is its inverse: R(-rotation) (image - shift).
    A rotation that is not given is none.
    """
    x, y = registration.shift_mm or (0.0, 0.0)
    angle = math.radians(registration.rotation_deg or 0.0)
    cosine, sine = math.cos(angle), math.sin(angle)
    return (
        (cosine, sine, 0.0, -cosine * x - sine * y),
        (-sine, cosine, 0.0, sine * x - cosine * y),
        (0.0, 0.0, 1.0, 0.0),
        (0.0, 0.0, 0.0, 1.0),
    )


def _frame_uid(making: Making, image: DicomSource) -> str:
    return making.uid(f"isocentre plane of {image.sop_instance_uid}")


def _item(making: Making, image: DicomSource, matrix: Matrix, comment: str) -> Dataset:
    """Return one item of the Registration Sequence (PS3.3 table C.20.2-1)."""
    rigid = Dataset()
    rigid.FrameOfReferenceTransformationMatrixType = "RIGID"
    rigid.FrameOfReferenceTransformationMatrix = [round(value, 9) + 0.0 for row in matrix for value in row]
    registered = Dataset()
    registered.FrameOfReferenceTransformationComment = comment
    registered.RegistrationTypeCodeSequence = [_coded(FIDUCIAL_ALIGNMENT)]
    registered.MatrixSequence = [rigid]
    item = Dataset()
    item.FrameOfReferenceUID = _frame_uid(making, image)
    item.ReferencedImageSequence = [_reference(image)]
    item.MatrixRegistrationSequence = [registered]
    return item


def _refer(made: Dataset, source: DicomSource, images: Sequence[DicomSource]) -> None:
    """Add the Common Instance Reference module (PS3.3 C.12.2): same study here, others by study."""
    same = [one for one in images if one.study_instance_uid == source.study_instance_uid]
    others = [one for one in images if one.study_instance_uid != source.study_instance_uid]
    made.ReferencedSeriesSequence = _by_series(same)
    if others:
        study = Dataset()
        study.StudyInstanceUID = others[0].study_instance_uid
        study.ReferencedSeriesSequence = _by_series(others)
        made.StudiesContainingOtherReferencedInstancesSequence = [study]


def _by_series(images: Sequence[DicomSource]) -> list[Any]:
    items = []
    for series_uid in dict.fromkeys(one.series_instance_uid for one in images):
        item = Dataset()
        item.SeriesInstanceUID = series_uid
        item.ReferencedInstanceSequence = [_reference(one) for one in images if one.series_instance_uid == series_uid]
        items.append(item)
    return items


def _reference(image: DicomSource) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.sop_class_uid, image.sop_instance_uid
    return item


def _coded(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item
