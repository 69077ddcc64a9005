"""One measured figure, and what it is held against."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.timing import Spread


@dataclass(frozen=True)
class Bar:
    """What is wanted: at most, or at least, so much."""

    at_most: float | None = None
    at_least: float | None = None

    def is_met(self, value: float) -> bool:
        """Tell whether a value is as wanted."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)

    def __str__(self) -> str:
        limits = ("<=", self.at_most), (">=", self.at_least)
        return " and ".join(f"{sign} {limit:g}" for sign, limit in limits if limit is not None)


@dataclass(frozen=True)
class Figure:
    """What was measured, of ours and of what it was measured against in the same run.

    ``ratio`` is ours over theirs; the bar is for it, or for ``ours`` where there is none, or where that is said.
    Without ``ours`` it was not measured, and the note says why.
    """

    what: str
    ours: float | None = None
    unit: str = ""
    against: str = ""
    theirs: float | None = None
    ratio: Spread | None = None
    bar: Bar | None = None
    note: str = ""
    bar_on_ours: bool = False

    @property
    def is_met(self) -> bool | None:
        """Tell whether the figure is as wanted; None: nothing is wanted of it, or it was not measured."""
        value = self.ratio.median if self.ratio and not self.bar_on_ours else self.ours
        return None if self.bar is None or value is None else self.bar.is_met(value)
