"""How the beam meets the patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from landmarknet.ct import CtVolume

View = Literal["ap", "lateral"]
VIEWS: tuple[View, ...] = ("ap", "lateral")
GANTRY_DEG: dict[View, float] = {"ap": 0.0, "lateral": 90.0}
PointMm = tuple[float, float, float]


@dataclass(frozen=True)
class Pose:
    """The isocentre is in LPS mm of the CT; ``sad_mm`` is the source-to-isocentre distance."""

    isocentre_mm: PointMm
    gantry_deg: float
    tilt_deg: float = 0.0  # out of the gantry's plane
    sad_mm: float = 1000.0
    turn_deg: float = 0.0  # of the image in its own plane


def straight_pose(ct: CtVolume, view: View) -> Pose:
    """Return the pose at exactly 0 or 90 degrees, the isocentre a little below and behind the carina if it is known."""
    return Pose(_point(_middle(ct) + ((0.0, 5.0, -25.0) if ct.points_mm else 0.0)), GANTRY_DEG[view])


def sample_pose(ct: CtVolume, view: View, rng: np.random.Generator) -> Pose:
    """Draw a pose about a view, the isocentre in the mediastinum, or about the centre of a volume without labels."""
    offset = rng.uniform((-30, -30, -90), (30, 30, 50)) if ct.points_mm else rng.uniform(-50, 50, 3)
    return Pose(
        isocentre_mm=_point(_middle(ct) + offset),
        gantry_deg=GANTRY_DEG[view] + float(np.clip(rng.normal(0, 4), -10, 10)),
        tilt_deg=float(np.clip(rng.normal(0, 3), -8, 8)),
        sad_mm=1000.0 if rng.random() < 0.7 else float(rng.uniform(1000.0, 1800.0)),
    )


def _middle(ct: CtVolume) -> np.ndarray:
    carina = ct.points_mm.get("tracheal_bifurcation")
    return ct.centre_mm if carina is None else carina[0]


def _point(xyz: np.ndarray) -> PointMm:
    return float(xyz[0]), float(xyz[1]), float(xyz[2])
