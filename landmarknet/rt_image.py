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

from landmarknet.pose import View

STORED_RANGE = (200, 64000)  # of 16 bit: real detectors reach neither end


@dataclass(frozen=True, eq=False)
class SimulatedImage:
    """``signal`` (H, W), bright = more dose; the beam axis meets the middle of the detector.

    ``points_px`` holds the labelled points (n, 2) per kind, detector px, ``shown`` (n,) whether the image shows them.
    ``unlabelled`` kinds may be there without a label. ``sign`` is the stored values': -1 stores less for more dose.
    """

    name: str
    patient: str
    view: View
    kind: Literal["PORTAL", "DRR"]
    signal: np.ndarray
    spacing_at_isocentre_mm: float
    gantry_deg: float
    sid_mm: float
    sign: Literal[-1, 1]
    points_px: dict[str, np.ndarray]
    shown: dict[str, np.ndarray]
    unlabelled: frozenset[str]
    attribution: str


SAD_MM = 1000.0


def write_rt_image(image: SimulatedImage, folder: Path) -> Path:
    """Write ``<name>.dcm`` and return its path. The same image gives the same bytes."""
    path = folder / f"{image.name}.dcm"
    dataset = rt_image_dataset(image)
    dataset.save_as(path, enforce_file_format=True)
    return path


def rt_image_dataset(image: SimulatedImage) -> Dataset:
    """Return the dataset; treatment machines and planning systems store inverted values (sign -1)."""
    low, high = float(image.signal.min()), float(image.signal.max())
    first, last = STORED_RANGE
    share = (image.signal - low) / max(high - low, 1e-12)
    stored = last - share * (last - first) if image.sign < 0 else first + share * (last - first)
    stored = np.round(stored).astype(np.uint16)
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
    ds.PixelIntensityRelationship = "LIN" if image.kind == "PORTAL" else "LOG"
    ds.PixelIntensityRelationshipSign = image.sign
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
    """Return what ``truth.json`` holds: per file the labelled landmarks it shows and hides, and unlabelled kinds."""
    return {
        "notice": "SIMULATED images; labels are semi-manual, not a clinician's (about +-2 to 3 mm)",
        "attribution": sorted({image.attribution for image in images}),
        "made_with": f"landmarknet-train simulate, pydicom {pydicom.__version__}",
        "images": {f"{image.name}.dcm": _truth(image) for image in images},
    }


def _truth(image: SimulatedImage) -> dict[str, Any]:
    return {
        "patient": image.patient,
        "view": image.view,
        "modality": "mv" if image.kind == "PORTAL" else "kv",
        "mm_per_px": round(image.spacing_at_isocentre_mm, 6),
        "landmarks": _points(image, shown=True),
        "hidden": _points(image, shown=False),
        "unlabelled": sorted(image.unlabelled),
    }


def _points(image: SimulatedImage, *, shown: bool) -> list[dict[str, Any]]:
    """Return points in px and in mm at the isocentre (+x right, +y up)."""
    half = (np.array(image.signal.shape[::-1]) - 1) / 2
    entries = []
    for kind in sorted(set(image.points_px) - image.unlabelled, key=list(image.points_px).index):
        for px in image.points_px[kind][image.shown[kind] == shown]:
            mm = (px - half) * (1.0, -1.0) * image.spacing_at_isocentre_mm
            x_px, y_px, x_mm, y_mm = (round(float(value), 3) for value in (*px, *mm))
            entries.append({"kind": kind, "x_px": x_px, "y_px": y_px, "x_mm": x_mm, "y_mm": y_mm})
    return entries


def write_truth(images: list[SimulatedImage], folder: Path) -> Path:
    """Write ``truth.json`` and return its path."""
    path = folder / "truth.json"
    path.write_text(json.dumps(truth_document(images), indent=1) + "\n")
    return path
