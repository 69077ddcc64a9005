"""How well landmarks are found on simulated files of patients: through the room's own read, preprocess, infer, decode.

All figures are on SIMULATED images of CT whose labels are semi-manual, not a clinician's (about +-2 to 3 mm). Distances
in "paper px" are px of the whole image fitted into 384 x 384 (paper, Metrics), whatever grid the network works on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from edge.backends import Backend
from edge.contract import KindContract, Reading
from edge.detect import detect
from edge.landmarks import longest_stretch, peak_width, ridge_points, supported_kinds
from edge.portal_image import read_portal_image
from edge.preprocess import Placement
from edge.records import Landmark, PortalImage
from landmarknet.dataset import SPINOUS_MARGIN_MM, line_through
from landmarknet.network import LATERAL_KINDS, LINE_KINDS, PAPER_SIZE
from landmarknet.pose import View
from landmarknet.simulate import Modality

HEADLINE_PX = 8.0
PCK_PX = (4.0, 6.0, 8.0, 10.0, 12.0)
UNCONDITIONAL: Mapping[str, Any] = MappingProxyType({"only_with": (), "lateral_only": False})
LOWEST_SCORE = 0.05  # what is kept so that thresholds can be chosen afterwards


@dataclass(frozen=True, eq=False)
class Finding:
    """One kind in one image: the truth, and what was found above nothing but a very low score.

    ``truth_px`` (n, 2) and ``found_px`` (k, 2) are detector px, best score first; ``widths_px`` (k,) the peaks' widths.
    Without ``labelled`` the patient has no such labels. For a line the truth is dense along it, and what was found is
    its whole ridge from the top, ``ridge_net`` (k, 3) in network px; ``judged`` (k,) is where the labels reach.
    ``beyond`` (j, 3) are x, y in detector px and the score of points that were found where no labels reach.
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
    ridge_net: np.ndarray | None = None
    judged: np.ndarray | None = None
    beyond: np.ndarray | None = None
    unlabelled_view: bool = False  # of a patient with landmarks, in a view in which this kind is not labelled

    @property
    def is_line(self) -> bool:
        return self.kind in LINE_KINDS

    @property
    def paper_per_px(self) -> float:
        """Paper px per detector px."""
        return PAPER_SIZE / max(self.size_px)

    def chosen(self, promise: KindContract) -> np.ndarray:
        """Return which of the found (k,) a contract accepts, of those that can be judged."""
        if self.ridge_net is not None and self.judged is not None:  # as the room reads a line: first the stretch
            stretch = np.array(longest_stretch(self.ridge_net, promise.threshold), int)
            return stretch[self.judged[stretch]]
        return np.flatnonzero(self.scores >= promise.threshold)[: promise.at_most]

    def kept(self, promise: KindContract) -> np.ndarray:
        """Return the (m, 2) px that a contract accepts, of those that can be judged."""
        return self.found_px[self.chosen(promise)]

    def answered(self, promise: KindContract) -> tuple[np.ndarray, np.ndarray]:
        """Return the points (m, 2), px, and scores (m,) that the room gives of a kind that is no line, best first.

        Be they where labels reach or not: a point that is cut off at their end vanishes when it moves by 0.01 px.
        """
        found = np.column_stack((self.found_px, self.scores))
        found = found if self.beyond is None else np.concatenate((found, self.beyond))
        found = found[np.argsort(-found[:, 2], kind="stable")]
        found = found[found[:, 2] >= promise.threshold][: promise.at_most]
        return found[:, :2], found[:, 2]

    def silent(self) -> Finding:
        """Return the finding as if nothing had been found."""
        none = np.zeros(0)
        return replace(
            self, found_px=np.zeros((0, 2)), scores=none, widths_px=none, ridge_net=None, judged=None, beyond=None
        )

    def accepted(self, promise: KindContract) -> Finding:
        """Return the finding with nothing but what a contract accepts."""
        keep = self.chosen(promise)
        return replace(
            self,
            found_px=self.found_px[keep],
            scores=self.scores[keep],
            widths_px=self.widths_px[keep],
            ridge_net=None,
            judged=None,
            beyond=None,
        )

    def distances_px(self, found_px: np.ndarray, limit_px: float) -> np.ndarray:
        """Return the distances, detector px, of true landmarks that were found within a limit, one to one."""
        if self.is_line:
            off = sideways(self.truth_px, found_px)
            return off[off <= limit_px]
        return match(self.truth_px, found_px, limit_px)

    def right(self, found_px: np.ndarray) -> np.ndarray:
        """Return (m,) whether each found point (m, 2) is a true landmark within 8 paper px, one to one."""
        right = np.zeros(len(found_px), bool)
        if len(self.truth_px) and len(found_px):
            limit_px = HEADLINE_PX / self.paper_per_px
            if self.is_line:
                x_true = np.interp(found_px[:, 1], *self.truth_px[:, ::-1].T)
                right = np.abs(found_px[:, 0] - x_true) <= limit_px
            else:
                right[pairs(self.truth_px, found_px, limit_px)[1]] = True
        return right


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
    at_most = reading.rows_per_kind * 4
    keep_all = {"threshold": LOWEST_SCORE, "at_most": at_most, "sigma": (0.0, 1.0), **UNCONDITIONAL}
    kinds = tuple(promise.model_copy(update=keep_all) for promise in reading.kinds)
    return reading.model_copy(update={"kinds": kinds})


def find(
    backend: Backend, reading: Reading, images: Path, patients: Sequence[str], *, unlabelled_views: bool = False
) -> list[Finding]:
    """Run the room's pipeline up to the landmarks on every image of some patients.

    With ``unlabelled_views`` also what was found of the Louis angle in AP views, where it cannot be seen: no training
    says anything of it there, so only these findings tell whether a threshold lets it through.
    """
    findings = []
    for path, truth in read_truths(images, patients).items():
        findings += find_in(read_portal_image(path), truth, backend, reading, unlabelled_views=unlabelled_views)
    return findings


def find_in(
    image: PortalImage,
    truth: dict[str, Any],
    backend: Backend,
    reading: Reading,
    *,
    unlabelled_views: bool = False,
) -> list[Finding]:
    """Return one finding per kind that may be judged in this image; ``unlabelled_views`` as in `find`."""
    detection = detect(image, backend, everything(reading))
    supported = supported_kinds(detection.landmarks, reading, image.geometry)
    findings = []
    for promise, heatmap in zip(reading.kinds, detection.inference.heatmaps, strict=True):
        unlabelled = promise.kind in truth["unlabelled"]
        out_of_view = unlabelled and promise.kind in LATERAL_KINDS and bool(truth["landmarks"] or truth["hidden"])
        if unlabelled and not (out_of_view and unlabelled_views):
            continue
        own = [one for one in detection.landmarks if one.kind == promise.kind]
        read = _read_line if promise.shape == "line" else _read_points
        finding = read(_Seen(promise.kind, image, truth, own, heatmap, detection.placement))
        if out_of_view:  # whatever is found is too much, as where the patient's is outside the field
            finding = replace(finding, labelled=True, unlabelled_view=True)
        findings.append(finding if promise.kind in supported else finding.silent())
    return findings


@dataclass(frozen=True, eq=False)
class _Seen:
    kind: str
    image: PortalImage
    truth: dict[str, Any]
    landmarks: list[Landmark]
    heatmap: np.ndarray
    placement: Placement

    def labels_px(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the shown and the hidden labels of a kind, (n, 2) each."""
        shown, hidden = (
            np.array([(p["x_px"], p["y_px"]) for p in self.truth[key] if p["kind"] == kind]).reshape(-1, 2)
            for key in ("landmarks", "hidden")
        )
        return shown, hidden

    def finding(self, *, labelled: bool, truth_px: np.ndarray, found: np.ndarray, **more: Any) -> Finding:
        """``found`` is (k, 4): x, y in px, score, width in px."""
        return Finding(
            kind=self.kind,
            patient=self.truth["patient"],
            view=self.truth["view"],
            modality=self.truth["modality"],
            image=self.image.identity.name,
            labelled=labelled,
            truth_px=truth_px,
            found_px=found[:, :2],
            scores=found[:, 2],
            widths_px=found[:, 3],
            size_px=(self.image.pixels.shape[0], self.image.pixels.shape[1]),
            mm_per_px=self.truth["mm_per_px"],
            net_per_px=self.placement.scale[0],
            **more,
        )


def _read_points(seen: _Seen) -> Finding:
    shown, hidden = seen.labels_px(seen.kind)
    labelled = np.concatenate((shown, hidden))
    best_first = sorted(seen.landmarks, key=lambda one: -one.score)
    found = np.array([(*one.xy_px, one.score, one.sigma_px) for one in best_first], float).reshape(-1, 4)
    judged = np.ones(len(found), bool)
    if len(labelled) and seen.kind == "spinous_process":  # the spine goes on beyond the labelled ones
        margin_px = SPINOUS_MARGIN_MM / seen.truth["mm_per_px"]
        low, high = labelled[:, 1].min() - margin_px, labelled[:, 1].max() + margin_px
        judged = (found[:, 1] >= low) & (found[:, 1] <= high)
    return seen.finding(labelled=len(labelled) > 0, truth_px=shown, found=found[judged], beyond=found[~judged, :3])


def _read_line(seen: _Seen) -> Finding:
    shown, hidden = seen.labels_px("spinous_process")
    labelled = np.concatenate((shown, hidden))
    ridge = ridge_points(seen.heatmap)
    x, y = seen.placement.to_image(ridge[:, :2]).T
    widths = [peak_width(seen.heatmap, at, "line") / seen.placement.scale[0] for at in ridge]
    height, width = seen.image.pixels.shape
    judged = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    if len(labelled):
        stretch = shown if len(shown) else labelled
        judged &= (y >= stretch[:, 1].min()) & (y <= stretch[:, 1].max())
    truth_px = line_through(shown[np.argsort(shown[:, 1])]) if len(shown) else shown
    found = np.stack((x, y, ridge[:, 2], widths), axis=1)
    return seen.finding(labelled=len(labelled) > 0, truth_px=truth_px, found=found, ridge_net=ridge, judged=judged)


def match(truth: np.ndarray, found: np.ndarray, limit: float) -> np.ndarray:
    """Return the distances (m,) of a one-to-one matching of (n, 2) and (k, 2) that uses most pairs within ``limit``."""
    rows, columns = pairs(truth, found, limit)
    distances: np.ndarray = np.linalg.norm(truth[rows] - found[columns], axis=1)
    return distances


def pairs(truth: np.ndarray, found: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Return which of (n, 2) goes with which of (k, 2): the most pairs within ``limit``, then the nearest."""
    if not len(truth) or not len(found):
        return np.zeros(0, int), np.zeros(0, int)
    distance = np.linalg.norm(truth[:, None] - found[None], axis=2)
    rows, columns = linear_sum_assignment(np.where(distance <= limit, distance, 1e3 + limit))
    near = distance[rows, columns] <= limit
    return rows[near], columns[near]


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
    right = [int(f.right(k).sum()) for f, k in zip(judged, kept, strict=True)]
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
