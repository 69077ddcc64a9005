"""What one tensor's activations look like: a histogram that grows, and four ways to choose its range (amax).

INT8 is symmetric here: amax stands at 127, zero at 0, and what lies beyond amax is clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

BINS = 4096  # after a doubling of the range, at least half of them are in use
LEVELS = 128  # of one sign of int8, as in the published method
STEPS = 127  # from zero to amax
CANDIDATES = 512  # clips that are tried
SMALLEST_REACH = 1e-30  # float32 has no bins below
PERCENTILE = 99.99
METHODS: Final = ("max", "percentile", "entropy", "mse")


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts (`BINS`,) int64 of absolute values in equal bins over [0, ``reach``]; exact zeros are counted apart.

    A zero is exact in INT8 whatever the range; behind a ReLU zeros are half of the values, and would drown the rest.
    """

    counts: np.ndarray
    zeros: int
    reach: float
    peak: float  # the largest absolute value


def empty_histogram() -> Histogram:
    """Return the histogram of nothing."""
    return Histogram(np.zeros(BINS, np.int64), zeros=0, reach=0.0, peak=0.0)


def observe(histogram: Histogram, values: np.ndarray) -> Histogram:
    """Return the histogram with more values, finite, of any shape. Its size does not depend on how many there are."""
    magnitude = np.abs(values, dtype=np.float32).ravel()
    peak = float(magnitude.max(initial=0.0))
    if peak == 0.0:
        return Histogram(histogram.counts, histogram.zeros + magnitude.size, histogram.reach, histogram.peak)
    grown = _grown(histogram, peak)
    zeros = magnitude.size - int(np.count_nonzero(magnitude))
    magnitude *= BINS / grown.reach
    counts = grown.counts + np.bincount(np.minimum(magnitude.astype(np.intp), BINS - 1), minlength=BINS)
    counts[0] -= zeros
    return Histogram(counts, grown.zeros + zeros, grown.reach, max(grown.peak, peak))


def _grown(histogram: Histogram, peak: float) -> Histogram:
    """Return the histogram with a reach of at least ``peak``: each doubling joins neighbouring bins."""
    counts, reach = histogram.counts, histogram.reach or max(peak, SMALLEST_REACH)
    while reach < peak:
        counts = np.concatenate((counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)))
        reach *= 2
    return Histogram(counts, histogram.zeros, reach, histogram.peak)


def amax(histogram: Histogram) -> dict[str, float]:
    """Return the range by each of `METHODS`; 0 for a tensor that was never anything else."""
    if histogram.peak == 0.0:
        return dict.fromkeys(METHODS, 0.0)
    return {
        "max": histogram.peak,
        "percentile": amax_by_percentile(histogram),
        "entropy": amax_by_entropy(histogram),
        "mse": amax_by_mse(histogram),
    }


def amax_by_percentile(histogram: Histogram, percentile: float = PERCENTILE) -> float:
    """Return what ``percentile`` of the values do not exceed; zeros do not count, they lose nothing."""
    below = np.concatenate(((0,), np.cumsum(histogram.counts)))
    edge = np.interp(percentile / 100 * below[-1], below, np.arange(BINS + 1))
    return min(float(edge) * histogram.reach / BINS, histogram.peak)


def amax_by_entropy(histogram: Histogram) -> float:
    """Return the clip whose INT8 distribution has the smallest Kullback-Leibler divergence from the true one.

    S. Migacz, 8-bit inference with TensorRT, GTC 2017: for each clip the true distribution with all outliers in its
    last bin, against the bins merged to 128 levels and spread again over those that are not empty.
    """
    clips = _clips(histogram)
    best = min(clips, key=lambda bins: _divergence(histogram.counts, bins))
    return _value(histogram, best)


def amax_by_mse(histogram: Histogram) -> float:
    """Return the clip with the smallest mean squared error of rounding and clipping, each bin taken at its middle."""
    clips = _clips(histogram)
    used = np.flatnonzero(histogram.counts)
    middles, weights = used + 0.5, histogram.counts[used].astype(np.float64)
    errors = [float(weights @ _rounding_error(middles, bins) ** 2) for bins in clips]
    return _value(histogram, clips[int(np.argmin(errors))])


def _clips(histogram: Histogram) -> list[int]:
    """Return candidate clips in bins: behind bins that hold something, the last one with the peak among them."""
    ends = np.maximum(np.flatnonzero(histogram.counts) + 1, LEVELS)
    picked = np.linspace(0, len(ends) - 1, min(len(ends), CANDIDATES)).round().astype(int)
    return [int(end) for end in np.unique(ends[picked])]


def _value(histogram: Histogram, bins: int) -> float:
    return min(bins * histogram.reach / BINS, histogram.peak)


def _divergence(counts: np.ndarray, bins: int) -> float:
    """Return the divergence, in nats, of the first ``bins`` merged to `LEVELS` from the whole clipped to them."""
    inside = counts[:bins].astype(np.float64)
    starts = np.arange(LEVELS) * bins // LEVELS
    filled = inside > 0
    merged = np.add.reduceat(inside, starts) / np.maximum(np.add.reduceat(filled, starts, dtype=np.float64), 1)
    coarse = np.where(filled, np.repeat(merged, np.diff(starts, append=bins)), 0.0)
    true = inside
    true[-1] += counts[bins:].sum()
    seen = true > 0
    if not coarse.any() or (coarse[seen] == 0).any():
        return float("inf")
    p, q = true[seen] / true.sum(), coarse[seen] / coarse.sum()
    return float(p @ np.log(p / q))


def _rounding_error(middles: np.ndarray, bins: int) -> np.ndarray:
    step = bins / STEPS
    return middles - np.minimum(np.round(middles / step), STEPS) * step
