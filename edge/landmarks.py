"""From the graph's peaks to landmarks, by the release's contract."""

from __future__ import annotations

import numpy as np

from edge.contract import Contract
from edge.geometry import ImageGeometry
from edge.preprocess import Placement
from edge.records import Landmark


def landmarks_from_peaks(
    peaks: np.ndarray,
    contract: Contract,
    placement: Placement,
    shape: tuple[int, int],
    geometry: ImageGeometry | None,
) -> tuple[Landmark, ...]:
    """Return the peaks (n, K, 3) that the contract accepts, kind by kind and then from the top of the image down.

    ``shape`` is the portal image's (height, width); a peak in the padding around it is no landmark.
    """
    found: list[Landmark] = []
    for promise, rows in zip(contract.kinds, peaks, strict=True):
        xy_px = placement.to_image(rows[:, :2])
        inside = np.all((xy_px >= -0.5) & (xy_px <= (shape[1] - 0.5, shape[0] - 0.5)), axis=1)
        accepted = np.flatnonzero(inside & (rows[:, 2] >= promise.threshold))[: promise.at_most]
        downwards = accepted[np.lexsort((xy_px[accepted, 0], xy_px[accepted, 1]))]
        found += [_landmark(promise.kind, xy_px[i], float(rows[i, 2]), geometry) for i in downwards]
    return tuple(found)


def _landmark(kind: str, xy_px: np.ndarray, score: float, geometry: ImageGeometry | None) -> Landmark:
    xy_mm = None if geometry is None else geometry.to_isoplane(xy_px)
    return Landmark(
        kind=kind,
        xy_px=(float(xy_px[0]), float(xy_px[1])),
        xy_mm=None if xy_mm is None else (float(xy_mm[0]), float(xy_mm[1])),
        score=min(1.0, score),
    )
