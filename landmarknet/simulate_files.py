"""From CT volumes to a data set of DICOM files: a kV DRR and a megavoltage portal image of each pose, by patient.

Everything is seeded: the same volumes, poses and seed give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from landmarknet.ct import CtVolume, read_ct, sample_curve
from landmarknet.dataset import balls, exposed, unlabelled_kinds
from landmarknet.pose import VIEWS, Pose, View, sample_pose, straight_pose
from landmarknet.projection import Projection, Projector
from landmarknet.rt_image import SAD_MM, SimulatedImage, write_rt_image, write_truth
from landmarknet.simulate import CLEAN_DRR, PORTAL_6MV, Exposure, Modality, expose, sample_exposure

SID_MM = 1500.0
EMPTY_FIELDS = "empty_field"  # stands for a patient in the data set: blanks, floods and quality assurance
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
    """Size (height, width), pixel size at the isocentre plane, and distance from the source."""

    shape: tuple[int, int]
    mm_per_px: float
    image_type: Literal["PORTAL", "DRR"]
    sid_mm: float = SID_MM

    @property
    def modality(self) -> Modality:
        return "mv" if self.image_type == "PORTAL" else "kv"


EPID = Detector((384, 512), 0.784 / 1.5, "PORTAL")  # 40 x 30 cm at SID 1500, as an aS500
DRR = Detector((512, 512), 0.7, "DRR")
PANELS_MM = ((300.0, 400.0), (410.0, 410.0), (430.0, 430.0))  # (height, width)
SHEET_PX, SHEET_MM_PER_PX = 512, 0.85  # of the projection that both images of a pose are sampled from
PANEL_COLUMNS = (384, 512, 768, 1024, 1280)


def sample_detector(rng: np.random.Generator, image_type: Literal["PORTAL", "DRR"]) -> Detector:
    """Draw a panel of 384 to 1280 columns between SID 1000 and 1500, or the plane of a DRR."""
    columns = int(rng.choice(PANEL_COLUMNS))
    if image_type == "DRR":
        mm_per_px = rng.uniform(250.0, 420.0) / columns
        return Detector((columns, columns), mm_per_px, "DRR")
    height_mm, width_mm = PANELS_MM[int(rng.integers(len(PANELS_MM)))]
    sid_mm = float(round(rng.uniform(1000.0, 1500.0)))
    shape = round(columns * height_mm / width_mm), columns
    return Detector(shape, width_mm / columns * 1000.0 / sid_mm, "PORTAL", sid_mm)


def simulate_files(ct_path: Path, output: Path, poses: int, seed: int) -> list[Path]:
    """Write both views and both modalities of ``poses`` poses into ``output``, and their truth; return the paths.

    The first pose is exactly at 0 and 90 degrees with plain exposures; the others vary in everything.
    """
    output.mkdir(parents=True, exist_ok=True)
    images = simulated_images(read_ct(ct_path), poses, seed)
    return _write(images, output)


def empty_field_files(output: Path, count: int, seed: int) -> list[Path]:
    """Write ``count`` fields without a patient per modality, and their truth (nothing); return the paths."""
    output.mkdir(parents=True, exist_ok=True)
    return _write(empty_fields(count, seed), output)


def _write(images: Iterable[SimulatedImage], output: Path) -> list[Path]:
    paths, truths = [], []
    for image in images:
        paths.append(write_rt_image(image, output))
        truths.append(replace(image, signal=np.zeros(image.signal.shape, np.bool_)))  # keep no pixels of a long series
    return [*paths, write_truth(truths, output)]


def simulated_images(ct: CtVolume, poses: int, seed: int) -> Iterator[SimulatedImage]:
    """Yield the images, DRR before portal image of each pose; but for the first each has its own curve of tissues."""
    as_scanned = Projector(ct)
    for view in VIEWS:
        for number in range(poses):
            rng = np.random.default_rng([seed, number, len(view), *ct.patient.encode()])
            if number == 0:
                pose = straight_pose(ct, view)
                for detector, exposure in ((DRR, CLEAN_DRR), (EPID, _portal_field(view))):
                    exact = as_scanned.project(pose, max(detector.shape), detector.mm_per_px)
                    yield _image(ct, exact, detector, exposure, (pose, view, number), rng)
                continue
            turn_deg = float(np.clip(rng.normal(0, 3), -10, 10))
            pose = replace(sample_pose(ct, view, rng), turn_deg=turn_deg, sad_mm=SAD_MM)
            shared = Projector(ct, sample_curve(rng), rng).project(pose, SHEET_PX, SHEET_MM_PER_PX)
            for image_type in ("DRR", "PORTAL"):
                detector = sample_detector(rng, image_type)
                yield _image(ct, shared, detector, _exposure(detector, rng), (pose, view, number), rng)


def _portal_field(view: View) -> Exposure:
    if view == "ap":
        return PORTAL_6MV
    assert PORTAL_6MV.field is not None  # a lateral thorax reaches further to the back
    return replace(PORTAL_6MV, field=replace(PORTAL_6MV.field, x_mm=(-115.0, 125.0)))


def _exposure(detector: Detector, rng: np.random.Generator) -> Exposure:
    """Draw an exposure; its polarity is what the file says, whatever the file stores."""
    exposure = sample_exposure(rng, detector.modality)
    processing = exposure.processing and replace(exposure.processing, inverted=False)
    return replace(exposure, processing=processing)


def _image(
    ct: CtVolume,
    projection: Projection,
    detector: Detector,
    exposure: Exposure,
    series: tuple[Pose, View, int],
    rng: np.random.Generator,
) -> SimulatedImage:
    pose, view, number = series
    grid_mm = _grid_mm(detector)
    signal = expose(sample_projection(projection, grid_mm), grid_mm, exposure, rng, lateral=view == "lateral")
    half = (np.array(detector.shape[::-1]) - 1) / 2
    middle, zoom = (len(projection.paths_mm[0]) - 1) / 2, projection.mm_per_px / detector.mm_per_px
    points_px = {kind: (points - middle) * zoom + half for kind, points in projection.points_px.items()}
    return SimulatedImage(
        name=f"{ct.patient}_{view}_{'mv' if detector.image_type == 'PORTAL' else 'drr'}_{number:02d}",
        patient=ct.patient,
        view=view,
        kind=detector.image_type,
        signal=signal.numpy(),
        spacing_at_isocentre_mm=detector.mm_per_px,
        gantry_deg=pose.gantry_deg,
        sid_mm=detector.sid_mm,
        sign=-1 if number == 0 or rng.random() < 0.7 else 1,
        points_px=points_px,
        shown={kind: _shown(points, detector, exposure) for kind, points in points_px.items()},
        unlabelled=unlabelled_kinds(ct.patient, view),
        attribution=next(
            (text for prefix, text in ATTRIBUTION.items() if ct.patient.startswith(prefix)), "CT: your own"
        ),
    )


def sample_projection(projection: Projection, grid_mm: torch.Tensor) -> torch.Tensor:
    """Return the paths (2, H, W) at each pixel's mm (H, W, 2), +y up."""
    source = torch.from_numpy(projection.paths_mm)
    half_mm = (source.shape[-1] - 1) / 2 * projection.mm_per_px
    unit = (grid_mm * torch.tensor((1.0, -1.0)) / half_mm).float()
    return F.grid_sample(source[None], unit[None], mode="bilinear", padding_mode="border", align_corners=True)[0]


def empty_fields(count: int, seed: int) -> Iterator[SimulatedImage]:
    """Yield fields without a patient, with or without balls, ``count`` per modality."""
    for number in range(count):
        rng = np.random.default_rng([seed, number, 0])
        for image_type in ("DRR", "PORTAL"):
            detector = sample_detector(rng, image_type)
            grid_mm = _grid_mm(detector)
            signal = expose(balls(grid_mm, rng), grid_mm, _exposure(detector, rng), rng, lateral=False)
            yield SimulatedImage(
                name=f"{EMPTY_FIELDS}_{'mv' if image_type == 'PORTAL' else 'drr'}_{number:02d}",
                patient=EMPTY_FIELDS,
                view="ap",
                kind=detector.image_type,
                signal=signal.numpy(),
                spacing_at_isocentre_mm=detector.mm_per_px,
                gantry_deg=0.0,
                sid_mm=detector.sid_mm,
                sign=-1,
                points_px={},
                shown={},
                unlabelled=frozenset(),
                attribution="no patient",
            )


def _grid_mm(detector: Detector) -> torch.Tensor:
    height, width = detector.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centred = torch.stack((x - (width - 1) / 2, (height - 1) / 2 - y), dim=-1)
    return centred * detector.mm_per_px


def _shown(points_px: np.ndarray, detector: Detector, exposure: Exposure) -> np.ndarray:
    """Return (n,) whether each point lies on the detector and in the field."""
    half = (np.array(detector.shape[::-1]) - 1) / 2
    off_axis_mm = (points_px - half) * (detector.mm_per_px, -detector.mm_per_px)
    return np.all((points_px >= 0) & (points_px <= 2 * half), axis=1) & exposed(off_axis_mm, exposure.field)
