"""Which end of the grey scale is more dose, judged from the image alone, when no attribute says so.

Three rules, the first that applies decides. Each looks at both ends of the grey scale alike, so an image and its
negative always get opposite answers.

1. Shadow: an even, extreme border around (or along) a field that fills a rectangle is the collimator's shadow, the
   least dose. A body in front of air can fill a rectangle too (a DRR of a CT that ends above and below), but then its
   middle is further from the border's grey than its flanks: rule 2.
2. Air: any other even, extreme border is open air (or a DRR's background), the most dose.
3. Anatomy: without such a border the body fills the image; the strip of spine and mediastinum stops more than the
   lungs or soft parts beside it.

Thresholds chosen on DRRs and simulated MV portal images of 13 chest and abdomen CTs at three magnifications: 94 to
100 % right on AP views, 85 to 100 % on lateral ones, by kind of image. Known weakness: raw kV transmission on a linear
scale, where the mediastinum is as dark as a collimator; collimated, it is nearly always taken for its negative.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SHADOW = "image content (collimator shadow)"
AIR = "image content (air around the body)"
ANATOMY = "image content (spine darker than what is beside it)"
UNDECIDED = "image content undecided, taken as stored"

_EDGE_PX = 2  # Elekta panels can have dead edge columns
_GRID_PX = 256  # judge on a reduced image: fast, and noise averages out
_BORDER_LEVEL = 0.15  # of the grey range: what counts as the extreme grey of a border
_BORDER_SHARE = 0.25  # of the outermost pixels must be extreme; one of four sides is enough
_RECTANGLE_FILL = 0.94  # of the smallest rectangle around the field
_BODY_CONTRAST = -0.15  # flanks minus middle, of the field's level: below, the "field" is a body
_AIR_EXCESS = 0.3  # more of the border at one end than at the other


class _Border(NamedTuple):
    share: float  # of the outermost pixels at this end of the grey scale
    fill: float  # how much of a rectangle the rest fills, 0..1
    contrast: float  # flanks minus middle of the rest, in units of its level above the border


def dose_sign(pixels: np.ndarray) -> tuple[int, str]:
    """Return +1 where bright is more dose and -1 where it is less, and the rule that decided.

    ``pixels`` is (H, W) float32, finite. ``dose_sign(-pixels)`` is the opposite, except for `UNDECIDED`: +1.
    """
    image = _reduce(pixels)
    if min(image.shape) < 16:
        return 1, UNDECIDED
    ranked = np.sort(image, axis=None)
    low, high = ranked[ranked.size // 1000], ranked[-1 - ranked.size // 1000]
    if not high > low:
        return 1, UNDECIDED
    dark, bright = _border((image - low) / (high - low)), _border((high - image) / (high - low))
    if _is_shadow(dark) != _is_shadow(bright):
        return (1 if _is_shadow(dark) else -1), SHADOW
    if not _is_shadow(dark) and abs(bright.share - dark.share) >= _AIR_EXCESS:
        return (1 if bright.share > dark.share else -1), AIR
    beside = _flanks_minus_middle(image[len(image) // 5 : -(len(image) // 5)].mean(axis=0))
    return (1, UNDECIDED) if beside == 0 else (1 if beside > 0 else -1, ANATOMY)


def _is_shadow(border: _Border) -> bool:
    return border.share >= _BORDER_SHARE and border.fill >= _RECTANGLE_FILL and border.contrast > _BODY_CONTRAST


def _reduce(pixels: np.ndarray) -> np.ndarray:
    """Crop the dead edges and average square blocks so that the longer side has about 256 px."""
    if min(pixels.shape) > 8 * _EDGE_PX:
        pixels = pixels[_EDGE_PX:-_EDGE_PX, _EDGE_PX:-_EDGE_PX]
    block = max(1, round(max(pixels.shape) / _GRID_PX))
    height, width = (size // block for size in pixels.shape)
    rows = np.add.reduce(pixels[: height * block, : width * block].reshape(height, block, -1), axis=1)
    return np.asarray(np.add.reduce(rows.reshape(height, width, block), axis=2) / np.float32(block * block))


def _border(level: np.ndarray) -> _Border:
    """Judge the end of the grey scale where ``level`` (0..1 over the grey range) is 0."""
    extreme = level < _BORDER_LEVEL
    rim = (extreme[:2], extreme[-2:], extreme[:, :2], extreme[:, -2:])
    share = sum(int(side.sum()) for side in rim) / sum(side.size for side in rim)
    if share < _BORDER_SHARE or extreme.all():
        return _Border(share, 0.0, 0.0)
    field = _filled(~extreme)
    return _Border(share, _rectangle_fill(field), _field_contrast(level, field))


def _filled(mask: np.ndarray) -> np.ndarray:
    """Fill what lies between the first and last set pixel of both its row and its column."""
    either_side = np.logical_or.accumulate
    in_row = either_side(mask, axis=1) & either_side(mask[:, ::-1], axis=1)[:, ::-1]
    in_column = either_side(mask, axis=0) & either_side(mask[::-1], axis=0)[::-1]
    return np.asarray(in_row & in_column)


def _spans(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows that hold set pixels, and where each starts and ends (past the last)."""
    rows = np.flatnonzero(mask.any(axis=1))
    return rows, mask[rows].argmax(axis=1), mask.shape[1] - mask[rows, ::-1].argmax(axis=1)


def _rectangle_fill(field: np.ndarray) -> float:
    """Return the field's area over that of the smallest rectangle around it, at any collimator angle."""
    rows, start, end = _spans(field)
    x = np.concatenate([start, end, start, end])
    y = np.concatenate([rows, rows, rows + 1, rows + 1])
    angle = np.deg2rad(np.arange(0, 90, 3))[:, None]
    across = np.ptp(np.cos(angle) * x + np.sin(angle) * y, axis=1)
    along = np.ptp(np.cos(angle) * y - np.sin(angle) * x, axis=1)
    return float(field.sum() / (across * along).min())


def _field_contrast(level: np.ndarray, field: np.ndarray) -> float:
    """Return flanks minus middle of the field's median row, in units of its median level."""
    rows, start, end = _spans(field)
    inner = slice(len(rows) // 10, len(rows) - len(rows) // 10)
    rows, start, end = rows[inner, None], start[inner, None], end[inner, None]
    columns = start + np.rint(np.linspace(0, 1, 41) * (end - 1 - start)).astype(int)
    profile = np.median(level[rows, columns], axis=0)
    return float(_flanks_minus_middle(profile) / max(float(np.median(profile)), 1e-6))


def _flanks_minus_middle(profile: np.ndarray) -> float:
    width = len(profile)
    left, right = profile[width // 10 : width * 35 // 100], profile[-(width * 35 // 100) : -(width // 10)]
    return float((left.mean() + right.mean()) / 2 - profile[width * 2 // 5 : -(width * 2 // 5)].mean())
