"""From a portal image of any size to the network's input. Training, calibration and the room call the same function."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

WINDOW_PERCENTILES = (0.5, 99.5)
HISTOGRAM_BINS = 256
BAND = 8  # output px of a resize in one product: few enough that it meets few of the matrix's zeros
CONTRAST_LIMIT = 4.0  # a grey level's share of the output is at most this many times its share of the input range


@dataclass(frozen=True)
class Placement:
    """Where the portal image lies on the network's square grid.

    ``scale`` is network px per detector px as (x, y); ``offset`` is the network px of the image's left and top edge.
    """

    scale: tuple[float, float]
    offset: tuple[int, int]

    def to_net(self, xy_px: np.ndarray) -> np.ndarray:
        """Map (..., 2) detector px to network px."""
        return (np.asarray(xy_px, float) + 0.5) * self.scale - 0.5 + self.offset

    def to_image(self, xy_net: np.ndarray) -> np.ndarray:
        """Map (..., 2) network px to detector px."""
        return (np.asarray(xy_net, float) - self.offset + 0.5) / self.scale - 0.5


def fit_into_square(shape: tuple[int, int], size: int, ratio: float | None = None) -> tuple[Placement, tuple[int, int]]:
    """Return the placement in a square, and the placed (height, width), of an image scaled by ``ratio``.

    Without a ratio, or with one too large for the square, the image fills the square's longer side.
    """
    height, width = shape
    fitting = size / max(height, width)
    ratio = fitting if ratio is None else min(ratio, fitting)
    placed = max(1, round(height * ratio)), max(1, round(width * ratio))
    offset = (size - placed[1]) // 2, (size - placed[0]) // 2
    return Placement(scale=(placed[1] / width, placed[0] / height), offset=offset), placed


@lru_cache(maxsize=32)
def resize_matrix(n_in: int, n_out: int) -> np.ndarray:
    """Return the (n_out, n_in) float32 matrix of an antialiased bilinear resize along one axis.

    A triangle as wide as the larger of the two pixel sizes, cut off at the image's edge and normalised: what PIL and
    ``torch.nn.functional.interpolate(antialias=True)`` do. As a matrix, since runtimes ignore or refuse ``antialias``.
    """
    step = n_in / n_out
    support = max(step, 1.0)
    centre = (np.arange(n_out) + 0.5) * step
    distance = np.abs(np.arange(n_in) + 0.5 - centre[:, None]) / support
    weight = np.clip(1.0 - distance, 0.0, None)
    matrix = (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def resize(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize (H, W) to ``shape`` with antialiased bilinear weights: a matrix product per axis, band by band."""
    if pixels.shape == shape:
        return pixels.astype(np.float32, copy=False)
    pixels = pixels.astype(np.float32, copy=False)
    between = np.empty((shape[0], pixels.shape[1]), np.float32)
    for out, within, weights in _bands(pixels.shape[0], shape[0]):
        np.matmul(weights, pixels[within], out=between[out])
    resized = np.empty(shape, np.float32)
    for out, within, weights in _bands(pixels.shape[1], shape[1]):
        resized[:, out] = between[:, within] @ weights.T
    return resized


@lru_cache(maxsize=32)
def _bands(n_in: int, n_out: int) -> tuple[tuple[slice, slice, np.ndarray], ...]:
    """Return the `resize_matrix` in bands: which output px, from which input px, by which part of it.

    Each output px is made of a few neighbours; nine tenths of the matrix are zeros.
    """
    matrix = resize_matrix(n_in, n_out)
    bands = []
    for first in range(0, n_out, BAND):
        rows = matrix[first : first + BAND]
        used = np.flatnonzero(rows.any(axis=0))
        within = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((slice(first, first + len(rows)), within, np.ascontiguousarray(rows[:, within])))
    return tuple(bands)


def normalise(pixels: np.ndarray) -> np.ndarray:
    """Spread the grey levels over [-1, 1] by contrast-limited histogram equalisation.

    The dark outside of a collimated field and the open air beside a patient fill most of a linear window; here they
    cannot take more than their share. Increasing in the input; unchanged by any positive gain and any offset. A
    constant image gives zeros.
    """
    curve = equalising_curve(pixels)
    return np.zeros_like(pixels, dtype=np.float32) if curve is None else np.interp(pixels, *curve).astype(np.float32)


def equalising_curve(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the grey levels between which `normalise` is linear, and what it makes of them; None: a constant image."""
    low, high = np.percentile(pixels, WINDOW_PERCENTILES)
    if not high > low:
        return None
    counts, edges = np.histogram(np.clip(pixels, low, high), HISTOGRAM_BINS, (low, high))
    limited = np.minimum(counts, CONTRAST_LIMIT * pixels.size / HISTOGRAM_BINS)
    levels = np.concatenate(((0.0,), np.cumsum(limited)))
    return edges, 2 * levels / levels[-1] - 1


def to_network_input(pixels: np.ndarray, size: int, ratio: float | None = None) -> tuple[np.ndarray, Placement]:
    """Return the (1, 1, size, size) float32 batch of one (H, W) image, and where the image lies in it.

    ``ratio`` is network px per detector px, see `fit_into_square`.
    """
    placement, placed = fit_into_square((pixels.shape[0], pixels.shape[1]), size, ratio)
    batch = np.zeros((1, 1, size, size), np.float32)
    x, y = placement.offset
    batch[0, 0, y : y + placed[0], x : x + placed[1]] = normalise(resize(pixels, placed))
    return batch, placement
