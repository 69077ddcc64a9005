"""An archive on two cores against the same images on one: `process` in one process, `archive` with two workers.

What is compared is the time over the images, engines open: for `process` its loop, for `archive` what its summary says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.aside import ROOT
from benchmarks.figures import Bar, Figure
from benchmarks.timing import alternate, ratios

TITLE = "An archive of images, processed again"
SAMPLES = ROOT / "samples"
IMAGES, ROUNDS = 80, 5


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:
    """Yield how many times faster two workers are than one process."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        yield Figure("two workers on two cores", bar=Bar(at_least=1.8), note="needs two cores")
        return
    images = 8 if quick else IMAGES
    archive = _archive(scratch / "archive", images)
    turns = {
        "one": lambda: _seconds(archive, cores[:1], ["-m", "benchmarks.archive"]),
        "two": lambda: _seconds(archive, cores[:2], ["-m", "edge.cli", "archive", "--workers", "2", "--json"]),
    }
    times = alternate(turns, 1 if quick else ROUNDS, warm_up=0)
    one, two = (sorted(times[name])[len(times[name]) // 2] for name in ("one", "two"))
    yield Figure(
        "two workers on two cores",
        images / two,
        "images/s",
        "one process on one core",
        images / one,
        ratios(times["one"], times["two"]),
        Bar(at_least=1.8),
        "the ratio is of images a second",
    )


def _archive(folder: Path, images: int) -> Path:
    """Fill a folder with copies of the samples."""
    folder.mkdir()
    samples = sorted(SAMPLES.glob("*.dcm"))
    for number in range(images):
        shutil.copy(samples[number % len(samples)], folder / f"{number:05}.dcm")
    return folder


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
        raise RuntimeError(f"not all images were done: {found}")
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


if __name__ == "__main__":
    print(json.dumps(_process(Path(sys.argv[1]))))
