"""Figures over time as inline SVG, and the same as a table: for print, for keyboards, for screen readers.

Our own few lines: no library of scripts draws under this page's policy without an exception (docs/adr/0016).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from statistics import median

WIDTH, HEIGHT = 600, 262
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 30, 32
MARKS_MOST = 160  # of one series; more are gathered into spans of time
SPANS = tuple(timedelta(hours=hours) for hours in (1, 3, 6, 12, 24, 7 * 24, 28 * 24))
SPAN_WORDS = ("an hour", "3 hours", "6 hours", "12 hours", "a day", "7 days", "28 days")
MOST = 1e6  # a figure beyond is no figure of ours, and would flatten all others
STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Series:
    """``points`` in time order; ``mark``: disc, diamond or square, so that colour is not the only carrier."""

    name: str
    mark: str
    points: tuple[tuple[datetime, float], ...]


@dataclass(frozen=True)
class Bin:
    """One figure, or those of a span of time: their median and how far they reach."""

    when: datetime
    number: int
    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Plot:
    """A picture, what its marks are, and a table of them."""

    name: str
    unit: str
    svg: str  # safe as it is: what came from elsewhere is escaped
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def time_plot(
    name: str, unit: str, series: Sequence[Series], begin: datetime, end: datetime, *, digits: int = 1
) -> Plot | None:
    """Plot figures against local time, which is that of ``end``; None where there are none. Zero is always shown."""
    series = [Series(one.name, one.mark, _sane(one.points)) for one in series]
    if not any(one.points for one in series):
        return None
    span, words = _span(series, begin, end)
    binned = [(one, _bins(one.points, span, begin)) for one in series]
    bins = [one for _, found in binned for one in found]
    ticks = ticks_of(min(0.0, *(one.low for one in bins)), max(0.0, *(one.high for one in bins)))
    frame = _Frame(begin, end, ticks[0], ticks[-1])
    inside = "".join([*_grid(frame, ticks, unit), *_dates(frame), *_legend(series)])
    inside += "".join(part for one, found in binned for part in _marks(frame, one.mark, found))
    head = f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}, {escape(unit)}">'
    caption = "" if span is None else f"Each mark is the median of {words}; its line spans all figures. "
    return Plot(name, unit, f"{head}{inside}</svg>", caption.strip(), *_table(binned, span, end, digits))


def ticks_of(low: float, high: float) -> tuple[float, ...]:
    """Return round figures from at or below ``low`` to at or above ``high``, some five of them."""
    width = (high - low) or 1.0
    rough = width / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(one * power for one in STEPS if one * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(number * step for number in range(first, max(last, first + 1) + 1))


@dataclass(frozen=True)
class _Frame:
    begin: datetime
    end: datetime
    low: float
    high: float

    def x(self, when: datetime) -> float:
        share = (when - self.begin) / ((self.end - self.begin) or timedelta(seconds=1))
        return LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, max(0.0, share))

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)


def _sane(points: Sequence[tuple[datetime, float]]) -> tuple[tuple[datetime, float], ...]:
    return tuple((when, value) for when, value in points if math.isfinite(value) and abs(value) <= MOST)


def _span(series: Sequence[Series], begin: datetime, end: datetime) -> tuple[timedelta | None, str]:
    if max(len(one.points) for one in series) <= MARKS_MOST:
        return None, ""
    found = next((number for number, span in enumerate(SPANS) if (end - begin) / span <= MARKS_MOST), len(SPANS) - 1)
    return SPANS[found], SPAN_WORDS[found]


def _bins(points: Sequence[tuple[datetime, float]], span: timedelta | None, begin: datetime) -> list[Bin]:
    if span is None:
        return [Bin(when, 1, value, value, value) for when, value in points]
    gathered: dict[int, list[float]] = {}
    for when, value in points:
        gathered.setdefault((when - begin) // span, []).append(value)
    return [
        Bin(begin + number * span + span / 2, len(found), median(found), min(found), max(found))
        for number, found in sorted(gathered.items())
    ]


def _grid(frame: _Frame, ticks: Sequence[float], unit: str) -> Iterator[str]:
    decimals = _decimals(ticks[1] - ticks[0])
    for tick in ticks:
        y, kind = frame.y(tick), "zero" if abs(tick) < 1e-12 else "rule"
        yield f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        text = _minus(f"{tick + 0.0:.{decimals}f}")
        yield f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    yield f'<text class="tick" x="{LEFT - 8}" y="11" text-anchor="end">{escape(unit)}</text>'


def _dates(frame: _Frame) -> Iterator[str]:
    number = 5
    form = "%H:%M" if frame.end - frame.begin <= timedelta(days=2) else "%d %b"
    for index in range(number):
        when = frame.begin + (frame.end - frame.begin) * index / (number - 1)
        anchor = ("start", *["middle"] * (number - 2), "end")[index]
        text = f"{when.astimezone(frame.end.tzinfo):{form}}"
        yield f'<text class="tick" x="{frame.x(when):.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">{text}</text>'


def _legend(series: Sequence[Series]) -> Iterator[str]:
    x = float(LEFT)
    for one in series if len(series) > 1 else ():
        yield _mark(one.mark, x + 5, 7)
        yield f'<text class="tick" x="{x + 14:.1f}" y="11">{escape(one.name)}</text>'
        x += 30 + 7.2 * len(one.name)


def _marks(frame: _Frame, mark: str, bins: Sequence[Bin]) -> Iterator[str]:
    for one in bins:
        x = frame.x(one.when)
        if one.high > one.low:
            yield f'<path class="reach {mark}" d="M{x:.1f} {frame.y(one.low):.1f}V{frame.y(one.high):.1f}"/>'
        yield _mark(mark, x, frame.y(one.middle))


def _mark(mark: str, x: float, y: float) -> str:
    if mark == "disc":
        return f'<circle class="mark disc" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'
    if mark == "diamond":
        return f'<path class="mark diamond" d="M{x:.1f} {y - 4.2:.1f}l4.2 4.2l-4.2 4.2l-4.2 -4.2z"/>'
    return f'<rect class="mark square" x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"/>'


def _table(
    binned: Sequence[tuple[Series, Sequence[Bin]]], span: timedelta | None, end: datetime, digits: int
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return head and rows, the newest first: a row for each moment or span, some columns for each series."""
    width = 1 if span is None else 3
    head = ["time"] if span is None else ["from", "images"]
    found: dict[datetime, list[str]] = {}
    numbers: dict[datetime, int] = {}
    for index, (series, bins) in enumerate(binned):
        head += [series.name] if span is None else [f"{series.name}, median", "smallest", "largest"]
        for one in bins:
            row = found.setdefault(one.when, [""] * (width * len(binned)))
            row[index * width : (index + 1) * width] = [
                _minus(f"{value + 0.0:.{digits}f}") for value in (one.middle, one.low, one.high)[:width]
            ]
            numbers[one.when] = max(numbers.get(one.when, 0), one.number)
    early = timedelta(0) if span is None else span / 2
    rows = [
        (
            f"{(when - early).astimezone(end.tzinfo):%Y-%m-%d %H:%M}",
            *([] if span is None else [str(numbers[when])]),
            *cells,
        )
        for when, cells in sorted(found.items(), reverse=True)
    ]
    return tuple(head), tuple(rows)


def _decimals(step: float) -> int:
    """Return how many decimals tell the multiples of a round step apart."""
    return next((digits for digits in range(7) if math.isclose(step, round(step, digits), rel_tol=1e-6)), 7)


def _minus(figure: str) -> str:
    return figure.replace("-", "−")
