"""What all DICOM outputs have in common: who made them, when, for whom, and how their bytes come about.

The same input gives the same bytes. An object's SOPInstanceUID follows from all that it says, so two objects that
differ in anything (a reference, a version, a date) never share one, as PS3.5 9 and B.2 demand.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID

from edge.results.dicom_source import DicomSource

MANUFACTURER = "LandmarkNet Edge"
MODEL_NAME = "landmarknet-edge"
_DATES = ("InstanceCreation", "Content", "PresentationCreation")


@dataclass(frozen=True)
class Making:
    """Who makes an object, and when."""

    uid: Callable[[str], str]  # a DICOM UID that follows from the result's key and a purpose
    made_at: datetime  # local time; for the same bytes after a crash, the time at which the file was first seen
    software: str  # name and version
    release: str  # of the model, as in its contract

    @property
    def equipment(self) -> dict[str, Any]:
        """Return the arguments of PS3.3 C.7.5.1, General Equipment, as highdicom names them."""
        return {
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": MODEL_NAME,
            "software_versions": f"{self.software}, release {self.release}"[:64],
            "device_serial_number": None,
        }

    def series(self, purpose: str) -> dict[str, Any]:
        """Return the arguments that make an object the only one of its series; `finished` renames the object."""
        return {
            "series_instance_uid": self.uid(f"{purpose} series"),
            "series_number": 1,
            "sop_instance_uid": self.uid(purpose),
            "instance_number": 1,
        }


def finished(made: Dataset, source: DicomSource, making: Making, purpose: str) -> bytes:
    """Return the bytes of a PS3.10 file: the object with its patient, study, dates and its own UID.

    highdicom writes the present time into what it makes, and its contributing equipment holds one, too.
    """
    if "ContributingEquipmentSequence" in made:
        del made.ContributingEquipmentSequence
    made.update({element.tag: element for element in deepcopy(source.patient_and_study)})
    for stem in _DATES:
        if f"{stem}Date" in made:
            setattr(made, f"{stem}Date", making.made_at.strftime("%Y%m%d"))
            setattr(made, f"{stem}Time", making.made_at.strftime("%H%M%S.%f"))
    digest = hashlib.sha256(_written(made)).hexdigest()
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = UID(making.uid(f"{purpose} {digest}"))
    return _written(made)


def _written(made: Dataset) -> bytes:
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
