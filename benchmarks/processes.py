"""What a family of processes holds in memory, as Linux counts it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def family(pid: int | None = None) -> list[int]:
    """Return a process (None: this one) with its children and theirs."""
    found = [os.getpid() if pid is None else pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # a thread that just ended
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def held_mb(pid: int | None = None) -> float:
    """Return the MiB that a family holds in memory; what two of them share counts twice."""
    return sum(_status_mb(one, "VmRSS") for one in family(pid))


def peaks_mb(pid: int | None = None) -> list[float]:
    """Return the most MiB that each of a family ever held; what two of them share is in both."""
    return [_status_mb(one, "VmHWM") for one in family(pid)]


def forget_peak() -> None:
    """Have the peak of this process begin anew at what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")


def _status_mb(pid: int, key: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:")), 0.0)
