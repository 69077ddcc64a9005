"""What one stage hands to the next. Frozen, without behaviour.

Points are (x, y); sizes are (height, width); (0, 0) is the CENTRE of the top-left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edge.geometry import ImageGeometry


@dataclass(frozen=True)
class ImageIdentity:
    """Which image this is, without saying whose."""

    name: str  # file name, no folder
    sha256: str  # of the file's bytes
    sop_instance_uid: str | None
    modality: str | None  # RTIMAGE, CR, DX, OT; None for PNG and TIFF
    rows: int
    columns: int


@dataclass(frozen=True)
class Rescale:
    """How pixels came about: ``sign * (gain * stored + offset)``."""

    gain: float = 1.0
    offset: float = 0.0
    sign: int = 1


@dataclass(frozen=True, eq=False)
class PortalImage:
    """A portal image as numbers; nothing of DICOM lives past this point.

    ``geometry`` is None when millimetres cannot be trusted; ``geometry_reason`` then says why, and is None otherwise.
    """

    pixels: np.ndarray  # (H, W) float32, read-only, bright = more dose
    polarity_source: str  # what decided that bright means more dose
    geometry: ImageGeometry | None
    geometry_reason: str | None
    identity: ImageIdentity
    rescale: Rescale = Rescale()
    beam: str | None = None  # `edge.planned_beam.beam_key`; None: the file does not say


@dataclass(frozen=True)
class Landmark:
    """One anatomical point found in one portal image."""

    kind: str
    xy_px: tuple[float, float]  # detector px
    xy_mm: tuple[float, float] | None  # isocentre plane, IEC X-ray image receptor axes; None without geometry
    score: float  # 0..1, the heatmap's height at the peak
    sigma_px: float | None = None  # standard uncertainty, detector px: along each axis; of a line, to its side
