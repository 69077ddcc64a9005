"""docs/reliability.md: one row for each fault, with the date and the machine of the run that it stands for."""

import os
import platform
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from datetime import date
from pathlib import Path

HEAD = """# Reliability

What was done to the daemon, and what it cost. `make faults` does all of it and writes this file; `pytest -m faults
tests/faults/test_killed.py` does a part of it, and leaves the other rows as they are. `LANDMARKNET_FAULT_COUNT=50`
makes a run shorter: the count in the row is what was done.

Lost: images without a result of their own bytes. Torn: a result that a reader, who looks all the time, saw not whole,
or whose image or outputs were not there. Doubled: a result that was there and was replaced, or that the audit log has
twice. Empty: the test looks at something else, which its note says. Recovery: the longest time until work went on, in
seconds on that machine, which is a busy one where its load says so.

In full it takes two cores about five hours, two parts at a time (2026-11-23): fuzzed files 2 h, power losses 77 min,
kills of supervisor, worker and reader 39, 26 and 11, bursts and old files 40, system calls 19, folders 11, clock,
reloads and journal 11, shares 4.

"""


@dataclass(frozen=True)
class Row:
    """What a run of one fault showed; a fault that could not be had says why in ``note``."""

    fault: str
    count: str
    lost: str
    torn: str
    doubled: str
    recovery_s: str
    when: str
    machine: str
    note: str

    @property
    def ran(self) -> bool:
        return not self.note.startswith("not run")


TITLES = ["Fault", "Count", "Lost", "Torn", "Doubled", "Recovery, s", "Date", "Machine", "Note"]
assert len(TITLES) == len(fields(Row))


def machine() -> str:
    """Return this machine in a few words, without its name."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, {memory_gb:.0f} GB, Linux {platform.release().split('-')[0]}, load {load:.0f}"


def new_row(
    fault: str, count: int, costs: tuple[int, int, int] | None, recovery_s: float | None, note: str = ""
) -> Row:
    """Return the row of a run on this machine, today; ``costs`` are lost, torn and doubled, where they were counted."""
    recovery = "" if recovery_s is None else f"{recovery_s:.1f}"
    lost, torn, doubled = map(str, costs or ("", "", ""))
    return Row(fault, f"{count:,}", lost, torn, doubled, recovery, f"{date.today()}", machine(), note)


def row_not_run(fault: str, reason: str) -> Row:
    """Return the row of a fault that this machine cannot have."""
    return Row(fault, "", "", "", "", "", f"{date.today()}", machine(), f"not run: {reason}")


def read_rows(text: str) -> list[Row]:
    """Return the rows of an earlier report."""
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [Row(*(cell.strip() for cell in cells)) for cells in lines[2:]]


def merged(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """Return all rows: a new one takes the place of the old one, unless only the old one ran."""
    rows = {row.fault: row for row in old}
    for row in new:
        if row.ran or row.fault not in rows or not rows[row.fault].ran:
            rows[row.fault] = row
    return list(rows.values())


def written(rows: Iterable[Row]) -> str:
    """Return the report as Markdown."""
    table = [TITLES, ["---"] * len(TITLES), *map(astuple, rows)]
    return HEAD + "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def update(path: Path, new: Iterable[Row]) -> None:
    """Bring the report up to date with the rows of a run."""
    old = read_rows(path.read_text()) if path.exists() else []
    path.write_text(written(merged(old, new)))
