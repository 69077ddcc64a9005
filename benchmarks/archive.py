"""An archive on two cores against the same images on one: `process` in one process, `archive` with two workers.

    python -m benchmarks.archive [--images N] [--rounds N]

Both work in the same run, in turns, on the same copies of samples/ with the shipped release. What is compared is the
time over the images, engines open: for `process` its loop, for `archive` what its summary says. Ratios are of a round's
pair. Prints Markdown, then JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
WANTED = 1.8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.alone:
        print(json.dumps(_process(chosen.alone)))
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("this needs two cores")
    with tempfile.TemporaryDirectory() as folder:
        archive = _archive(Path(folder) / "archive", chosen.images)
        pairs = [_round(archive, cores[:2], number) for number in range(chosen.rounds)]
    _print(chosen.images, pairs)


def _archive(folder: Path, images: int) -> Path:
    """Fill a folder with copies of the samples."""
    folder.mkdir()
    samples = sorted(SAMPLES.glob("*.dcm"))
    for number in range(images):
        shutil.copy(samples[number % len(samples)], folder / f"{number:05}.dcm")
    return folder


def _round(archive: Path, cores: list[int], number: int) -> tuple[float, float]:
    """Return the seconds over all images of one process on one core, and of two workers on two; each first in turn."""
    one: Callable[[], float] = lambda: _seconds(archive, cores[:1], ["-m", "benchmarks.archive", "--alone"])  # noqa: E731
    command = ["-m", "edge.cli", "archive", "--workers", "2", "--json"]
    two: Callable[[], float] = lambda: _seconds(archive, cores, command)  # noqa: E731
    if number % 2:
        both = two()
        return one(), both
    return one(), two()


def _seconds(archive: Path, cores: list[int], command: list[str]) -> float:
    for result in archive.glob("*.landmarks.*"):
        result.unlink()
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # inherited
    try:
        done = subprocess.run([sys.executable, *command, archive], cwd=ROOT, check=True, capture_output=True, text=True)
    finally:
        os.sched_setaffinity(0, own)
    found = json.loads(done.stdout)
    if found["done"] != len(list(archive.glob("*.dcm"))):
        raise SystemExit(f"not all images were done: {found}")
    return float(found["seconds"])


def _process(archive: Path) -> dict[str, float]:
    """Do what `landmarknet-edge process` does, and tell how long its loop took."""
    from edge.config import Config
    from edge.engines import open_configured
    from edge.pipeline import pipeline_of
    from edge.process import plan, process_all

    config = Config()
    pipeline, jobs = pipeline_of(config, open_configured(config)), plan([archive], None)
    began_s = time.monotonic()
    outcomes = process_all(jobs, pipeline, lambda _outcome: None)
    return {"done": sum(one.done for one in outcomes), "seconds": time.monotonic() - began_s}


def _print(images: int, pairs: list[tuple[float, float]]) -> None:
    ratios = [one / two for one, two in pairs]
    ones, twos = ([images / seconds for seconds in times] for times in zip(*pairs, strict=True))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    print(f"{images} images x {len(pairs)} rounds in turns, shipped release; {machine}, {today}\n")
    print("| | median | lowest | highest |\n| --- | --- | --- | --- |")
    rows = (
        ("one process on one core, images/s", ones),
        ("two workers on two cores, images/s", twos),
        (f"faster, of a round's pair (wanted: {WANTED})", ratios),
    )
    for name, values in rows:
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")
    print()
    found = {"machine": machine, "date": today, "images": images, "wanted": WANTED}
    found |= {"ratio": round(statistics.median(ratios), 3)}
    print(json.dumps(found | {"one_s": [p[0] for p in pairs], "two_s": [p[1] for p in pairs], "ratios": ratios}))


if __name__ == "__main__":
    main()
