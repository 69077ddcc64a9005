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


@dataclass(frozen=True)
class TissueCurve:
    """How CT numbers become attenuation: scanners, kernels and lookup tables differ.

    Densities between air and water are taken to the power of ``lung_exponent``, which leaves those two where they are;
    bone is what exceeds ``bone_starts_hu``, and ``bone_slope`` multiplies that excess. ``noise_hu`` is the standard
    deviation of white noise that is added to each voxel.
    """

    lung_exponent: float = 1.0
    bone_starts_hu: float = BONE_STARTS_HU
    bone_slope: float = 1.0
    noise_hu: float = 0.0


AS_SCANNED = TissueCurve()


def sample_curve(rng: np.random.Generator) -> TissueCurve:
    """Draw a curve: a lung of 0.25 at 0.2 to 0.3, bone up to 25 % off, its knee at 100 to 250 HU; noise in half."""
    return TissueCurve(
        lung_exponent=rng.uniform(0.87, 1.16),
        bone_starts_hu=rng.uniform(100.0, 250.0),
        bone_slope=rng.uniform(0.75, 1.25),
        noise_hu=float(np.exp(rng.uniform(np.log(5.0), np.log(80.0)))) if rng.random() < 0.5 else 0.0,
    )


def tissue_densities(
    hu: np.ndarray, curve: TissueCurve = AS_SCANNED, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split HU into soft tissue and the excess of bone over it, both relative to water, float32.

    As scanned, their sum is the attenuation relative to water at the CT's own energy. The excess is mostly
    photoelectric, so a portal image at megavoltage shows about half of it. A curve with noise needs ``rng``.
    """
    hu = hu.astype(np.float32)
    if curve.noise_hu > 0:
        if rng is None:
            raise ValueError("a curve with noise needs a generator of random numbers")
        hu = hu + np.float32(curve.noise_hu) * rng.standard_normal(hu.shape, np.float32)
    soft = np.clip((hu + 1000.0) / 1000.0, 0.0, (curve.bone_starts_hu + 1000.0) / 1000.0)
    if curve.lung_exponent != 1.0:
        thin = soft < 1.0
        soft[thin] **= curve.lung_exponent
    return soft, curve.bone_slope * np.clip((hu - curve.bone_starts_hu) / 1000.0, 0.0, None)
