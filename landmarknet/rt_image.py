"""Write a simulated image as a valid DICOM RT Image (PS3.3 A.17), with the truth of its landmarks beside it."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTImageStorage

STORED_RANGE = (200, 64000)  # of 16 bit: real detectors reach neither end


@dataclass(frozen=True, eq=False)
class SimulatedImage:
    """``signal`` (H, W), bright = more dose; the beam axis meets the middle of the detector.

    ``points_px`` and ``points_mm`` hold (n, 2) per kind, detector px and mm at the isocentre (+x right, +y up).
    """

    name: str
    patient: str
    kind: Literal["PORTAL", "DRR"]
    signal: np.ndarray
    spacing_at_isocentre_mm: float
    gantry_deg: float
    sid_mm: float
    points_px: dict[str, np.ndarray]
    attribution: str

    @property
    def points_mm(self) -> dict[str, np.ndarray]:
        half = (np.array(self.signal.shape[::-1]) - 1) / 2
        scale = np.array((1.0, -1.0)) * self.spacing_at_isocentre_mm
        return {kind: (points - half) * scale for kind, points in self.points_px.items()}


SAD_MM = 1000.0


def write_rt_image(image: SimulatedImage, folder: Path) -> Path:
    """Write ``<name>.dcm`` and return its path. The same image gives the same bytes."""
    path = folder / f"{image.name}.dcm"
    dataset = rt_image_dataset(image)
    dataset.save_as(path, enforce_file_format=True)
    return path


def rt_image_dataset(image: SimulatedImage) -> Dataset:
    """Return the dataset; the stored values are inverted (sign -1), as treatment machines and planning systems do."""
    low, high = float(image.signal.min()), float(image.signal.max())
    first, last = STORED_RANGE
    stored = np.round(last - (image.signal - low) / (high - low) * (last - first)).astype(np.uint16)
    rows, columns = stored.shape
    spacing = image.spacing_at_isocentre_mm * image.sid_mm / SAD_MM

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = RTImageStorage
    ds.SOPInstanceUID = _uid("image", image.name)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = _uid("study", image.patient), _uid("series", image.name)
    ds.FrameOfReferenceUID = _uid("frame", image.patient)
    ds.Modality, ds.Manufacturer, ds.SeriesNumber, ds.InstanceNumber = "RTIMAGE", "LandmarkNet Edge simulation", 1, 1
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = (
        "SIMULATED^PATIENT",
        f"SIM-{image.patient}",
        "",
        "",
    )
    for keyword in (
        "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID", "OperatorsName",
        "PositionReferenceIndicator",
    ):  # fmt: skip
        setattr(ds, keyword, "")
    ds.ImageType = ["DERIVED", "SECONDARY", image.kind]
    ds.ConversionType = "SYN"
    ds.ImageComments = f"SIMULATED image, research use. {image.attribution}"[:10240]
    ds.RTImageLabel, ds.RTImageName = image.name[:16], image.name[:64]
    ds.RTImagePlane, ds.RadiationMachineName, ds.PatientOrientation = "NORMAL", "SIMULATED", ""
    if image.kind == "PORTAL":
        ds.ReportedValuesOrigin = "OPERATOR"
    ds.XRayImageReceptorTranslation = [0.0, 0.0, SAD_MM - image.sid_mm]
    ds.XRayImageReceptorAngle = 0.0
    ds.RTImageOrientation = [1.0, 0.0, 0.0, 0.0, -1.0, 0.0]
    ds.ImagePlanePixelSpacing = [_decimal(spacing)] * 2
    ds.RTImagePosition = [_decimal(-(columns - 1) / 2 * spacing), _decimal((rows - 1) / 2 * spacing)]
    ds.RadiationMachineSAD, ds.RTImageSID, ds.PrimaryDosimeterUnit = SAD_MM, image.sid_mm, "MU"
    ds.GantryAngle, ds.BeamLimitingDeviceAngle, ds.PatientSupportAngle = _decimal(image.gantry_deg % 360), 0.0, 0.0
    ds.IsocenterPosition = [0.0, 0.0, 0.0]
    ds.PatientPosition = "HFS"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = rows, columns, 16, 16, 15
    ds.PixelRepresentation = 0
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LIN" if image.kind == "PORTAL" else "LOG", -1
    ds.WindowCenter, ds.WindowWidth = (first + last) / 2, last - first
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def _decimal(value: float) -> float:
    """Round to what a decimal string of 16 characters holds."""
    return round(value, 6)


def _uid(what: str, name: str) -> str:
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, f'landmarknet-edge/simulation/{what}/{name}').int}"


def truth_document(images: list[SimulatedImage]) -> dict[str, Any]:
    """Return what ``truth.json`` holds: per file the landmarks that the image shows, and whose labels they are."""
    return {
        "notice": "SIMULATED images; labels are semi-manual, not a clinician's (about +-2 to 3 mm)",
        "attribution": sorted({image.attribution for image in images}),
        "made_with": f"landmarknet-train simulate, pydicom {pydicom.__version__}",
        "images": {
            f"{image.name}.dcm": {
                "patient": image.patient,
                "landmarks": [
                    {
                        "kind": kind,
                        "x_px": round(float(px[0]), 3),
                        "y_px": round(float(px[1]), 3),
                        "x_mm": round(float(mm[0]), 3),
                        "y_mm": round(float(mm[1]), 3),
                    }
                    for kind in image.points_px
                    for px, mm in zip(image.points_px[kind], image.points_mm[kind], strict=True)
                ],
            }
            for image in images
        },
    }


def write_truth(images: list[SimulatedImage], folder: Path) -> Path:
    """Write ``truth.json`` and return its path."""
    path = folder / "truth.json"
    path.write_text(json.dumps(truth_document(images), indent=1) + "\n")
    return path
