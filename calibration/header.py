"""What calibration sets need of a DICOM header besides the room's read: machine, beam, exposure, patient, PHI left in.

Values that name a person never leave this module: a patient is a hash, and of what identifies only the keyword.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydicom
from PIL import Image
from pydicom.dataset import Dataset

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
    *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "InstitutionName", "InstitutionAddress"),
)
_OTHERS = (
    *("Modality", "ImageType", "KVP", "Exposure", "ExposureSequence", "MetersetExposure"),
    *("PatientIdentityRemoved", "BurnedInAnnotation", *_MACHINE),
)
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
            tags = [*_IDENTIFYING, *_OTHERS]
            return _header(pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags), path)
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
    found = [keyword for keyword in _IDENTIFYING if keyword not in allowed and _says_something(dataset.get(keyword))]
    if str(dataset.get("BurnedInAnnotation") or "").strip() == "YES":
        found.append("BurnedInAnnotation")
    return tuple(found)


def _says_something(value: object) -> bool:
    return value is not None and bool(str(value).replace("^", "").strip())


def _picture_texts(path: Path) -> tuple[str, ...]:
    """Return the keywords of what a PNG or TIFF says in words beside its pixels."""
    with Image.open(path) as picture:
        texts = sorted(str(key) for key, value in picture.info.items() if isinstance(value, str) and value.strip())
    return tuple(f"text {key}" for key in texts)
