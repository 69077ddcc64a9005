"""What knows nothing of the image: the floors that every figure has to be read against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from landmarknet.evaluate import Finding


def mean_position(training: Sequence[Finding], test: Sequence[Finding]) -> list[Finding]:
    """Answer with the kind's mean place in training patients' images of that view, relative to the image's size."""
    places: dict[tuple[str, str], np.ndarray] = {}
    for key in {(f.kind, f.view) for f in training}:
        relative = [f.truth_px / f.size_px[::-1] for f in training if (f.kind, f.view) == key and len(f.truth_px)]
        if relative and not any(f.is_line for f in training if f.kind == key[0]):
            places[key] = np.concatenate(relative).mean(axis=0)
    return [_answered(f, (places[f.kind, f.view] * f.size_px[::-1])[None]) for f in test if (f.kind, f.view) in places]


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
    return replace(finding, found_px=found_px, scores=ones, widths_px=ones)
