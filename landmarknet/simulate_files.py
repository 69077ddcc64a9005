"""From a CT to DICOM files: a kV DRR and a megavoltage portal image of the same pose, per view."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from landmarknet.ct import CtVolume, read_ct
from landmarknet.pose import VIEWS, Pose, View, sample_pose, straight_pose
from landmarknet.projection import Projection, Projector
from landmarknet.rt_image import SimulatedImage, write_rt_image, write_truth
from landmarknet.simulate import CLEAN_DRR, PORTAL_6MV, Exposure, expose

SID_MM = 1500.0
ATTRIBUTION = {
    "lidc": "CT: LIDC-IDRI, TCIA, doi 10.7937/k9/tcia.2015.lo9ql9sx, CC BY 3.0",
    "c3n": "CT: CPTAC-LSCC, TCIA, doi 10.7937/k9/tcia.2018.6emub5l2, CC BY 4.0",
    "tcga": "CT: TCGA-THCA, TCIA, doi 10.7937/k9/tcia.2016.9zfrvf1b, CC BY 3.0",
    "lungdx": "CT: Lung-PET-CT-Dx, TCIA, doi 10.7937/tcia.2020.nnc2-0461, CC BY 4.0",
    "acrin": "CT: ACRIN-FLT-Breast, TCIA, doi 10.7937/k9/tcia.2017.ol20zmxg, CC BY 3.0",
    "sts": "CT: Soft-tissue-Sarcoma, TCIA, doi 10.7937/k9/tcia.2015.7go2gsks, CC BY 3.0",
    "panc": "CT: pancreatic_ct_cbct_seg, TCIA, CC BY 4.0",
}


@dataclass(frozen=True)
class Detector:
    """Size (height, width) and pixel size at the isocentre plane."""

    shape: tuple[int, int]
    mm_per_px: float
    exposure: Exposure
    image_type: Literal["PORTAL", "DRR"]


EPID = Detector((384, 512), 0.784 / 1.5, PORTAL_6MV, "PORTAL")  # 40 x 30 cm at SID 1500, as an aS500
DRR = Detector((512, 512), 0.7, CLEAN_DRR, "DRR")


def simulate_files(ct_path: Path, output: Path, poses: int, seed: int) -> list[Path]:
    """Write both views and both modalities of ``poses`` poses, the first one exactly at 0 and 90 degrees; and truth."""
    ct = read_ct(ct_path)
    output.mkdir(parents=True, exist_ok=True)
    images = list(simulated_images(ct, poses, seed))
    return [*(write_rt_image(image, output) for image in images), write_truth(images, output)]


def simulated_images(ct: CtVolume, poses: int, seed: int) -> Iterator[SimulatedImage]:
    """Yield the images, DRR before portal image of each pose."""
    projector = Projector(ct)
    for view in VIEWS:
        for number in range(poses):
            rng = np.random.default_rng([seed, number, len(view)])
            pose = straight_pose(ct, view) if number == 0 else sample_pose(ct, view, rng)
            for detector in (DRR, EPID):
                yield _image(ct, projector, pose, view, number, detector, rng)


def _image(
    ct: CtVolume,
    projector: Projector,
    pose: Pose,
    view: View,
    number: int,
    detector: Detector,
    rng: np.random.Generator,
) -> SimulatedImage:
    size = max(detector.shape)
    projection = projector.project(pose, size, detector.mm_per_px)
    top, left = (size - detector.shape[0]) // 2, (size - detector.shape[1]) // 2
    paths = projection.paths_mm[:, top : top + detector.shape[0], left : left + detector.shape[1]]
    exposure = detector.exposure
    if view == "lateral" and exposure.field is not None:  # a lateral thorax reaches further to the back
        exposure = replace(exposure, field=replace(exposure.field, x_mm=(-115.0, 125.0)))
    signal = expose(
        torch.from_numpy(np.ascontiguousarray(paths)), _grid_mm(detector), exposure, rng, lateral=view == "lateral"
    )
    name = f"{ct.patient}_{view}_{'mv' if detector.image_type == 'PORTAL' else 'drr'}_{number:02d}"
    return SimulatedImage(
        name=name,
        patient=ct.patient,
        kind=detector.image_type,
        signal=signal.numpy(),
        spacing_at_isocentre_mm=detector.mm_per_px,
        gantry_deg=pose.gantry_deg,
        sid_mm=SID_MM,
        points_px=_shown(projection, np.array((left, top)), detector, exposure, view),
        attribution=next(
            (text for prefix, text in ATTRIBUTION.items() if ct.patient.startswith(prefix)), "CT: your own"
        ),
    )


def _grid_mm(detector: Detector) -> torch.Tensor:
    height, width = detector.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centred = torch.stack((x - (width - 1) / 2, (height - 1) / 2 - y), dim=-1)
    return centred * detector.mm_per_px


def _shown(
    projection: Projection, corner: np.ndarray, detector: Detector, exposure: Exposure, view: View
) -> dict[str, np.ndarray]:
    """Return the landmarks inside the detector and the field; in AP nobody could label the Louis angle."""
    half = (np.array(detector.shape[::-1]) - 1) / 2
    shown = {}
    for kind, points in projection.points_px.items():
        points_px = points - corner
        off_axis_mm = (points_px - half) * (detector.mm_per_px, -detector.mm_per_px)
        inside = np.all((points_px >= 0) & (points_px <= 2 * half), axis=1)
        if exposure.field is not None:
            low, high = np.array((exposure.field.x_mm, exposure.field.y_mm)).T
            inside &= np.all((off_axis_mm > low) & (off_axis_mm < high), axis=1)
        if not (kind == "louis_angle" and view == "ap"):
            shown[kind] = points_px[inside]
    return shown
