"""What knows nothing of the image: the floors that every figure has to be read against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from landmarknet.evaluate import Finding

LINE_POINTS = 64


def mean_position(training: Sequence[Finding], test: Sequence[Finding]) -> list[Finding]:
    """Answer with the kind's mean place in training patients' images of that view, relative to the image's size."""
    places: dict[tuple[str, str], np.ndarray] = {}
    for key in {(f.kind, f.view) for f in training}:
        relative = [f.truth_px / f.size_px[::-1] for f in training if (f.kind, f.view) == key and len(f.truth_px)]
        if relative:
            places[key] = np.concatenate(relative).mean(axis=0)
    return [_answered(f, _guess(f, places[f.kind, f.view])) for f in test if (f.kind, f.view) in places]


def _guess(finding: Finding, place: np.ndarray) -> np.ndarray:
    """Return the (n, 2) px of a relative place; for a line, a vertical through it from top to bottom."""
    height, width = finding.size_px
    if not finding.is_line:
        at: np.ndarray = (place * (width, height))[None]
        return at
    y = np.linspace(0, height - 1, LINE_POINTS)
    return np.stack((np.full(LINE_POINTS, place[0] * width), y), axis=1)


def shuffled(findings: Sequence[Finding], seed: int) -> list[Finding]:
    """Judge each image's landmarks by the truth of another image of the same kind and view."""
    rng = np.random.default_rng(seed)
    out = []
    for key in sorted({(f.kind, f.view) for f in findings}):
        own = [f for f in findings if (f.kind, f.view) == key and len(f.truth_px)]
        if len(own) > 1:
            step = int(rng.integers(1, len(own)))
            others = [own[(i + step) % len(own)] for i in range(len(own))]
            out += [
                replace(f, truth_px=o.truth_px / o.size_px[::-1] * f.size_px[::-1])
                for f, o in zip(own, others, strict=True)
            ]
    return out


def _answered(finding: Finding, found_px: np.ndarray) -> Finding:
    ones = np.ones(len(found_px))
    return replace(finding, found_px=found_px, scores=ones, widths_px=ones, ridge_net=None, judged=None)
