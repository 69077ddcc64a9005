"""Contenders in turns, in a new order each round, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The median of paired values, and between which two four of five of them lie."""

    median: float
    low: float  # 10th percentile
    high: float  # 90th percentile
    pairs: int


Times = dict[str, list[float]]  # by contender, one per round


def alternate(turns: Mapping[str, Callable[[], float]], rounds: int, seed: int = 0, warm_up: int = 1) -> Times:
    """Have each contender take one turn a round; a turn returns what it took, as the contender measured it.

    The same seed gives the same orders. The rounds to warm up come first and count for nothing.
    """
    order, rng = list(turns), random.Random(seed)
    taken: Times = {name: [] for name in turns}
    for number in range(-warm_up, rounds):
        rng.shuffle(order)
        for name in order:
            spent = turns[name]()
            if number >= 0:
                taken[name].append(spent)
    return taken


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    """Return a turn that does the work and returns the seconds it took."""

    def turn() -> float:
        began_s = clock()
        work()
        return clock() - began_s

    return turn


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return ours over theirs, round by round."""
    return spread([one / other for one, other in zip(ours, theirs, strict=True)])


def differences(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return ours minus theirs, round by round."""
    return spread([one - other for one, other in zip(ours, theirs, strict=True)])


def spread(values: Sequence[float]) -> Spread:
    """Return the median of values with their 10th and 90th percentile, between neighbours in proportion."""
    ordered = sorted(values)
    return Spread(statistics.median(ordered), _quantile(ordered, 0.1), _quantile(ordered, 0.9), len(ordered))


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
