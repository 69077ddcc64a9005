"""A CT volume of a patient with its 3-D landmarks, split into the two tissues that X-ray energy treats differently."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

BONE_STARTS_HU = 150.0
KIND_OF_LABEL = {"carina": "tracheal_bifurcation", "sternal_angle_anterior": "louis_angle"}  # spinous_tip_NN besides


@dataclass(frozen=True, eq=False)
class CtVolume:
    """``hu`` is (X, Y, Z) int16 along L, P, S; ``origin_mm`` the LPS position of voxel (0, 0, 0).

    ``points_mm`` maps each labelled kind to (n, 3) LPS mm, from the top down. Labels are semi-manual.
    """

    patient: str
    hu: np.ndarray
    spacing_mm: np.ndarray  # (3,)
    origin_mm: np.ndarray  # (3,)
    points_mm: dict[str, np.ndarray]

    @property
    def centre_mm(self) -> np.ndarray:
        """Return the LPS mm of the volume's centre, (3,)."""
        return self.origin_mm + (np.array(self.hu.shape) - 1) / 2 * self.spacing_mm


def read_ct(path: Path) -> CtVolume:
    """Read ``<patient>.nii.gz`` and, where it exists, ``<patient>.landmarks.json`` beside it."""
    try:
        volume = nib.load(path)
    except (OSError, nib.filebasedimages.ImageFileError) as exc:
        raise ValueError(f"{path}: not a NIfTI volume that can be read ({exc}); name <patient>.nii.gz files") from exc
    if not isinstance(volume, nib.Nifti1Image) or not np.allclose(np.sign(np.diag(volume.affine)[:3]), (-1, -1, 1)):
        raise ValueError(f"{path}: expected a NIfTI volume whose axes run along L, P and S")
    ras_to_lps = np.array((-1.0, -1.0, 1.0))
    patient = path.name.removesuffix(".nii.gz")
    labels = path.with_name(f"{patient}.landmarks.json")
    return CtVolume(
        patient=patient,
        hu=np.asarray(volume.dataobj).astype(np.int16),
        spacing_mm=np.asarray(volume.header.get_zooms()[:3], float),
        origin_mm=volume.affine[:3, 3] * ras_to_lps,
        points_mm=_read_points(labels) if labels.exists() else {},
    )


def _read_points(path: Path) -> dict[str, np.ndarray]:
    points: dict[str, list[list[float]]] = {}
    for entry in json.loads(path.read_text())["landmarks"]:
        kind = "spinous_process" if entry["name"].startswith("spinous_tip") else KIND_OF_LABEL[entry["name"]]
        points.setdefault(kind, []).append(entry["world_lps"])
    return {kind: np.array(sorted(p, key=lambda q: -q[2]), float) for kind, p in points.items()}


def tissue_densities(hu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split HU into soft tissue and the excess of bone over it, both relative to water, float32.

    Their sum is the attenuation relative to water at the CT's own energy. The excess is mostly photoelectric, so a
    portal image at megavoltage shows about half of it.
    """
    relative = (hu.astype(np.float32) + 1000.0) / 1000.0
    ceiling = (BONE_STARTS_HU + 1000.0) / 1000.0
    return np.clip(relative, 0.0, ceiling), np.clip(relative - ceiling, 0.0, None)
