"""Which end of the grey scale is more dose, judged from the image alone, when no attribute says so.

Three rules, the first that applies decides. Each looks at both ends of the grey scale alike, so an image and its
negative always get opposite answers.

1. Shadow: an even, extreme border around (or along) a field that fills a rectangle is the collimator's shadow, the
   least dose. A body in front of air can fill a rectangle too (a DRR of a CT that ends above and below), but it gets
   thicker from its edges to its middle, so there the grey departs from the border's slowly: rule 2.
2. Air: any other even, extreme border is open air (or a DRR's background), the most dose.
3. Anatomy: without such a border the body fills the image; the strip of spine and mediastinum stops more than the
   lungs or soft parts beside it.

Thresholds chosen by hand on DRRs and simulated MV portal images of 13 chest and abdomen CTs at three magnifications;
how often they err on others was not measured. Known weaknesses: a CT whose skin is cut off
at both sides, a field over one lung alone, and raw kV transmission on a linear scale, where the mediastinum is as dark
as a collimator; collimated, that is nearly always taken for its negative.
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
_FIELD_STEEPNESS = 0.55  # edge level + (flanks minus middle): fields 0.6 to 3, bodies 0.1 to 0.7, nearly all below 0.5
_EDGE_DEPTH_PX = 3  # of the reduced image, 1.2 % of it: past the penumbra, hardly into a body
_TINY = 1e-6  # keeps a quotient finite
_AIR_EXCESS = 0.3  # more of the border at one end than at the other


class _Border(NamedTuple):
    share: float  # of the outermost pixels at this end of the grey scale
    fill: float  # how much of a rectangle the rest, the field, fills, 0..1
    steepness: float  # how soon and how far the field departs from the border's grey, in units of its median level


def dose_sign(pixels: np.ndarray) -> tuple[int, str]:
    """Return +1 where bright is more dose and -1 where it is less, and the rule that decided.

    ``pixels`` is (H, W) float32, finite. ``dose_sign(-pixels)`` is the opposite, except for `UNDECIDED`: +1.
    """
    if min(pixels.shape) * _GRID_PX < 16 * max(pixels.shape):
        return 1, UNDECIDED  # a strip: reduced, it would have fewer than 16 rows or columns
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
    return border.share >= _BORDER_SHARE and border.fill >= _RECTANGLE_FILL and border.steepness > _FIELD_STEEPNESS


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
    return _Border(share, _rectangle_fill(field), _edge_level(level, field) + _flanks_minus_middle_of(level, field))


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


def _middle_spans(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `_spans` without the first and last tenth of the rows."""
    rows, start, end = _spans(mask)
    inner = slice(len(rows) // 10, len(rows) - len(rows) // 10)
    return rows[inner], start[inner], end[inner]


def _rectangle_fill(field: np.ndarray) -> float:
    """Return the field's area over that of the smallest rectangle around it, at any collimator angle."""
    rows, start, end = _spans(field)
    x = np.concatenate([start, end, start, end])
    y = np.concatenate([rows, rows, rows + 1, rows + 1])
    angle = np.deg2rad(np.arange(0, 90, 3))[:, None]
    across = np.ptp(np.cos(angle) * x + np.sin(angle) * y, axis=1)
    along = np.ptp(np.cos(angle) * y - np.sin(angle) * x, axis=1)
    return float(field.sum() / (across * along).min())


def _edge_level(level: np.ndarray, field: np.ndarray) -> float:
    """Return the level just inside the field's left and right edges (top and bottom, if it has none of those)."""
    inside = _just_inside(level, field)
    if not inside.size:
        inside = _just_inside(level.T, field.T)
    return float(np.median(inside) / max(np.median(level[field]), _TINY)) if inside.size else 0.0


def _just_inside(level: np.ndarray, field: np.ndarray) -> np.ndarray:
    rows, start, end = _middle_spans(field)
    depth = np.minimum(_EDGE_DEPTH_PX, (end - start) // 2)
    left, right = start > 1, end < level.shape[1] - 1  # else the field runs out of the image
    return np.concatenate([level[rows[left], (start + depth)[left]], level[rows[right], (end - 1 - depth)[right]]])


def _flanks_minus_middle_of(level: np.ndarray, field: np.ndarray) -> float:
    """Return flanks minus middle of the field's median row, in units of its median level."""
    rows, start, end = (values[:, None] for values in _middle_spans(field))
    columns = start + np.rint(np.linspace(0, 1, 41) * (end - 1 - start)).astype(int)
    profile = np.median(level[rows, columns], axis=0)
    return _flanks_minus_middle(profile) / max(float(np.median(profile)), _TINY)


def _flanks_minus_middle(profile: np.ndarray) -> float:
    width = len(profile)
    left, right = profile[width // 10 : width * 35 // 100], profile[-(width * 35 // 100) : -(width // 10)]
    return float((left.mean() + right.mean()) / 2 - profile[width * 2 // 5 : -(width * 2 // 5)].mean())
