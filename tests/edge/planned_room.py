"""A room with a release that states its uncertainties, planned images, a plan that refers to them, and a configuration.

The release's network gives the same peaks for every image, so where an image's receptor lies decides the shift.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO

from edge.contract import KindContract
from edge.planned_beam import RT_IMAGE_CLASS, RT_PLAN_CLASS

PLAN_UID, IMAGE_UID, PLANNED_UID = "1.2.826.7.1", "1.2.826.7.2", "1.2.826.7.3"
ROW = [(24.0, 33.0, 0.9), (24.5, 25.0, 0.8), (24.0, 16.0, 0.7), (23.5, 9.0, 0.6)]  # network px and score
CARINA = [(28.0, 20.0, 0.9)]
SIGMA = (0.2, 0.0)  # network px; 1 of them is 256 / 48 px of 0.8 mm at SID 1500: 2.8 mm in the isocentre plane
KINDS = (
    KindContract(kind="spinous_process", threshold=0.35, at_most=4, sigma=SIGMA),
    KindContract(kind="tracheal_bifurcation", threshold=0.5, at_most=1, sigma=SIGMA),
)
PATIENT = {
    "PatientName": "Zyxwv^Planted",
    "PatientID": "PID-424242",
    "PatientBirthDate": "19470101",
    "PatientSex": "F",
    "StudyInstanceUID": "1.2.826.7.4",
    "SeriesInstanceUID": "1.2.826.7.5",
    "StudyDate": "20260105",
    "StudyTime": "101112",
}
SECRETS = (b"Zyxwv", b"Planted", b"424242", b"19470101")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def write_release(folder, contract, peaks, model):
    """Write a release of the small contract whose model always answers ``peaks``."""
    golden = io.BytesIO()
    np.savez(golden, batches=np.zeros((1, 1, 1, 48, 48), np.int8), peaks=np.stack([peaks]))
    document = json.loads(contract(kinds=KINDS).model_dump_json(by_alias=True))
    document |= {"model_sha256": sha256(model), "golden_sha256": sha256(golden.getvalue())}
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model)
    (folder / "golden.npz").write_bytes(golden.getvalue())
    (folder / "contract.json").write_text(json.dumps(document))
    return folder


def with_beam(data, beam="1", uid=IMAGE_UID):
    """Return an RT Image's bytes with a reference to a beam of the plan, None: to none, and another SOPInstanceUID."""
    ds = pydicom.dcmread(io.BytesIO(data), force=True)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
    if beam is not None:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = RT_PLAN_CLASS, PLAN_UID
        ds.ReferencedRTPlanSequence, ds.ReferencedBeamNumber = [item], beam
    return _written(ds)


def plan_bytes(gantries=("90", "0"), planned_uids=(PLANNED_UID, "1.2.826.7.9")):
    """Return an RT Plan of one beam for each gantry angle, with its planned image."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.PatientID = RT_PLAN_CLASS, PLAN_UID, PATIENT["PatientID"]
    ds.BeamSequence = []
    for number, (gantry, uid) in enumerate(zip(gantries, planned_uids, strict=True), start=1):
        beam, point, image = Dataset(), Dataset(), Dataset()
        point.GantryAngle, point.PatientSupportAngle = gantry, "0"
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = RT_IMAGE_CLASS, uid
        beam.BeamNumber, beam.ControlPointSequence, beam.ReferencedReferenceImageSequence = number, [point], [image]
        ds.BeamSequence.append(beam)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = RT_PLAN_CLASS, PLAN_UID
    return _written(ds)


def _written(ds):
    stream = DicomBytesIO()
    pydicom.dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


@dataclass
class PlannedRoom:
    """The folders and files of a room."""

    root: Path
    release: Path
    dicom: object
    pixels: np.ndarray

    def __post_init__(self):
        (self.root / "drop").mkdir()
        self.references = self.root / "references"
        self.configure()

    @property
    def drop(self):
        return self.root / "drop"

    @property
    def config(self):
        return self.root / "edge.toml"

    def configure(self, *lines):
        """Write the configuration, with more ``lines`` above the drop folder."""
        text = [f"release = '{self.release}'", f"references = '{self.references}'", f"state_dir = '{self.root}/state'"]
        text += ["settle_s = 0.05", "sweep_s = 0.2", *lines, "[[drop_folder]]", f"path = '{self.drop}'"]
        self.config.write_text("\n".join(text) + "\n")

    def image(self, moved_mm=(0.0, 0.0), *, beam="1", gantry="90", uid=IMAGE_UID, **changes):
        """Return the bytes of an RT Image whose anatomy lies ``moved_mm`` from where the planned one has it."""
        x, y = (one * 1.5 for one in moved_mm)  # at the receptor: SID 1500, SAD 1000
        tags = {
            "XRayImageReceptorTranslation": f"{x:g}\\{y:g}\\-500",
            "GantryAngle": gantry,
            "PatientSupportAngle": "0",
        }
        return with_beam(self.dicom(self.pixels, **(PATIENT | tags | changes)), beam, uid)

    def put(self, name="X.dcm", *args, **changes):
        """Write an image into the drop folder and return its path."""
        path = self.drop / name
        path.write_bytes(self.image(*args, **changes))
        return path

    def planned(self, name="drr.dcm", **changes):
        """Write the planned image of a beam outside of the drop folder and return its path."""
        path = self.root / name
        path.write_bytes(self.image(uid=changes.pop("uid", PLANNED_UID), **changes))
        return path

    def result(self, name="X"):
        """Return the result of an image in the drop folder."""
        return json.loads((self.drop / f"{name}.landmarks.json").read_bytes())

    def outputs(self):
        """Return the bytes of all outputs in the drop folder but the JSON, by name."""
        return {path.name: path.read_bytes() for path in self.drop.glob("*.landmarks.*") if path.suffix != ".json"}
