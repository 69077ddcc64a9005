"""What the DICOM outputs take over from the image they belong to. One table says which attributes, and why.

Whatever is not in the table stays where it is. These values go into DICOM objects that are stored beside the image;
never into JSON, PNG, logs or messages: a note or a reason names the attribute and never its value.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID, uuid5

import pydicom
from pydicom import config
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID
from pydicom.valuerep import validate_value

from edge.dicom_image import ACCEPTED_CLASSES

if TYPE_CHECKING:
    from edge.registration.reference import PlannedImage

_NAMESPACE = UUID("fe9ed3c4-2a5c-52a3-a469-a206b3ada3bd")  # drawn once for this purpose; never to be changed

IfIllegal = Literal[
    "refuse",  # without the true value the object would be filed elsewhere than its image
    "derive",  # PS3.5 9.1 forbids the value, so a UID that follows from it stands in, the same for every file
    "empty",  # type 2 or 3: may be empty
]


@dataclass(frozen=True)
class Copied:
    """One attribute that is taken over, and what happens where its value breaks PS3.5."""

    keyword: str
    if_illegal: IfIllegal
    reason: str


COPIED = (
    Copied("SpecificCharacterSet", "refuse", "the letters below are read by it"),
    Copied("PatientName", "refuse", "PS3.3 C.7.1.1, type 2: the archive files the object with its image"),
    Copied("PatientID", "refuse", "PS3.3 C.7.1.1, type 2: as above"),
    Copied("IssuerOfPatientID", "refuse", "PS3.3 C.7.1.1: PatientID is unique only together with it"),
    Copied("PatientBirthDate", "empty", "PS3.3 C.7.1.1, type 2: the archive compares it"),
    Copied("PatientSex", "empty", "PS3.3 C.7.1.1, type 2: the archive compares it"),
    Copied("StudyInstanceUID", "derive", "PS3.3 C.7.2.1, type 1: the object belongs to its image's study"),
    Copied("StudyDate", "empty", "PS3.3 C.7.2.1, type 2: the same in all objects of a study"),
    Copied("StudyTime", "empty", "PS3.3 C.7.2.1, type 2: as above"),
    Copied("StudyID", "empty", "PS3.3 C.7.2.1, type 2: as above"),
    Copied("AccessionNumber", "empty", "PS3.3 C.7.2.1, type 2: as above"),
    Copied("ReferringPhysicianName", "empty", "PS3.3 C.7.2.1, type 2: as above"),
    Copied("SOPClassUID", "refuse", "the reference to the image (PS3.3 10.8)"),
    Copied("SOPInstanceUID", "derive", "the reference to the image (PS3.3 10.8)"),
    Copied("SeriesInstanceUID", "derive", "the reference to the image (PS3.3 10.4)"),
)
# Read for the references and the presentation, but not copied into the patient and study modules of an output.
_OF_THE_IMAGE = frozenset({"SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"})
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_TAGS: list[Any] = [tag_for_keyword(one.keyword) for one in COPIED]
_SEXES = {"M", "F", "O"}  # PS3.3 C.7.1.1, enumerated


@dataclass(frozen=True, eq=False)
class DicomSource:
    """An image as the DICOM outputs see it: what they refer to and what they copy."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    rows: int
    columns: int
    patient_and_study: Dataset  # the copied attributes; empty where the image has none
    notes: tuple[str, ...]  # what could not be taken over as it was; names attributes, never values

    def reference(self) -> Dataset:
        """Return a new data set that stands for the image where highdicom asks for one: without patient or study.

        highdicom writes a name that it finds odd into its log, so it never gets to see one.
        """
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = self.sop_class_uid, self.sop_instance_uid
        image.StudyInstanceUID, image.SeriesInstanceUID = self.study_instance_uid, self.series_instance_uid
        image.Rows, image.Columns, image.SamplesPerPixel = self.rows, self.columns, 1
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
            setattr(image, keyword, None)
        image.StudyID = image.AccessionNumber = image.ReferringPhysicianName = None
        return image


def planned_source(planned: PlannedImage) -> DicomSource:
    """Return a planned image as objects refer to it; its patient is not known, and not needed."""
    return DicomSource(**planned.model_dump(), patient_and_study=Dataset(), notes=())


class _NoSource(Exception):
    """No DICOM object can refer to the image; the text says why."""


def read_source(data: bytes, name: str, shape: tuple[int, int]) -> DicomSource | str:
    """Return what DICOM outputs need of an image file's bytes, or the reason why there can be none.

    ``shape`` is the image's (rows, columns). Only for a file that `read_portal_image` has read: that refuses what is
    damaged or hostile. PNG and TIFF give a reason; so does an image without the UIDs of PS3.3 C.7.2.1, C.7.3.1 and
    C.12.1, or with an illegal name or ID of the patient.
    """
    with warnings.catch_warnings(), config.disable_value_validation():  # pydicom quotes odd values, in its log too
        warnings.simplefilter("ignore")
        try:
            return _source(data, shape)
        except _NoSource as reason:
            return f"{name}: no DICOM outputs, since {reason}"
        except Exception as exc:  # noqa: BLE001 - a foreign message may quote the patient, so only its kind is told
            return f"{name}: no DICOM outputs, since its header cannot be taken over ({type(exc).__name__})"


def _source(data: bytes, shape: tuple[int, int]) -> DicomSource:
    header = _header(data)
    _demand_known_letters(header)
    notes: list[str] = []
    values = {one.keyword: _value(header, one, notes) for one in COPIED}
    missing = [keyword for keyword in _NEEDED if not values[keyword]]
    if missing:
        raise _NoSource(f"it has no {' and no '.join(missing)}, by which an object would refer to it; export it anew")
    if values["SOPClassUID"] not in ACCEPTED_CLASSES:
        raise _NoSource("its SOPClassUID is not that of a portal image")
    if not values["PatientID"]:
        notes.append("PatientID is missing or empty, and so it is in the DICOM outputs")
    return DicomSource(
        sop_class_uid=str(values["SOPClassUID"]),
        sop_instance_uid=str(values["SOPInstanceUID"]),
        study_instance_uid=str(values["StudyInstanceUID"]),
        series_instance_uid=str(values["SeriesInstanceUID"]),
        rows=shape[0],
        columns=shape[1],
        patient_and_study=_patient_and_study(values),
        notes=tuple(notes),
    )


def _header(data: bytes) -> Dataset:
    if data[128:132] != b"DICM" and not data.startswith((b"\x08\0", b"\x02\0")):
        raise _NoSource("it is no DICOM file")
    return pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=True, specific_tags=_TAGS)


def _value(header: Dataset, rule: Copied, notes: list[str]) -> Any:
    """Return a value that may stand in an object, None where there is none; see `IfIllegal`."""
    value = header.get(rule.keyword)
    if value in (None, ""):
        return None
    if _is_legal(rule.keyword, value):
        return value
    if rule.if_illegal == "refuse":
        raise _NoSource(f"its {rule.keyword} breaks PS3.5 6.2; correct it at the imaging system")
    if rule.if_illegal == "derive":
        notes.append(f"{rule.keyword} is no legal UID (PS3.5 9.1); the DICOM outputs hold one that follows from it")
        return legal_uid(str(value))
    notes.append(f"{rule.keyword} breaks PS3.5 6.2 and is left empty in the DICOM outputs")
    return None


def legal_uid(text: str) -> str:
    """Return a UID (PS3.5 B.2) in place of one that breaks PS3.5 9.1: the same for the same text, everywhere."""
    return f"2.25.{uuid5(_NAMESPACE, text.strip()).int}"


def _is_legal(keyword: str, value: Any) -> bool:
    if keyword == "SpecificCharacterSet":
        return True  # judged by `_demand_known_letters`
    text = str(value)
    if isinstance(value, MultiValue) or "\ufffd" in text:
        return False  # every other attribute has one value (PS3.6); pydicom's mark for bytes that are no letters
    try:
        validate_value(dictionary_VR(keyword), text, config.RAISE)
    except ValueError:
        return False
    return _is_in_use(keyword, text)


def _is_in_use(keyword: str, text: str) -> bool:
    """Tell what the value representation leaves open."""
    vr = dictionary_VR(keyword)
    if vr == "UI":
        return bool(UID(text).is_valid)
    if vr in {"DA", "TM"}:
        return text.replace(".", "", vr == "TM").isdigit()  # neither ranges nor the dots and colons of ACR-NEMA
    return keyword != "PatientSex" or text in _SEXES


def _demand_known_letters(header: Dataset) -> None:
    terms = header.get("SpecificCharacterSet") or []
    for term in [terms] if isinstance(terms, str) else terms:
        if term not in python_encoding:
            raise _NoSource("its SpecificCharacterSet is none of PS3.3 C.12.1.1.2, so a name cannot be read")


def _patient_and_study(values: Mapping[str, Any]) -> Dataset:
    copied = Dataset()
    if values["SpecificCharacterSet"]:
        copied.SpecificCharacterSet = values["SpecificCharacterSet"]
    for rule in COPIED:
        if rule.keyword not in _OF_THE_IMAGE and (values[rule.keyword] or rule.keyword != "IssuerOfPatientID"):
            setattr(copied, rule.keyword, values[rule.keyword])
    return copied


def all_notes(sources: Sequence[DicomSource]) -> tuple[str, ...]:
    """Return the notes of several images, each once."""
    return tuple(dict.fromkeys(note for source in sources for note in source.notes))
