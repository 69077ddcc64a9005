"""Which detected landmark is which of the reference: every plausible explanation, the likeliest first.

Spinous processes are an unnumbered, nearly collinear, periodic row: shifted by one vertebra it fits nearly as well. So
an explanation is not searched for but chosen: each pair of a reference and a detected landmark of one kind starts one,
takes in what agrees with it, is fitted, and has a cost, the negative logarithm of its likelihood in nats. The margin to
the best explanation that lies elsewhere says how sure the choice is: 7 nats are odds of 1000 to 1, as far as the
stated uncertainties are right. Landmarks are told to agree by the uncertainty of the fit and their own (the innovation
gate of tracking: Bar-Shalom and Fortmann, Tracking and Data Association, 1988), and paired with their mutually nearest,
which never crosses two pairs of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from edge.registration.rigid_fit import SCALE_SIGMA, SETUP_ROTATION_SIGMA_DEG, Fit, Pairs, fit_rigid, squares
from edge.registration.sighting import PlaneLandmark

LARGEST_SHIFT_MM = 60.0  # two vertebrae; no explanation is looked for beyond
ELSEWHERE_MM = 6.0  # half of the smallest distance of two spinous processes: explanations nearer are the same one
GATE = 13.8  # of the squared, weighted distance in two dimensions: 1 of 1000 right pairs is farther
LINE_GATE = 6.6  # of the median one in one dimension
LINE_INDEPENDENT_MM = 100.0  # along a line its error is the same: this length of it counts as one measurement
_START_STEP_MM = 5.0  # starts nearer than this lead to the same explanation
_ROUNDS = 4
_SMALLEST_SIGMA_MM = 0.1  # a tenth of a pixel; of less the equations would become singular
_FARTHEST_MM = 1000.0  # no panel reaches there
_SHORTEST_LINE_MM = 10.0  # down the image; of less no direction is known
_LEAST_SHARE = 1e-3  # keeps a sigma finite
# How likely a landmark is missed, and how dense detections are that are none, per mm^2; of the right order only.
_FOUND = {"point": 0.9, "row": 0.7}
_FALSE_PER_MM2 = {"point": 0.05 / 300**2, "row": 1 / (300 * 20)}
_LINE_FALSE_NATS = 12.0  # as much as a point that is none

Matches = tuple[tuple[int, int], ...]  # (index in the reference, index among the detected)


@dataclass(frozen=True, eq=False)
class Marks:
    """The points of one image as arrays, and its lines by kind."""

    points: tuple[PlaneLandmark, ...]  # points and rows with a stated uncertainty
    xy_mm: np.ndarray  # (n, 2)
    sigma_mm: np.ndarray  # (n,)
    lines: dict[str, tuple[np.ndarray, float]]  # kind -> places (m, 2) from the top, mm; sigma, mm


@dataclass(frozen=True, eq=False)
class Explanation:
    """One way in which the detected landmarks can be those of the reference."""

    matches: Matches
    lines: tuple[str, ...]  # kinds of lines that agree
    pairs: Pairs  # of the matches, then of the lines
    fit: Fit
    cost: float  # nats


def marks(landmarks: Iterable[PlaneLandmark]) -> Marks:
    """Sort landmarks by shape; left out are those of unknown uncertainty, which cannot be weighed, and absurd ones."""
    known = [
        replace(one, sigma_mm=max(one.sigma_mm, _SMALLEST_SIGMA_MM))
        for one in landmarks
        if one.sigma_mm is not None and max(map(abs, one.xy_mm)) <= _FARTHEST_MM
    ]
    points = tuple(one for one in known if one.shape != "line")
    lines = {}
    for kind in sorted({one.kind for one in known if one.shape == "line"}):
        places = sorted((one for one in known if one.kind == kind), key=lambda one: -one.xy_mm[1])
        if places[0].xy_mm[1] - places[-1].xy_mm[1] >= _SHORTEST_LINE_MM:
            sigma_mm = float(np.sqrt(np.mean([one.sigma_mm**2 for one in places if one.sigma_mm is not None])))
            lines[kind] = np.array([one.xy_mm for one in places]), sigma_mm
    xy_mm = np.array([one.xy_mm for one in points], float).reshape(-1, 2)
    return Marks(points, xy_mm, np.array([one.sigma_mm for one in points], float), lines)


def explanations(
    reference: Marks, detected: Marks, window_mm: tuple[float, float, float, float]
) -> tuple[Explanation, ...]:
    """Return the explanations of ``detected``, the likeliest first; none where no kind of point is in both.

    A reference landmark that would lie outside the image's window (left, bottom, right, top) is not missed.
    """
    found: dict[Matches, Explanation] = {}
    for start in _starts(reference, detected):
        one = _settled(reference, detected, start, window_mm)
        found[one.matches] = min(one, found.get(one.matches, one), key=lambda each: each.cost)
    if found:  # one vertebra off, in case no start led there
        best = min(found.values(), key=lambda each: each.cost)
        for step in (-1, 1):
            if slipped := _slipped(best.matches, reference, step):
                one = _settled(reference, detected, _fitted(reference, detected, slipped, ()), window_mm)
                found.setdefault(one.matches, one)
    return tuple(sorted(found.values(), key=lambda each: each.cost))


def elsewhere(best: Explanation, others: Iterable[Explanation], reference: Marks) -> Explanation | None:
    """Return the first of the others that puts the middle of the reference's landmarks somewhere else."""
    middle = reference.xy_mm.mean(axis=0)
    at = best.fit.apply(middle)
    return next((one for one in others if np.linalg.norm(one.fit.apply(middle) - at) > ELSEWHERE_MM), None)


def doubted(best: Explanation, reference: Marks, fit: Fit) -> Pairs:
    """Return the pairs of an explanation, each point's sigma widened by how likely it is a false one that lies near.

    One round of expectation maximisation for a mixture of right and false detections: at three sigma from where it is
    expected a tip is as likely a false one as a right one, and should not pull the fit as if it were right.
    """
    count = len(best.matches)
    sigma_mm, off = best.pairs.sigma_mm[:count], squares(fit, best.pairs)[:count]
    right = np.exp(-off / 2) / (2 * math.pi * sigma_mm**2)
    right *= [_FOUND[reference.points[i].shape] for i, _ in best.matches]
    false = np.array([_FALSE_PER_MM2[reference.points[i].shape] for i, _ in best.matches])
    share = np.maximum(right / (right + false), _LEAST_SHARE)
    return replace(best.pairs, sigma_mm=np.concatenate((sigma_mm / np.sqrt(share), best.pairs.sigma_mm[count:])))


def _starts(reference: Marks, detected: Marks) -> list[Fit]:
    starts: dict[tuple[bool, int], Fit] = {}
    for i, one in enumerate(reference.points):
        for j, other in enumerate(detected.points):
            shift = detected.xy_mm[j] - reference.xy_mm[i]
            if one.kind == other.kind and np.linalg.norm(shift) <= LARGEST_SHIFT_MM:
                key = (one.shape == "row", round(shift[1] / _START_STEP_MM))  # a row runs down the image
                starts.setdefault(key, _fitted(reference, detected, ((i, j),), ()))
    return list(starts.values())


def _slipped(matches: Matches, reference: Marks, step: int) -> Matches:
    """Return the matches of rows moved by one along the reference's row; points keep none."""
    rows: dict[str, list[int]] = {}
    for i in np.argsort(-reference.xy_mm[:, 1]).tolist():
        if reference.points[i].shape == "row":
            rows.setdefault(reference.points[i].kind, []).append(i)
    moved = []
    for i, j in matches:
        row = rows.get(reference.points[i].kind, [])
        at = row.index(i) + step if i in row else -1
        if 0 <= at < len(row):
            moved.append((row[at], j))
    return tuple(moved)


def _settled(reference: Marks, detected: Marks, fit: Fit, window_mm: tuple[float, float, float, float]) -> Explanation:
    """Take in what agrees and fit again, until nothing changes."""
    matches: Matches = ()
    lines: tuple[str, ...] = ()
    for _ in range(_ROUNDS):
        before = matches, lines
        matches, lines = _agreeing(reference, detected, fit), _agreeing_lines(reference, detected, fit)
        fit = _fitted(reference, detected, matches, lines, fit)
        if (matches, lines) == before:
            break
    pairs = _pairs(reference, detected, matches, lines, fit)
    return Explanation(matches, lines, pairs, fit, _cost(reference, detected, matches, pairs, fit, window_mm))


def _agreeing(reference: Marks, detected: Marks, fit: Fit) -> Matches:
    """Return the mutually nearest pairs of one kind within the gate."""
    missing = detected.xy_mm[None] - fit.apply(reference.xy_mm)[:, None]
    own = (reference.sigma_mm[:, None] ** 2 + detected.sigma_mm**2)[..., None, None] * np.eye(2)
    spread = fit.spread(reference.xy_mm)[:, None] + own
    distance = np.einsum("nmi,nmij,nmj->nm", missing, np.linalg.inv(spread), missing)
    kinds = [[one.kind == other.kind for other in detected.points] for one in reference.points]
    distance = np.where(kinds, distance, np.inf)
    nearest = distance.argmin(axis=1)
    return tuple(
        (i, int(j)) for i, j in enumerate(nearest) if distance[i, j] <= GATE and int(distance[:, j].argmin()) == i
    )


def _agreeing_lines(reference: Marks, detected: Marks, fit: Fit) -> tuple[str, ...]:
    agreeing = []
    for kind in sorted(reference.lines.keys() & detected.lines.keys()):
        pairs = _line_pairs(reference.lines[kind], detected.lines[kind], fit)
        if len(pairs):
            missing = np.einsum("ki,ki->k", pairs.across, pairs.detected_mm - fit.apply(pairs.reference_mm))
            spread = np.einsum("ki,kij,kj->k", pairs.across, fit.spread(pairs.reference_mm), pairs.across)
            if np.median(missing**2 / (spread + pairs.sigma_mm**2)) <= LINE_GATE:
                agreeing.append(kind)
    return tuple(agreeing)


def _fitted(
    reference: Marks, detected: Marks, matches: Matches, lines: tuple[str, ...], near: Fit | None = None
) -> Fit:
    pairs = _pairs(reference, detected, matches, lines, near)
    return fit_rigid(pairs, SETUP_ROTATION_SIGMA_DEG)


def _pairs(reference: Marks, detected: Marks, matches: Matches, lines: tuple[str, ...], near: Fit | None) -> Pairs:
    i, j = np.array(matches, int).reshape(-1, 2).T
    points = Pairs(
        reference.xy_mm[i],
        detected.xy_mm[j],
        np.hypot(reference.sigma_mm[i], detected.sigma_mm[j]),
        np.zeros((len(i), 2)),
    )
    if near is None or not lines:
        return points
    return joined([points, *(_line_pairs(reference.lines[kind], detected.lines[kind], near) for kind in lines)])


def joined(parts: Iterable[Pairs]) -> Pairs:
    """Return several sets of pairs as one."""
    fields = zip(*((one.reference_mm, one.detected_mm, one.sigma_mm, one.across) for one in parts), strict=True)
    return Pairs(*(np.concatenate(field) for field in fields))


def _line_pairs(reference: tuple[np.ndarray, float], detected: tuple[np.ndarray, float], near: Fit) -> Pairs:
    """Return each detected place of a line with the reference line's place at its height; nothing is extrapolated.

    One direction, across the whole reference line, is known; a bend in it must not fix the place along it.
    """
    (line, sigma), (places, other_sigma) = reference, detected
    height = near.undo(places)[:, 1]
    inside = (height <= line[0, 1]) & (height >= line[-1, 1])
    places, height = places[inside], height[inside]
    on_line = np.stack((np.interp(height, line[::-1, 1], line[::-1, 0]), height), axis=1)
    along = near.apply(line[0]) - near.apply(line[-1])
    across = np.array([along[1], -along[0]]) / np.linalg.norm(along)
    length = float(np.ptp(height)) if len(height) else 0.0
    shared = max(1.0, len(height) / (1.0 + length / LINE_INDEPENDENT_MM))  # so many places make one measurement
    sigma_mm = np.full(len(height), math.hypot(sigma, other_sigma) * math.sqrt(shared))
    return Pairs(on_line, places, sigma_mm, np.tile(across, (len(height), 1)))


def _cost(
    reference: Marks,
    detected: Marks,
    matches: Matches,
    pairs: Pairs,
    fit: Fit,
    window_mm: tuple[float, float, float, float],
) -> float:
    """Return the negative logarithm of an explanation's likelihood, nats; every detected landmark counts once."""
    matched_i, matched_j = ({pair[side] for pair in matches} for side in (0, 1))
    off = squares(fit, pairs)
    cost = float(off[: len(matches)].sum()) / 2 + 2 * float(np.log(pairs.sigma_mm[: len(matches)]).sum())
    cost += math.log(2 * math.pi) * len(matches)
    expected = fit.apply(reference.xy_mm)
    left, bottom, right, top = window_mm
    for i, one in enumerate(reference.points):
        if i in matched_i:
            cost -= math.log(_FOUND[one.shape])
        elif left <= expected[i, 0] <= right and bottom <= expected[i, 1] <= top:
            cost -= math.log(1 - _FOUND[one.shape])
    cost -= sum(math.log(_FALSE_PER_MM2[one.shape]) for j, one in enumerate(detected.points) if j not in matched_j)
    lines = reference.lines.keys() & detected.lines.keys()
    cost += min(float(off[len(matches) :].sum()) / 2, _LINE_FALSE_NATS * len(lines))
    if len(pairs) == len(matches):
        cost += _LINE_FALSE_NATS * len(lines)
    return (
        cost
        + (fit.rotation_rad / math.radians(SETUP_ROTATION_SIGMA_DEG)) ** 2 / 2
        + (math.log(fit.scale) / SCALE_SIGMA) ** 2 / 2
    )
