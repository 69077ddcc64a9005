"""When the golden images run through the live engine again, and whether the engine still answers as it was accepted.

Once a day, as a physicist does with the machine itself. While the last run drifted nothing is published. Pure; the
clock is the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

TO_DO = (
    "results are withheld; restart the service, and if it drifts again go back with landmarknet-edge engine rollback"
)


@dataclass(frozen=True)
class KindDrift:
    """How far the landmarks of one kind now lie from the golden answers. Of no landmark both figures are 0."""

    kind: str
    shift_net_px: float  # the worst distance of a peak from the golden one it belongs to
    score_change: float  # the worst difference of scores, without sign
    lost: int = 0  # golden peaks without a counterpart, those near the threshold apart (`edge.engines`)
    gained: int = 0  # peaks without a golden counterpart, likewise
    allowance_net_px: float = 0.0  # of a line: what `edge.engines` allows its points besides the contract's tolerance


@dataclass(frozen=True)
class GoldenDrift:
    """What one run of the golden images through the live engine showed."""

    kinds: tuple[KindDrift, ...]


@dataclass(frozen=True)
class ConstancyRun:
    """One run as the journal keeps it."""

    when_utc: datetime
    release: str
    passed: bool
    worst_shift_net_px: float
    worst_score_change: float
    reason: str | None  # why it did not pass


def due(last_utc: datetime | None, now: datetime, at: time | None) -> bool:
    """Tell whether a run is due; ``now`` is local time with its zone, ``at`` None is never.

    Once a local day from ``at`` on; what was missed while the service was down is due at its start. A last run that
    lies in the future says that the clock was set back, and proves nothing.
    """
    if at is None:
        return False
    if last_utc is None or last_utc > now:
        return True
    return last_utc < _last_appointment(now, at)


def judge(
    drift: GoldenDrift, tolerance_net_px: float, tolerance_score: float, release: str, when_utc: datetime
) -> ConstancyRun:
    """Hold a run against the tolerances of the release's contract; whatever is not within them has drifted."""
    faults = [fault for kind in drift.kinds for fault in _faults(kind, tolerance_net_px, tolerance_score)]
    if not drift.kinds:
        faults = ["nothing was compared"]
    return ConstancyRun(
        when_utc=when_utc,
        release=release,
        passed=not faults,
        worst_shift_net_px=_worst([kind.shift_net_px for kind in drift.kinds]),
        worst_score_change=_worst([kind.score_change for kind in drift.kinds]),
        reason=f"release {release} drifted from its golden answers: {'; '.join(faults)}; {TO_DO}" if faults else None,
    )


def _last_appointment(now: datetime, at: time) -> datetime:
    for days in (0, 1):  # the hour of summer and winter time is why this is not a subtraction of 24 h
        moment = datetime.combine(now.date() - timedelta(days=days), at, now.tzinfo).astimezone(UTC)
        if moment <= now:
            return moment
    return moment


def _worst(figures: list[float]) -> float:
    # a database keeps NaN as nothing at all, and infinity as what it is
    return max((math.inf if math.isnan(figure) else figure for figure in figures), default=0.0)


def _faults(drift: KindDrift, tolerance_net_px: float, tolerance_score: float) -> Iterator[str]:
    reach_net_px = tolerance_net_px + drift.allowance_net_px
    if drift.lost:
        yield f"{drift.kind}: {drift.lost} lost"
    if drift.gained:
        yield f"{drift.kind}: {drift.gained} gained"
    if not drift.shift_net_px <= reach_net_px:  # NaN is no agreement
        yield f"{drift.kind}: moved by {drift.shift_net_px:.3g} px of the network, {reach_net_px:.3g} are allowed"
    if not drift.score_change <= tolerance_score:
        yield f"{drift.kind}: score changed by {drift.score_change:.3g}, {tolerance_score:.3g} are allowed"
