"""Images in which a jaw is closed over a landmark: what a network answers where there is nothing to be seen.

The data set has few images whose field ends before the carina, and thresholds cannot be chosen on a dozen. So a jaw is
closed over the landmark afterwards: everything from one side of the image to a little beyond the label turns dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge.backends import Backend
from edge.contract import Reading
from edge.portal_image import read_portal_image
from edge.records import PortalImage
from landmarknet.evaluate import Finding, find_in, read_truths
from landmarknet.network import SINGLE_KINDS

BEYOND_MM = 20.0  # of the label: nearer to the field's edge a person would still guess where it is
PENUMBRA_MM = 3.0
NOISE = 0.002  # of the image's range: with the image's own under the jaw, equalisation would show what lies there


def find_under_jaws(backend: Backend, reading: Reading, images: Path, patients: Sequence[str]) -> list[Finding]:
    """Return what is found of each kind of single landmark in images whose own one lies under a jaw."""
    findings = []
    for path, truth in read_truths(images, patients).items():
        shown = {one["kind"] for one in truth["landmarks"]} & set(SINGLE_KINDS)
        if not shown:
            continue
        image = read_portal_image(path)
        for kind in sorted(shown):
            closed, hidden = close_jaw(image, truth, kind)
            findings += [f for f in find_in(closed, hidden, backend, reading) if f.kind == kind]
    return findings


def close_jaw(image: PortalImage, truth: dict[str, Any], kind: str) -> tuple[PortalImage, dict[str, Any]]:
    """Return an image with a jaw closed over its landmark of a kind, and its truth.

    The jaw comes from the side of the image that is nearest, and darkens everything to 20 mm beyond the landmark.
    """
    (label,) = (one for one in truth["landmarks"] if one["kind"] == kind)
    mm_per_px = truth["mm_per_px"]
    x, y = label["x_px"], label["y_px"]
    height, width = image.pixels.shape
    columns, rows = np.arange(width)[None, :], np.arange(height)[:, None]
    into_field = {
        x: columns - x,
        width - 1 - x: x - columns,
        y: rows - y,
        height - 1 - y: y - rows,
    }  # px from the label
    nearest = into_field[min(into_field)]
    open_share = 1 / (1 + np.exp(-(nearest * mm_per_px - BEYOND_MM) * 2 / PENUMBRA_MM))
    dark, noise = float(image.pixels.min()), NOISE * float(np.ptp(image.pixels))
    pixels = dark + (image.pixels - dark) * open_share
    pixels += np.random.default_rng([height, width]).normal(0, noise, pixels.shape)
    others = [one for one in truth["landmarks"] if one is not label]
    closed = replace(image, pixels=np.ascontiguousarray(pixels, np.float32))
    return closed, {**truth, "landmarks": others, "hidden": [*truth["hidden"], label]}
