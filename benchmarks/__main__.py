"""``make bench``: what the room costs, against what people would use instead, in turns in one run.

    python -m benchmarks [PART...] [--quick] [--output FOLDER]

Writes docs/performance.md and docs/performance.json after each part, so a run that ends early goes on with the parts
that are missing. ``--quick`` only shows that it works, on small sizes, and writes into work/bench.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.aside import ROOT
from benchmarks.figures import Figure
from benchmarks.machine import machine, versions
from benchmarks.report import BEGIN, END, Run, rows_of, update

PARTS = (
    *("network", "decode", "whole_path", "stages", "daemon", "cold_start", "memory", "growth", "training", "building"),
    *("archive", "page"),
    *("elsewhere", "endurance"),
)
ONLY_WHEN_NAMED = ("endurance",)  # twelve minutes
WORK = ROOT / "work" / "bench"
PAGE, STORE, PICTURES = "performance.md", "performance.json", "images"


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(PARTS)}; without any: all")] = None,
    quick: Annotated[bool, typer.Option(help="small sizes: shows that it works, not how fast")] = False,
    output: Annotated[Path | None, typer.Option(help="folder of performance.md and performance.json")] = None,
) -> None:
    """Measure the parts one after another."""
    asked = parts or [part for part in PARTS if part not in ONLY_WHEN_NAMED]
    if unknown := sorted(set(asked) - set(PARTS)):
        raise typer.BadParameter(f"{', '.join(unknown)}: no part; there are {', '.join(PARTS)}")
    folder = output or (WORK / "quick" if quick else ROOT / "docs")
    failed = [part for part in asked if not measured(part, folder, quick=quick)]
    if failed:
        print(f'not measured: make bench ROWS="{" ".join(failed)}"', file=sys.stderr)
        raise typer.Exit(1)


def measured(part: str, folder: Path, *, quick: bool) -> bool:
    """Measure a part and write its rows; tell whether that went well."""
    print(f"{part} ...", file=sys.stderr, flush=True)
    began_s, load = time.monotonic(), os.getloadavg()[0]
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as scratch:
        try:
            figures = list(importlib.import_module(f"benchmarks.{part}").measure(quick, Path(scratch)))
        except Exception:  # noqa: BLE001 - the other parts have nothing to do with it
            traceback.print_exc()
            return False
        write(part, figures, load, folder)
        picture = Path(scratch) / f"{part}.png"
        if picture.exists():
            (folder / PICTURES).mkdir(exist_ok=True)
            shutil.copy(picture, folder / PICTURES / f"performance-{picture.name}")
    print(f"{part}: {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
    return True


def write(part: str, figures: Sequence[Figure], load: float, folder: Path) -> None:
    """Bring page and store up to date with the figures of a part."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / PAGE
    if not page.exists():
        page.write_text(f"{BEGIN}\n{END}\n")
    run = Run(f"{datetime.now(UTC):%Y-%m-%d}", round(load, 1), machine(), versions())
    rows = update(page, folder / STORE, rows_of(part, figures, run), titles())
    for row in rows:
        if row["part"] == part:
            ratio = "" if row["ratio"] is None else f": {row['ratio']['median']:.3f}"
            against = f" | {row['against']}{ratio}" if row["against"] else ""
            print(f"  {row['what']}: {row['ours']} {row['unit']}{against} | met: {row['met']}")


def titles() -> dict[str, str]:
    """Return the heading of each part; only a module's text is read, for some need what is not installed."""
    return {part: title(ROOT / "benchmarks" / f"{part}.py") for part in PARTS}


def title(module: Path) -> str:
    """Return a part's ``TITLE``."""
    lines = module.read_text().splitlines() if module.exists() else []
    return next((line.partition('"')[2].rstrip('"') for line in lines if line.startswith("TITLE = ")), module.stem)


if __name__ == "__main__":
    typer.run(main)
