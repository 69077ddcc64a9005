"""The weighted rigid fit of matched landmarks in the isocentre plane, with its covariance.

    detected = shift + scale * R(rotation) * reference

about the isocentre, the origin. Shift and rotation are what is asked for. The scale is a nuisance that one view cannot
tell from the patient's place along the beam (20 mm nearer the source are 2 % larger at a source-axis distance of 1 m);
it is held near 1 by what setups do, and so enters the covariance of the shift. Gauss-Newton on the weighted squares;
the covariance is the inverse of the information at the solution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SCALE_SIGMA = 0.012  # places along the beam within +-20 mm, evenly: 11.5 mm standard deviation, at 1 m
SETUP_ROTATION_SIGMA_DEG = 2.3  # rotations within +-4 deg, evenly
ANY_ROTATION_SIGMA_DEG = 57.3  # keeps the equations regular, and nothing else
_ANY_SHIFT_SIGMA_MM = 1e3
_FARTHEST = np.array([np.inf, np.inf, math.pi / 2, 0.2])  # of shift x, shift y, rotation and log scale
_ROUNDS = 8
_STILL = 1e-10  # mm and rad


@dataclass(frozen=True, eq=False)
class Pairs:
    """k reference landmarks and where each was detected, mm in the isocentre plane."""

    reference_mm: np.ndarray  # (k, 2)
    detected_mm: np.ndarray  # (k, 2)
    sigma_mm: np.ndarray  # (k,) of the difference
    across: np.ndarray  # (k, 2) unit vector along which a line's place is known; 0, 0 for a point, known both ways

    def counts(self) -> np.ndarray:
        """Return (k, 2, 2): projections onto the directions in which each pair is known."""
        is_line = np.any(self.across != 0, axis=1).reshape(-1, 1, 1)
        return np.where(is_line, self.across[:, :, None] * self.across[:, None, :], np.eye(2))

    def __len__(self) -> int:
        return len(self.sigma_mm)


@dataclass(frozen=True, eq=False)
class Fit:
    """A rigid motion from reference to detected."""

    shift_mm: np.ndarray  # (2,)
    rotation_rad: float  # counter-clockwise in the image
    scale: float
    covariance: np.ndarray  # (4, 4) of shift x, shift y (mm), rotation (rad), log scale

    def apply(self, reference_mm: np.ndarray) -> np.ndarray:
        """Map (..., 2) reference mm to where they are expected in the image, mm."""
        return np.asarray(self.shift_mm + self.scale * np.asarray(reference_mm, float) @ _turn(self.rotation_rad).T)

    def undo(self, detected_mm: np.ndarray) -> np.ndarray:
        """Map (..., 2) mm in the image back to the reference: the inverse of `apply`."""
        return np.asarray((np.asarray(detected_mm, float) - self.shift_mm) @ _turn(self.rotation_rad) / self.scale)

    def spread(self, reference_mm: np.ndarray) -> np.ndarray:
        """Return (k, 2, 2), mm^2: how uncertain the fit itself is at reference points (k, 2)."""
        slopes = _slopes(self, reference_mm)
        return np.asarray(slopes @ self.covariance @ slopes.swapaxes(1, 2))


def fit_rigid(pairs: Pairs, rotation_sigma_deg: float) -> Fit:
    """Fit the motion; rotations are held near 0 by a standard deviation. What nothing fixes comes out vague."""
    prior = np.array([_ANY_SHIFT_SIGMA_MM, _ANY_SHIFT_SIGMA_MM, math.radians(rotation_sigma_deg), SCALE_SIGMA], float)
    known = pairs.counts() / pairs.sigma_mm[:, None, None] ** 2
    state, covariance = np.zeros(4), np.diag(prior**2)
    for _ in range(_ROUNDS):
        fit = _fit(state, covariance)
        slopes = _slopes(fit, pairs.reference_mm)
        weighted = slopes.swapaxes(1, 2) @ known  # (k, 4, 2)
        missing = (pairs.detected_mm - fit.apply(pairs.reference_mm))[..., None]
        covariance = np.linalg.inv((weighted @ slopes).sum(axis=0) + np.diag(prior**-2))
        step = covariance @ ((weighted @ missing).sum(axis=0)[:, 0] - state / prior**2)
        state = np.clip(state + step, -_FARTHEST, _FARTHEST)  # contradictions of tiny sigmas would run away
        if np.abs(step).max() < _STILL:
            break
    return _fit(state, covariance)


def squares(fit: Fit, pairs: Pairs) -> np.ndarray:
    """Return (k,): each pair's squared residual in units of its variance; 2 are expected of a point, 1 of a line."""
    missing = pairs.detected_mm - fit.apply(pairs.reference_mm)
    return np.asarray(np.einsum("ki,kij,kj->k", missing, pairs.counts(), missing) / pairs.sigma_mm**2)


def _fit(state: np.ndarray, covariance: np.ndarray) -> Fit:
    return Fit(state[:2].copy(), float(state[2]), math.exp(state[3]), covariance)


def _turn(angle_rad: float) -> np.ndarray:
    cosine, sine = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[cosine, -sine], [sine, cosine]])


def _slopes(fit: Fit, reference_mm: np.ndarray) -> np.ndarray:
    """Return (k, 2, 4): the derivatives of `Fit.apply` by shift x, shift y, rotation and log scale."""
    turned = fit.scale * np.asarray(reference_mm, float) @ _turn(fit.rotation_rad).T
    slopes = np.zeros((len(turned), 2, 4))
    slopes[:, 0, 0] = slopes[:, 1, 1] = 1.0
    slopes[:, 0, 2], slopes[:, 1, 2] = -turned[:, 1], turned[:, 0]
    slopes[:, :, 3] = turned
    return slopes
