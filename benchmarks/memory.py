"""What the room's service holds and installs, against the script that people write."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

from benchmarks.aside import ROOT
from benchmarks.figures import Bar, Figure
from benchmarks.images import write_images
from benchmarks.processes import peaks_mb
from benchmarks.service_process import daemon
from benchmarks.timing import ratios, spread

TITLE = "Memory and install size"
BAR = Bar(at_most=0.3)
WEIGHTS = "landmarknet/weights/room_cpu.pt"
WITHIN_S = 120.0
SCRIPT_NEEDS = ("torch", "scipy", "pydicom", "watchdog", "numpy", "pillow")


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:
    """Yield the peaks of daemon and script over the same images, and what each needs installed."""
    images = write_images(scratch / "images", 2 if quick else 20)
    ours, theirs = [], []
    for _ in range(1 if quick else 3):
        ours.append(daemon_peaks_mb(scratch / "daemon", images))
        theirs.append(script_peak_mb(scratch / "script", images))
    total = [sum(one) for one in ours]
    what = f"peak resident memory over {len(images)} images: supervisor, worker and reader, shared pages in each"
    note = "of that " + ", ".join(f"{spread(one).median:.0f}" for one in zip(*ours, strict=True)) + " MiB"
    medians = spread(total).median, spread(theirs).median
    yield Figure(what, medians[0], "MiB", "the usual script", medians[1], ratios(total, theirs), BAR, note)
    room, script = installed_mb(["landmarknet-edge"]), installed_mb(SCRIPT_NEEDS)
    against = f"{', '.join(SCRIPT_NEEDS)} and what they need (torch for CPUs only)"
    yield Figure("packages of the room", room, "MB", against, script, ratios([room], [script]), BAR)


def daemon_peaks_mb(base: Path, images: list[Path]) -> list[float]:
    """Return the peak of each process of the service, the supervisor's first."""
    drop = emptied(base)
    with daemon(base, {}) as process:
        feed(images, drop, ".landmarks.json")
        return peaks_mb(process.pid)


def script_peak_mb(base: Path, images: list[Path]) -> float:
    """Return the peak of the script, with the threads that torch takes."""
    drop = emptied(base)
    command = [sys.executable, "-m", "benchmarks.peers.usual_script", str(drop), WEIGHTS]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            process.stdout.readline()  # ready
            feed(images, drop, ".json")
            return sum(peaks_mb(process.pid))
        finally:
            process.kill()


def emptied(base: Path) -> Path:
    """Return the drop folder of a service that knows nothing yet."""
    shutil.rmtree(base, ignore_errors=True)
    (base / "drop").mkdir(parents=True)
    return base / "drop"


def feed(images: list[Path], drop: Path, suffix: str) -> None:
    """Drop images, and return when each has its result."""
    for image in images:
        shutil.copyfile(image, drop / image.name)
    wait_for(lambda: all((drop / image.name).with_suffix(suffix).exists() for image in images))


def wait_for(what: Callable[[], bool]) -> None:
    """Return when something is so; raise after two minutes."""
    end_s = time.monotonic() + WITHIN_S
    while not what():
        if time.monotonic() > end_s:
            raise RuntimeError("no results within two minutes")
        time.sleep(0.1)


def installed_mb(names: list[str] | tuple[str, ...]) -> float:
    """Return what distributions, and all that they need, have on this disk, in 1e6 bytes; ours by its packages."""
    return sum(_size_mb(name) for name in needed(names))


def needed(names: list[str] | tuple[str, ...]) -> set[str]:
    """Return distributions with all that they need, without extras."""
    found: set[str] = set()
    asked = [_plain(name) for name in names]
    while asked:
        name = asked.pop()
        if name in found:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or ():
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                asked.append(_plain(one.name))
    return found


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _size_mb(name: str) -> float:
    distribution = importlib.metadata.distribution(name)
    if json.loads(distribution.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"):
        files = [path for package in ("edge",) for path in (ROOT / package).rglob("*")]
    else:
        files = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
    return sum(path.stat().st_size for path in files if path.is_file() and "__pycache__" not in path.parts) / 1e6
