"""docs/performance.json and the table in docs/performance.md: rows, each with the date and machine of its run.

A part that ran replaces its rows and leaves those of other parts as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure

BEGIN, END = "<!-- rows: make bench writes what follows -->", "<!-- end of rows -->"
TITLES = ("What", "Ours", "Against", "Theirs", "Ours / theirs (10 to 90 %)", "Bar", "Met", "Date", "Machine")


@dataclass(frozen=True)
class Run:
    """When and where a part ran."""

    date: str
    load: float  # when it began: of what else the machine did
    machine: Mapping[str, Any]
    versions: Mapping[str, str]


def rows_of(part: str, figures: Sequence[Figure], run: Run) -> list[dict[str, Any]]:
    """Return the rows of a part that ran."""
    return [
        {"part": part}
        | asdict(one)
        | {"bar": _bar(one), "met": one.is_met}
        | {"date": run.date, "load": run.load, "machine": dict(run.machine), "versions": dict(run.versions)}
        for one in figures
    ]


def _bar(figure: Figure) -> str:
    if figure.bar is None:
        return ""
    of_ours = figure.bar_on_ours or figure.ratio is None
    return f"{figure.bar} {figure.unit}".strip() if of_ours else str(figure.bar)


def merged(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], parts: Sequence[str]
) -> list[Mapping[str, Any]]:
    """Return all rows in the order of ``parts``: those of a part that ran are new, and rows of no part are dropped.

    Where a part has only rows that were not measured, what was measured before stays.
    """
    kept = []
    for part in parts:
        mine, before = ([row for row in rows if row["part"] == part] for rows in (new, old))
        measured_anew, measured_before = (any(row["ours"] is not None for row in rows) for rows in (mine, before))
        kept += mine if mine and (measured_anew or not measured_before) else before
    return kept


def table(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """Return the rows as Markdown, a table per part, and a legend of the machines."""
    machines: list[str] = []
    lines: list[str] = []
    for part, title in titles.items():
        mine = [row for row in rows if row["part"] == part]
        if mine:
            lines += ["", f"### {title}", "", f"`make bench ROWS={part}`", ""]
            lines += [_line(TITLES), _line(["---"] * len(TITLES))]
            lines += [_line(_cells(row, machines)) for row in mine]
            notes = [f"* {row['what']}: {row['note']}" for row in mine if row["note"]]
            lines += ["", *notes] if notes else []
    legend = [f"Machine {_letter(number)}: {text}." for number, text in enumerate(machines)]
    return "\n".join([*legend, *lines]) + "\n"


def update(
    page: Path, store: Path, new: Sequence[Mapping[str, Any]], titles: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    """Bring page and store up to date with the rows of a part that ran; return all rows."""
    old = json.loads(store.read_text())["rows"] if store.exists() else []
    rows = merged(old, new, list(titles))
    store.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    before, _, rest = page.read_text().partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{page}: has no lines {BEGIN} and {END}, between which the rows go; put them in")
    page.write_text(f"{before}{BEGIN}\n\n{table(rows, titles)}\n{END}{after}")
    return rows


def _cells(row: Mapping[str, Any], machines: list[str]) -> list[str]:
    here = _in_words(row["machine"])
    if here not in machines:
        machines.append(here)
    spread = row["ratio"]
    ratio = (
        "" if spread is None else f"{_number(spread['median'])} ({_number(spread['low'])}-{_number(spread['high'])})"
    )
    met = {True: "yes", False: "**no**", None: ""}[row["met"]]
    where = f"{_letter(machines.index(here))}, load {row['load']:.1f}"
    ours, theirs = (_value(row[side], row["unit"]) for side in ("ours", "theirs"))
    ours = ours or "not measured"
    return [row["what"], ours, row["against"], theirs, ratio, row["bar"], met, row["date"], where]


def _in_words(machine: Mapping[str, Any]) -> str:
    return "{cpu}, {cores} cores, {memory_gb} GB, {kernel}, Python {python}".format(**machine)


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _value(value: float | None, unit: str) -> str:
    return "" if value is None else f"{_number(value)} {unit}".strip()


def _number(value: float) -> str:
    """Return three digits of a number that is not larger than they say."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
