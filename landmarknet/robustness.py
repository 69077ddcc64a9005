"""What a nuisance costs: the same images, changed in one thing, through the same pipeline.

The changes act on the pixels that the room reads, so they ask nothing of the simulator that made the training images.
One is a different renderer: a parallel beam, without scatter, penumbra or blur, through the undeformed volume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from edge.backends import Backend
from edge.contract import Reading
from edge.portal_image import read_portal_image
from edge.records import ImageIdentity, PortalImage
from landmarknet.ct import AS_SCANNED, CtVolume, TissueCurve, read_ct, tissue_densities
from landmarknet.dataset import unlabelled_kinds
from landmarknet.evaluate import Finding, find_in, read_truths
from landmarknet.pose import VIEWS, View

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Nuisance:
    """``change`` maps pixels (H, W) in [0, 1], bright = more dose, to others of the same shape."""

    name: str
    change: Change


def _speckle(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return pixels + rng.normal(0, 0.05, pixels.shape)


def _window(pixels: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return np.clip(pixels, *np.quantile(pixels, (0.15, 0.85)))


def _lost_columns(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = pixels.copy()
    out[:, rng.integers(0, pixels.shape[1], 3)] = 0.0
    return out


def _tilted(pixels: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return pixels * (1 + 0.5 * np.linspace(-1, 1, pixels.shape[1]))


def _sharpened(pixels: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return pixels + 1.5 * (pixels - gaussian_filter(pixels, max(pixels.shape) / 60))


def _eight_bit(pixels: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return np.round(pixels * 255) / 255


NUISANCES = (
    Nuisance("none", lambda p, _: p),
    Nuisance("gamma 0.5", lambda p, _: p**0.5),
    Nuisance("gamma 2", lambda p, _: p**2),
    Nuisance("window clipped at the 15th and 85th percentile", _window),
    Nuisance("8-bit export", _eight_bit),
    Nuisance("noise, 5 % of the range", _speckle),
    Nuisance("blur, 1/200 of the image", lambda p, _: gaussian_filter(p, max(p.shape) / 200)),
    Nuisance("edge enhancement", _sharpened),
    Nuisance("shading, 50 % across", _tilted),
    Nuisance("three dead columns", _lost_columns),
    Nuisance("polarity inverted, against its tag", lambda p, _: 1 - p),
)


UNCHANGED = NUISANCES[0].name
EVERY = 3  # image: neighbours are the same pose in kV and MV

CURVES = {
    "as scanned": AS_SCANNED,
    "thin lungs, weak bone": TissueCurve(lung_exponent=1.16, bone_starts_hu=250.0, bone_slope=0.75),
    "dense lungs, strong bone": TissueCurve(lung_exponent=0.87, bone_starts_hu=100.0, bone_slope=1.25),
    "noise of 80 HU": TissueCurve(noise_hu=80.0),
}


def find_changed(
    backend: Backend, reading: Reading, images: Path, patients: Sequence[str], nuisance: Nuisance
) -> list[Finding]:
    """Return the findings on every third image of some patients after one change."""
    findings = []
    for number, (path, truth) in enumerate(islice(read_truths(images, patients).items(), 0, None, EVERY)):
        image = read_portal_image(path)
        low, high = float(image.pixels.min()), float(image.pixels.max())
        unit = (image.pixels - low) / max(high - low, 1e-9)
        changed = nuisance.change(unit, np.random.default_rng([7, number])).astype(np.float32)
        findings += find_in(replace(image, pixels=changed), truth, backend, reading)
    return findings


def find_without_geometry(backend: Backend, reading: Reading, images: Path, patients: Sequence[str]) -> list[Finding]:
    """Return the findings when no image's scale is known: the network has to choose it."""
    findings = []
    for path, truth in read_truths(images, patients).items():
        image = replace(read_portal_image(path), geometry=None, geometry_reason="left out on purpose")
        findings += find_in(image, truth, backend, reading)
    return findings


def find_in_parallel_beam(backend: Backend, reading: Reading, ct: Path) -> dict[str, list[Finding]]:
    """Return the findings in images of another renderer, by curve from CT numbers to attenuation.

    It sums along the voxel axes: no divergence, no scatter, no detector.
    """
    volume = read_ct(ct)
    found: dict[str, list[Finding]] = {}
    for name, curve in CURVES.items():
        tissues = tissue_densities(volume.hu, curve, np.random.default_rng(0))
        for view in VIEWS:
            for modality, per_mm, bone in (("kv", 0.019, 1.2), ("mv", 0.005, 0.5)):
                image, truth = parallel_image(volume, tissues, view, per_mm, bone)
                found.setdefault(name, []).extend(find_in(image, {**truth, "modality": modality}, backend, reading))
    return found


def parallel_image(
    ct: CtVolume, tissues: tuple[np.ndarray, np.ndarray], view: View, per_mm: float, bone: float
) -> tuple[PortalImage, dict[str, Any]]:
    """Return a parallel projection of about 1 mm per px along a voxel axis, and its truth; its scale is not known."""
    along, across = (1, 0) if view == "ap" else (0, 1)  # x runs to the patient's left in AP, to the back in a lateral
    soft, excess = (tissue.sum(axis=along) for tissue in tissues)
    path = (soft + bone * excess) * ct.spacing_mm[along]  # (across, S)
    path = zoom(path, (ct.spacing_mm[across], ct.spacing_mm[2]), order=1)
    signal = np.exp(-per_mm * path).T[::-1]  # superior is up
    height, width = signal.shape
    axes = [across, 2]
    extent_mm = ((np.array(ct.hu.shape) - 1) * ct.spacing_mm)[axes]
    entries = []
    for kind, points in ct.points_mm.items():
        for right, up in (points[:, axes] - ct.origin_mm[axes]) / extent_mm * (width - 1, height - 1):
            entries.append({"kind": kind, "x_px": float(right), "y_px": float(height - 1 - up)})
    identity = ImageIdentity(f"{ct.patient}_{view}_parallel", "0" * 64, None, None, height, width)
    pixels = np.ascontiguousarray(signal, np.float32)
    truth = {
        "patient": ct.patient, "view": view, "mm_per_px": float(extent_mm[0]) / (width - 1), "landmarks": entries,
        "hidden": [], "unlabelled": sorted(unlabelled_kinds(ct.patient, view)),
    }  # fmt: skip
    return PortalImage(pixels, "another renderer's own", None, "another renderer's image", identity), truth
