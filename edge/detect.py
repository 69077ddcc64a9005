"""One portal image through the network, at the scale that its release was trained for.

A release with a fixed scale gets every image at the same mm per network px. Where the geometry is not known, a few
sizes of the image are tried, and the network itself says at which one it recognises the anatomy best.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from edge.backends import Backend, Inference
from edge.contract import Reading
from edge.landmarks import landmarks_from_peaks
from edge.preprocess import Placement, to_network_input
from edge.records import Landmark, PortalImage

Stage = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, eq=False)
class Detection:
    """Landmarks with what they were read from."""

    landmarks: tuple[Landmark, ...]
    inference: Inference
    placement: Placement


def detect(
    image: PortalImage, backend: Backend, reading: Reading, stage: Stage = lambda _name: nullcontext()
) -> Detection:
    """Preprocess, infer and decode one image. ``stage`` is entered by name about each stage (a stopwatch)."""
    tried = []
    for ratio in scale_ratios(image, reading):
        with stage("preprocess"):
            batch, placement = to_network_input(image.pixels, reading.input_size, ratio)
        with stage("infer"):
            tried.append((backend.infer(batch), placement))
    with stage("landmarks"):
        height, width = image.pixels.shape
        seen = [on_image(inference.peaks, placement, (height, width)) for inference, placement in tried]
        inference, placement = tried[max(range(len(tried)), key=lambda i: evidence(seen[i], reading))]
        landmarks = landmarks_from_peaks(
            inference.peaks, inference.heatmaps, reading, placement, (height, width), image.geometry
        )
    return Detection(landmarks, inference, placement)


def scale_ratios(image: PortalImage, reading: Reading) -> list[float | None]:
    """Return the network px per detector px to try; None fits the whole image into the network's square."""
    if reading.mm_per_net_px is None:
        return [None]
    if image.geometry is not None:
        return [float(np.mean(image.geometry.mm_per_px_at_isocentre)) / reading.mm_per_net_px]
    longer_px = max(image.pixels.shape)
    return [mm / longer_px / reading.mm_per_net_px for mm in reading.assumed_longer_side_mm] or [None]


def on_image(peaks: np.ndarray, placement: Placement, shape: tuple[int, int]) -> np.ndarray:
    """Return the peaks (n, K, 3) with those in the padding around the image as unused rows."""
    xy_px = placement.to_image(peaks[..., :2])
    inside = np.all((xy_px >= -0.5) & (xy_px <= (shape[1] - 0.5, shape[0] - 0.5)), axis=-1)
    return np.where(inside[..., None], peaks, -1.0)


def evidence(peaks: np.ndarray, reading: Reading) -> float:
    """Return how clearly an answer shows anatomy: the best score of each kind of point, summed."""
    points = [rows for promise, rows in zip(reading.kinds, peaks, strict=True) if promise.shape == "point"]
    return float(sum(max(0.0, rows[:, 2].max()) for rows in points))
