"""What calibration sets need of a DICOM header besides the room's read: machine, beam, exposure, patient, PHI left in.

Values that name a person never leave this module: a patient is a hash, and of what identifies only the keyword.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydicom
from PIL import Image, TiffTags
from PIL.TiffImagePlugin import TiffImageFile
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from calibration.calibration_set import CalibrationError

Energy = Literal["kv", "mv", "unknown"]
UNKNOWN: Literal["unknown"] = "unknown"
_PICTURE = (b"\x89PNG", b"II*\0", b"MM\0*")  # as edge.portal_image tells them apart
_MACHINE = ("DeviceSerialNumber", "StationName", "RadiationMachineName")  # the first that is there
_PSEUDONYM = ("PatientName", "PatientID")  # allowed to stay in a file that says that its patient's identity is removed
# The direct identifiers of PS3.15 annex E that exports of imaging systems carry.
_IDENTIFYING = (
    *(*_PSEUDONYM, "PatientBirthDate", "OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames"),
    *("PatientAddress", "PatientTelephoneNumbers", "PatientMotherBirthName", "PatientComments", "AccessionNumber"),
    *("InstitutionName", "InstitutionAddress", "MedicalRecordLocator", "AdmissionID", "ReasonForStudy", "Occupation"),
)
# People write names where they can write anything, and de-identification that goes by a list of attributes leaves them.
_ANYTHING_VR = ("PN", "LT", "ST", "UT", "UC")
_ANYTHING_KEYWORD = ("Description", "Comments", "Comment")  # how those of a shorter VR end
_TEXT_VR = ("LO", "SH", *_ANYTHING_VR)
_OF_THE_DEVICE = ("Make", "Model", "Software", "DateTime", "HostComputer")  # texts of a TIFF that are no patient's
_TIFF_BLOCKS = {700: "XMP", 33723: "IPTC"}
_MEGAVOLT_KV = 1000.0


@dataclass(frozen=True)
class Header:
    """``exposure`` is (what it counts, how much): monitor units or mAs. ``identifying`` holds keywords, no values."""

    machine: str = UNKNOWN
    energy: Energy = UNKNOWN
    exposure: tuple[str, float] | None = None
    patient: str | None = None  # `patient_hash` of the PatientID
    identifying: tuple[str, ...] = ()
    named_in_path: bool = False  # by PatientID or family name


def read_header(path: Path) -> Header:
    """Read the header of an image that the room could read; a PNG or TIFF tells little.

    Raises `CalibrationError` where the header cannot be read.
    """
    with warnings.catch_warnings():  # pydicom warns of odd values that are good enough
        warnings.simplefilter("ignore")
        try:
            with path.open("rb") as file:
                is_picture = file.read(4) in _PICTURE
            if is_picture:
                return Header(identifying=_picture_texts(path))
            return _header(pydicom.dcmread(path, stop_before_pixels=True, force=True), path)
        except Exception as exc:  # hostile headers raise anything
            raise CalibrationError(
                f"{path.name}: its header cannot be read ({type(exc).__name__}); export the image anew"
            ) from exc


def patient_hash(identifier: str) -> str:
    """Return what stands for a patient in memory; never written, since a short ID can be guessed from its hash."""
    return hashlib.sha256(identifier.strip().casefold().encode()).hexdigest()


def _header(dataset: Dataset, path: Path) -> Header:
    identifier = str(dataset.get("PatientID") or "").strip()
    family = str(dataset.get("PatientName") or "").split("^")[0].strip()
    named = [text for text in (identifier, family) if len(text) > 2]
    return Header(
        machine=_machine(dataset),
        energy=_energy(dataset),
        exposure=_exposure(dataset),
        patient=patient_hash(identifier) if identifier else None,
        identifying=_identifying(dataset),
        named_in_path=any(text.casefold() in str(path).casefold() for text in named),
    )


def _machine(dataset: Dataset) -> str:
    named = next((text for keyword in _MACHINE if (text := str(dataset.get(keyword) or "").strip())), None)
    return hashlib.sha256(named.encode()).hexdigest()[:8] if named else UNKNOWN


def _energy(dataset: Dataset) -> Energy:
    """Return the beam's kind: by KVP where it stands (PS3.3 C.8.8.2), else by modality or the third image type."""
    kvp = _number(_exposed(dataset), "KVP") or _number(dataset, "KVP")
    if kvp:
        return "mv" if kvp >= _MEGAVOLT_KV else "kv"
    image_type = dataset.get("ImageType")
    kind = str(image_type[2]) if not isinstance(image_type, str) and len(image_type or ()) > 2 else ""
    if kind == "PORTAL":
        return "mv"
    return "kv" if dataset.get("Modality") in {"CR", "DX"} or kind in {"DRR", "SIMULATOR", "RADIOGRAPH"} else UNKNOWN


def _exposure(dataset: Dataset) -> tuple[str, float] | None:
    meterset = _number(_exposed(dataset), "MetersetExposure") or _number(dataset, "MetersetExposure")
    charge = _number(dataset, "Exposure")
    if meterset:
        return "mu", meterset
    return ("mas", charge) if charge else None


def _exposed(dataset: Dataset) -> Dataset:
    sequence = dataset.get("ExposureSequence")
    return sequence[0] if sequence else Dataset()


def _number(dataset: Dataset, keyword: str) -> float | None:
    value = dataset.get(keyword)
    return float(value) if value is not None and str(value).strip() else None


def _identifying(dataset: Dataset) -> tuple[str, ...]:
    removed = str(dataset.get("PatientIdentityRemoved") or "").strip() == "YES"
    allowed = _PSEUDONYM if removed else ()
    elements = [element for element in _elements(dataset) if element.keyword not in allowed]
    found = {element.keyword or f"private {element.tag}" for element in elements if _may_name_someone(element)}
    if str(dataset.get("BurnedInAnnotation") or "").strip() == "YES":
        found.add("BurnedInAnnotation")
    return tuple(sorted(found))


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    """Yield all elements, those of sequences too, but for those whose value contradicts its type: no text does."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # noqa: BLE001, S112  # pydicom raises many kinds
            continue
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from _elements(item)


def _may_name_someone(element: DataElement) -> bool:
    if element.tag.is_private:
        return not element.tag.is_private_creator and (element.VR in (*_TEXT_VR, "UN")) and _says_something(element)
    free = element.VR in _ANYTHING_VR or (element.keyword.endswith(_ANYTHING_KEYWORD) and element.VR in _TEXT_VR)
    like_a_name = element.VR in _TEXT_VR and "^" in str(element.value)
    return (free or like_a_name or element.keyword in _IDENTIFYING) and _says_something(element)


def _says_something(element: DataElement) -> bool:
    if element.VR == "SQ":
        return len(element.value) > 0
    if isinstance(element.value, bytes):  # of VR UN: words, or numbers that nobody can read
        text = element.value.decode("latin-1").strip("\0 \r\n")
        return text.isprintable() and sum(map(str.isalnum, text)) > 2
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    return any(value is not None and str(value).replace("^", "").strip() for value in values)


def _picture_texts(path: Path) -> tuple[str, ...]:
    """Return the keywords of what a PNG or TIFF says in words beside its pixels."""
    with Image.open(path) as picture:
        picture.load()  # a PNG may have texts behind its pixels
        if isinstance(picture, TiffImageFile):
            return tuple(f"text {name}" for name in sorted(_tiff_texts(picture)))
        said = [
            key for key, value in picture.info.items() if key == "exif" or (isinstance(value, str) and value.strip())
        ]
    return tuple(f"text {key}" for key in sorted(map(str, said)))


def _tiff_texts(picture: TiffImageFile) -> Iterator[str]:
    """Yield the names of the tags that say something: `info` has the compression's name among them, in words."""
    for tag, value in picture.tag_v2.items():
        name = _TIFF_BLOCKS.get(tag) or TiffTags.lookup(tag).name
        says_something = tag in _TIFF_BLOCKS or (isinstance(value, str) and value.strip("\0 "))
        if says_something and name not in _OF_THE_DEVICE:
            yield name if name != "unknown" else f"tag {tag}"
