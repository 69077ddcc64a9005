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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.aside import ROOT
from benchmarks.figures import Bar, Figure
from benchmarks.timing import alternate, ratios

TITLE = "An archive of images, processed again"
SAMPLES = ROOT / "samples"
IMAGES, ROUNDS = 80, 5
PROCESS = ["-m", "benchmarks.archive"]


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:
    """Yield how many times faster two workers are than one process."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        yield Figure("two workers on two cores", bar=Bar(at_least=1.8), note="needs two cores")
        return
    images = 8 if quick else IMAGES
    archive = _archive(scratch / "archive", images)
    halves = [_archive(scratch / half, images // 2) for half in ("half", "other half")]
    turns = {
        "one": lambda: _seconds([archive], cores[:1], PROCESS),
        "two": lambda: _seconds([archive], cores[:2], ["-m", "edge.cli", "archive", "--workers", "2", "--json"]),
        "apart": lambda: _seconds(halves, cores[:2], PROCESS),
    }
    times = alternate(turns, 1 if quick else ROUNDS, warm_up=0)
    rate = {name: images / sorted(spent_s)[len(spent_s) // 2] for name, spent_s in times.items()}
    against, note = ("one process on one core", rate["one"]), "the ratio is of images a second"
    more = ratios(times["one"], times["two"])
    yield Figure("two workers on two cores", rate["two"], "images/s", *against, more, Bar(at_least=1.8), note)
    most = ratios(times["one"], times["apart"])
    note += "; what the machine gives whoever shares nothing"
    yield Figure("two processes, half the images each", rate["apart"], "images/s", *against, most, note=note)


def _archive(folder: Path, images: int) -> Path:
    """Fill a folder with copies of the samples."""
    folder.mkdir()
    samples = sorted(SAMPLES.glob("*.dcm"))
    for number in range(images):
        shutil.copy(samples[number % len(samples)], folder / f"{number:05}.dcm")
    return folder


def _seconds(archives: Sequence[Path], cores: list[int], command: list[str]) -> float:
    """Return what the slowest of these took, begun together, each with an archive of its own."""
    for archive in archives:
        for result in archive.glob("*.landmarks.*"):
            result.unlink()
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # inherited
    try:
        with ThreadPoolExecutor(len(archives)) as together:
            return max(together.map(lambda archive: _one(archive, command), archives))
    finally:
        os.sched_setaffinity(0, own)


def _one(archive: Path, command: list[str]) -> float:
    done = subprocess.run([sys.executable, *command, archive], cwd=ROOT, check=True, capture_output=True, text=True)
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
