"""The view Trends: what became of the images of some days, and whether the golden ones still give their answers."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

from edge.constancy import ConstancyRun
from edge.page.plot import Plot, Series, time_plot
from edge.page.sources import ROWS_MOST, Sources
from edge.page.trend_rows import TrendRow
from edge.results.wording import signed

SPANS_DAYS = (1, 7, 30, 90, 400)
COURSES_MOST = 100
READ_S = 0.4  # so long is a page kept waiting for results that it has not read yet


@dataclass(frozen=True)
class Course:
    """The images of one plan, or of one beam where the reference does not know its plan; told by a hash."""

    name: str
    images: int
    x_mm: str  # medians of the shift
    y_mm: str
    residual_mm: str
    last_utc: datetime


@dataclass(frozen=True)
class Trends:
    """What the view shows of ``rows``; ``unread``: results that are still to be read."""

    days: int
    course: str | None
    as_of: datetime
    unread: int
    newest: int | None  # so many images are in it, and more were finished; None: all are in it
    images: int
    outcomes: tuple[tuple[str, int], ...]
    courses: tuple[Course, ...]
    more_courses: int
    refusals: tuple[tuple[str, int], ...]
    plots: tuple[Plot, ...]


def trends_of(sources: Sources, days: int, course: str | None, clock_s: float, read_s: float = READ_S) -> Trends:
    """Gather what the view shows; ``clock_s`` is the present time of the sources' clock."""
    now = sources.now()
    begin = now - timedelta(days=days)
    found = sources.trend_rows(begin.astimezone(UTC), clock_s + read_s)
    rows = found.rows
    chosen = [row for row in rows if course is None or row.course == course]
    runs = [run for run in sources.constancy(days + 7) if begin <= run.when_utc <= now]
    courses = courses_of(rows)
    return Trends(
        days=days,
        course=course,
        as_of=now,
        unread=found.unread,
        newest=ROWS_MOST if found.cut else None,
        images=len(chosen),
        outcomes=tuple(Counter(outcome_of(row) for row in chosen).most_common()),
        courses=courses[:COURSES_MOST],
        more_courses=max(0, len(courses) - COURSES_MOST),
        refusals=tuple(Counter(_in_words(row.refused_for) for row in chosen if row.outcome == "refused").most_common()),
        plots=tuple(plot for plot in _plots(chosen, runs, begin, now) if plot is not None),
    )


def outcome_of(row: TrendRow) -> str:
    """Return what became of an image, in words."""
    if row.outcome == "refused":
        return "refused"
    if row.outcome == "no_landmarks":
        return "no landmarks"
    if row.registration == "withheld":
        return "shift withheld"
    if row.registration == "ok":
        return "shift known"
    return "landmarks found" if row.outcome == "ok" else "result not readable"


def _in_words(error: str | None) -> str:
    """Return the class of an error as words: ``DamagedImage`` is a damaged image."""
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", error).lower() if error else "no reason given"


def courses_of(rows: Sequence[TrendRow]) -> tuple[Course, ...]:
    """Return the courses, the one with the newest image first."""
    of: dict[str, list[TrendRow]] = defaultdict(list)
    for row in rows:
        if row.course:
            of[row.course].append(row)
    found = [
        Course(
            name,
            len(its),
            _median(one.x_mm for one in its),
            _median(one.y_mm for one in its),
            _median((one.residual_mm for one in its), sign=False),
            max(one.when_utc for one in its),
        )
        for name, its in of.items()
    ]
    return tuple(sorted(found, key=lambda one: one.last_utc, reverse=True))


def _median(figures: Iterator[float | None], *, sign: bool = True) -> str:
    known = [one for one in figures if one is not None]
    if not known:
        return "–"
    return (signed(median(known)) if sign else f"{median(known):.1f}").replace("-", "−")


def _plots(
    rows: Sequence[TrendRow], runs: Sequence[ConstancyRun], begin: datetime, now: datetime
) -> Iterator[Plot | None]:
    def series(name: str, mark: str, of: str) -> Series:
        return Series(
            name, mark, tuple((row.when_utc, value) for row in rows if (value := getattr(row, of)) is not None)
        )

    yield time_plot(
        "Shift, detected minus planned",
        "mm",
        [series("x, + is right", "disc", "x_mm"), series("y, + is up", "diamond", "y_mm")],
        begin,
        now,
    )
    yield time_plot("Residual of the registration", "mm", [series("residual", "disc", "residual_mm")], begin, now)
    yield time_plot("Time for an image", "ms", [series("all stages", "square", "took_ms")], begin, now, digits=0)
    worst = tuple((run.when_utc, run.worst_shift_net_px) for run in reversed(runs))
    yield time_plot(
        "Constancy: worst shift of the golden images", "px", [Series("worst", "disc", worst)], begin, now, digits=3
    )
