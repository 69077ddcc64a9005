"""More bodies from few: projections warped with their landmarks, and given the broad build of another patient.

A handful of patients is learned by heart (docs/adr/0009): networks found the carina of their own in 95 of 100 images,
and in half of those of others. What differs most between bodies is broad: how thick they are, how wide the heart, where
the lungs end. So that is exchanged, anew for every sample; what shows a landmark is fine, and stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landmarknet.simulate import blur, smooth_field

WAVES = 6  # cosines along each axis
ITERATIONS, STEP = 25, 0.7  # of the inverse; waves of up to 14 mm stay well below one px of shift per px
UNWARPED_SHARE, UNMIXED_SHARE = 0.15, 0.3
BROAD_MM = (15.0, 60.0)  # sigma of what counts as broad
LEAST_FACTOR = 0.2


@dataclass(frozen=True, eq=False)
class Warp:
    """w(p) = image(p + d(p)) on a square of ``size`` px; ``waves`` (2, W, W) px are the amplitudes of d's x and y."""

    waves: np.ndarray
    size: int

    def displacement(self, points_px: np.ndarray) -> np.ndarray:
        """Return d at (n, 2) px; beyond the square as at its edge."""
        phase = np.clip(points_px / (self.size - 1), 0, 1)[..., None] * (np.pi * np.arange(WAVES, dtype=np.float32))
        x, y = np.cos(phase[:, 0]), np.cos(phase[:, 1])
        return np.stack([((x @ waves) * y).sum(axis=1) for waves in self.waves], axis=1)

    def move(self, points_px: np.ndarray) -> np.ndarray:
        """Return where (n, 2) points of the image lie in the warped one: the p with p + d(p) = q."""
        moved = points_px
        for _ in range(ITERATIONS):
            moved = moved - STEP * (moved + self.displacement(moved) - points_px)
        return moved


def sample_warp(size: int, mm_per_px: float, rng: np.random.Generator) -> Warp:
    """Draw a warp of about 6 mm rms; one in seven moves nothing."""
    order = np.hypot(*np.mgrid[:WAVES, :WAVES])
    strength_mm = 0.0 if rng.random() < UNWARPED_SHARE else rng.uniform(4.0, 14.0)
    waves = strength_mm / mm_per_px * rng.standard_normal((2, WAVES, WAVES)) / (1 + order) ** 1.5
    return Warp(waves.astype(np.float32), size)


def mix_bodies(paths_mm: Tensor, other_mm: Tensor, mm_per_px: float, rng: np.random.Generator) -> Tensor:
    """Return paths (2, H, W), soft tissue and bone, with the broad soft tissue of another body, uneven in both.

    Both are on the same detector. What is finer than 15 to 60 mm stays that of ``paths_mm``, with every landmark in it.
    """
    soft, bone = paths_mm
    if rng.random() >= UNMIXED_SHARE:
        sigma_px = float(np.exp(rng.uniform(*np.log(BROAD_MM)))) / mm_per_px
        soft = (soft + rng.uniform(0.2, 0.9) * blur(other_mm[0] - soft, sigma_px)).clamp_min(0)
    soft = soft * _factors(soft.shape, rng.uniform(0.0, 0.12), rng)
    return torch.stack((soft, bone * _factors(bone.shape, 0.25, rng)))


def _factors(shape: torch.Size, strength: float, rng: np.random.Generator) -> Tensor:
    return (1 + strength * smooth_field(shape, rng, WAVES - 1)).clamp_min(LEAST_FACTOR)
