"""The thresholds and uncertainties of a release, chosen on validation patients: neither trained nor tested on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.optimize import minimize
from scipy.stats import spearmanr

from edge.contract import KindContract, Reading
from edge.landmarks import SMALLEST_SIGMA_NET_PX
from landmarknet.decode import ROWS_PER_KIND, nms_radius_net_px
from landmarknet.evaluate import UNCONDITIONAL, Finding, false_alarms, pairs, score
from landmarknet.network import LATERAL_KINDS, LINE_KINDS, NetworkConfig

AT_MOST = {"spinous_process": 16, "tracheal_bifurcation": 1, "louis_angle": 1, "spine_line": 64}
ONLY_WITH = dict.fromkeys(("spinous_process", "spine_line"), ("tracheal_bifurcation", "louis_angle"))  # a thorax
ASSUMED_LONGER_SIDE_MM = (200.0, 250.0, 320.0)  # where the geometry is not known; the last one fills the square
F1_SLACK = 0.02
MOST_PER_NEGATIVE, MOST_PER_HIDDEN, MOST_EXTRA = 0.02, 0.05, 0.5  # false alarms per image
FEWEST_FOR_SIGMA = 12
OUTLIER_MM = 20.0  # a landmark that far off is a wrong one, which no standard uncertainty describes


def reading_of(network: NetworkConfig, kinds: Sequence[KindContract] | None = None) -> Reading:
    """Return how a network is read; without chosen ``kinds``, with thresholds that keep everything."""
    keep_all = (_kind(kind, 0.0, None).model_copy(update=UNCONDITIONAL) for kind in network.kinds)
    chosen = tuple(kinds or keep_all)
    return Reading(
        input_size=network.input_size,
        heatmap_size=network.input_size * 3 // 4,
        rows_per_kind=ROWS_PER_KIND,
        nms_radius_net_px=nms_radius_net_px(network.input_size),
        mm_per_net_px=network.mm_per_net_px,
        assumed_longer_side_mm=() if network.mm_per_net_px is None else ASSUMED_LONGER_SIDE_MM,
        kinds=chosen,
    )


def operating_point(findings: Sequence[Finding], kinds: Sequence[str]) -> tuple[KindContract, ...]:
    """Choose each kind's threshold and uncertainty."""
    chosen = []
    for kind in kinds:
        own = [f for f in findings if f.kind == kind]
        promise = _kind(kind, best_threshold(own, kind), None)
        chosen.append(_kind(kind, promise.threshold, fit_sigma(own, promise)))
    return tuple(chosen)


def best_threshold(findings: Sequence[Finding], kind: str) -> float:
    """Return the middle of the thresholds whose F1 is within 0.02 of the best that the limits on false alarms allow.

    The middle: as far from losing landmarks as from false alarms, on patients that are not the validation's. Where no
    threshold keeps the limits, of those with the fewest false alarms.
    """
    candidates = [_kind(kind, float(t), None) for t in np.round(np.arange(0.10, 0.96, 0.025), 3)]
    f1 = [score(findings, c).f1 for c in candidates]
    excess = [_excess(findings, c) for c in candidates]
    least = min(excess)
    best = max(value for value, over in zip(f1, excess, strict=True) if over <= least)
    good = [
        c.threshold
        for c, value, over in zip(candidates, f1, excess, strict=True)
        if over <= least and value >= best - F1_SLACK
    ]
    return good[len(good) // 2]


def _excess(findings: Sequence[Finding], promise: KindContract) -> float:
    """Return by how much the limits on false alarms are exceeded; a single false alarm in few images proves nothing."""
    alarms = false_alarms(findings, promise)
    counted = [
        (alarms.negatives, alarms.per_negative, MOST_PER_NEGATIVE),
        (alarms.hidden, alarms.per_hidden, MOST_PER_HIDDEN),
    ]
    if promise.kind == "spinous_process":
        judged = sum(f.labelled for f in findings)
        counted.append((judged, score(findings, promise).extra_per_image, MOST_EXTRA))
    return float(sum(max(0.0, n * rate - max(1.0, n * limit)) for n, rate, limit in counted if n))


def errors_and_widths_net(findings: Sequence[Finding], promise: KindContract) -> tuple[np.ndarray, np.ndarray]:
    """Return the (m, 2) errors of accepted landmarks, one to one, and their (m,) peak widths, network px.

    For a line the second error is 0 and only the first counts. Those beyond 20 mm are left out: wrong, not uncertain.
    """
    errors, widths = [], []
    for f in findings:
        if not len(f.truth_px):
            continue
        chosen = f.chosen(promise)
        if f.is_line:
            off = f.found_px[chosen, 0] - np.interp(f.found_px[chosen, 1], *f.truth_px[:, ::-1].T)
            difference = np.stack((off, np.zeros(len(off))), axis=1)
        else:
            rows, columns = pairs(f.truth_px, f.found_px[chosen], OUTLIER_MM / f.mm_per_px)
            difference, chosen = f.found_px[chosen][columns] - f.truth_px[rows], chosen[columns]
        near = np.hypot(*difference.T) * f.mm_per_px <= OUTLIER_MM
        errors.append(difference[near] * f.net_per_px)
        widths.append(f.widths_px[chosen][near] * f.net_per_px)
    return np.concatenate(errors or [np.zeros((0, 2))]), np.concatenate(widths or [np.zeros(0)])


def fit_sigma(findings: Sequence[Finding], promise: KindContract) -> tuple[float, float] | None:
    """Fit sigma = a + b * width by maximum likelihood of normal errors along each axis.

    None with too few of them, and for kinds of which an image shows many: theirs are mistaken for one another, which no
    standard uncertainty describes.
    """
    errors, widths = errors_and_widths_net(findings, promise)
    if len(errors) < FEWEST_FOR_SIGMA or (promise.shape == "point" and promise.at_most > 1):
        return None
    axes = 1 if promise.shape == "line" else 2
    square = (errors**2).sum(axis=1)

    def cost(ab: np.ndarray) -> float:
        sigma = np.maximum(ab[0] + ab[1] * widths, SMALLEST_SIGMA_NET_PX)
        return float((axes * np.log(sigma) + square / (2 * sigma**2)).mean())

    start = np.array((np.sqrt(square.mean() / axes) / 2, 0.3))
    fit = minimize(cost, start, method="L-BFGS-B", bounds=((0.0, 30.0), (0.0, 10.0)))
    a, b = (round(float(v), 3) for v in fit.x)
    return a, b


def inside_shares(findings: Sequence[Finding], promise: KindContract) -> tuple[float, float]:
    """Return the share of errors within one and two standard uncertainties (a circle of as many sigma per axis).

    Normal errors would give 39 and 86 % for points, 68 and 95 % for a line.
    """
    errors, widths = errors_and_widths_net(findings, promise)
    if promise.sigma is None or not len(errors):
        return float("nan"), float("nan")
    relative = np.hypot(*errors.T) / np.maximum(promise.sigma[0] + promise.sigma[1] * widths, SMALLEST_SIGMA_NET_PX)
    return float((relative <= 1).mean()), float((relative <= 2).mean())


def width_correlation(findings: Sequence[Finding], promise: KindContract) -> float:
    """Return the rank correlation of the size of an error with the width of its peak; 0: the width says nothing."""
    errors, widths = errors_and_widths_net(findings, promise)
    if len(errors) < FEWEST_FOR_SIGMA:
        return float("nan")
    return float(spearmanr(np.hypot(*errors.T), widths).statistic)


def _kind(kind: str, threshold: float, sigma: tuple[float, float] | None) -> KindContract:
    shape: Literal["line", "point"] = "line" if kind in LINE_KINDS else "point"
    return KindContract(
        kind=kind,
        threshold=threshold,
        at_most=AT_MOST[kind],
        shape=shape,
        sigma=sigma,
        only_with=ONLY_WITH.get(kind, ()),
        lateral_only=kind in LATERAL_KINDS,
    )


def as_toml(kinds: Sequence[KindContract]) -> str:
    """Return the ``[[kinds]]`` of a build recipe."""
    blocks = []
    for k in kinds:
        lines = [
            "[[kinds]]", f'kind = "{k.kind}"', f"threshold = {k.threshold:.3f}", f"at_most = {k.at_most}",
            f'shape = "{k.shape}"',
        ]  # fmt: skip
        if k.sigma is not None:
            lines.append(f"sigma = [{k.sigma[0]:.3f}, {k.sigma[1]:.3f}]")
        if k.only_with:
            lines.append(f"only_with = {json.dumps(k.only_with)}")
        if k.lateral_only:
            lines.append("lateral_only = true")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)
