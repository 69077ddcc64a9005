"""How well a detector finds landmarks, on patients it never saw: PCK, F1, deviation, thresholds.

All figures are on SIMULATED images of CT whose labels are semi-manual, not a clinician's (about +-2 to 3 mm).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from landmarknet.dataset import SPINOUS_MARGIN_MM, CachedView, Case, draw_case
from landmarknet.network import KINDS
from landmarknet.simulate import Modality

HEADLINE_NET_PX = 8.0
F1_SLACK = 0.02
PCK_NET_PX = (4.0, 6.0, 8.0, 10.0, 12.0)
Detect = Callable[[np.ndarray], np.ndarray]  # (1, 1, 384, 384) -> peaks (n, K, 3)


@dataclass(frozen=True, eq=False)
class Finding:
    """One kind in one case: the truth, and the peaks (k, 3) above nothing but zero, best first."""

    kind: str
    patient: str
    modality: Modality
    case: Case
    truth_net: np.ndarray  # (n, 2)
    peaks: np.ndarray  # (k, 3)


@dataclass(frozen=True)
class Score:
    """One row of a table. Distances in px of the 384 grid and in mm at the isocentre, of matches within 12 px."""

    images: int
    landmarks: int
    pck: dict[float, float]  # share of true landmarks matched one to one within t px
    precision: float  # share of peaks above the threshold that match within 8 px
    f1: float
    mean_px: float
    median_mm: float


def find(detect: Detect, views: Iterable[CachedView], per_view: int, seed: int) -> list[Finding]:
    """Run a detector on ``per_view`` simulated images of each view and modality; the same ones for the same seed."""
    findings = []
    for view in views:
        for modality in ("kv", "mv"):
            for i in range(per_view):
                rng = np.random.default_rng([seed, i, len(modality + view.view), *view.patient.encode()])
                case = draw_case(view, modality, rng)
                peaks = detect(case.batch)
                for kind, rows in zip(KINDS, peaks, strict=True):
                    if kind == "louis_angle" and view.view == "ap":
                        continue
                    found = _labelled_stretch(case, kind, rows[rows[:, 2] > 0])
                    findings.append(Finding(kind, view.patient, modality, case, case.shown(kind), found))
    return findings


def _labelled_stretch(case: Case, kind: str, peaks: np.ndarray) -> np.ndarray:
    """Leave out spinous processes above or below the labelled ones: nobody said whether they are right."""
    if kind != "spinous_process" or kind not in case.points_net:
        return peaks
    y = case.points_net[kind][:, 1]
    margin = SPINOUS_MARGIN_MM / case.mm_per_net_px
    return peaks[(peaks[:, 1] > y.min() - margin) & (peaks[:, 1] < y.max() + margin)]


def match(truth: np.ndarray, found: np.ndarray, limit: float) -> np.ndarray:
    """Return the distances (m,) of a one-to-one matching of (n, 2) and (k, 2) that uses most pairs within ``limit``."""
    if not len(truth) or not len(found):
        return np.zeros(0)
    distance = np.linalg.norm(truth[:, None] - found[None], axis=2)
    rows, columns = linear_sum_assignment(np.where(distance <= limit, distance, 1e3 + limit))
    chosen: np.ndarray = distance[rows, columns]
    return chosen[chosen <= limit]


def score(findings: Sequence[Finding], threshold: float, at_most: int) -> Score:
    """Summarise findings of one kind at a score threshold."""
    kept = [f.peaks[f.peaks[:, 2] >= threshold][:at_most, :2] for f in findings]
    total = sum(len(f.truth_net) for f in findings)
    hits = {t: sum(len(match(f.truth_net, k, t)) for f, k in zip(findings, kept, strict=True)) for t in PCK_NET_PX}
    within = [(match(f.truth_net, k, PCK_NET_PX[-1]), f) for f, k in zip(findings, kept, strict=True)]
    px = np.concatenate([d for d, _ in within]) if within else np.zeros(0)
    mm = np.concatenate([d * f.case.mm_per_net_px for d, f in within]) if within else np.zeros(0)
    peaks = sum(map(len, kept))
    right = hits[HEADLINE_NET_PX]
    return Score(
        images=len(findings),
        landmarks=total,
        pck={t: h / max(1, total) for t, h in hits.items()},
        precision=right / max(1, peaks),
        f1=2 * right / max(1, total + peaks),
        mean_px=float(px.mean()) if len(px) else float("nan"),
        median_mm=float(np.median(mm)) if len(mm) else float("nan"),
    )


def chance_along_the_row(findings: Iterable[Finding]) -> tuple[float, float]:
    """Return the median gap between neighbours (px of the 384 grid), and how much of the row lies within 8 px of one.

    What a detector would score that found the row of spinous processes, but nothing along it.
    """
    gaps = np.concatenate([np.linalg.norm(np.diff(f.truth_net, axis=0), axis=1) for f in findings])
    return float(np.median(gaps)), float(np.minimum(gaps, 2 * HEADLINE_NET_PX).sum() / gaps.sum())


def best_threshold(findings: Sequence[Finding], at_most: int) -> float:
    """Return the highest threshold whose F1 at 8 px is within 0.02 of the best: rather silent than wrong.

    Choose it on patients that are neither trained nor tested on.
    """
    candidates = [float(t) for t in np.round(np.arange(0.05, 0.95, 0.025), 3)]
    f1 = [score(findings, t, at_most).f1 for t in candidates]
    return max(t for t, value in zip(candidates, f1, strict=True) if value >= max(f1) - F1_SLACK)
