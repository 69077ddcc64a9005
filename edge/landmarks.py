"""From the graph's peaks and heatmaps to landmarks, by the release's contract."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import radians, sin
from typing import Any, Literal

import numpy as np

from edge.contract import KindContract, Reading
from edge.geometry import ImageGeometry
from edge.preprocess import Placement
from edge.records import Landmark

SITES_PER_BLOCK, PIXELS_PER_BLOCK = 3, 4  # the heatmaps' sample sites: network px 4b + (0, 1.5, 3) of block b
WIDTH_REACH_SITES = 6  # the peak's width is measured in a window of this reach about it
FLOOR_SHARE = 0.1  # of the peak's height; what is lower is background
LINE_STEP_BLOCKS = 2  # a line is read at the middle row of every second block
LINE_REACH_SITES = 6
LINE_FLOOR_SHARE = 0.5  # less would let a line jump with its highest site, which is a matter of rounding
FLOOR = 1e-9
SMALLEST_SIGMA_NET_PX = 0.2  # no peak is known better than that
FEWEST_LINE_POINTS = 4  # three steps: less is a spot, not a line
LATERAL_SINE = sin(radians(45.0))  # of the gantry angle, at least, for a lateral view
MAX_LINE_SLOPE = 1.0  # sideways per step down: more is a jump to something else


def landmarks_from_peaks(
    peaks: np.ndarray,
    heatmaps: np.ndarray,
    reading: Reading,
    placement: Placement,
    shape: tuple[int, int],
    geometry: ImageGeometry | None,
) -> tuple[Landmark, ...]:
    """Return what the contract accepts of the peaks (n, K, 3) and heatmaps (n, S, S), kind by kind, each from the top.

    ``shape`` is the portal image's (height, width); a peak in the padding around it is no landmark.
    """
    found: list[Landmark] = []
    for promise, rows, heatmap in zip(reading.kinds, peaks, heatmaps, strict=True):
        if promise.shape == "line":
            rows = line_points(heatmap, promise.threshold)  # noqa: PLW2901 - a line's points take the peaks' place
        xy_px = placement.to_image(rows[:, :2])
        inside = np.all((xy_px >= -0.5) & (xy_px <= (shape[1] - 0.5, shape[0] - 0.5)), axis=1)
        accepted = np.flatnonzero(inside & (rows[:, 2] >= promise.threshold))[: promise.at_most]
        downwards = accepted[np.lexsort((xy_px[accepted, 0], xy_px[accepted, 1]))]
        for i in downwards:
            sigma_px = _sigma_px(promise, heatmap, rows[i], placement)
            found.append(_landmark(promise.kind, xy_px[i], float(rows[i, 2]), sigma_px, geometry))
    supported = supported_kinds(found, reading, geometry)
    return tuple(one for one in found if one.kind in supported)


def supported_kinds(found: Iterable[Landmark], reading: Reading, geometry: ImageGeometry | None) -> set[str]:
    """Return the kinds that may be reported beside what was found (a pelvis has a spine, too), seen from this side."""
    threshold = {promise.kind: promise.threshold for promise in reading.kinds}
    shown = {promise.kind for promise in reading.kinds} - out_of_view(reading, geometry)
    seen = {one.kind for one in found if one.score >= threshold[one.kind]} & shown
    alone = {promise.kind for promise in reading.kinds if not promise.only_with or seen & set(promise.only_with)}
    return alone & shown


def out_of_view(reading: Reading, geometry: ImageGeometry | None) -> set[str]:
    """Return the kinds that a beam from this side does not show; none where the gantry angle is not known."""
    if geometry is None or geometry.gantry_deg is None or abs(sin(radians(geometry.gantry_deg))) >= LATERAL_SINE:
        return set()
    return {promise.kind for promise in reading.kinds if promise.lateral_only}


def line_points(heatmap: np.ndarray, threshold: float) -> np.ndarray:
    """Return the ridge of a heatmap (S, S) that runs down the image, (m, 3): x, y in network px and the score."""
    points = ridge_points(heatmap)
    return points[longest_stretch(points, threshold)]


def longest_stretch(points: np.ndarray, threshold: float) -> list[int]:
    """Return which of the `ridge_points` (m, 3) make the longest stretch above a threshold, without a gap or a jump."""
    step_px = LINE_STEP_BLOCKS * PIXELS_PER_BLOCK
    joined = np.abs(np.diff(points[:, 0])) <= MAX_LINE_SLOPE * step_px
    best: list[int] = []
    current: list[int] = []
    for i, point in enumerate(points):
        if not point[2] >= threshold:  # NaN is no score
            current = []
        elif current and not joined[i - 1]:
            current = [i]
        else:
            current = [*current, i]
        best = max(best, current, key=len)
    return best if len(best) >= FEWEST_LINE_POINTS else []


def ridge_points(heatmap: np.ndarray) -> np.ndarray:
    """Return one point per step down a heatmap (S, S), (m, 3): the centre of mass about the row's highest site."""
    rows = np.arange(1, len(heatmap), LINE_STEP_BLOCKS * SITES_PER_BLOCK)
    columns = heatmap[rows].argmax(axis=1)
    centres = [_row_centre(heatmap[row], column) for row, column in zip(rows, columns, strict=True)]
    return np.stack((centres, site_px(rows), heatmap[rows, columns]), axis=1)


def _row_centre(row: np.ndarray, column: int) -> float:
    sites = slice(max(0, column - LINE_REACH_SITES), column + LINE_REACH_SITES + 1)
    at_px, px_count = _sites(len(row))
    weight = np.maximum(row[sites] - LINE_FLOOR_SHARE * row[column], FLOOR) * px_count[sites]
    return float((weight * at_px[sites]).sum() / weight.sum())


def site_px(index: Any) -> Any:
    """Return the network px of sample sites along one axis."""
    block, phase = np.divmod(index, SITES_PER_BLOCK)
    return block * PIXELS_PER_BLOCK + phase * 1.5


@lru_cache
def _sites(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where so many sample sites lie along an axis, network px, and for how many px each of them stands."""
    index = np.arange(count)
    at_px, px_count = site_px(index), np.where(index % SITES_PER_BLOCK == 1, 2.0, 1.0)
    at_px.setflags(write=False)
    px_count.setflags(write=False)
    return at_px, px_count


def peak_width(heatmap: np.ndarray, xy_net: np.ndarray, shape: Literal["point", "line"] = "point") -> float:
    """Return the standard deviation, network px per axis, of a peak of a heatmap (S, S) about its centre of mass.

    Of a line, the one across it: of the row alone.
    """
    at_px, px_count = _sites(len(heatmap))
    column, row = (int(np.abs(at_px - at).argmin()) for at in xy_net[:2])
    columns = slice(max(0, column - WIDTH_REACH_SITES), column + WIDTH_REACH_SITES + 1)
    reach = WIDTH_REACH_SITES if shape == "point" else 0
    rows = slice(max(0, row - reach), row + reach + 1)
    mass = np.maximum(heatmap[rows, columns] - FLOOR_SHARE * heatmap[row, column], 0)
    mass = mass * px_count[rows, None] * px_count[columns]
    y, x = at_px[rows], at_px[columns]
    total = max(float(mass.sum()), FLOOR)
    along_x, along_y = mass.sum(axis=0) / total, mass.sum(axis=1) / total
    across = along_x @ (x - along_x @ x) ** 2
    if shape == "line":
        return float(np.sqrt(across))
    return float(np.sqrt((across + along_y @ (y - along_y @ y) ** 2) / 2))


def _sigma_px(promise: KindContract, heatmap: np.ndarray, row: np.ndarray, placement: Placement) -> float | None:
    if promise.sigma is None:
        return None
    constant, slope = promise.sigma
    sigma_net = max(SMALLEST_SIGMA_NET_PX, constant + slope * peak_width(heatmap, row, promise.shape))
    return float(sigma_net / np.sqrt(placement.scale[0] * placement.scale[1]))


def _landmark(
    kind: str, xy_px: np.ndarray, score: float, sigma_px: float | None, geometry: ImageGeometry | None
) -> Landmark:
    xy_mm = None if geometry is None else geometry.to_isoplane(xy_px)
    return Landmark(
        kind=kind,
        xy_px=(float(xy_px[0]), float(xy_px[1])),
        xy_mm=None if xy_mm is None else (float(xy_mm[0]), float(xy_mm[1])),
        score=min(1.0, score),
        sigma_px=sigma_px,
    )
