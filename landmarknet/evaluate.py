"""How well landmarks are found on simulated files of patients: through the room's own read, preprocess, infer, decode.

All figures are on SIMULATED images of CT whose labels are semi-manual, not a clinician's (about +-2 to 3 mm). Distances
in "paper px" are px of the whole image fitted into 384 x 384 (paper, Metrics), whatever grid the network works on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from edge.backends import Backend
from edge.contract import KindContract, Reading
from edge.detect import detect
from edge.landmarks import FEWEST_LINE_POINTS
from edge.portal_image import read_portal_image
from edge.records import Landmark, PortalImage
from landmarknet.dataset import SPINOUS_MARGIN_MM, line_through
from landmarknet.network import LINE_KINDS, PAPER_SIZE
from landmarknet.pose import View
from landmarknet.simulate import Modality

HEADLINE_PX = 8.0
PCK_PX = (4.0, 6.0, 8.0, 10.0, 12.0)
LOWEST_SCORE = 0.05  # what is kept so that thresholds can be chosen afterwards


@dataclass(frozen=True, eq=False)
class Finding:
    """One kind in one image: the truth, and what was found above nothing but a very low score.

    ``truth_px`` (n, 2) and ``found_px`` (k, 2) are detector px, best score first; ``widths_px`` (k,) the peaks' widths.
    For a line the truth is dense along it, and ``along`` says so. Without ``labelled`` the patient has no such labels.
    """

    kind: str
    patient: str
    view: View
    modality: Modality
    image: str
    labelled: bool
    truth_px: np.ndarray
    found_px: np.ndarray
    scores: np.ndarray
    widths_px: np.ndarray
    size_px: tuple[int, int]  # (height, width) of the image
    mm_per_px: float
    net_per_px: float

    @property
    def is_line(self) -> bool:
        return self.kind in LINE_KINDS

    @property
    def paper_per_px(self) -> float:
        """Paper px per detector px."""
        return PAPER_SIZE / max(self.size_px)

    def kept(self, promise: KindContract) -> np.ndarray:
        """Return the (m, 2) px that a contract accepts."""
        accepted = self.found_px[self.scores >= promise.threshold][: promise.at_most]
        return longest_stretch(accepted) if self.is_line else accepted

    def above(self, threshold: float) -> Finding:
        """Return the finding without what scores below a threshold."""
        keep = self.scores >= threshold
        return replace(self, found_px=self.found_px[keep], scores=self.scores[keep], widths_px=self.widths_px[keep])

    def distances_px(self, found_px: np.ndarray, limit_px: float) -> np.ndarray:
        """Return the distances, detector px, of true landmarks that were found within a limit, one to one."""
        if self.is_line:
            off = sideways(self.truth_px, found_px)
            return off[off <= limit_px]
        return match(self.truth_px, found_px, limit_px)


def read_truths(images: Path, patients: Sequence[str]) -> dict[Path, dict[str, Any]]:
    """Return the truth of every image of some patients of a data set that ``landmarknet-train simulate`` wrote."""
    truths: dict[Path, dict[str, Any]] = {}
    for patient in patients:
        file = images / patient / "truth.json"
        try:
            document = json.loads(file.read_text())
        except (OSError, json.JSONDecodeError) as exc:
            raise ValueError(f"{file}: cannot be read ({exc}); make it with `landmarknet-train simulate`") from exc
        truths |= {file.parent / name: truth for name, truth in document["images"].items()}
    return truths


def everything(reading: Reading) -> Reading:
    """Return a reading that keeps nearly every peak, and gives its width as its sigma."""
    kinds = tuple(
        k.model_copy(update={"threshold": LOWEST_SCORE, "at_most": reading.rows_per_kind * 4, "sigma": (0.0, 1.0)})
        for k in reading.kinds
    )
    return reading.model_copy(update={"kinds": kinds})


def find(backend: Backend, reading: Reading, images: Path, patients: Sequence[str]) -> list[Finding]:
    """Run the room's pipeline up to the landmarks on every image of some patients."""
    findings = []
    for path, truth in read_truths(images, patients).items():
        findings += find_in(read_portal_image(path), truth, backend, reading)
    return findings


def find_in(image: PortalImage, truth: dict[str, Any], backend: Backend, reading: Reading) -> list[Finding]:
    """Return one finding per kind that may be judged in this image."""
    detection = detect(image, backend, everything(reading))
    return [
        _finding(promise.kind, image, truth, detection.landmarks, detection.placement.scale[0])
        for promise in reading.kinds
        if promise.kind not in truth["unlabelled"]
    ]


def _finding(
    kind: str, image: PortalImage, truth: dict[str, Any], landmarks: Iterable[Landmark], net_per_px: float
) -> Finding:
    labelled_as = "spinous_process" if kind in LINE_KINDS else kind
    shown, hidden = (
        np.array([(p["x_px"], p["y_px"]) for p in truth[key] if p["kind"] == labelled_as]).reshape(-1, 2)
        for key in ("landmarks", "hidden")
    )
    found = sorted((one for one in landmarks if one.kind == kind), key=lambda one: -one.score)
    found_px = np.array([one.xy_px for one in found]).reshape(-1, 2)
    labelled_px = np.concatenate((shown, hidden))
    judged = np.ones(len(found), bool)
    if len(labelled_px) and labelled_as == "spinous_process":  # it goes on beyond the labelled ones
        margin_px = 0.0 if kind in LINE_KINDS else SPINOUS_MARGIN_MM / truth["mm_per_px"]
        stretch = shown if kind in LINE_KINDS and len(shown) else labelled_px
        low, high = stretch[:, 1].min() - margin_px, stretch[:, 1].max() + margin_px
        judged = (found_px[:, 1] >= low) & (found_px[:, 1] <= high)
    if kind in LINE_KINDS and len(shown):
        shown = line_through(shown[np.argsort(shown[:, 1])])
    return Finding(
        kind=kind,
        patient=truth["patient"],
        view=truth["view"],
        modality=truth["modality"],
        image=image.identity.name,
        labelled=len(labelled_px) > 0,
        truth_px=shown,
        found_px=found_px[judged],
        scores=np.array([one.score for one in found])[judged],
        widths_px=np.array([one.sigma_px for one in found], float)[judged],
        size_px=(image.pixels.shape[0], image.pixels.shape[1]),
        mm_per_px=truth["mm_per_px"],
        net_per_px=net_per_px,
    )


def longest_stretch(points_px: np.ndarray) -> np.ndarray:
    """Return the longest run of (m, 2) points of a line without a missing step, from the top."""
    if len(points_px) < FEWEST_LINE_POINTS:
        return points_px[:0]
    points_px = points_px[np.argsort(points_px[:, 1])]
    step = np.diff(points_px[:, 1])
    runs = np.split(points_px, np.flatnonzero(step > 1.5 * step.min()) + 1)
    longest = max(runs, key=len)
    return longest if len(longest) >= FEWEST_LINE_POINTS else points_px[:0]


def match(truth: np.ndarray, found: np.ndarray, limit: float) -> np.ndarray:
    """Return the distances (m,) of a one-to-one matching of (n, 2) and (k, 2) that uses most pairs within ``limit``."""
    if not len(truth) or not len(found):
        return np.zeros(0)
    distance = np.linalg.norm(truth[:, None] - found[None], axis=2)
    rows, columns = linear_sum_assignment(np.where(distance <= limit, distance, 1e3 + limit))
    chosen: np.ndarray = distance[rows, columns]
    return chosen[chosen <= limit]


def sideways(truth_px: np.ndarray, found_px: np.ndarray) -> np.ndarray:
    """Return, at each (n, 2) point of a true line that runs down the image, how far to its side the found line is.

    Infinite above the found line's first point and below its last.
    """
    if len(found_px) < 2:
        return np.full(len(truth_px), np.inf)
    x, y = found_px[np.argsort(found_px[:, 1])].T
    off = np.abs(np.interp(truth_px[:, 1], y, x) - truth_px[:, 0])
    beyond = (truth_px[:, 1] < y[0] - (y[1] - y[0])) | (truth_px[:, 1] > y[-1] + (y[-1] - y[-2]))
    result: np.ndarray = np.where(beyond, np.inf, off)
    return result


@dataclass(frozen=True)
class Score:
    """One row of a table: findings of one kind that may be judged. Deviations are of matches within 12 paper px."""

    images: int
    landmarks: int
    pck: dict[float, float]  # share of true landmarks matched one to one within t paper px
    patient_pck: float  # share of images that show the kind with at least one landmark right (paper, Metrics)
    precision: float  # share of found landmarks that match within 8 paper px
    f1: float
    mean_px: float  # paper px
    median_mm: float
    extra_per_image: float  # found, and within 8 paper px of no true one; labelled stretch only
    count_error: float  # mean of |found - true|
    given: float  # share of images that show the kind in which something was found


def score(findings: Sequence[Finding], promise: KindContract) -> Score:
    """Summarise findings of one kind, on patients who have labels of it, at a contract's threshold."""
    judged = [f for f in findings if f.labelled]
    kept = [f.kept(promise) for f in judged]
    shown = [(f, k) for f, k in zip(judged, kept, strict=True) if len(f.truth_px)]
    total = sum(len(f.truth_px) for f, _ in shown)
    hits = {t: [len(f.distances_px(k, t / f.paper_per_px)) for f, k in shown] for t in PCK_PX}
    matched = [(f.distances_px(k, PCK_PX[-1] / f.paper_per_px), f) for f, k in shown]
    px = np.concatenate([d * f.paper_per_px for d, f in matched]) if matched else np.zeros(0)
    mm = np.concatenate([d * f.mm_per_px for d, f in matched]) if matched else np.zeros(0)
    right = [_right(f, k) for f, k in zip(judged, kept, strict=True)]
    found = sum(map(len, kept))
    recall, precision = sum(hits[HEADLINE_PX]) / max(1, total), sum(right) / max(1, found)
    return Score(
        images=len(shown),
        landmarks=total,
        pck={t: sum(h) / max(1, total) for t, h in hits.items()},
        patient_pck=float(np.mean([h > 0 for h in hits[HEADLINE_PX]])) if shown else float("nan"),
        precision=precision,
        f1=2 * recall * precision / max(1e-9, recall + precision),
        mean_px=float(px.mean()) if len(px) else float("nan"),
        median_mm=float(np.median(mm)) if len(mm) else float("nan"),
        extra_per_image=(found - sum(right)) / max(1, len(judged)),
        count_error=float(np.mean([abs(len(k) - len(f.truth_px)) for f, k in shown])) if shown else float("nan"),
        given=float(np.mean([len(k) > 0 for _, k in shown])) if shown else float("nan"),
    )


def _right(finding: Finding, kept: np.ndarray) -> int:
    """Return how many of the (m, 2) found points are right within 8 paper px."""
    if not len(finding.truth_px):
        return 0
    limit_px = HEADLINE_PX / finding.paper_per_px
    if finding.is_line:
        x_true = np.interp(kept[:, 1], *finding.truth_px[:, ::-1].T) if len(kept) else np.zeros(0)
        return int((np.abs(kept[:, 0] - x_true) <= limit_px).sum())
    return len(match(finding.truth_px, kept, limit_px))


@dataclass(frozen=True)
class FalseAlarms:
    """Landmarks per image that are not there: on images without thorax, and where all of the kind lie out of sight."""

    negatives: int
    per_negative: float
    hidden: int
    per_hidden: float


def false_alarms(findings: Sequence[Finding], promise: KindContract) -> FalseAlarms:
    """Count what a contract accepts where nothing of the kind is shown; a line counts once, not by its points."""

    def count(finding: Finding) -> int:
        found = len(finding.kept(promise))
        return min(found, 1) if finding.is_line else found

    negative = [count(f) for f in findings if not f.labelled]
    hidden = [count(f) for f in findings if f.labelled and not len(f.truth_px)]
    return FalseAlarms(
        len(negative),
        float(np.mean(negative)) if negative else float("nan"),
        len(hidden),
        float(np.mean(hidden)) if hidden else float("nan"),
    )


def chance_along_the_row(findings: Iterable[Finding]) -> tuple[float, float]:
    """Return the median gap between neighbours (paper px), and how much of the row lies within 8 px of one.

    What a detector would score that found the row of spinous processes, but nothing along it.
    """
    gaps = np.concatenate(
        [np.linalg.norm(np.diff(f.truth_px, axis=0), axis=1) * f.paper_per_px for f in findings if len(f.truth_px)]
    )
    return float(np.median(gaps)), float(np.minimum(gaps, 2 * HEADLINE_PX).sum() / gaps.sum())
