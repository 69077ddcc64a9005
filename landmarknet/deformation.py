"""Smooth deformation of a CT volume and its landmarks together: other bodies from the few that we have.

The deformed volume is sampled backwards, d(p) = hu(s(p)), with s(p) = c + A (p - c) + u(p): A stretches each axis, u
is a sum of a few low cosines. A landmark q moves to the p with s(p) = q, found by fixed-point iteration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from landmarknet.ct import CtVolume

WAVES = 4  # cosines per axis: the shortest wave is two thirds of the volume
SPACING_MM = 1.25  # of the deformed volume
ITERATIONS = 30
AIR_HU = -1000.0


@dataclass(frozen=True, eq=False)
class Deformation:
    """``stretch`` (3,) per axis about the volume's centre; ``waves`` (3, W, W, W) mm, amplitudes per component."""

    stretch: np.ndarray
    waves: np.ndarray

    def source_mm(self, points_mm: np.ndarray, ct: CtVolume) -> np.ndarray:
        """Return s(p) of (n, 3) LPS mm: where in the original volume the deformed one looks."""
        relative = (points_mm - ct.origin_mm) / _extent_mm(ct)
        basis = [np.cos(np.pi * np.arange(WAVES) * relative[:, axis : axis + 1]) for axis in range(3)]
        moved = np.einsum("cijk,ni,nj,nk->nc", self.waves, *basis)
        result: np.ndarray = ct.centre_mm + self.stretch * (points_mm - ct.centre_mm) + moved
        return result

    def move(self, points_mm: np.ndarray, ct: CtVolume) -> np.ndarray:
        """Return where (n, 3) LPS mm landmarks of the original lie in the deformed volume."""
        moved = points_mm
        for _ in range(ITERATIONS):
            moved = moved - (self.source_mm(moved, ct) - points_mm)
        return moved


def sample_deformation(rng: np.random.Generator) -> Deformation:
    """Draw a body: 12 % larger or smaller at most, each axis another 6 % (one sigma), bent and bulged by 2.7 mm rms."""
    stretch = np.exp(rng.uniform(-0.12, 0.12) + rng.normal(0, 0.06, 3).clip(-0.12, 0.12))
    waves = rng.normal(0, 1, (3, WAVES, WAVES, WAVES))
    order = np.sqrt(sum(np.arange(WAVES).reshape(shape) ** 2 for shape in ((-1, 1, 1), (1, -1, 1), (1, 1, -1))))
    return Deformation(stretch, 6.0 * waves / (1 + order) ** 2)


def deform(ct: CtVolume, deformation: Deformation) -> CtVolume:
    """Return the deformed volume on a grid of 1.25 mm, as large as the stretch needs, with its landmarks."""
    half_mm = _extent_mm(ct) / 2 / np.minimum(deformation.stretch, 1.0)
    size = np.ceil(2 * half_mm / SPACING_MM).astype(int) + 1
    origin_mm = ct.centre_mm - (size - 1) / 2 * SPACING_MM
    axes = [torch.from_numpy(origin_mm[i] + SPACING_MM * np.arange(size[i])).float() for i in range(3)]
    source = torch.from_numpy(ct.hu.astype(np.float32) - AIR_HU)[None, None]  # air is 0, as beyond the volume
    slabs = [_slab(source, axes, part, deformation, ct) for part in axes[0].split(32)]
    hu = (torch.cat(slabs) + AIR_HU).round().to(torch.int16).numpy()
    points = {kind: deformation.move(p, ct) for kind, p in ct.points_mm.items()}
    return replace(ct, hu=hu, spacing_mm=np.full(3, SPACING_MM), origin_mm=origin_mm, points_mm=points)


def _slab(source: Tensor, axes: list[Tensor], x: Tensor, deformation: Deformation, ct: CtVolume) -> Tensor:
    """Sample the deformed volume at some of its x, (n, Y, Z)."""
    extent = _extent_mm(ct)
    along = [x, axes[1], axes[2]]
    basis = [_cosines((a - ct.origin_mm[i]) / extent[i]) for i, a in enumerate(along)]
    grids = torch.meshgrid(*along, indexing="ij")
    unit = []
    for axis in (2, 1, 0):  # grid_sample wants the fastest axis first
        wave = torch.from_numpy(deformation.waves[axis]).float()
        moved = torch.einsum("ijk,in,jm,kl->nml", wave, *basis)
        centre = float(ct.centre_mm[axis])
        at = centre + float(deformation.stretch[axis]) * (grids[axis] - centre) + moved
        relative = (at - float(ct.origin_mm[axis])) * (2 / float(extent[axis])) - 1
        unit.append(relative.clamp(-1, 1) if axis == 2 else relative)  # a patient does not end where the CT does
    grid = torch.stack(unit, dim=-1)[None]
    sampled: Tensor = F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0, 0]
    return sampled


def _cosines(relative: Tensor) -> Tensor:
    return torch.cos(math.pi * torch.arange(WAVES)[:, None] * relative)


def _extent_mm(ct: CtVolume) -> np.ndarray:
    extent: np.ndarray = (np.array(ct.hu.shape) - 1) * ct.spacing_mm
    return extent
