"""The images of an archive, in batches: paths, no pixels. Images whose results would share a name stay together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge.process import Job
from edge.results.publish import result_path

BATCH = 4  # images; at a tenth of a second each, a worker asks for work twice a second

Became = Literal["done", "skipped", "refused", "failed"]


@dataclass(frozen=True)
class Entry:
    """An image, where its results go (None: beside it), and whether some result was there before the run."""

    image: Path
    results_dir: Path | None
    had_result: bool = False


@dataclass(frozen=True)
class Told:
    """What became of an image.

    done: this run looked for its landmarks. skipped: its result stood already. refused: with ``reason``, in a result
    where it is an image. failed: no result; another run tries again. ``kind`` is the class of the error, of a skipped
    image's refusal "refused".
    """

    image: Path
    became: Became
    kind: str | None = None
    reason: str | None = None


def entries_of(jobs: Sequence[Job]) -> list[Entry]:
    """Return the entries of planned jobs."""
    return [Entry(j.image, j.results_dir, os.path.lexists(result_path(j.image, j.results_dir))) for j in jobs]


def batches(entries: Sequence[Entry], size: int = BATCH) -> Iterator[tuple[Entry, ...]]:
    """Yield the entries in batches of ``size``, the last one smaller.

    ``X`` and ``X.dcm`` would have one result: which of them gets it is decided by one worker, one after the other, so
    they are in one batch, whatever its size.
    """
    groups: dict[Path, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(result_path(entry.image, entry.results_dir), []).append(entry)
    batch: list[Entry] = []
    for group in groups.values():
        batch += group
        if len(batch) >= size:
            yield tuple(batch)
            batch = []
    if batch:
        yield tuple(batch)


def apart(batch: Sequence[Entry]) -> list[tuple[Entry, ...]]:
    """Return the smallest batches that a batch can be split into."""
    return list(batches(batch, size=1))
