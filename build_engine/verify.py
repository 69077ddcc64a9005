"""The gate: a candidate engine against the network in float32, on held-out images. What moves a landmark stays here.

Both run the room's own read, preprocess and decode. "Moved" is measured between the two answers, whatever the truth is;
PCK@8 is measured against the truth, for both. Shifts are in px of the network's grid and in mm at the isocentre.
Points are compared as the room gives them, beyond the labels too; PCK@8 counts only where labels reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edge.contract import KindContract, Reading
from landmarknet.evaluate import HEADLINE_PX, Finding, pairs, score

SAME_LANDMARK_MM = 10.0  # farther apart than that, two answers do not mean the same landmark: half the gap of two tips
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class GateLimits(BaseModel):
    """What a candidate may do to landmarks; the defaults of a recipe's ``[gate]``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shift_net_px: NotNegative = 1.0  # at the 99th percentile of a kind's landmarks
    pck_drop_points: NotNegative = 0.2  # percentage points of PCK@8
    score_margin: NotNegative = 0.05  # a landmark that clears its threshold by more may neither vanish nor appear
    unclear_share: Annotated[float, Field(ge=0, le=1)] = 0.05  # of a kind's landmarks may, that clear it by less
    least_images: Annotated[int, Field(ge=1)] = 20  # with fewer, one landmark is more than the unclear share


@dataclass(frozen=True)
class Move:
    """One landmark in both answers: where the candidate puts it, seen from the reference, +x right, +y down."""

    kind: str
    image: str
    patient: str
    dx_net_px: float
    dy_net_px: float
    mm_per_net_px: float

    @property
    def net_px(self) -> float:
        return float(np.hypot(self.dx_net_px, self.dy_net_px))

    @property
    def mm(self) -> float:
        return self.net_px * self.mm_per_net_px


@dataclass(frozen=True)
class Change:
    """A landmark that only one of both answers gives; ``clear`` where it clears its threshold by the margin."""

    kind: str
    image: str
    score: float
    clear: bool


@dataclass(frozen=True)
class KindResult:
    """One kind over all images; ``labelled`` of them have labels of it, shown or outside the field.

    In a view without labels of it a landmark may neither move nor vanish, but nobody asks that there be one.
    """

    kind: str
    labelled: int
    pck_reference: float
    pck_candidate: float
    moves: tuple[Move, ...]
    lost: tuple[Change, ...]
    extra: tuple[Change, ...]

    @property
    def unclear(self) -> tuple[Change, ...]:
        """Return what vanished or appeared near the threshold; what jumps does both."""
        return tuple(change for change in (*self.lost, *self.extra) if not change.clear)

    @property
    def landmarks(self) -> int:
        """Return how many landmarks either answer has."""
        return len(self.moves) + len(self.lost) + len(self.extra)

    @property
    def shifts_net_px(self) -> np.ndarray:
        return np.array([m.net_px for m in self.moves])

    @property
    def shift_p99_net_px(self) -> float:
        """Return the 99th percentile of the shifts, of which there must be one."""
        return float(np.percentile(self.shifts_net_px, 99))

    @property
    def shifts_mm(self) -> np.ndarray:
        return np.array([m.mm for m in self.moves])


@dataclass(frozen=True)
class GateResult:
    """The verdict: passed where ``faults`` is empty. ``setup_mm`` (m,): per image, how far the mean landmark moved."""

    images: int
    limits: GateLimits
    kinds: tuple[KindResult, ...]
    setup_mm: np.ndarray
    faults: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.faults

    @property
    def in_words(self) -> str:
        """Return the verdict, and which kind moves most, in a line."""
        verdict = f"{'passed' if self.passed else 'NOT passed'} on {self.images} image(s)"
        shifts_net_px = {kind.kind: kind.shift_p99_net_px for kind in self.kinds if kind.moves}
        if not shifts_net_px:
            return verdict
        most = max(shifts_net_px, key=shifts_net_px.__getitem__)
        return f"{verdict}, {most} moves most: {shifts_net_px[most]:.2f} px at the 99th percentile"


def run_gate(
    reference: Sequence[Finding], candidate: Sequence[Finding], reading: Reading, limits: GateLimits
) -> GateResult:
    """Compare the findings of both backends in the same images, in the same order."""
    kinds = tuple(_compare(promise, reference, candidate, limits) for promise in reading.kinds)
    images = len({f.image for f in reference})
    faults = [fault for kind in kinds for fault in _faults(kind, limits)]
    if images < limits.least_images:
        faults.insert(0, f"{images} images, at least {limits.least_images} are needed: name more; a hundred are better")
    if not any(kind.moves for kind in kinds):
        faults.append("no landmark in any image: nothing was proved; name images that show landmarks")
    return GateResult(images, limits, kinds, _setup_errors_mm(kinds), tuple(faults))


def _compare(
    promise: KindContract, reference: Sequence[Finding], candidate: Sequence[Finding], limits: GateLimits
) -> KindResult:
    mine = [f for f in reference if f.kind == promise.kind]
    theirs = [f for f in candidate if f.kind == promise.kind]
    if [f.image for f in mine] != [f.image for f in theirs]:
        raise ValueError("the two backends were not asked about the same images, in the same order")
    moves: list[Move] = []
    lost: list[Change] = []
    extra: list[Change] = []
    for a, b in zip(mine, theirs, strict=True):
        same = _same_points(a, b, promise) if a.is_line else _same_landmarks(a, b, promise)
        moves += [_move(a, *shift) for shift in same.shifts_px]
        lost += [_change(a, value, promise, limits) for value in same.lost_scores]
        extra += [_change(b, value, promise, limits) for value in same.extra_scores]
    pck = _pck(mine, promise), _pck(theirs, promise)
    labelled = sum(f.labelled and not f.unlabelled_view for f in mine)
    return KindResult(promise.kind, labelled, *pck, tuple(moves), tuple(lost), tuple(extra))


@dataclass(frozen=True)
class _Same:
    shifts_px: np.ndarray  # (m, 2), detector px
    lost_scores: np.ndarray
    extra_scores: np.ndarray


def _same_landmarks(a: Finding, b: Finding, promise: KindContract) -> _Same:
    (mine_px, mine_scores), (theirs_px, theirs_scores) = a.answered(promise), b.answered(promise)
    rows, columns = pairs(mine_px, theirs_px, SAME_LANDMARK_MM / a.mm_per_px)
    shifts = theirs_px[columns] - mine_px[rows]
    return _Same(shifts, np.delete(mine_scores, rows), np.delete(theirs_scores, columns))


def _same_points(a: Finding, b: Finding, promise: KindContract) -> _Same:
    """Compare two lines row by row: both have a ridge point in the same rows of the heatmap."""
    mine, theirs = a.chosen(promise), b.chosen(promise)
    both = np.intersect1d(mine, theirs)
    shifts = b.found_px[both] - a.found_px[both]
    return _Same(shifts, a.scores[np.setdiff1d(mine, theirs)], b.scores[np.setdiff1d(theirs, mine)])


def _move(finding: Finding, dx_px: float, dy_px: float) -> Move:
    scale = finding.net_per_px
    return Move(
        finding.kind, finding.image, finding.patient, float(dx_px * scale), float(dy_px * scale),
        finding.mm_per_px / scale,
    )  # fmt: skip


def _change(finding: Finding, value: float, promise: KindContract, limits: GateLimits) -> Change:
    return Change(finding.kind, finding.image, float(value), bool(value >= promise.threshold + limits.score_margin))


def _pck(findings: Sequence[Finding], promise: KindContract) -> float:
    return score(findings, promise).pck[HEADLINE_PX] if any(len(f.truth_px) for f in findings) else float("nan")


def _faults(result: KindResult, limits: GateLimits) -> list[str]:
    return [*_unseen(result), *_moved(result, limits), *_vanished(result, limits)]


def _unseen(result: KindResult) -> list[str]:
    if result.moves or not result.labelled:
        return []
    return [
        f"{result.kind}: labelled in {result.labelled} image(s), in none of them a landmark of it in both answers: "
        "nothing was proved; name more images that show it"
    ]


def _moved(result: KindResult, limits: GateLimits) -> list[str]:
    faults = []
    if result.moves:
        shift = result.shift_p99_net_px
        if shift > limits.shift_net_px:
            worst = max(result.moves, key=lambda m: m.net_px)
            faults.append(
                f"{result.kind} moves {shift:.2f} px at the 99th percentile, allowed are {limits.shift_net_px:g} "
                f"(worst: {worst.net_px:.2f} px, {worst.mm:.2f} mm in {worst.image})"
            )
    drop = 100 * (result.pck_reference - result.pck_candidate)
    if drop > limits.pck_drop_points:
        faults.append(f"{result.kind} loses {drop:.1f} points of PCK@8, allowed are {limits.pck_drop_points:g}")
    return faults


def _vanished(result: KindResult, limits: GateLimits) -> list[str]:
    faults = []
    for changes, word in ((result.lost, "vanish"), (result.extra, "appear")):
        if clear := [c for c in changes if c.clear]:
            faults.append(
                f"{result.kind}: {len(clear)} landmark(s) {word} that clear the threshold by {limits.score_margin:g} "
                f"(the first in {clear[0].image}, score {clear[0].score:.2f})"
            )
    if len(result.unclear) > limits.unclear_share * result.landmarks:
        best = max(result.unclear, key=lambda change: change.score)
        faults.append(
            f"{result.kind}: {len(result.unclear)} of {result.landmarks} landmarks vanish, appear or jump near the "
            f"threshold, allowed are {100 * limits.unclear_share:g} % (the best of them: score {best.score:.2f} in "
            f"{best.image})"
        )
    return faults


def _setup_errors_mm(kinds: Sequence[KindResult]) -> np.ndarray:
    """Return, per image, the length of the mean shift of its landmarks, mm: what a translation fit would be off by."""
    by_image: dict[str, list[tuple[float, float]]] = {}
    for kind in kinds:
        for m in kind.moves:
            by_image.setdefault(m.image, []).append((m.dx_net_px * m.mm_per_net_px, m.dy_net_px * m.mm_per_net_px))
    return np.array([float(np.hypot(*np.mean(shifts, axis=0))) for shifts in by_image.values()])
