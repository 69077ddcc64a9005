"""Heatmaps painted for tests, and the landmarks of one kind that are read from one."""

from types import SimpleNamespace

import numpy as np

from edge.contract import KindContract
from edge.landmarks import landmarks_from_peaks
from edge.preprocess import Placement
from landmarknet.fast_head import SITE_OFFSETS

LINE = KindContract(kind="spine_line", threshold=0.5, at_most=64, shape="line")
POINT = KindContract(kind="tracheal_bifurcation", threshold=0.5, at_most=1)
WIDE = 192  # network px: a grid with room for a line


def sites(size=WIDE):
    """Return the network px of the sample sites along one axis: three in each block of 4."""
    return (4 * np.arange(size // 4)[:, None] + np.array(SITE_OFFSETS)).ravel()


def ridge(x_of_y, sigma_px=2.5, height=0.9, size=WIDE):
    """Return (S, S): at each row y a Gaussian about x_of_y(y), network px; none where that is NaN."""
    at = sites(size)
    off = at[None] - np.array([x_of_y(y) for y in at])[:, None]
    return np.nan_to_num(height * np.exp(-(off**2) / (2 * sigma_px**2))).astype(np.float32)


def blob(x, y, sigma_px, height=0.9, size=WIDE):
    """Return (S, S): a Gaussian about a point of the network's grid, sampled at the sites."""
    at = sites(size)
    square = (at[None] - x) ** 2 + (at[:, None] - y) ** 2
    return (height * np.exp(-square / (2 * sigma_px**2))).astype(np.float32)


def decoded(promise, heatmap, peaks=((-1, -1, -1),), scale=1.0, shape=(WIDE, WIDE), offset=(0, 0)):
    """Return the landmarks of one kind, from its heatmap and its peaks, of an image that is ``scale`` times reduced."""
    scale = scale if isinstance(scale, tuple) else (scale, scale)
    reading = SimpleNamespace(kinds=(promise,))
    peaks = np.array(peaks, np.float32)[None]
    return landmarks_from_peaks(peaks, heatmap[None], reading, Placement(scale, offset), shape, None)
