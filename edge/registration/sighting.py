"""What one image shows in its isocentre plane: the landmarks in mm with what a registration must know of the image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge.contract import KindContract
from edge.geometry import ImageGeometry
from edge.records import Landmark, PortalImage

Shape = Literal[
    "point",  # one of its kind: matched by name
    "row",  # one of several that nobody numbered: matched as a sequence
    "line",  # a place on a line: known across it, not along it
]


@dataclass(frozen=True)
class PlaneLandmark:
    """One landmark in the isocentre plane."""

    kind: str
    shape: Shape
    xy_mm: tuple[float, float]  # +x right, +y up in the image (IEC 61217 X-ray image receptor)
    sigma_mm: float | None  # standard uncertainty along each axis, of a line to its side; None: not known


@dataclass(frozen=True)
class Sighting:
    """The landmarks of one image in its isocentre plane."""

    landmarks: tuple[PlaneLandmark, ...]
    window_mm: tuple[float, float, float, float]  # what the image shows: left, bottom, right, top
    axes: str
    gantry_deg: float | None = None
    support_deg: float | None = None
    warnings: tuple[str, ...] = ()  # of the geometry


def sighting(image: PortalImage, landmarks: Iterable[Landmark], kinds: Sequence[KindContract]) -> Sighting | str:
    """Return what ``image`` shows in mm, or the reason why that is not known. ``kinds`` are the contract's."""
    geometry = image.geometry
    if geometry is None:
        return image.geometry_reason or "the geometry is not known"
    shapes = {promise.kind: shape_of(promise) for promise in kinds}
    mm_per_px = float(np.sqrt(np.prod(geometry.mm_per_px_at_isocentre)))
    return Sighting(
        landmarks=tuple(
            PlaneLandmark(
                kind=one.kind,
                shape=shapes[one.kind],
                xy_mm=one.xy_mm,
                sigma_mm=None if one.sigma_px is None else one.sigma_px * mm_per_px,
            )
            for one in landmarks
            if one.xy_mm is not None
        ),
        window_mm=_window_mm(geometry, image.pixels.shape),
        axes=geometry.axes,
        gantry_deg=geometry.gantry_deg,
        support_deg=geometry.support_deg,
        warnings=geometry.warnings,
    )


def shape_of(promise: KindContract) -> Shape:
    """Return how landmarks of a kind are matched."""
    if promise.shape == "line":
        return "line"
    return "point" if promise.at_most == 1 else "row"


def _window_mm(geometry: ImageGeometry, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    corners = geometry.to_isoplane(np.array([[-0.5, shape[0] - 0.5], [shape[1] - 0.5, -0.5]]))
    (left, bottom), (right, top) = corners.tolist()
    return left, bottom, right, top
